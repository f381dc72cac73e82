"""Interfaces of a relay that come and go at random; what is sent through them then arrives."""

import contextlib
import itertools
import json
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import attrs

from lab import Lab, Namespace
from mcr_process import wait_until

PROBE_PORT = 5999
PATIENCE_S = 20.0
PAUSE_S = 0.5  # that an interface stays as it must not be, at most
_indices = itertools.count(5000)


@attrs.frozen
class Cable:
    """An interface of the relay, and its other end."""

    lab: Lab
    relay: Namespace
    name: str
    neighbour: Namespace
    end: str
    number: int
    lock: threading.Lock = attrs.field(factory=threading.Lock, eq=False)

    @property
    def address(self) -> str:
        """Of the relay's end, with the length of its prefix."""
        return f"198.18.{self.number}.1/24"

    @property
    def host(self) -> str:
        """Address of the other end."""
        return f"198.18.{self.number}.2"

    def connect(self, index: int | None = None) -> None:
        """Make it, with this index at the relay's end or a new one."""
        own = f"index {next(_indices) if index is None else index}"
        words = f"ip link add {self.name} {own} type veth peer name {self.end} netns /proc/self/fd/{self.neighbour.fd}"
        self.relay.run(words.split(), pass_fds=[self.neighbour.fd])
        self.relay.ip(f"address add {self.address} dev {self.name}")
        self.neighbour.ip(f"address add {self.host}/24 dev {self.end}")
        self.up()

    def up(self) -> None:
        """Have both ends up."""
        self.neighbour.ip(f"link set dev {self.end} up")
        self.relay.bring_up(self.name)
        self.neighbour.bring_up(self.end)

    def index(self) -> int:
        """Of the relay's end."""
        (link,) = json.loads(self.relay.ip(f"-json link show dev {self.name}"))
        return int(link["ifindex"])

    def rename(self, name: str, other: str) -> None:
        """Give an interface another name."""
        self.relay.ip(f"link set dev {name} down")
        self.relay.ip(f"link set dev {name} name {other}")


@attrs.frozen
class Probe:
    """A rule that is sent through: the group, and where it comes out."""

    source: Cable
    group: str
    sink: Cable
    to: str

    def passes(self) -> bool:
        """Whether a packet gets through now."""
        with self.sink.neighbour.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            # The last one may still be held by a child of another thread that has not begun its program.
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            receiver.bind((self.to, PROBE_PORT))
            receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _mreqn(self.to, self.sink.end))
            receiver.settimeout(0.05)
            with self.source.neighbour.entered():
                send(self.source.end, self.group, PROBE_PORT, b"probe")
            with contextlib.suppress(TimeoutError):
                return receiver.recv(100) == b"probe"
        return False


