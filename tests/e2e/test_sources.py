"""Rules that name the sources of a group: who gets what, what is joined, and what is told where nothing comes."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address

import pytest

from lab import Namespace
from mcr.errors import McrError
from mcr_process import PATIENCE, Mcr, wait_until
from successors import take_over
from topology import MakeMcr, Plant, needs_root

GROUP, PORT, COUNT = "232.1.1.1", 5000, 200
FIRST, SECOND, OTHER = "198.18.0.1", "198.18.0.3", "198.18.0.4"
INCLUDES = {1, 3, 5}  # kinds of records in a report of IGMPv3 (RFC 3376, 4.2.12) that ask for sources

pytestmark = needs_root


class Sources:
    """A machine on the input network that sends to the group from several addresses."""

    def __init__(self, plant: Plant) -> None:
        for address in (SECOND, OTHER):
            plant.source.ip(f"address add {address}/24 dev src0")
        with plant.source.entered():
            self._sockets = {each: socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for each in (FIRST, SECOND, OTHER)}
            for address, opened in self._sockets.items():
                opened.bind((address, 0))
                opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))

    def close(self) -> None:
        for opened in self._sockets.values():
            opened.close()

    @contextmanager
    def sending(self, address: str) -> Iterator[None]:
        """A datagram every few milliseconds meanwhile."""
        ended = threading.Event()

        def go_on() -> None:
            while not ended.wait(0.005):
                self.send(address, count=1)

        thread = threading.Thread(target=go_on)
        thread.start()
        yield
        ended.set()
        thread.join()

    def send(self, *addresses: str, count: int = COUNT) -> None:
        """In turn from each of these."""
        for number in range(count):
            for address in addresses:
                self._sockets[address].sendto(f"{address} {number}".encode(), (GROUP, PORT))


@pytest.fixture
def sources(plant: Plant) -> Iterator[Sources]:
    made = Sources(plant)
    yield made
    made.close()


def sent_from(*addresses: str, count: int = COUNT) -> list[str]:
    return [f"{address} {number}" for number in range(count) for address in addresses]


@contextmanager
def receiver(namespace: Namespace, interface: str, group: str, port: int) -> Iterator[socket.socket]:
    with namespace.entered():
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        index = socket.if_nametoindex(interface)
    with opened:
        opened.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
        opened.bind((group, port))
        member = socket.inet_aton(group) + bytes(4) + index.to_bytes(4, "little")
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        opened.settimeout(PATIENCE)
        yield opened


def received(opened: socket.socket, count: int) -> list[str]:
    return [opened.recv(2000).decode() for _ in range(count)]


def add(mcr: Mcr, name: str, output: tuple[str, int, str], sources: Sequence[str] = ()) -> None:
    """A rule for the group."""
    rule = {
        "name": name,
        "input": {"interface": "in0", "group": GROUP, "port": PORT} | ({"sources": [*sources]} if sources else {}),
        "outputs": [dict(zip(("group", "port", "interface"), output, strict=True))],
    }
    mcr.call("add", {"rules": [rule]})


def findings(mcr: Mcr, rule: str) -> dict[str, dict[str, str]]:
    """What `why` says of a rule, by what is asked."""
    return {each["check"]: each for each in mcr.call("why", {"rule": rule})}


def matched(mcr: Mcr) -> dict[str, int]:
    return {each["name"]: each["matched"] for each in mcr.stats()["rules"]}


def wait_for_matched(mcr: Mcr, **counts: int) -> None:
    wait_until(lambda: matched(mcr) == counts, f"matched are {counts}")


@pytest.mark.parametrize("path", ["kernel", "classic"])
def test_a_rule_that_names_the_source_goes_before_one_for_any(
    plant: Plant, make_mcr: MakeMcr, sources: Sources, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two rules for a group each gets its own, one set of counters for all its sources; and so when one has gone.

    A classic filter, where eBPF is forbidden, tells no sources apart, and leaves that to the workers. Another mcrd that
    takes over goes on.
    """
    monkeypatch.setenv("MCR_KERNEL_PATH", "auto" if path == "kernel" else "off")
    without_ebpf = ["setpriv", "--bounding-set=-bpf,-sys_admin"]
    mcr = make_mcr(plant.relay, prefix=without_ebpf if path == "classic" else []).start(2)
    add(mcr, "named", ("239.2.2.2", 6000, "out0"), [SECOND, FIRST])
    add(mcr, "any", ("239.2.2.3", 6001, "out1"))
    assert [each["input"].get("sources") for each in mcr.call("list")] == [[FIRST, SECOND], None]
    with pytest.raises(McrError, match=rf"takes {GROUP}:{PORT} on in0 from {SECOND}"):
        add(mcr, "twice", ("239.2.2.4", 6000, "out0"), [SECOND, OTHER])
    for number in (0, 1):
        mcr.wait_for_path("kernel" if path == "kernel" else "worker", number)
    with (
        receiver(plant.receiver, "rx0", "239.2.2.2", 6000) as named,
        receiver(plant.receiver, "rx1", "239.2.2.3", 6001) as rest,
    ):
        sources.send(FIRST, OTHER, SECOND)
        # Workers share the flows, so what comes from two sources may arrive in another order.
        assert sorted(received(named, 2 * COUNT)) == sorted(sent_from(FIRST, SECOND))
        assert received(rest, COUNT) == sent_from(OTHER)
        wait_for_matched(mcr, named=2 * COUNT, any=COUNT)
        take_over(mcr)
        mcr.wait_until_it_answers(10.0)
        mcr.call("remove", {"name": "any"})
        sources.send(OTHER, SECOND)
        assert received(named, COUNT) == sent_from(SECOND)
        wait_for_matched(mcr, named=3 * COUNT)
        add(mcr, "any", ("239.2.2.3", 6001, "out1"))
        mcr.call("remove", {"name": "named"})
        mcr.wait_for_path("kernel" if path == "kernel" else "worker")
        sources.send(FIRST)
        assert received(rest, COUNT) == sent_from(FIRST)
    stats = mcr.check_counters(arrived=6 * COUNT)
    assert stats["ingress"]["no_match"] == COUNT
    assert (stats["kernel_path"]["matched"] > 0) == (path == "kernel")


