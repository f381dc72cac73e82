"""A cable into a relay, a cable out of it, and a rule between them: what comes and goes in the tests that have many."""

import json
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Self

import attrs

from lab import LabError, Namespace
from link_state import End, make_cable
from mcr.errors import McrError
from mcr_process import PATIENCE, Mcr, wait_until

MTU = 1500
_IGMP_V3_REPORT = 0x22
_REPORTS = {_IGMP_V3_REPORT, 0x16, 0x12}


Listen = Callable[[], None]


def nobody() -> None:
    """Listen to nothing."""


@attrs.frozen
class Cable:
    """A veth pair between the relay and another namespace.

    Attributes:
        name: its interface in the relay.
        far: its other end.
    """

    relay: Namespace
    name: str
    address: str
    there: Namespace
    far: str
    far_address: str

    def connect(self, listen: Listen = nobody, index: int | None = None) -> None:
        """Make it, and return when it carries traffic; `listen` as soon as its far end could hear something."""
        with self.relay.entered():
            make_cable(End(self.name, index or 0), End(self.far, 0), self.there.fd, MTU)
        self.there.ip(f"address add {self.far_address}/24 dev {self.far}")
        self.there.ip(f"link set dev {self.far} up")
        listen()
        self.address_again()
        self.up()

    def address_again(self) -> None:
        """Give the relay's end its address."""
        self.relay.ip(f"address add {self.address}/24 dev {self.name}")

    def up(self) -> None:
        """Set both ends up, and return when they carry traffic."""
        self.there.set_up(self.far)
        self.relay.bring_up(self.name)
        self.there.bring_up(self.far)

    def down(self) -> None:
        """Set the relay's end down."""
        self.relay.ip(f"link set dev {self.name} down")

    def delete(self) -> None:
        """Both ends are gone."""
        self.relay.ip(f"link delete dev {self.name}")

    def rename(self, old: str, new: str) -> None:
        """Rename the relay's end, and return when both carry traffic; older kernels rename nothing that is up."""
        self.relay.ip(f"link set dev {old} down")
        self.relay.ip(f"link set dev {old} name {new}")
        self.relay.bring_up(new)
        self.there.bring_up(self.far)

    @property
    def index(self) -> int:
        """Of the relay's end."""
        with self.relay.entered():
            return socket.if_nametoindex(self.name)


