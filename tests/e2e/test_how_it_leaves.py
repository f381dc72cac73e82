"""What leaves is as its outputs ask: TTL, DSCP, source address and port, judged on the wire."""

import socket
from contextlib import suppress
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from mcr_process import Mcr, wait_until
from raw_frames import frames, origin, port_of, wait_for_raw
from test_unsound import tapped
from topology import MakeMcr, Plant

COUNT = 200
OWN, OTHER = "198.18.1.1", "198.18.2.1"
ASKED = {
    "239.2.2.2:6000:out0": (1, 0, OWN, None),
    "239.2.2.2:6001:out0:ttl=8:dscp=46": (8, 46 << 2, OWN, None),
    "239.2.2.2:6002:out0:gso=off:source=198.18.2.1:ttl=255": (255, 0, OTHER, None),
    "239.2.2.2:6003:out0:source-port=4000": (1, 0, OWN, 4000),
    "239.2.2.2:6004:out0:source=198.18.2.1:source-port=4000:dscp=63": (1, 63 << 2, OTHER, 4000),
    "198.18.1.2:6005:out0:ttl=9:dscp=10:source=198.18.2.1:source-port=4001": (9, 40, OTHER, 4001),
}
"""TTL, type of service, address and port (None: any but those) of each output's datagrams."""


def on_the_wire(plant: Plant, mcr: Mcr, outputs: int) -> dict[int, list[tuple[int, int, str, int]]]:
    """What arrives of some packets, by its port."""
    found: dict[int, list[tuple[int, int, str, int]]] = {}
    for frame in frames(plant, mcr, COUNT, 188, 50_000, outputs=outputs):
        found.setdefault(port_of(frame), []).append(origin(frame))
    return found


@pytest.mark.parametrize("switches", [("KERNEL_PATH=off",), ("KERNEL_PATH=off", "RAW_SEND=0"), ()], ids=str)
def test_datagrams_leave_as_their_outputs_ask(plant: Plant, make_mcr: MakeMcr, switches: tuple[str, ...]) -> None:
    """By UDP sockets, by raw frames, and on the kernel path."""
    plant.relay.cut_super_frames("out0")
    asked = {text if switches else text.replace(":gso=off", ""): seen for text, seen in ASKED.items()}
    mcr = make_mcr(plant.relay, prefix=["env", *(f"MCR_{each}" for each in switches)]).start()
    mcr.add("in0:239.1.1.1:5000", *asked)
    is_kernel = wait_for_path(mcr, switches)
    found = on_the_wire(plant, mcr, len(asked))
    assert {port: len(each) for port, each in found.items()} == dict.fromkeys(range(6000, 6006), COUNT)
    for port, (ttl, service, source, source_port) in zip(range(6000, 6006), asked.values(), strict=True):
        (seen,) = {*found[port]}
        assert seen[:3] == (ttl, service, source)
        assert (seen[3] == source_port) if source_port else (seen[3] not in {4000, 4001})
    assert mcr.stats()["kernel_path"]["matched"] == (COUNT if is_kernel else 0)


def wait_for_path(mcr: Mcr, switches: tuple[str, ...]) -> bool:
    """Until its rule takes the path that these leave; whether that is the kernel's. Without tcx it is not."""
    if "RAW_SEND=0" not in switches:
        wait_for_raw(mcr)
    is_kernel = not switches and "MCR_ABSORB has no effect on in0" not in mcr.log()
    if is_kernel:
        mcr.wait_for_path("kernel")
    return is_kernel


