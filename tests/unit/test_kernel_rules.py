"""Which rules the kernel path may forward by, and what is said of the others."""

import errno
import os
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest

from mcr.config.settings import Settings
from mcr.model.flow import Address, Flow, Input
from mcr.model.log import LogLevels
from mcr.model.rule import Output, Path, Rule
from mcr.net import uapi
from mcr.net.filter.path import KernelPath, Target, is_realtime
from mcr.net.network import Neighbour
from mcr.net.raw import RawLink
from mcr.process.descriptor_store import DescriptorStore
from mcr.relay import next_hops
from mcr.relay.kernel_path import KernelRules, open_kernel_rules
from mcr.relay.next_hops import NextHops
from mcr.relay.outputs import Egress
from mcr.relay.placement import Key, OutputSlot, PlacedRule, Way
from mcr.relay.targets import _why_not_to
from mcr.rules.conditions import Conditions, Paths, view_of
from mcr.shm.kept import Kept

GROUP = Output(IPv4Address("239.2.2.2"), 6000, "out0")
HOST = Output(IPv4Address("192.0.2.7"), 6000, "out0")
RULE = Rule("id", Input("in0", IPv4Address("239.1.1.1"), 5000), (GROUP,))
UP = RawLink(bytes(6), 1500)
SOURCE = IPv4Address("192.0.2.1")
MAC = b"\2host!"
SETTINGS = Settings("", 1, LogLevels())


HOP = (1, IPv4Address("192.0.2.7"))
GATEWAY = IPv4Address("192.0.2.254")


def _reason(output: Output, way: Way | None, link: RawLink | None = UP, neighbour: Neighbour | None = None) -> str:
    egress: Any = SimpleNamespace(raw=link, why_not_raw="it is about to be checked", interface=SimpleNamespace(index=1))
    hops = NextHops()
    hops.follow({(1, way.hop): neighbour} if way and isinstance(way.hop, IPv4Address) and neighbour else {})
    return _why_not_to(output, egress, way, hops)


def test_what_ip_would_only_add_headers_to_is_served() -> None:
    """Groups, and hosts and gateways whose MACs are known."""
    assert not _reason(GROUP, Way(SOURCE))
    assert not _reason(attrs.evolve(GROUP, ttl=8, dscp=46, source=SOURCE, source_port=4000), Way(SOURCE))
    assert not _reason(attrs.evolve(GROUP, ttl="dec", dscp="keep"), Way(SOURCE))
    for state in (uapi.NUD_REACHABLE, uapi.NUD_STALE, uapi.NUD_PROBE, uapi.NUD_PERMANENT):
        assert not _reason(HOST, Way(SOURCE, HOST.group), neighbour=Neighbour(state, mac=MAC))
        assert not _reason(GROUP, Way(SOURCE, GATEWAY), neighbour=Neighbour(state, mac=MAC))


