"""Loops over other machines are noticed, named and damped; what sources say again and again is none."""

import json
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Self

from lab import Lab, Namespace
from mcr_process import BIN, Mcr, wait_until
from sources import repeating
from test_unsound import troubles
from topology import MakeMcr

NAMED = "sends on seems to come back to in0 from 198.18.0.3 ("
OVER = "rule ring: nothing comes back any more: the loop over another machine is over"
REFUSED = "rule ring: what 198.18.0.3 ("
TAKEN = ") sends is taken again: "
TURNS = 30
"""Of each datagram, by its TTL: a loop that never ended would take all that the machine can."""

RATE = 1_000
"""Datagrams a second of each source that only repeats."""
MOST = 50
"""Of them at a time: a machine that can't send so many is to send what else there is all the same."""


class Ring:
    """Two relays side by side: source host0 ── net0 ── in0 relay out0 ── net1 ── rx0 receiver."""

    def __init__(self, lab: Lab) -> None:
        self.source, nets = lab.namespace("source"), [lab.namespace("net0"), lab.namespace("net1")]
        lab.link(self.source, "host0", nets[0], "p0", a_address="198.18.0.1/24")
        self.source.ip("addr add 198.18.0.9/24 dev host0")
        self.left, self.right = lab.namespace("left"), lab.namespace("right")
        for place, relay in enumerate((self.left, self.right), 1):
            for number, (net, name) in enumerate(zip(nets, ("in0", "out0"), strict=True)):
                lab.link(net, f"p{place}", relay, name, b_address=f"198.18.{number}.{place + 1}/24")
        self.receiver = lab.namespace("receiver")
        lab.link(self.receiver, "rx0", nets[1], "p0", a_address="198.18.1.1/24")
        for net, ports in zip(nets, (["p0", "p1", "p2"], ["p0", "p1", "p2"]), strict=True):
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