def test_a_source_that_this_machine_lacks_costs_its_output_alone(plant: Plant, make_mcr: MakeMcr) -> None:
    """And is used as soon as it is there; a port that it can't have is refused with the way to it."""
    plant.relay.cut_super_frames("out0")
    mcr = make_mcr(plant.relay, prefix=["setpriv", "--bounding-set=-net_bind_service"]).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0", "239.2.2.2:6001:out0:source=198.18.1.9", state="degraded")
    (rule,) = mcr.call("list")
    reason = "its source 198.18.1.9 is not an address of this machine"
    assert rule["reason"] == f"1 of 2 outputs: {reason}"
    assert [each["state"] for each in rule["outputs"]] == ["active", "waiting"]
    wait_for_raw(mcr)
    assert [*on_the_wire(plant, mcr, 1)] == [6000]
    (counted,) = mcr.stats()["rules"]
    assert [(each["sent"], each["errors"]) for each in counted["outputs"]] == [(COUNT, 0), (0, COUNT)]
    plant.relay.ip("address add 198.18.1.9/24 dev out0")
    wait_until(lambda: mcr.call("list")[0]["state"] == "active", "the source is there")
    assert {each[:3] for each in on_the_wire(plant, mcr, 2)[6001]} == {(1, 0, "198.18.1.9")}

    with plant.relay.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 4000))
        said = mcr.ctl("change", rule["rule_id"], "--add-outputs", "239.2.2.2:6000:out0:source-port=4000", check=False)
    assert said.returncode == 1
    assert said.stderr.splitlines() == [
        "Error: Cannot send on out0: bind: Address already in use (os error 98)",
        "hint: who has the port: ss -lunp 'sport = :4000'",
    ]
    said = mcr.ctl("change", rule["rule_id"], "--add-outputs", "239.2.2.2:6000:out0:source-port=514", check=False)
    assert "bind: Permission denied" in said.stderr
    assert "CAP_NET_BIND_SERVICE" in said.stderr


def test_a_source_port_that_is_taken_at_the_start_costs_its_output_alone(
    plant: Plant, make_mcr: MakeMcr, tmp_path: Path
) -> None:
    """And is used as soon as it is free: by a group and by a host."""
    plant.relay.cut_super_frames("out0")
    ported = ["239.2.2.2:6001:out0:source-port=4000", "198.18.1.2:6002:out0:source-port=4000"]
    rule = f"outputs = {['239.2.2.2:6000:out0', *ported]}\n"
    path = tmp_path / "mcr.toml"
    path.write_text("[[rule]]\ninput = { interface = 'in0', group = '239.1.1.1', port = 5000 }\n" + rule)
    mcr = make_mcr(plant.relay)
    with plant.relay.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 4000))
        mcr.start(1, "--config", str(path))
        (listed,) = mcr.call("list")
        taken = "its source port 4000 cannot be had: Address already in use (os error 98)"
        assert listed["reason"] == f"2 of 3 outputs: {taken}; who has the port: ss -lunp 'sport = :4000'"
        assert [each["state"] for each in listed["outputs"]] == ["active", "waiting", "waiting"]
        assert mcr.says(f"nothing is sent to 198.18.1.2 on out0: {taken}")
        assert [*on_the_wire(plant, mcr, 1)] == [6000]
        (counted,) = mcr.stats()["rules"]
        assert [(each["sent"], each["errors"]) for each in counted["outputs"]] == [(COUNT, 0), (0, COUNT), (0, COUNT)]
    wait_until(lambda: mcr.call("list")[0]["state"] == "active", "the port is there")
    found = on_the_wire(plant, mcr, 3)
    assert {port: len(each) for port, each in found.items()} == dict.fromkeys((6000, 6001, 6002), COUNT)
    assert {each[3] for port in (6001, 6002) for each in found[port]} == {4000}