@pytest.mark.parametrize(
    ("output", "link", "way", "neighbour", "reason"),
    [
        (HOST, UP, Way(SOURCE, HOST.group), None, "192.0.2.7 has not answered ARP on out0"),
        (
            HOST,
            UP,
            Way(SOURCE, HOST.group),
            Neighbour(uapi.NUD_FAILED, silent=True, mac=MAC),
            "192.0.2.7 does not answer ARP on out0",
        ),
        (
            GROUP,
            UP,
            Way(SOURCE, GATEWAY),
            Neighbour(uapi.NUD_INCOMPLETE),
            "the gateway 192.0.2.254 to 239.2.2.2 has not answered ARP on out0",
        ),
        (attrs.evolve(GROUP, gso="off"), UP, Way(SOURCE), None, "239.2.2.2:6000:out0 has gso=off"),
        (GROUP, None, None, None, "frames cannot leave by out0 without IP: it is about to be checked"),
        (GROUP, attrs.evolve(UP, up=False), Way(SOURCE), None, "out0 is down"),
        (
            HOST,
            UP,
            None,
            None,
            "IP would do more for 192.0.2.7:6000:out0 than add headers: see the routes to 192.0.2.7",
        ),
    ],
)
def test_everything_else_is_the_workers_and_it_is_said_why(
    output: Output,
    link: RawLink | None,
    way: Way | None,
    neighbour: Neighbour | None,
    reason: str,
) -> None:
    assert _reason(output, way, link, neighbour) == reason


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (Paths("", {"in0": ""}, {"id": ""}), ""),
        (Paths("all", {"in0": "input"}, {"id": "rule"}), "all"),
        (Paths("", {"in0": "input"}, {"id": "rule"}), "input"),
        (Paths("", {"in0": ""}, {"id": "rule"}), "rule"),
        (Paths(""), "it is about to be checked"),
    ],
)
def test_the_widest_reason_is_shown(paths: Paths, reason: str) -> None:
    view = view_of(RULE, 1, Conditions(1, paths=paths))
    assert (view.path, view.path_reason) == (Path.WORKER if reason else Path.KERNEL, reason)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (attrs.evolve(SETTINGS, kernel_path="off"), "MCR_KERNEL_PATH=off"),
        (attrs.evolve(SETTINGS, absorb=False), "MCR_ABSORB=0"),
        (attrs.evolve(SETTINGS, raw_send=False), "MCR_RAW_SEND=0"),
    ],
)
def test_settings_that_switch_it_off_are_named(settings: Settings, reason: str) -> None:
    with Kept.open(DescriptorStore(), 1) as kept, open_kernel_rules(settings, kept) as kernel:
        assert kernel.path is None
        assert kernel.paths({}).why_worker(RULE) == reason
        assert not kernel.is_waiting


@pytest.mark.parametrize(
    ("version", "so"),
    [("#1 SMP PREEMPT_RT Debian 6.12.9-1", True), ("#1 SMP PREEMPT_DYNAMIC Debian 6.12.9-1", False)],
)
def test_a_realtime_kernel_is_known_by_its_version(monkeypatch: pytest.MonkeyPatch, version: str, so: bool) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", "6.12.9", version, "x86_64")))
    assert is_realtime() == so


CAPTURE = 3
SECOND = attrs.evolve(GROUP, interface="narrow0")
MTU = {"out0": 1500, "narrow0": 600}


class Kernel:
    """Plays the kernel path. `full`: it has no memory for changes."""

    def __init__(self) -> None:
        self.full = False
        self.flows: set[Flow] = set()
        self.room = 0  # flows, after which it is full; 0: it does not get full by itself
        self.without: set[Key] = set()
        self.did: list[str] = []
        self.held: set[int] = set()
        self.macs: list[bytes] = []
        self.bars: set[str] = set()
        self.bar, self.is_barred, self.unbar = self.bars.add, self.bars.__contains__, self.bars.discard
        self.sources: list[tuple[Address, int]] = []
        self.why_refused, self.why_no_ipv6 = "", lambda: ""
        self.rules = KernelRules(cast("KernelPath", self))
        self.rules.blocker = ""
        self.deaf: set[Input] = set()
        self.rules.bind(
            lambda _name: CAPTURE,
            _egress,
            lambda key: None if key in self.without else 40_000,
            lambda source: source not in self.deaf,
        )

    def _do(self, what: str) -> None:
        if self.full:
            raise OSError(errno.ENOMEM, "")
        self.did.append(what)

    def forward(self, _capture: int, flow: Flow, _slot: int, mtu: int, targets: Sequence[Target]) -> None:
        self._do(f"{mtu} bytes to {len(targets)}")
        self.macs = [each.macs[:6] for each in targets]
        self.flows.add(flow)
        self.full = len(self.flows) == self.room
        self.sources = [each.source for each in targets]

    def drop(self, _capture: int, flow: Flow) -> None:
        self.flows.discard(flow)
        self.did.append("drop")

    def hold(self, captures: Iterable[int]) -> None:
        if self.held != (held := {*captures}):
            self.did.append("hold" if held else "let go")
        self.held = held

    def wait(self) -> None:
        self.did.append("wait")

    def set_own(self, _keys: bytes) -> None:
        self._do("own")

    def follow(self, *outputs: Output, source: IPv4Address | None = SOURCE) -> list[str]:
        """What it takes to forward to these."""
        self.did.clear()
        self.rules.follow([_placed(*outputs, source=source)])
        return self.did

    def why_worker(self) -> str:
        return self.rules.paths({"in0": ""}).why_worker(RULE)