class Feed:
    """One rule, to a group and to a host by the same interface."""

    def __init__(self, mcr: Mcr, source: Namespace, receiver: Namespace, number: int) -> None:
        self.mcr, self.number = mcr, number
        self.input = Cable(
            mcr.namespace, f"i{number}", f"198.18.{number}.2", source, f"s{number}", f"198.18.{number}.1"
        )
        self.output = Cable(
            mcr.namespace, f"o{number}", f"198.19.{number}.1", receiver, f"r{number}", f"198.19.{number}.2"
        )
        self.group, self.out = f"239.1.{number}.1", f"239.2.{number}.1"
        self.rule_id = f"feed{number}"

    def words(self) -> list[str]:
        """What adds its rule."""
        place = ["--input-interface", self.input.name, "--input-group", self.group, "--input-port", "5000"]
        outputs = f"{self.out}:6000:{self.output.name},{self.output.far_address}:6001:{self.output.name}"
        return ["add", *place, "--outputs", outputs, "--rule-id", self.rule_id]

    def start(self) -> "Feed":
        """Connect both cables and add the rule."""
        self.input.connect()
        self.output.connect()
        outputs = (f"{self.out}:6000:{self.output.name}", f"{self.output.far_address}:6001:{self.output.name}")
        self.mcr.add(f"{self.input.name}:{self.group}:5000", *outputs, rule_id=self.rule_id)
        return self

    def end(self) -> None:
        """Remove the rule, and the cables as far as they are there."""
        with suppress(McrError):  # it may not be there
            self.mcr.call("remove", {"rule_id": self.rule_id})
        for cable in (self.input, self.output):
            with suppress(LabError):
                self.mcr.namespace.ip(f"link delete dev {cable.name}")

    def rule(self) -> dict[str, Any]:
        """As `list` shows it now."""
        (found,) = (each for each in self.mcr.call("list") if each["rule_id"] == self.rule_id)
        return dict(found)

    def expect(self, state: str, reason: str = "", seconds: float = 1.0) -> None:
        """List tells it within so many seconds of the event."""

        def told() -> bool:
            now = self.rule()
            return (now["state"], now["reason"]) == (state, reason)

        wait_until(told, f"{state}: {reason}: {self.rule()}", seconds)

    def matched(self) -> int:
        """Packets that its rule has taken."""
        return sum(each["matched"] for each in self.mcr.stats()["rules"] if each["rule_id"] == self.rule_id)

    def send(self, count: int, size: int = 100, *, by: str = "") -> list[bytes]:
        """Send so many packets into the input's cable, or another; their payloads."""
        name, source = by or self.input.far, self.input.there
        with source.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            sending.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
            mreqn = struct.pack("4s4si", b"", b"", socket.if_nametoindex(name))
            sending.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn)
            stamp = time.monotonic_ns()
            payloads = [f"{self.rule_id} {stamp} {number} ".encode().ljust(size, b".") for number in range(count)]
            for each in payloads:
                sending.sendto(each, (self.group, 5000))
        return payloads

    def passes(self, count: int = 50, size: int = 100, *, by: str = "", at: str = "") -> str:
        """Every packet comes out at both outputs, once and in order; the address that the group's came from.

        Args:
            count: packets.
            size: of their payloads.
            by: the interface that they are sent by, if not the input's cable.
            at: the interface where the group's are to come, if not at the output's cable; hosts are left out then.
        """
        groups = self.listen(at)
        with groups, self._listen_host() as host:
            sent = self.send(count, size, by=by)
            sources = self._take(groups, sent)
            if not at:
                self._take(host, sent)
        (address,) = sources
        return address

    def fails(self, count: int = 50) -> None:
        """Every packet counts as an error at both outputs, and as sent at neither."""
        before = self._counted()
        self.send(count)
        now = [(sent, errors + count) for sent, errors in before]
        wait_until(lambda: self._counted() == now, f"{count} errors more than in {before}: {self._counted()}")

    def _counted(self) -> list[tuple[int, int]]:
        """What became of packets to each output: sent, or not."""
        (rule,) = (each for each in self.mcr.stats()["rules"] if each["rule_id"] == self.rule_id)
        return [(each["sent"], each["errors"]) for each in rule["outputs"]]

    def listen(self, at: str = "") -> socket.socket:
        """A socket that gets what leaves to the group."""
        with self.output.there.entered():
            listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            listening.bind((self.out, 6000))
            index = socket.if_nametoindex(at or self.output.far)
            mreqn = struct.pack("4s4si", socket.inet_aton(self.out), b"", index)
            listening.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreqn)
        return listening

    def _listen_host(self) -> socket.socket:
        with self.output.there.entered():
            listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            listening.bind((self.output.far_address, 6001))
        return listening

    @staticmethod
    def _take(listening: socket.socket, sent: list[bytes]) -> set[str]:
        listening.settimeout(PATIENCE)
        came, sources = [], set()
        for _ in sent:
            try:
                payload, (address, _) = listening.recvfrom(65_536)
            except TimeoutError:
                break
            came.append(payload)
            sources.add(address)
        assert came == sent, f"{len(came)} of {len(sent)} came"
        return sources


class Reports:
    """Hears which groups are reported at the far end of a cable, from `listen` on."""

    def __init__(self, cable: Cable) -> None:
        self._cable = cable
        with cable.there.entered():
            self._tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.groups: Counter[str] = Counter()

    def listen(self) -> None:
        """Begin; the far end has to be there."""
        with self._cable.there.entered():
            self._tap.bind((self._cable.far, 0x0800))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tap.close()

    def hear(self, seconds: float = 0.0) -> None:
        """Take in what has come, and what comes within so many seconds."""
        deadline = time.monotonic() + seconds
        while select.select([self._tap], [], [], max(0.0, deadline - time.monotonic()))[0]:
            try:
                packet = self._tap.recv(65_536)[14:]
            except OSError:  # it was down
                continue
            message = packet[(packet[0] & 0x0F) * 4 :]
            if packet[9] == socket.IPPROTO_IGMP and message[0] in _REPORTS:
                self.groups.update(_reported(message))

    def expect(self, *groups: str) -> None:
        """They are reported, or have been."""

        def told() -> bool:
            self.hear(0.02)
            return {*groups} <= self.groups.keys()

        wait_until(told, f"reports of {groups} are on the wire")


def _reported(message: bytes) -> list[str]:
    if message[0] != _IGMP_V3_REPORT:
        return [socket.inet_ntoa(message[4:8])]
    groups, at = [], 8
    for _ in range(int.from_bytes(message[6:8])):
        _, auxiliary, sources = struct.unpack_from("!BBH", message, at)
        groups.append(socket.inet_ntoa(message[at + 4 : at + 8]))
        at += 8 + 4 * (sources + auxiliary)
    return groups


def network_lines(mcr: Mcr, names: Collection[str]) -> list[str]:
    """What the log says of these interfaces, without times."""
    said = [line.partition("] ")[2] for line in mcr.log().splitlines() if "[network]" in line]
    return [line for line in said if any(f"{name} " in line for name in names)]


def link(namespace: Namespace, name: str) -> dict[str, Any]:
    """An interface, as ``ip`` shows it."""
    (found,) = json.loads(namespace.ip(f"-json -details link show dev {name}"))
    return dict(found)