def test_other_options_of_an_output_lose_no_packet_and_its_counters(plant: Plant, make_mcr: MakeMcr) -> None:
    plant.relay.cut_super_frames("out0")
    mcr = make_mcr(plant.relay).start()
    rule_id = mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    seen = []
    for options in ("", ":ttl=8", ":source-port=4000", ":source=198.18.2.1"):
        mcr.ctl("change", rule_id, "--add-outputs", f"239.2.2.2:6000:out0{options}")
        seen.append(on_the_wire(plant, mcr, 1)[6000][0])
    (counted,) = mcr.stats()["rules"]
    assert (counted["outputs"][0]["sent"], counted["errors"]) == (4 * COUNT, 0)
    assert [each[:3] for each in seen] == [(1, 0, OWN), (8, 0, OWN), (1, 0, OWN), (1, 0, OTHER)]
    assert [each[3] == 4000 for each in seen] == [False, False, True, False]
    with plant.relay.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", 4000))
        listener.settimeout(5)
        mcr.ctl("change", rule_id, "--add-outputs", "239.2.2.2:6000:out0:source-port=4000")
        with plant.receiver.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(b"for the program on this port", (OWN, 4000))
        assert listener.recv(100) == b"for the program on this port"


KEPT: dict[str, tuple[int | str, int | str]] = {
    "239.2.2.2:6000:out0:ttl=dec:dscp=keep": ("dec", "keep"),
    "239.2.2.2:6001:out0:ttl=keep:dscp=10": ("keep", 40),
    "239.2.2.2:6002:out0": (1, 0),
    "198.18.1.2:6003:out0:ttl=dec:dscp=keep": ("dec", "keep"),
    "198.18.1.2:6004:out0:ttl=keep:dscp=keep:source-port=4000": ("keep", "keep"),
}


@pytest.mark.parametrize("switches", [("RAW_SEND=0",), ("KERNEL_PATH=off",), ()], ids=str)
def test_what_comes_is_kept(plant: Plant, make_mcr: MakeMcr, switches: tuple[str, ...]) -> None:
    """TTL and type of service, with ECN, of datagrams that wait together and differ; what comes to 0 does not leave."""
    plant.relay.cut_super_frames("out0")
    mcr = make_mcr(plant.relay, prefix=["env", *(f"MCR_{each}" for each in switches)]).start()
    mcr.add("in0:239.1.1.1:5000", *KEPT)
    is_kernel = wait_for_path(mcr, switches)
    marks = [(64, 0), (64, 0), (64, 0xB9), (63, 0xBB), (63, 0xBB), (2, 3), (1, 0xB8), (1, 0), (255, 0xFF), (64, 0)]
    with tapped(plant.source, "src0") as wire, tapped(plant.receiver, "rx0") as tap:

        def send(number: int, ttl: int = 64, service: int = 0) -> None:
            """A byte, in a frame that nobody has filled up."""
            ip = IP(src="198.18.0.1", dst="239.1.1.1", ttl=ttl, tos=service)
            wire.send(bytes(Ether(dst="01:00:5e:01:01:01") / ip / UDP(sport=1, dport=5000) / Raw(bytes([number]))))

        def moved() -> int:
            send(255)
            return int(mcr.stats()["kernel_path"]["matched"])

        if is_kernel:
            wait_until(moved, "it has moved there")
        before = mcr.check_counters()["kernel_path"]["matched"]
        for number, (ttl, service) in enumerate(marks):
            send(number, ttl, service)
        after = mcr.check_counters()["kernel_path"]["matched"]
        found: dict[int, list[tuple[int, int, int]]] = {}
        tap.settimeout(0.5)
        with suppress(TimeoutError):
            while frame := Ether(tap.recv(2048)):
                if UDP in frame:
                    seen = frame[Raw].load[0], frame[IP].ttl, frame[IP].tos
                    found.setdefault(frame[UDP].dport, []).extend([seen] if seen[0] < len(marks) else [])
    for port, (asked, marked) in enumerate(KEPT.values(), 6000):
        expected = []
        for number, (came, mark) in enumerate(marks):
            left = {"dec": came - 1, "keep": came}.get(str(asked), asked)
            if left:
                expected.append((number, left, mark if marked == "keep" else marked))
        assert found[port] == expected, port
    (counted,) = mcr.stats()["rules"]
    assert [each["errors"] for each in counted["outputs"]] == [2, 0, 0, 2, 0]
    assert counted["outputs"][0]["last_error"] == "Timer expired (os error 62)"
    assert after - before == (len(marks) if is_kernel else 0)