def _egress(name: str) -> Egress:
    raw, interface = RawLink(bytes(6), MTU[name]), SimpleNamespace(index=1)
    made: Any = SimpleNamespace(raw=raw, interface=interface, port=4321, carrier=True)
    return cast("Egress", made)


def _placed(*outputs: Output, source: IPv4Address | None = SOURCE) -> PlacedRule:
    each = range(len(outputs))
    rule = attrs.evolve(RULE, outputs=outputs)
    return PlacedRule(
        rule,
        1,
        1,
        tuple(OutputSlot(i, 1) for i in each),
        (Way(source) if source else None,) * len(outputs),
        (None,) * len(outputs),
    )


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def test_no_longer_datagrams_are_let_in_than_new_outputs_take(kernel: Kernel) -> None:
    assert kernel.follow(GROUP) == ["1500 bytes to 1"]
    assert kernel.follow(GROUP, SECOND) == ["600 bytes to 1", "wait", "600 bytes to 2"]
    assert kernel.follow(GROUP) == ["1500 bytes to 1"]
    assert kernel.follow(GROUP) == []
    assert kernel.follow(GROUP, source=None) == ["0 bytes to 1"]
    assert kernel.follow(GROUP, source=None) == []


def test_nothing_is_taken_for_an_address_that_this_machine_does_not_have(kernel: Kernel) -> None:
    kernel.deaf = {RULE.input}
    assert kernel.follow(GROUP) == []
    assert kernel.why_worker() == f"this machine does not listen to {RULE.input.group}"
    kernel.deaf = set()
    assert kernel.follow(GROUP) == ["1500 bytes to 1"]
    kernel.deaf = {RULE.input}
    assert kernel.follow(GROUP) == ["0 bytes to 1"]


def test_rules_of_ipv6_have_reasons_of_their_own(kernel: Kernel) -> None:
    """One that crosses families is a worker's, either way; the others need what IPv6 needs beyond IPv4."""
    group6 = attrs.evolve(GROUP, group=IPv6Address("ff15::2"))
    source6 = attrs.evolve(RULE.input, group=IPv6Address("ff15::1"))

    def why(source: Input, output: Output, neighbour: Key | None = None) -> str:
        rule = attrs.evolve(RULE, input=source, outputs=(output,))
        kernel.rules.follow([attrs.evolve(_placed(output), rule=rule, neighbours=(neighbour,))])
        return kernel.why_worker()

    crosses = "is sent to by IPv{}: the kernel path sends by what came in, IPv{}"
    assert why(RULE.input, group6) == f"[ff15::2]:6000:out0 {crosses.format(6, 4)}"
    assert why(source6, GROUP) == f"239.2.2.2:6000:out0 {crosses.format(4, 6)}"
    kernel.rules.blocker6 = "legacy ip6tables has a table filter"
    assert why(source6, group6) == kernel.rules.blocker6
    assert why(RULE.input, GROUP) == ""
    kernel.rules.blocker6 = ""
    kernel.why_no_ipv6 = lambda: "refused"
    assert why(source6, group6) == "refused"
    kernel.why_no_ipv6 = str
    assert why(source6, group6, Key("out0", group6.group)) == ""
    assert kernel.sources == [(SOURCE, 40_000)]


def test_many_rules_are_replaced_after_one_grace_period_with_their_gates_closed(kernel: Kernel) -> None:
    rules = [attrs.evolve(_placed(GROUP), rule=attrs.evolve(RULE, rule_id=f"{each}")) for each in range(1000)]
    kernel.rules.follow(rules)
    assert kernel.did == ["1500 bytes to 1"] * 1000
    kernel.did.clear()
    kernel.rules.follow([attrs.evolve(each, ways=(None,)) for each in rules])
    assert kernel.did == ["hold", "wait", *["0 bytes to 1"] * 1000, "let go"]