def included(report: bytes) -> set[tuple[str, str]]:
    """Groups and sources that a report of IGMPv3 asks for (RFC 3376, 4.2), of a frame's IP packet."""
    message = report[(report[0] & 15) * 4 :]
    found, at = set(), 8
    for _ in range(int.from_bytes(message[6:8], "big") if message[0] == 0x22 else 0):
        kind, sources = message[at], int.from_bytes(message[at + 2 : at + 4], "big")
        group = str(IPv4Address(message[at + 4 : at + 8]))
        ends = range(at + 8, at + 8 + 4 * sources, 4)
        found |= {(group, str(IPv4Address(message[each : each + 4]))) for each in ends if kind in INCLUDES}
        at += 8 + 4 * sources + 4 * message[at + 1]
    return found


def forget_heard(wire: socket.socket) -> None:
    """What waits, and that the interface went down."""
    wire.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    wire.setblocking(False)
    with suppress(BlockingIOError):
        while wire.recv(2000):
            pass
    wire.settimeout(PATIENCE)


def test_the_network_hears_of_the_source_and_why_says_what_is_wrong(
    plant: Plant, make_mcr: MakeMcr, sources: Sources
) -> None:
    """The group is joined from the source, also after the link was lost; what comes from another is named."""
    mcr = make_mcr(plant.relay).start()
    with plant.source.entered():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    with wire:
        wire.bind(("src0", 0x0800))
        wire.settimeout(PATIENCE)
        add(mcr, "named", ("239.2.2.2", 6000, "out0"), [FIRST])

        def hear() -> None:
            wait_until(lambda: (GROUP, FIRST) in included(wire.recv(2000)), "the group is asked for from the source")

        hear()
        plant.source.ip("link set dev src0 down")
        wait_until(lambda: mcr.rules()[0]["state"] == "waiting", "the rule waits")
        forget_heard(wire)
        plant.source.bring_up("src0")
        hear()
    nothing = findings(mcr, "named")
    assert nothing["source_joined"]["verdict"] == "ok"
    assert nothing["flow_arrives"]["what"].startswith(f"nothing of {GROUP} arrives from {FIRST} on in0")

    mcr.add("in0:239.1.1.1:5000", "239.2.2.3:6001:out1")  # the newest group is without sources: the kernel lists none
    with sources.sending(OTHER):
        another = wait_until(lambda: findings(mcr, "named").get("source"), "why names the other source")
        seen = mcr.call("trace", {"interface": "in0", "seconds": 1})["flows"]
    assert f"does not arrive from {FIRST} on in0, but this does: {GROUP}:{PORT} from {OTHER}" in another["what"]
    assert f"--input-source {OTHER}" in another["remedy"]
    assert [(each["group"], each["port"], each["source"]) for each in seen] == [(GROUP, PORT, OTHER)]
    with sources.sending(FIRST):
        wait_until(lambda: findings(mcr, "named")["flow_arrives"]["verdict"] == "ok", "why sees the source")
    plant.relay.run(["sysctl", "-qw", "net.ipv4.conf.in0.force_igmp_version=2"])
    old = findings(mcr, "named")["source_joined"]
    assert (old["verdict"], "IGMPv2" in old["what"]) == ("advice", True)
