"""What leaves is as its outputs ask: TTL, DSCP, source address and port, judged on the wire."""

import socket
from pathlib import Path

from mcr_process import PATIENCE, Mcr, wait_until
from raw_frames import frames, origin, port_of, wait_for_raw
from topology import MakeMcr, Plant

COUNT = 200
OWN, OTHER = "198.18.1.1", "198.18.2.1"


def on_the_wire(plant: Plant, mcr: Mcr, outputs: int) -> dict[int, list[tuple[int, int, str, int]]]:
    """What arrives of some packets, by its port."""
    found: dict[int, list[tuple[int, int, str, int]]] = {}
    for frame in frames(plant, mcr, COUNT, 188, 50_000, outputs=outputs):
        found.setdefault(port_of(frame), []).append(origin(frame))
    return found


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
        listener.settimeout(PATIENCE)
        mcr.ctl("change", rule_id, "--add-outputs", "239.2.2.2:6000:out0:source-port=4000")
        with plant.receiver.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(b"for the program on this port", (OWN, 4000))
        assert listener.recv(100) == b"for the program on this port"
