"""Interfaces come, go, and change their names; `list` and the log say so, and what is back is used again.

A stream on another pair of interfaces loses nothing meanwhile.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lab import Namespace
from mcr_process import IS_ROOT, Mcr, Receiver, Sender, descriptors_of, wait_until
from topology import MakeMcr, Plant

SECOND = "239.1.1.9:5000"
PLENTY = 1_000_000


def make_cable(plant: Plant, name: str, end: Namespace, end_name: str, index: str = "") -> None:
    """A cable to the relay, with the index that the interface had there, or another."""
    words = f"ip link add {name} {index} type veth peer name {end_name} netns /proc/self/fd/{end.fd}"
    plant.relay.run(words.split(), pass_fds=[end.fd])
    end.ip(f"link set dev {end_name} up")
    end.ip(f"address add {'198.18.0.1' if end_name == 'src0' else '198.18.1.2'}/24 dev {end_name}")
    plant.relay.bring_up(name)
    end.bring_up(end_name)


def index_of(namespace: Namespace, name: str) -> int:
    (link,) = json.loads(namespace.ip(f"-json link show dev {name}"))
    return int(link["ifindex"])


def move(name: str, there: Namespace, here: Namespace) -> None:
    there.run(f"ip link set dev {name} netns /proc/self/fd/{here.fd}".split(), pass_fds=[here.fd])


def rule(mcr: Mcr, rule_id: str = "tv") -> dict[str, Any]:
    """As `list` shows it now."""
    (found,) = (each for each in mcr.call("list") if each["rule_id"] == rule_id)
    return dict(found)


def expect(mcr: Mcr, state: str, reason: str) -> None:
    """List tells it soon after the event; test_come_and_go.py has how soon, where nothing runs beside it.

    What is back is told to be about to be used at first: how soon it is used depends on the machine.
    """

    def told() -> bool:
        now = rule(mcr)
        on_the_way = now["state"] == "pending" or now["reason"].endswith("and is about to be used")
        return (now["state"], now["reason"]) == (state, reason) or (state == "active" and on_the_way)

    wait_until(told, f"{state}: {rule(mcr)}", 1.0)
    if state == "active":
        wait_until(lambda: rule(mcr)["state"] == state, f"{state}: {rule(mcr)}")


def passes(plant: Plant, output: str = "239.2.2.2:6000", source: str = "239.1.1.1:5000") -> None:
    receiver = Receiver(plant.receiver, f"{output}@rx0={source}", count=100)
    Sender(plant.source, "src0", source, count=100, rate=5000).finish()
    receiver.expect_everything()


def lines(mcr: Mcr, word: str) -> list[str]:
    """What the log says with this word, without times."""
    return [line.partition("] ")[2] for line in mcr.log().splitlines() if word in line and "[network]" in line]


@pytest.fixture(params=[1])
def mcr(plant: Plant, make_mcr: MakeMcr, request: pytest.FixtureRequest) -> Iterator[Mcr]:
    """A relay with a rule ``tv``, and a stream from and to other interfaces that must lose nothing."""
    plant.lab.link(plant.source, "src1", plant.relay, "in1", a_address="198.18.9.1/24")
    mcr = make_mcr(plant.relay).start(request.param)
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0", rule_id="tv")
    mcr.add(f"in1:{SECOND}", "239.2.2.9:6000:out2", rule_id="other")
    receiver = Receiver(plant.receiver, f"239.2.2.9:6000@rx2={SECOND}", count=PLENTY)
    sender = Sender(plant.source, "src1", SECOND, count=PLENTY, rate=2_000)
    wait_until(lambda: mcr.stats()["ingress"]["matched"] > 0, "the stream flows")
    yield mcr
    sent = sender.stop()
    wait_until(lambda: matched(mcr, "other") == sent, "all of the stream was taken")
    mcr.check_counters()
    receiver.process.terminate()
    verdict = receiver.verdict()
    assert verdict["lost"] == PLENTY - sent > 0
    assert (verdict["duplicated"], verdict["reordered"], verdict["foreign"]) == (0, 0, 0)


def matched(mcr: Mcr, rule_id: str) -> int:
    """Packets that a rule has taken."""
    return sum(each["matched"] for each in mcr.stats()["rules"] if each["rule_id"] == rule_id)


GONE = "there is no interface {} in this network namespace any more"


@pytest.mark.parametrize("mcr", [1, 2], indirect=True)
def test_input_that_comes_and_goes_is_told_and_used_again(plant: Plant, mcr: Mcr) -> None:
    """Down, without carrier, deleted and made again with the index it had and another, and gone elsewhere and back."""
    plant.relay.ip("link set dev in0 down")
    expect(mcr, "waiting", "in0 is down")
    plant.relay.bring_up("in0")
    expect(mcr, "active", "")
    plant.source.ip("link set dev src0 down")
    expect(mcr, "waiting", "in0 has no carrier")
    plant.source.bring_up("src0")
    plant.relay.bring_up("in0")
    expect(mcr, "active", "")

    index = index_of(plant.relay, "in0")
    plant.relay.ip("link delete dev in0")
    expect(mcr, "waiting", GONE.format("in0"))
    make_cable(plant, "in0", plant.source, "src0", f"index {index}")
    expect(mcr, "active", "")
    mcr.add("in0:239.1.1.2:5000", "239.2.2.3:6000:out0", rule_id="second")  # what is told then is true, too
    assert {"239.1.1.1", "239.1.1.2"} <= set(plant.relay.ip("maddr show dev in0").split())
    passes(plant)

    plant.relay.ip("link delete dev in0")
    expect(mcr, "waiting", GONE.format("in0"))
    assert GONE.format("in0")[:24] in mcr.ctl("why", "tv", check=False).stdout
    make_cable(plant, "in0", plant.source, "src0", "index 777")
    expect(mcr, "active", "")
    passes(plant)

    move("in0", plant.relay, plant.receiver)
    expect(mcr, "waiting", GONE.format("in0"))
    move("in0", plant.receiver, plant.relay)
    plant.relay.bring_up("in0")
    plant.source.bring_up("src0")
    expect(mcr, "active", "")
    passes(plant)
    checks = {each["check"]: each for each in json.loads(mcr.ctl("doctor", "--json", check=False).stdout)}
    assert checks["interfaces"]["verdict"] == "ok"
    if IS_ROOT:  # it takes eBPF
        wait_until(lambda: len(suppressing(mcr)) == 2, "both inputs are suppressed")
    assert lines(mcr, "in0 is down")[0] == "in0 is down: 1 rule waits"
    assert lines(mcr, "in0 is up")[0] == "in0 is up: 1 rule goes on"
    assert not lines(mcr, "may want it")


def suppressing(mcr: Mcr) -> list[str]:
    """Links of the programs that suppress local delivery."""
    assert mcr.process is not None
    return [link for link in descriptors_of(mcr.process.pid) if "bpf_link" in link]


def test_output_that_comes_and_goes_is_told_and_used_again(plant: Plant, mcr: Mcr) -> None:
    """And so is a host that does not answer."""
    mcr.add("in0:239.1.1.2:5000", "239.2.2.3:6000:out0", "239.2.2.3:6000:out1", rule_id="two")
    plant.relay.ip("link set dev out0 down")
    expect(mcr, "degraded", "out0 is down")
    two = rule(mcr, "two")
    assert (two["state"], two["reason"]) == ("degraded", "1 of 2 outputs: out0 is down")
    assert [each["state"] for each in two["outputs"]] == ["waiting", "active"]
    assert lines(mcr, "out0 is down") == ["out0 is down: 2 outputs wait"]
    plant.relay.bring_up("out0")
    expect(mcr, "active", "")
    host = mcr.add("in0:239.1.1.3:5000", "198.18.1.2:6000:out0")
    plant.relay.ip("link delete dev out0")
    expect(mcr, "degraded", GONE.format("out0"))
    make_cable(plant, "out0", plant.receiver, "rx0")
    plant.relay.ip("address add 198.18.1.1/24 dev out0")
    expect(mcr, "active", "")
    passes(plant)
    receiver = Receiver(plant.receiver, "198.18.1.2:6000@rx0=239.1.1.3:5000", count=10)
    Sender(plant.source, "src0", "239.1.1.3:5000", count=10, rate=50).finish()
    receiver.expect_everything()
    mcr.ctl("remove", "--rule-id", host)

    silent = "198.18.2.77 does not answer ARP on out1"
    mcr.ctl("change", "--rule-id", "two", "--add-outputs", "198.18.2.77:6000:out1")
    Sender(plant.source, "src0", "239.1.1.2:5000", count=1, rate=10).finish()
    wait_until(lambda: rule(mcr, "two")["reason"] == f"1 of 3 outputs: {silent}", "the silent host is told")
    shown = mcr.ctl("list").stdout.splitlines()
    assert shown[5].split() == ["198.18.2.77:6000:out1", "(waiting)"]
    assert shown[-1] == f"two: 1 of 3 outputs: {silent}"
    assert silent in mcr.ctl("doctor", check=False).stdout
    told = ["198.18.2.77 on out1 does not answer ARP: 1 output waits"]
    wait_until(lambda: lines(mcr, "198.18.2.77") == told, "the silent host is in the log")  # the kernel asks for 3 s
    plant.receiver.ip("address add 198.18.2.77/24 dev rx1")
    receiver = Receiver(plant.receiver, "198.18.2.77:6000@rx1=239.1.1.2:5000", count=10)
    Sender(plant.source, "src0", "239.1.1.2:5000", count=10, rate=50).finish()
    verdict = receiver.verdict()
    assert (verdict["lost"], verdict["corrupted"]) == (0, 0)  # the one that has waited may have come, too
    assert rule(mcr, "two")["state"] == "active"
    told.append("198.18.2.77 on out1 answers again: 1 output goes on")
    wait_until(lambda: lines(mcr, "198.18.2.77") == told, "its answer is in the log")


def test_rules_name_interfaces_also_by_altnames(plant: Plant, mcr: Mcr) -> None:
    plant.relay.ip("link property add dev out0 altname oalt")
    plant.relay.ip("link property add dev in0 altname ialt")
    for source, outputs, refusal in (
        ("ialt:239.1.1.1:5000", ["239.2.2.9:6000:out0"], "Rule already exists: tv takes 239.1.1.1:5000 on in0"),
        (
            "in0:239.1.1.3:5000",
            ["239.2.2.2:6000:out0", "239.2.2.2:6000:oalt"],
            "names output 239.2.2.2:6000:out0 twice",
        ),
        ("out0:239.1.1.3:5000", ["239.1.1.3:5000:oalt"], "sends 239.1.1.3:5000:out0 back to where it came from"),
    ):
        refused = mcr.ctl(*words(source, *outputs), check=False)
        assert refused.returncode == 1
        assert refusal in refused.stderr
    mcr.add("ialt:239.1.1.3:5000", "239.2.2.4:6000:oalt", rule_id="alt")
    assert rule(mcr, "alt")["input"]["interface"] == "in0"


def test_what_is_odd_is_told_when_it_is_added(plant: Plant, mcr: Mcr) -> None:
    """The rule is taken all the same."""
    hosts = ["198.18.2.1", "198.18.1.255", "203.0.113.9"]
    added = mcr.ctl(*words("in0:239.1.1.2:5000", *(f"{host}:6000:out0" for host in hosts)))
    said = [line.partition(": ")[2].partition(": ")[2] for line in added.stderr.splitlines()]
    assert said == [
        "198.18.2.1 is an address of this machine: what is sent there does not leave by out0",
        "198.18.1.255 is the broadcast address of 198.18.1.0/24: every host there gets what is sent to it",
        "no route to 203.0.113.9 leads through out0",
    ]
    plant.relay.ip("link add brx type bridge")
    plant.relay.ip("link set dev in0 master brx")
    port = "in0 is a port of bridge brx: joins on it last one membership interval"
    expect(mcr, "degraded", port)
    assert port in mcr.ctl(*words("in0:239.1.1.3:5000", "239.2.2.4:6000:out0")).stderr
    why = mcr.ctl("why", "tv", check=False)
    assert why.returncode == 2
    assert "in0 is a port of bridge brx, which takes IGMP queries" in why.stdout
    assert port in mcr.ctl("doctor", check=False).stdout
    plant.relay.ip("link set dev in0 nomaster")
    expect(mcr, "active", "")


def test_interface_that_flaps_does_not_flood_the_log(plant: Plant, mcr: Mcr) -> None:
    def flap() -> None:
        """And then out0 goes down, which is told in one turn with all that was seen of out1 before, or later."""
        told = len(lines(mcr, "out0 is down"))
        for _ in range(25):  # by a process each time, so that mcrd sees most of them
            plant.relay.ip("link set dev out1 down", "link set dev out1 up")
        plant.relay.ip("link set dev out0 down")
        wait_until(lambda: len(lines(mcr, "out0 is down")) > told, "what came after it is logged")
        plant.relay.bring_up("out0")
        expect(mcr, "active", "")

    flap()
    assert lines(mcr, "out1 ") == []  # no rule names it
    mcr.add("in0:239.1.1.2:5000", "239.2.2.3:6000:out1")
    flap()
    wait_until(lambda: lines(mcr, "out1 is ")[-1].startswith("out1 is up"), "how it is in the end is logged")
    assert 2 <= len(lines(mcr, "out1 is ")) <= 7


def words(source: str, *outputs: str) -> list[str]:
    """What adds a rule."""
    interface, group, port = source.split(":")
    place = ["--input-interface", interface, "--input-group", group, "--input-port", port]
    return ["add", *place, "--outputs", ",".join(outputs)]
