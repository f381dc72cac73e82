"""Interfaces come and go, one line of the contract after the other, for inputs and for outputs.

One daemon serves them all, and a stream between interfaces that stay, of which nothing may be lost. Each test has a
rule and interfaces of its own.
"""

import itertools
import json
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from feed import Cable, Feed, Listen, Reports, link, network_lines, nobody
from lab import Lab
from mcr_process import PATIENCE, SLOWNESS, STATUS, Mcr, Receiver, Sender, wait_until
from moments import timed
from topology import MakeMcr, Plant

STREAM = "239.1.1.9:5000"
PLENTY = 1_000_000
GONE = "there is no interface {} in this network namespace any more"


@attrs.frozen
class World:
    plant: Plant
    mcr: Mcr
    numbers: Iterator[int] = attrs.field(factory=lambda: itertools.count(10))

    def feed(self) -> Feed:
        """A new one, not started."""
        return Feed(self.mcr, self.plant.source, self.plant.receiver, next(self.numbers))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A relay of two workers, and the stream that must lose nothing, judged at its receiver."""
    with Lab() as lab:
        plant = Plant(lab)
        mcr = Mcr(plant.relay, tmp_path_factory.mktemp("come-and-go")).start(2)
        mcr.add(f"in0:{STREAM}", "239.2.2.9:6000:out2", rule_id="stream")
        receiver = Receiver(plant.receiver, f"239.2.2.9:6000@rx2={STREAM}", count=PLENTY, idle=600)
        sender = Sender(plant.source, "src0", STREAM, count=PLENTY, rate=1_000)
        yield World(plant, mcr)
        sent = sender.stop()
        wait_until(lambda: matched(mcr, "stream") == sent, "all of the stream was taken")
        mcr.check_counters()
        receiver.process.terminate()
        verdict = receiver.verdict()
        assert verdict["lost"] == PLENTY - sent > 0
        assert {verdict[name] for name in ("duplicated", "reordered", "corrupted", "foreign")} == {0}
        mcr.stop()


@pytest.fixture
def feed(world: World) -> Iterator[Feed]:
    """A rule with a cable on each side, which forwards."""
    made = world.feed()
    try:
        yield made.start()
    finally:
        made.end()


def matched(mcr: Mcr, rule_id: str) -> int:
    return sum(each["matched"] for each in mcr.stats()["rules"] if each["rule_id"] == rule_id)


@pytest.fixture(params=["input", "output"])
def side(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def cable_of(feed: Feed, side: str) -> Cable:
    return feed.input if side == "input" else feed.output


def expect_away(feed: Feed, side: str, reason: str, seconds: float = 1.0) -> None:
    """Its rule waits for an input; without an output it is degraded, and the output waits."""
    if side == "input":
        feed.expect("waiting", reason, seconds)
        return
    feed.expect("degraded", f"all 2 outputs: {reason}", seconds)
    assert [(each["state"], each["reason"]) for each in feed.rule()["outputs"]] == [("waiting", reason)] * 2


@attrs.frozen
class Line:
    """What happens to an interface, how it is told, and what ends it: something is to listen there before."""

    go: Callable[[Cable], Any]
    reason: str
    back: Callable[[Cable, Listen], Any]


def _after(back: Callable[[Cable], Any]) -> Callable[[Cable, Listen], Any]:
    """The far end has been there all the time."""

    def listen_first(cable: Cable, listen: Listen) -> None:
        listen()
        back(cable)

    return listen_first


def _elsewhere(cable: Cable) -> None:
    cable.relay.run(
        f"ip link set dev {cable.name} netns /proc/self/fd/{cable.there.fd}".split(), pass_fds=[cable.there.fd]
    )


def _from_elsewhere(cable: Cable) -> None:
    cable.there.run(
        f"ip link set dev {cable.name} netns /proc/self/fd/{cable.relay.fd}".split(), pass_fds=[cable.relay.fd]
    )
    cable.address_again()
    cable.up()


LINES = {
    "down": Line(Cable.down, "{} is down", _after(Cable.up)),
    "carrier": Line(
        lambda cable: cable.there.ip(f"link set dev {cable.far} down"),
        "{} has no carrier",
        _after(Cable.up),
    ),
    "deleted": Line(Cable.delete, GONE, Cable.connect),
    "renamed": Line(
        lambda cable: cable.rename(cable.name, f"x{cable.name}"),
        GONE + ": it is called x{} now",
        _after(lambda cable: cable.rename(f"x{cable.name}", cable.name)),
    ),
    "elsewhere": Line(_elsewhere, GONE, _after(_from_elsewhere)),
}


@pytest.mark.parametrize("line", LINES)
def test_what_goes_is_waited_for_and_what_returns_is_used(feed: Feed, side: str, line: str) -> None:
    """It is listed at once, logged once with the number of rules, joined on the wire, and forwards again.

    What can't leave meanwhile counts as an error.
    """
    event, cable = LINES[line], cable_of(feed, side)
    reason = event.reason.format(cable.name, cable.name)
    feed.passes()
    event.go(cable)
    expect_away(feed, side, reason)
    wait_until(lambda: any(each.startswith(reason) for each in network_lines(feed.mcr, [cable.name])), "it is logged")
    if side == "output":
        feed.fails()
    with Reports(cable) as reports:
        event.back(cable, reports.listen)
        feed.expect("active")
        feed.passes()
        if side == "input":
            reports.expect(feed.group)
    users = "1 rule goes on" if side == "input" else "2 outputs go on"
    wait_until(lambda: f"{cable.name} is up: {users}" in network_lines(feed.mcr, [cable.name]), "its return is logged")
    said = network_lines(feed.mcr, [cable.name])
    waits = f"{reason}: {'1 rule waits' if side == 'input' else '2 outputs wait'}"
    assert sum(each.startswith(waits) for each in said) == 1
    # Before it goes and before it is back, it may be told as down, and without carrier.
    assert all(one != other for one, other in itertools.pairwise(said)), said
    assert len(said) <= 5, said


def test_ten_rounds_of_delete_and_make_again(feed: Feed) -> None:
    """Both interfaces, with the index that they had and with another by turns."""
    for turn in range(10):
        for cable in (feed.input, feed.output):
            index = cable.index if turn % 2 else None
            cable.delete()
            cable.connect(index=index)
        feed.expect("active")
        feed.passes(20)


@pytest.mark.parametrize("how", ["deleted", "renamed"])
def test_whoever_gets_the_name_is_used(feed: Feed, world: World, side: str, how: str) -> None:
    """Also while the one that had it is there under another name: that one takes and gets nothing."""
    cable = cable_of(feed, side)
    other = attrs.evolve(cable, far=f"y{cable.far}")
    if how == "renamed":
        cable.rename(cable.name, f"x{cable.name}")
        expect_away(feed, side, f"{GONE.format(cable.name)}: it is called x{cable.name} now")
        cable.there.ip(f"address flush dev {cable.far}")
        cable.relay.ip(f"address flush dev x{cable.name}")
    else:
        cable.delete()
        expect_away(feed, side, GONE.format(cable.name))
    world.plant.relay.ip(f"link add {cable.name}0 type veth peer name {cable.far}0")  # the next index is this one's
    other.connect()
    feed.expect("active")
    if side == "input":
        before = feed.matched()
        if how == "renamed":
            feed.send(10, by=cable.far)
        feed.passes(by=other.far)
        assert feed.matched() == before + 50
    else:
        feed.passes(at=other.far)
        if how == "renamed":
            assert link(cable.relay, f"x{cable.name}")["ifindex"] != other.index
    world.plant.relay.ip(f"link delete dev {cable.name}0")
    if how == "renamed":
        world.plant.relay.ip(f"link delete dev x{cable.name}")


def test_names_are_swapped(feed: Feed, world: World, side: str) -> None:
    """Of two that are both used by rules, each rule goes on with the one that has its name now."""
    second = world.feed().start()
    mine, others = cable_of(feed, side), cable_of(second, side)

    def swap() -> None:
        for old, new in ((mine.name, "spare"), (others.name, mine.name), ("spare", others.name)):
            mine.rename(old, new)
        mine.up()
        others.up()
        for each in (feed, second):
            each.expect("active")

    try:
        swap()
        if side == "input":
            feed.passes(by=others.far)
            second.passes(by=mine.far)
            assert feed.matched() == second.matched() == 50
        else:
            feed.passes(at=others.far)
            second.passes(at=mine.far)
        swap()
        feed.passes()
        second.passes()
    finally:
        second.end()


def test_a_port_of_a_bridge_and_released(feed: Feed, side: str, world: World) -> None:
    cable, bridge = cable_of(feed, side), f"b{feed.number}"
    world.plant.relay.ip(f"link add {bridge} type bridge mcast_snooping 0")
    world.plant.relay.ip(f"link set dev {bridge} up")
    world.plant.relay.ip(f"link set dev {cable.name} master {bridge}")
    if side == "input":
        feed.expect("degraded", f"{cable.name} is a port of bridge {bridge}: joins on it last one membership interval")
    else:
        feed.expect("active")
    feed.passes(at=feed.output.far)  # a port gets no answer to ARP: those are the bridge's
    world.plant.relay.ip(f"link set dev {cable.name} nomaster")
    feed.expect("active")
    feed.passes(at=feed.output.far)
    world.plant.relay.ip(f"link delete dev {bridge}")


def test_an_address_is_lost_and_comes_late(feed: Feed, side: str) -> None:
    """Groups need none; the one that comes is the source at once, however long it was away."""
    cable = cable_of(feed, side)
    cable.relay.ip(f"address flush dev {cable.name}")
    feed.expect("active")
    assert feed.passes(at=feed.output.far) != cable.address
    late = cable.address.removesuffix(".1").removesuffix(".2") + ".7"
    cable.relay.ip(f"address add {late}/24 dev {cable.name}")
    if side == "output":
        wait_until(lambda: feed.passes(1, at=cable.far) == late, "packets come from the new address", 1.0)
        assert feed.passes() == late
    feed.passes()
    feed.expect("active")


def test_a_mac_changes(feed: Feed, side: str) -> None:
    cable = cable_of(feed, side)
    cable.relay.ip(f"link set dev {cable.name} address 02:00:00:00:01:{feed.number:02x}")
    feed.expect("active")
    feed.passes()
    cable.there.ip(f"link set dev {cable.far} address 02:00:00:00:02:{feed.number:02x}")
    feed.passes(at=feed.output.far)  # whom the kernel believes to have an address is its own affair


def test_an_mtu_changes(feed: Feed, side: str) -> None:
    """Datagrams as long as the new one pass at once, and what no longer fits is cut by IP."""
    cable, rest = cable_of(feed, side), cable_of(feed, "output" if side == "input" else "input")
    for each in (cable, rest):
        each.there.ip(f"link set dev {each.far} mtu 9000")
    rest.relay.ip(f"link set dev {rest.name} mtu 9000")
    cable.relay.ip(f"link set dev {cable.name} mtu 9000")
    feed.expect("active")
    feed.passes(8, 8900)
    cable.relay.ip(f"link set dev {cable.name} mtu 1300")
    feed.expect("active")
    feed.passes(8, 1200 if side == "input" else 3000)


@pytest.mark.parametrize("side", ["input", "output"])
def test_what_is_missing_comes_later(world: World, side: str) -> None:
    """Accepted with --wait alone."""
    feed = world.feed()
    late, there = cable_of(feed, side), cable_of(feed, "output" if side == "input" else "input")
    there.connect()
    try:
        refused = feed.mcr.ctl(*feed.words(), check=False)
        assert (refused.returncode, f"Interface not found: {late.name}" in refused.stderr) == (1, True)
        feed.mcr.ctl(*feed.words(), "--wait")
        expect_away(feed, side, GONE.format(late.name).removesuffix(" any more"))
        with Reports(late) as reports:
            late.connect(reports.listen)
            feed.expect("active")
            feed.passes()
            if side == "input":
                reports.expect(feed.group)
    finally:
        feed.end()


def test_mcrd_starts_before_any_network(lab: Lab, make_mcr: MakeMcr, tmp_path: Path) -> None:
    """Only the loopback is there. Rules of a file and saved ones wait; each forwards once what it names is there."""
    source, relay, receiver = (lab.namespace(name) for name in ("source", "relay", "receiver"))
    mcr = make_mcr(relay)
    saved, filed = (Feed(mcr, source, receiver, number) for number in (10, 11))
    file = tmp_path / "mcr.toml"
    file.write_text(
        f"""[[rule]]
        rule_id = "{filed.rule_id}"
        input = {{ interface = "{filed.input.name}", group = "{filed.group}", port = 5000 }}
        outputs = ["{filed.out}:6000:{filed.output.name}", "{filed.output.far_address}:6001:{filed.output.name}"]
        """
    )
    mcr.start(1, "--config", str(file))
    mcr.ctl(*saved.words(), "--wait")
    assert mcr.process is not None
    mcr.process.kill()
    mcr.process.wait()
    mcr.start(1, "--config", str(file))
    for feed in (saved, filed):
        wait_until(lambda feed=feed: feed.rule()["state"] == "waiting", "it waits")
        feed.expect("waiting", GONE.format(feed.input.name).removesuffix(" any more"))
    assert mcr.call("list_workers")[0]["interfaces"] == []
    why = mcr.ctl("why", saved.rule_id, check=False)
    assert why.returncode == STATUS["fault"]
    assert "the rule waits" in why.stdout
    for cable in (saved.input, saved.output):
        assert f"there is no interface {cable.name}" in why.stdout
    assert mcr.ctl("doctor", check=False).returncode == STATUS["advice"]
    filed.input.connect()
    filed.output.connect()
    filed.expect("active")
    filed.passes()
    saved.output.connect()
    saved.expect("waiting", GONE.format(saved.input.name).removesuffix(" any more"))
    filed.passes()
    assert mcr.call("list_workers")[0]["interfaces"] == [filed.input.name]
    saved.input.connect()
    saved.expect("active")
    saved.passes()
    filed.passes()


@pytest.mark.parametrize("version", [3, 2])
def test_groups_are_reported_when_carrier_is_back(feed: Feed, version: int) -> None:
    """A switch port that lost its link forgets who asked; the kernel would say nothing until the next query.

    Once for each group, within a second, by every version of IGMP.
    """
    cable = feed.input
    cable.relay.sysctl(f"net.ipv4.conf.{cable.name}.force_igmp_version", str(version))
    for each in (2, 3):  # the kernel says twice what it has joined, soon
        cable.relay.sysctl(f"net.ipv4.conf.{cable.name}.igmpv{each}_unsolicited_report_interval", "100")
    groups = {feed.group, *(f"239.3.{feed.number}.{number}" for number in range(1, 40))}
    place = f"--input-interface {cable.name} --input-port 5000 --outputs {feed.out}:6000:{feed.output.name}"
    rules = [f"{place} --input-group {group}" for group in groups - {feed.group}]
    with Reports(cable) as reports:
        reports.listen()
        added = json.loads(feed.mcr.ctl("add", "--batch", "-", "--json", input="\n".join(rules)).stdout)
        reports.expect(*groups)
        before = -1
        while before != (before := reports.groups.total()):
            reports.hear(0.5)
        reports.groups.clear()
        cable.there.ip(f"link set dev {cable.far} down")
        feed.expect("waiting", f"{cable.name} has no carrier")
        cable.there.ip(f"link set dev {cable.far} up")
        assert timed(lambda: reports.expect(*groups)) < SLOWNESS
        reports.hear(0.5)
        assert {*reports.groups.values()} == {1}
    words = [word for each in added for word in ("--rule-id", each["rule_id"])]
    feed.mcr.ctl("remove", *words)


@pytest.mark.alone
@pytest.mark.parametrize("line", LINES)
def test_a_loss_is_told_within_100_ms_and_the_first_packet_passes_within_200(feed: Feed, side: str, line: str) -> None:
    """The stream goes on all the time; what counts is the moment when both ends of the link carry traffic again."""
    event, cable = LINES[line], cable_of(feed, side)
    event.go(cable)
    expect_away(feed, side, event.reason.format(cable.name, cable.name), 0.1)
    event.back(cable, nobody)
    cable.there.bring_up(cable.far)
    back = time.monotonic()
    with feed.listen() as groups:

        def send_until_one_passes() -> None:
            feed.send(1)
            while not select.select([groups], [], [], 0.005)[0]:
                assert time.monotonic() - back < PATIENCE, "nothing passes"
                feed.send(1)

        took = timed(send_until_one_passes)
    print(f"{took * 1e3:.0f} ms")
    assert took < 0.2 * SLOWNESS