class Receiver:
    """Counts how often each payload of a group came."""

    def __init__(self, namespace: Namespace, group: str) -> None:
        with namespace.entered():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((group, 5000))
        membership = socket.inet_aton(group) + socket.inet_aton("198.18.1.1")
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        self._socket.settimeout(0.1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.came = Counter[bytes]()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self.came[self._socket.recv(2048)] += 1
            except TimeoutError:
                continue

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()

    def has(self, payloads: Iterable[bytes]) -> bool:
        return all(map(self.came.__contains__, payloads))


def returned(mcr: Mcr) -> int:
    count: int = mcr.stats()["ingress"]["parse_errors"]["returned"]
    return count


def captured(relay: Namespace, mcr: Mcr) -> dict[str, set[str]]:
    """What `capture` says of the packets that come in, by their sources."""
    capture = ["capture", "ring", "--side", "in", "--count", "20", "--json"]
    verdicts = defaultdict[str, set[str]](set)
    for line in relay.run([BIN / "mcrctl", "--control-socket", mcr.socket, *capture]).stdout.splitlines():
        packet = json.loads(line)
        verdicts[packet["source"].split(":")[0]].add(packet["verdict"])
    return verdicts


def loop(mcr: Mcr, *command: str) -> str:
    return troubles(mcr, *command).get("loop", "")


def test_a_loop_over_another_relay_is_damped_until_it_ends(lab: Lab, make_mcr: MakeMcr) -> None:
    """Beside a source that says the same again and again, all of a sudden, and two that say the same as each other."""
    ring = Ring(lab)
    left, right = (make_mcr(relay, name=name).start() for relay, name in ((ring.left, "l"), (ring.right, "r")))
    left.ctl("log-level", "set", "--facility", "network", "--level", "debug")
    left.add("in0:239.1.1.1:5000", "239.1.1.1:5000:out0:ttl=keep", rule_id="ring")
    left.add("in0:239.1.1.2:5000", "239.2.2.2:6000:out0", rule_id="same")
    left.add("in0:239.1.1.3:5000", "239.2.2.3:6000:out0", rule_id="redundant")
    right.add("out0:239.1.1.1:5000", "239.1.1.1:5000:in0:ttl=dec", rule_id="back")
    begun, said, sent = time.monotonic(), list[bytes](), list[bytes]()
    with (
        speaker(ring.source, "198.18.0.1") as one,
        speaker(ring.source, "198.18.0.9") as other,
        Receiver(ring.receiver, "239.1.1.1") as receiver,
    ):

        def speak() -> None:
            sent.append(b"%d" % len(sent) + bytes(100))
            one.sendto(sent[-1], ("239.1.1.1", 5000))
            due = int((time.monotonic() - begun) * RATE)  # however busy the machine is
            for _ in range(min(due - len(said), MOST)):
                said.append(number := b"%d" % len(said))
                one.sendto(b"same", ("239.1.1.2", 5000))
                one.sendto(number, ("239.1.1.3", 5000))
                other.sendto(number, ("239.1.1.3", 5000))

        with repeating(speak, 0.01):
            assert wait_until(lambda: f"rule ring: what it {NAMED}" in left.log(), "the loop is noticed", 20)
            wait_until(lambda: returned(left), "it is refused", 30)
            expect_each_once(receiver, sent)
            assert captured(ring.left, left) == {"198.18.0.1": {"taken"}, "198.18.0.3": {"dropped: returned"}}
            for command in (["why", "ring"], ["doctor"]):
                told = loop(left, *command)
                assert told.startswith(f"fault: what rule ring {NAMED}")
                assert "ttl=dec" in told
                assert "and the rule takes nothing from 198.18.0.3; " in told
            for innocent in ("same", "redundant"):
                assert left.says(f"rule {innocent}: nobody is seen to return its ")
                assert not loop(left, "why", innocent).startswith("fault")
            right.ctl("remove", "back")
            wait_until(lambda: OVER in left.log(), "that is over", 30)
            assert not loop(left, "doctor").startswith("fault")
    assert left.log().count("seems to come back") == left.log().count(TAKEN) == 1
    errors = left.stats()["ingress"]["parse_errors"]
    assert errors.pop("returned") > 0
    assert not any(errors.values())


def expect_each_once(receiver: Receiver, sent: list[bytes], count: int = 50) -> None:
    """What is sent from now on arrives once each."""
    first = len(sent)
    wait_until(lambda: len(sent) >= first + count and receiver.has(sent[first : first + count]), "more has come")
    assert {receiver.came[each] for each in sent[first : first + count]} == {1}


def test_a_source_that_takes_over_is_refused_for_a_moment(lab: Lab, make_mcr: MakeMcr, worker_path: None) -> None:
    """The machine that has returned what others sent sends itself, and they are silent."""
    ring = Ring(lab)
    left, right = (make_mcr(relay, name=name).start() for relay, name in ((ring.left, "l"), (ring.right, "r")))
    left.add("in0:239.1.1.1:5000", "239.1.1.1:5000:out0:ttl=keep", rule_id="ring")
    right.add("out0:239.1.1.1:5000", "239.1.1.1:5000:in0:ttl=dec", rule_id="back")
    sent, taking_over = list[bytes](), list[bytes]()

    def speak(speaking: socket.socket, said: list[bytes], what: bytes) -> None:
        said.append(b"%s %d" % (what, len(said)))
        speaking.sendto(said[-1], ("239.1.1.1", 5000))

    with (
        speaker(ring.source, "198.18.0.1") as one,
        speaker(ring.right, "198.18.0.3") as other,
        Receiver(ring.receiver, "239.1.1.1") as receiver,
    ):
        with repeating(lambda: speak(one, sent, b"first"), 0.01):
            wait_until(lambda: returned(left), "it is refused", 30)
            expect_each_once(receiver, sent)
        right.ctl("remove", "back")
        with repeating(lambda: speak(other, taking_over, b"second"), 0.005):
            seen = "it goes on while others are silent", "it sends what is its own"  # by counters, or by a look before
            ended = [f"{TAKEN}{each}; it is not refused again for 10 minutes" for each in seen]
            wait_until(lambda: any(each in left.log() for each in ended), "it is taken again")
            wait_until(lambda: taking_over[-1] in receiver.came, "it arrives")
            expect_each_once(receiver, taking_over)
    lost = sum(each not in receiver.came for each in taking_over)
    assert 0 < lost < 800  # of 0.4 s, or of ten times as much on a busy machine
    assert left.log().count(REFUSED) == 2
