"""Neighbours that the kernel path sends to: hosts and gateways, their MACs, and that these stay fresh.

The kernel finds MACs, and tells each change. It asks whether a neighbour is still there only while its own IP stack
sends something there, and the kernel path bypasses that. So it is told to ask (NTF_USE) whenever it comes to doubt.
"""

import errno
import os
from collections.abc import Collection, Mapping
from time import monotonic

import attrs

from mcr.errors import errno_of
from mcr.logs.logger import get_logger
from mcr.logs.standing_reason import StandingReason
from mcr.model.flow import Address
from mcr.model.full_table import TABLE_SIZES
from mcr.model.log import Facility
from mcr.net import uapi
from mcr.net.network import Neighbour
from mcr.net.next_hop import use_neighbours

log = get_logger(Facility.NETWORK)

NextHop = tuple[int, Address]
"""A neighbour: the interface's index, and its address."""

_MAC_BYTES = 6
_RETRY_SECONDS = 10.0


@attrs.define(eq=False)
class NextHops:
    """All of them.

    Attributes:
        with_path_mtu: ids of rules of whose datagrams routers may tell that they are too long (`has_path_mtu`), or
            might when a way was known last.
    """

    with_path_mtu: set[str] = attrs.field(factory=set)
    _table: Mapping[NextHop, Neighbour] = attrs.field(factory=dict)
    _users: dict[NextHop, set[str]] = attrs.field(factory=dict)
    _by_rule: dict[str, frozenset[NextHop]] = attrs.field(factory=dict)
    _doubtful: dict[NextHop, float] = attrs.field(factory=dict)  # when to ask, by the monotonic clock
    _not_asked: StandingReason = attrs.field(factory=StandingReason)

    def mac(self, hop: NextHop) -> bytes:
        """Its MAC; empty: it is not known."""
        return _mac(self._table.get(hop))

    def is_silent(self, hop: NextHop) -> bool:
        """Whether it has been asked in vain."""
        return hop in self._table and self._table[hop].silent

    def use(self, rule_id: str, hops: Collection[NextHop], *, path_mtu: bool = False) -> None:
        """The rule sends to these from now on."""
        (self.with_path_mtu.add if path_mtu else self.with_path_mtu.discard)(rule_id)
        for hop in self._by_rule.pop(rule_id, frozenset()):
            users = self._users[hop]
            users.discard(rule_id)
            if not users:
                del self._users[hop]
                self._doubtful.pop(hop, None)
        if not hops:
            return
        self._by_rule[rule_id] = frozenset(hops)
        for hop in self._by_rule[rule_id]:
            if hop not in self._users and _is_doubtful(self._table.get(hop)):
                self._doubtful[hop] = 0.0
            self._users.setdefault(hop, set()).add(rule_id)

    def follow(self, table: Mapping[NextHop, Neighbour]) -> set[str]:
        """Take over the kernel's table as it is now; the ids of rules whose next hops have got other MACs."""
        if table is self._table:
            return set()
        before, self._table = self._table, table
        changed: set[str] = set()
        for hop, users in self._users.items():
            was, now = before.get(hop), table.get(hop)
            if was == now:
                continue
            if _is_doubtful(now):
                self._doubtful.setdefault(hop, 0.0)
            else:
                self._doubtful.pop(hop, None)
            if _mac(was) != _mac(now) or (now and now.silent) != (was and was.silent):
                changed |= users
        return changed

    @property
    def are_doubtful(self) -> bool:
        """Whether there are some that the kernel has to ask now."""
        now = monotonic()
        return any(due <= now for due in self._doubtful.values())

    def ask(self) -> None:
        """Have the kernel ask those in doubt. Those that it refuses wait for their turn behind the others."""
        now = monotonic()
        due = [hop for hop, at in self._doubtful.items() if at <= now]
        try:
            results = use_neighbours(due)
        except OSError as error:
            self._tell({due[0]: errno_of(error)} if due else {})
            return
        for hop, result in results.items():
            del self._doubtful[hop]
            if result:
                self._doubtful[hop] = now + _RETRY_SECONDS
        self._tell(results)

    def _tell(self, results: Mapping[NextHop, int]) -> None:
        (_, neighbour), error = next(((hop, each) for hop, each in results.items() if each), ((0, None), 0))
        if error == errno.ENOBUFS and neighbour:
            why = f"the kernel's table is full ({TABLE_SIZES[neighbour.version]})"
        else:
            why = os.strerror(error) if error else ""
        if self._not_asked.is_news(why):
            log.warning("cannot have the kernel ask for neighbours: %s: it is tried again", why)


def _mac(neighbour: Neighbour | None) -> bytes:
    valid = neighbour and neighbour.state & uapi.NUD_VALID and len(neighbour.mac) == _MAC_BYTES
    return neighbour.mac if neighbour and valid else b""


def _is_doubtful(neighbour: Neighbour | None) -> bool:
    """Whether the kernel does not know, or only from before; one that did not answer is asked by what is sent to it."""
    return neighbour is None or (not neighbour.silent and neighbour.state in (0, uapi.NUD_STALE))