@pytest.mark.parametrize(("outputs", "source"), [((GROUP,), SOURCE), ((GROUP, SECOND), None)])
def test_what_the_kernel_could_not_be_told_it_does_not_do_as_before(
    kernel: Kernel, outputs: tuple[Output, ...], source: IPv4Address | None
) -> None:
    """Without memory for a change it keeps the rule that it had: an output that was removed would go on."""
    kernel.follow(GROUP, SECOND)
    kernel.full = True
    kernel.follow(*outputs, source=source)
    assert (kernel.held, kernel.why_worker()) == ({CAPTURE}, "Cannot allocate memory (os error 12)")
    kernel.full = False
    kernel.follow(*outputs, source=source)
    assert kernel.held == set()


def test_a_rule_that_the_kernel_has_never_had_holds_nobody(kernel: Kernel) -> None:
    kernel.full = True
    kernel.follow(GROUP)
    assert (kernel.held, kernel.why_worker()) == (set(), "Cannot allocate memory (os error 12)")


def test_flows_for_which_there_was_no_memory_do_not_outlive_their_rule(kernel: Kernel) -> None:
    """A range gets some back when a rule inside of it is removed."""
    source = attrs.evolve(RULE.input, last_port=5003)
    whole = attrs.evolve(_placed(GROUP), rule=attrs.evolve(RULE, input=source))
    kernel.rules.follow([attrs.evolve(whole, taken=frozenset(source.flows[1:]))])
    kernel.room = 3
    kernel.rules.follow([whole])
    assert kernel.flows == {source.flows[0]}
    kernel.rules.forget([whole], set())
    assert kernel.flows == set()


def test_a_rule_can_be_removed_without_memory(kernel: Kernel) -> None:
    """Its input is another's, and was admitted for that one, to the workers."""
    kernel.follow(GROUP)
    kernel.full = True
    kernel.follow(GROUP, SECOND)
    kernel.did.clear()
    kernel.rules.forget([_placed(GROUP)], {*RULE.input.claims})
    assert (kernel.did, kernel.held) == (["wait", "drop", "let go"], set())


def test_what_goes_on_by_another_rule_is_not_dropped_under_way(kernel: Kernel) -> None:
    """Also where one of the two names a source: what the filter has left to the kernel path finds no rule later."""
    sourced = attrs.evolve(RULE, input=attrs.evolve(RULE.input, sources=(SOURCE,)))
    for rule in (RULE, sourced):
        placed = attrs.evolve(_placed(GROUP), rule=rule)
        kernel.rules.follow([placed])
        kernel.did.clear()
        kernel.rules.forget([placed], {*RULE.input.claims})
        assert kernel.did == ["hold", "wait", "drop", "let go"]
        kernel.rules.follow([placed])
        kernel.did.clear()
        kernel.rules.forget([placed], set())
        assert kernel.did == ["drop"]


def test_addresses_that_it_could_not_be_told_bar_it(kernel: Kernel) -> None:
    kernel.follow(GROUP)
    kernel.full = True
    kernel.rules.set_own(b"")
    assert kernel.why_worker() == "there was no memory to tell it the addresses of this machine"
    kernel.full = False
    kernel.rules.set_own(b"")
    assert kernel.why_worker() == ""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, IPv4Address]]:
    """The neighbours that the kernel was told to ask."""
    told: list[tuple[int, IPv4Address]] = []

    def ask(hops: list[tuple[int, IPv4Address]]) -> dict[tuple[int, IPv4Address], int]:
        told.extend(hops)
        return dict.fromkeys(hops, 0)

    monkeypatch.setattr(next_hops, "use_neighbours", ask)
    return told


