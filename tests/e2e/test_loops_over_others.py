"""Loops over other machines are noticed and named; what sources say again and again is none."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from lab import Lab, Namespace
from mcr_process import Mcr, wait_until
from sources import repeating
from test_unsound import troubles
from topology import MakeMcr

NAMED = "sends on seems to come back to in0 from 198.18.0.3 ("
OVER = "rule ring: nothing comes back any more: the loop over another machine is over"
TURNS = 30
"""Of each datagram, by its TTL: a loop that never ended would take all that the machine can."""

RATE = 1_000
"""Datagrams a second of each source that only repeats."""


class Ring:
    """Two relays side by side: source host0 ── net0 ── in0 relay out0 ── net1, twice."""

    def __init__(self, lab: Lab) -> None:
        self.source, nets = lab.namespace("source"), [lab.namespace("net0"), lab.namespace("net1")]
        lab.link(self.source, "host0", nets[0], "p0", a_address="198.18.0.1/24")
        self.source.ip("addr add 198.18.0.9/24 dev host0")
        self.left, self.right = lab.namespace("left"), lab.namespace("right")
        for place, relay in enumerate((self.left, self.right), 1):
            for number, (net, name) in enumerate(zip(nets, ("in0", "out0"), strict=True)):
                lab.link(net, f"p{place}", relay, name, b_address=f"198.18.{number}.{place + 1}/24")
        for net, ports in zip(nets, (["p0", "p1", "p2"], ["p1", "p2"]), strict=True):
            lab.bridge(net, "br0", ports=ports, mcast_snooping=False, mcast_querier=False)


@contextmanager
def speaker(namespace: Namespace, address: str) -> Iterator[socket.socket]:
    with namespace.entered():
        speaking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with speaking:
        speaking.bind((address, 0))
        speaking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        speaking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, TURNS)
        yield speaking


def loop(mcr: Mcr, *command: str) -> str:
    return troubles(mcr, *command).get("loop", "")


def test_a_loop_over_another_relay_is_named_until_it_ends(lab: Lab, make_mcr: MakeMcr) -> None:
    """Beside a source that says the same again and again, all of a sudden, and two that say the same as each other."""
    ring = Ring(lab)
    left, right = (make_mcr(relay, name=name).start() for relay, name in ((ring.left, "l"), (ring.right, "r")))
    left.ctl("log-level", "set", "--facility", "network", "--level", "debug")
    left.add("in0:239.1.1.1:5000", "239.1.1.1:5000:out0:ttl=keep", rule_id="ring")
    left.add("in0:239.1.1.2:5000", "239.2.2.2:6000:out0", rule_id="same")
    left.add("in0:239.1.1.3:5000", "239.2.2.3:6000:out0", rule_id="redundant")
    right.add("out0:239.1.1.1:5000", "239.1.1.1:5000:in0:ttl=dec", rule_id="back")
    numbers, begun, said = count(), time.monotonic(), list[bytes]()
    with speaker(ring.source, "198.18.0.1") as one, speaker(ring.source, "198.18.0.9") as other:

        def speak() -> None:
            one.sendto(b"%d" % next(numbers) + bytes(100), ("239.1.1.1", 5000))
            while len(said) < (time.monotonic() - begun) * RATE:  # however busy the machine is
                said.append(number := b"%d" % next(numbers))
                one.sendto(b"same", ("239.1.1.2", 5000))
                one.sendto(number, ("239.1.1.3", 5000))
                other.sendto(number, ("239.1.1.3", 5000))

        with repeating(speak, 0.01):
            assert wait_until(lambda: f"rule ring: what it {NAMED}" in left.log(), "the loop is noticed", 20)
            for command in (["why", "ring"], ["doctor"]):
                told = loop(left, *command)
                assert told.startswith(f"fault: what rule ring {NAMED}")
                assert "ttl=dec" in told
            for innocent in ("same", "redundant"):
                assert left.says(f"rule {innocent}: nobody is seen to return its ")
                assert not loop(left, "why", innocent).startswith("fault")
            right.ctl("remove", "back")
            wait_until(lambda: OVER in left.log(), "that is over", 30)
            assert not loop(left, "doctor").startswith("fault")
    assert left.log().count("seems to come back") == 1
    assert not any(left.stats()["ingress"]["parse_errors"].values())
