"""A rule takes the frames of its VLAN, and no others."""

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from test_unsound import relayed, tapped
from topology import MakeMcr, Plant


def frame(payload: bytes, *tags: Packet, group: str = "239.1.1.1", flags: int = 0) -> bytes:
    """A datagram to a group, behind tags."""
    whole = Ether(dst="01:00:5e:01:01:01")
    for tag in tags:
        whole /= tag
    return bytes(whole / IP(src="198.18.0.1", dst=group, ttl=16, flags=flags) / UDP(sport=1, dport=5000) / Raw(payload))


@pytest.mark.parametrize("switch", ["KERNEL_PATH=auto", "KERNEL_PATH=off"])
def test_a_rule_takes_the_frames_of_its_vlan_alone(plant: Plant, make_mcr: MakeMcr, switch: str) -> None:
    """What only an untagged rule wants never comes from a tag, and the other way round."""
    for interface in ("out0", "out1"):
        plant.relay.cut_super_frames(interface)
    mcr = make_mcr(plant.relay, prefix=["env", f"MCR_{switch}"]).start()
    added = ("add", "--input-interface", "in0", "--input-group", "239.1.1.1", "--input-port", "5000", "--outputs")
    mcr.ctl(*added, "239.2.2.2:6000:out0", "--name", "untagged")
    mcr.ctl(*added, "239.2.2.7:6000:out1", "--input-vlan", "7", "--name", "seven")
    with (
        tapped(plant.source, "src0") as wire,
        tapped(plant.receiver, "rx0") as untagged,
        tapped(plant.receiver, "rx1") as seven,
    ):
        for sent in (
            frame(b"in 8", Dot1Q(vlan=8)),
            frame(b"in 7", Dot1Q(vlan=7, prio=5)),
            frame(b"with a priority", Dot1Q(vlan=0, prio=3)),
            frame(b"of the provider's 7", Dot1AD(vlan=7)),
            frame(b"in 8 in 7", Dot1Q(vlan=7), Dot1Q(vlan=8)),
            frame(b"in 7 in 8", Dot1Q(vlan=8), Dot1Q(vlan=7)),
            frame(b"to no rule", Dot1Q(vlan=7), group="239.1.1.2"),
            frame(b"to no rule", Dot1Q(vlan=8), group="239.1.1.2"),
            frame(b"in parts", Dot1Q(vlan=7), flags=1),
            frame(b"last"),
            frame(b"last", Dot1Q(vlan=7)),
        ):
            wire.send(sent)
        assert relayed(untagged, b"last") == [b"with a priority", b"last"]
        assert relayed(seven, b"last") == [b"in 7", b"last"]
    ingress = mcr.check_counters(arrived=7)["ingress"]
    assert (ingress["recv"], ingress["matched"], ingress["no_match"]) == (7, 4, 1)
    assert {name: count for name, count in ingress["parse_errors"].items() if count} == {"fragment": 1, "vlan": 1}
    first, second = mcr.call("list")
    assert ("vlan" in first["input"], second["input"]["vlan"]) == (False, 7)
    if switch == "KERNEL_PATH=auto" and not first["path_reason"]:
        assert second["path_reason"] == "it takes VLAN 7: the kernel path takes frames without a tag"
    assert mcr.ctl("list").stdout.count("239.1.1.1:5000:in0 in VLAN 7") == 1

    with tapped(plant.source, "src0") as wire, tapped(plant.receiver, "rx0") as untagged:
        mcr.ctl("remove", "seven")
        wire.send(frame(b"in 7", Dot1Q(vlan=7)))
        wire.send(frame(b"the very last"))
        assert relayed(untagged, b"the very last") == [b"the very last"]
    assert mcr.check_counters(arrived=8)["ingress"]["recv"] == 8
