"""Loops over other machines end within a second, and are named; what a source says again and again is no loop."""

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from lab import Lab, Namespace
from mcr_process import Mcr, wait_until
from test_kept_sources import SO_RCVBUFFORCE
from test_unsound import troubles
from topology import MakeMcr, Plant

MDNS = "224.0.0.251"
TURNS = 100
"""Times that a datagram goes round before that is noticed, at the least: it is a true loop."""


class Ring:
    """Two relays side by side: source ── net0 ── in0 relay out0 ── net1 ── receiver, twice."""

    def __init__(self, lab: Lab) -> None:
        self.source, self.receiver, nets = lab.namespace("source"), lab.namespace("receiver"), []
        for number, host in enumerate((self.source, self.receiver)):
            nets.append(lab.namespace(f"net{number}"))
            lab.link(host, f"host{number}", nets[-1], "p0", a_address=f"198.18.{number}.1/24")
        self.relays = tuple(lab.namespace(name) for name in ("left", "right"))
        for place, relay in enumerate(self.relays):
            for number, (net, name) in enumerate(zip(nets, ("in0", "out0"), strict=True)):
                lab.link(net, f"p{place + 1}", relay, name, b_address=f"198.18.{number}.{place + 2}/24")
        for net in nets:
            lab.bridge(net, "br0", ports=["p0", "p1", "p2"], mcast_snooping=False, mcast_querier=False)


@contextmanager
def member(namespace: Namespace, address: str, group: str, port: int) -> Iterator[socket.socket]:
    """A program that has joined a group."""
    with namespace.entered():
        joined = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with joined:
        joined.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        joined.bind((group, port))
        joined.setsockopt(
            socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton(address)
        )
        joined.setblocking(False)
        yield joined


def came(joined: socket.socket) -> Counter[bytes]:
    """What has come so far, and how often."""
    found: Counter[bytes] = Counter()
    while True:
        try:
            found[joined.recv(2048)] += 1
        except BlockingIOError:
            return found


@contextmanager
def speaker(namespace: Namespace, address: str) -> Iterator[socket.socket]:
    with namespace.entered():
        speaking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with speaking:
        speaking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        yield speaking


def quiet(mcr: Mcr) -> int:
    """Datagrams that were dropped as returned, once nothing moves any more."""
    stats = mcr.check_counters()
    return int(stats["ingress"]["parse_errors"]["loop_by_others"])


def is_named(mcr: Mcr) -> bool:
    told = troubles(mcr, "doctor").get("loop", "")
    return told.startswith("fault: what rule by-") and "by other machines: a loop; what comes back ends here" in told


@pytest.mark.parametrize("path", ["kernel", "worker"])
def test_a_loop_over_two_relays_ends(lab: Lab, make_mcr: MakeMcr, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for mDNS; and, where one relay sends G1 to G2 and the other one G2 to G1."""
    if path == "worker":
        monkeypatch.setenv("MCR_KERNEL_PATH", "off")
    ring = Ring(lab)
    left, right = (make_mcr(relay, name=name).start() for relay, name in zip(ring.relays, ("l", "r"), strict=True))
    for mcr in (left, right):
        for here, there in (("in0", "out0"), ("out0", "in0")):
            mcr.add(f"{here}:{MDNS}:5353", f"{MDNS}:5353:{there}:source=keep:ttl=255", rule_id=f"by-{here}")
    with speaker(ring.source, "198.18.0.1") as source, member(ring.receiver, "198.18.1.1", MDNS, 5353) as receiver:
        source.sendto(b"once", (MDNS, 5353))
        wait_until(lambda: quiet(left) + quiet(right), "what came back was dropped", 20)
        found = came(receiver)
        assert found.keys() == {b"once"}
        assert found[b"once"] > TURNS
        ended = [mcr for mcr in (left, right) if quiet(mcr)]
        for number in range(200):
            source.sendto(b"%d" % number, (MDNS, 5353))
        wait_until(lambda: quiet(left) + quiet(right) and not came(receiver), "it is quiet")
    for mcr in ended:
        assert mcr.says("a loop over other machines; it is not forwarded again")
        wait_until(partial(is_named, mcr), "doctor names it")


@pytest.mark.parametrize("path", ["kernel", "worker"])
def test_what_a_source_repeats_is_no_loop(
    plant: Plant, make_mcr: MakeMcr, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same datagram, as fast as it goes: it is looked into, and nothing is lost."""
    if path == "worker":
        monkeypatch.setenv("MCR_KERNEL_PATH", "off")
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    if path == "kernel":
        mcr.wait_for_path("kernel")
    sent = 0
    with (
        speaker(plant.source, "198.18.0.1") as source,
        member(plant.receiver, "198.18.1.2", "239.2.2.2", 6000) as receiver,
    ):
        found: Counter[bytes] = Counter()

        def looked_into() -> bool:
            nonlocal sent
            for _ in range(60):
                source.sendto(bytes(1316), ("239.1.1.1", 5000))
                sent += 1
            found.update(came(receiver))
            return "it is no loop" in mcr.log()

        wait_until(looked_into, "it is found to be no loop", 20)
        stats = mcr.check_counters(arrived=sent)
        found.update(came(receiver))
    assert "a worker looks into it" in mcr.log()
    assert found == {bytes(1316): sent}
    assert stats["ingress"]["parse_errors"]["loop_by_others"] == 0