def send(interface: str, group: str, port: int, payload: bytes) -> None:
    """Send a packet in this thread's network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _mreqn("0.0.0.0", interface))  # noqa: S104
        sender.sendto(payload, (group, port))


def _mreqn(group: str, interface: str) -> bytes:
    return struct.pack("4s4si", socket.inet_aton(group), bytes(4), socket.if_nametoindex(interface))


class Flaps:
    """What happens to one interface and, now and then, to it and a second one."""

    def __init__(
        self, cable: Cable, second: Cable, probe: Probe, stopping: threading.Event, done: Counter[str]
    ) -> None:
        self._cable, self._second, self._probe = cable, second, probe
        self._stopping = stopping
        self._done = done

    def run(self, chance: random.Random) -> None:
        """One after the other until stopped; each ends with the interface as it was, and with packets through it.

        Raises:
            AssertionError: they did not come.
        """
        kinds: list[Callable[[random.Random], None]] = [
            *(self.down, self.carrier, self.delete, self.delete, self.rename, self.address, self.second_address),
            *(self.mtu, self.mac, self.move, self.enslave, self.swap),
        ]
        while not self._stopping.wait(chance.uniform(0, 1.0)):
            kind = chance.choice(kinds)
            with self._locked(both=kind == self.swap):
                kind(chance)
            what = f"a packet through {self._cable.name} after: {kind.__name__}"
            wait_until(self._locked_probe, what, PATIENCE_S)
            self._done[kind.__name__] += 1

    def _locked_probe(self) -> bool:
        """With the interface in peace: another may be about to swap names with it."""
        with self._cable.lock:
            return self._probe.passes()

    @contextlib.contextmanager
    def _locked(self, *, both: bool) -> Iterator[None]:
        cables = sorted([self._cable, self._second] if both else [self._cable], key=lambda each: each.name)
        with contextlib.ExitStack() as held:
            for cable in cables:
                held.enter_context(cable.lock)
            yield

    def _pause(self, chance: random.Random) -> None:
        self._stopping.wait(chance.choice((0, chance.uniform(0, PAUSE_S))))

    def down(self, chance: random.Random) -> None:
        """Set down and up."""
        self._cable.relay.ip(f"link set dev {self._cable.name} down")
        self._pause(chance)
        self._cable.up()

    def carrier(self, chance: random.Random) -> None:
        """The other end is down and up."""
        self._cable.neighbour.ip(f"link set dev {self._cable.end} down")
        self._pause(chance)
        self._cable.up()

    def delete(self, chance: random.Random) -> None:
        """Deleted and made again, with the index that it had or another."""
        index = self._cable.index() if chance.random() < 1 / 2 else None
        self._cable.relay.ip(f"link delete dev {self._cable.name}")
        self._pause(chance)
        self._cable.connect(index)

    def rename(self, chance: random.Random) -> None:
        """Renamed and back."""
        self._cable.rename(self._cable.name, f"{self._cable.name}x")
        self._pause(chance)
        self._cable.rename(f"{self._cable.name}x", self._cable.name)
        self._cable.up()

    def swap(self, chance: random.Random) -> None:
        """Two swap their names, and again."""
        self._swap()
        self._pause(chance)
        self._swap()

    def _swap(self) -> None:
        one, other = self._cable, self._second
        one.rename(one.name, f"{one.name}x")
        other.rename(other.name, one.name)
        one.rename(f"{one.name}x", other.name)
        for cable in (one, other):
            cable.relay.bring_up(cable.name)

    def address(self, chance: random.Random) -> None:
        """The address goes and comes."""
        self._cable.relay.ip(f"address delete {self._cable.address} dev {self._cable.name}")
        self._pause(chance)
        self._cable.relay.ip(f"address add {self._cable.address} dev {self._cable.name}")

    def second_address(self, chance: random.Random) -> None:
        """Another comes and goes."""
        another = f"198.18.{100 + self._cable.number}.1/24 dev {self._cable.name}"
        self._cable.relay.ip(f"address add {another}")
        self._pause(chance)
        self._cable.relay.ip(f"address delete {another}")

    def mtu(self, chance: random.Random) -> None:
        """Smaller and back."""
        self._cable.relay.ip(f"link set dev {self._cable.name} mtu {chance.randrange(600, 1500)}")
        self._pause(chance)
        self._cable.relay.ip(f"link set dev {self._cable.name} mtu 1500")

    def mac(self, chance: random.Random) -> None:
        """A new one."""
        mac = ":".join(f"{each:02x}" for each in (2, *chance.randbytes(5)))
        self._cable.relay.ip(f"link set dev {self._cable.name} address {mac}")

    def move(self, chance: random.Random) -> None:
        """To another namespace and back."""
        here, there = self._cable.relay, self._cable.neighbour
        here.run(f"ip link set dev {self._cable.name} netns /proc/self/fd/{there.fd}".split(), pass_fds=[there.fd])
        self._pause(chance)
        there.run(f"ip link set dev {self._cable.name} netns /proc/self/fd/{here.fd}".split(), pass_fds=[here.fd])
        here.ip(f"address add {self._cable.address} dev {self._cable.name}")
        self._cable.up()

    def enslave(self, chance: random.Random) -> None:
        """A port of a bridge, and no longer."""
        bridge = f"br-{self._cable.name}"
        self._cable.relay.ip(f"link add {bridge} type bridge")
        self._cable.relay.ip(f"link set dev {self._cable.name} master {bridge}")
        self._cable.relay.ip(f"link set dev {bridge} up")
        self._pause(chance)
        self._cable.relay.ip(f"link delete dev {bridge}")