def test_a_host_is_asked_for_when_the_kernel_is_in_doubt_and_its_mac_is_followed(
    kernel: Kernel, asked: list[tuple[int, IPv4Address]]
) -> None:
    placed = attrs.evolve(_placed(HOST), ways=(Way(SOURCE, HOST.group),))

    def hear(neighbour: Neighbour | None) -> str:
        asked.clear()
        if kernel.rules.hops.follow({HOP: neighbour} if neighbour else {}):
            kernel.rules.follow([placed])
        kernel.rules.ask_hops()
        return kernel.why_worker()

    kernel.rules.follow([placed])
    assert (asked, kernel.did) == ([HOP], [])
    assert (hear(Neighbour(uapi.NUD_REACHABLE, mac=MAC)), asked, kernel.macs) == ("", [], [MAC])
    assert (hear(Neighbour(uapi.NUD_STALE, mac=MAC)), asked) == ("", [HOP])
    assert (hear(Neighbour(uapi.NUD_PROBE, mac=MAC)), asked) == ("", [])
    assert (hear(Neighbour(uapi.NUD_REACHABLE, mac=MAC[::-1])), kernel.macs) == ("", [MAC[::-1]])
    silent = "192.0.2.7 does not answer ARP on out0"
    assert (hear(Neighbour(uapi.NUD_FAILED, silent=True, mac=MAC)), asked) == (silent, [])
    assert kernel.did[-1] == "0 bytes to 1"
    assert (hear(Neighbour(0, silent=True)), asked) == (silent, []), "what is sent there asks"
    assert (hear(Neighbour(uapi.NUD_REACHABLE, mac=MAC)), kernel.macs) == ("", [MAC])
    assert (hear(None), asked) == ("192.0.2.7 has not answered ARP on out0", [HOP])
    kernel.rules.forget([placed], set())
    assert (hear(Neighbour(uapi.NUD_STALE, mac=MAC)), asked) == ("it is about to be checked", [])


def test_a_host_of_which_the_kernel_is_in_doubt_no_more_is_not_asked_for(asked: list[tuple[int, IPv4Address]]) -> None:
    """Its entry may have been made permanent meanwhile."""
    hops = NextHops()
    hops.use("r1", [HOP])
    assert hops.are_doubtful
    hops.follow({HOP: Neighbour(uapi.NUD_PERMANENT, mac=MAC)})
    assert not hops.are_doubtful


def test_a_host_that_could_not_be_asked_for_is_asked_for_again(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, asked: list[tuple[int, IPv4Address]]
) -> None:
    def refuse(_: object) -> None:
        raise OSError(errno.EMFILE, "")

    with monkeypatch.context() as patch:
        patch.setattr(next_hops, "use_neighbours", refuse)
        kernel.rules.follow([attrs.evolve(_placed(HOST), ways=(Way(SOURCE, HOST.group),))])
    kernel.rules.ask_hops()
    kernel.rules.ask_hops()
    assert asked == [HOP]


def test_hosts_that_the_kernel_refuses_to_ask_for_wait_behind_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now, full = 100.0, True
    hops, others = NextHops(), [(1, IPv4Address(f"192.0.2.{each}")) for each in range(10, 13)]
    asked: list[tuple[int, IPv4Address]] = []

    def refuse(those: list[tuple[int, IPv4Address]]) -> dict[tuple[int, IPv4Address], int]:
        asked[:] = those
        return dict.fromkeys(those[:2], errno.ENOBUFS if full else 0)

    monkeypatch.setattr(next_hops, "use_neighbours", refuse)
    monkeypatch.setattr(next_hops, "monotonic", lambda: now)
    hops.use("r1", others)
    hops.ask()
    first = asked[:]
    hops.ask()
    assert (len(first), asked) == (3, first[2:])
    assert not hops.are_doubtful
    now += 10
    hops.ask()
    assert (asked, hops.are_doubtful) == (first, True), "the third has not been tried"
    full = False
    hops.ask()
    now += 10
    hops.ask()
    assert (asked, hops.are_doubtful) == (first[:2], False)


def test_a_port_that_is_not_reserved_is_not_sent_from(kernel: Kernel) -> None:
    """The workers count what is due as errors."""
    key = Key("out0", GROUP.group, 4000)
    placed = attrs.evolve(_placed(attrs.evolve(GROUP, source_port=4000)), neighbours=(key,))
    kernel.without = {key}
    kernel.rules.follow([placed])
    assert (kernel.did, kernel.why_worker()) == ([], "the sockets of 239.2.2.2:6000:out0 could not be opened")
    kernel.without = set()
    kernel.rules.follow([placed])
    assert (kernel.did, kernel.why_worker()) == (["1500 bytes to 1"], "")
