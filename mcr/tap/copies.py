"""Who sends which payloads, and who returns what others send."""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable
from heapq import nlargest
from ipaddress import ip_address
from typing import Final, NamedTuple

import attrs

_TURNS = 4  # of a payload, at the least
_SPARE = 2  # times that it may come for another reason


def again(times: int) -> int:
    """How often a returner sends a payload, at the least, that others have sent so many times."""
    return _TURNS * times + _SPARE


def are_again(turns: int, outputs: int) -> bool:
    """Whether a payload came as often as in a circle, where each output may bring it back once for each time."""
    return turns >= _TURNS * outputs


def _turns(back: int, sent: int) -> int:
    """Of a payload that came back so often, for each time that others sent it."""
    return (back - _SPARE) // sent


AGAIN: Final = again(1)
"""Less is seldom."""

KINDS: Final = 5
"""Payloads that were returned, at the least."""

CHAIN: Final = 3
"""Of them, those that others sent one after the other, each when the one before had come back: others live."""

_SURE = 8  # payloads of which others were the first, for one of which a returner was
_ORIGINAL = 2  # times that others send such a payload, at most
_NEARLY_ALL = 0.75  # of what others send
_MOST: Final = 0.5  # more of it is enough for a trial
_DROWNS: Final = 8  # times what all others send; then a trial takes no share of it
_FEW = 32  # datagrams tell nothing
_OWN = 4  # payloads that somebody sends first; fewer may have been on their way for long
_LITTLE = 16  # payloads that are new, after the first turn; fewer do not tell what else comes from there
_ALIVE = 8  # payloads of others of which nothing came back: it is over
_CROWD = 1000  # datagrams of one who may be a full loop

SAME: Final = 16
"""Times that it says each payload, on the average."""


class Origin(NamedTuple):
    """Who sends. It is hashed for each datagram, so it is a tuple.

    Attributes:
        mac: empty: the interface has none.
        address: of IPv4 or IPv6, packed; empty: several that others have, too.
    """

    mac: bytes
    address: bytes

    @property
    def machine(self) -> "Origin":
        """Whoever has this MAC, whatever the address."""
        return Origin(self.mac, b"")

    def __str__(self) -> str:
        if not self.address:
            return f"addresses of others ({self.mac.hex(':')})"
        mac = f" ({self.mac.hex(':')})" if self.mac else ""
        return f"{ip_address(self.address)}{mac}"


@attrs.frozen
class Return:
    """Somebody returns what others send.

    Attributes:
        origin: who.
        returned: payloads of others that came from there, too, and later.
        sent: payloads of others, of the same time.
        is_beside: only with payloads of sources that other rules name it is proven.
        is_part: of others' much does not come back, as in a loop that is full: whether it is one a trial tells.
        turns: of what came back most often, as of an `Echo`; 0: not known.
        before: packets a second from there, if that it fell silent while it was refused is the proof; 0: it is not.
        after: the same, while it was refused.
    """

    origin: Origin
    returned: int
    sent: int
    is_beside: bool = False
    is_part: bool = False
    turns: int = 0
    before: float = 0.0
    after: float = 0.0


@attrs.frozen
class Crowd:
    """Somebody says little, drowns all others with it, and returns nothing that can be seen.

    A loop that is so full that nothing new gets in looks like that, and so does a source that repeats itself.

    Attributes:
        origin: who.
        count: datagrams that it sent.
        payloads: different ones among them.
        others: datagrams of all others.
        is_shared: some of these come from the same address, with another MAC.
    """

    origin: Origin
    count: int
    payloads: int
    others: int
    is_shared: bool = False


@attrs.frozen
class Echo:
    """What somebody sends, of payloads that are new: those that came after what was on its way when a look began.

    Attributes:
        origin: who.
        returned: payloads that others sent first, but for sources that other rules name.
        own: those that it sent first.
        sent: payloads of these others that come from here or not.
        is_shared: others send from the same address, with another MAC.
        doubled: payloads that a source of another rule sent first, and this one after it, but seldom: no circle.
        turns: of the one that came back most often: times, less two, for each time that others sent it.
        is_little: a turn took nearly all of the look: what else comes from there is not known.
    """

    origin: Origin
    returned: int
    own: int
    sent: int
    is_shared: bool = False
    doubled: int = 0
    turns: int = 0
    is_little: bool = False

    @property
    def is_double(self) -> bool:
        """Whether it also sends, as a redundant source, what a source of another rule sends."""
        return self.doubled >= _OWN and _SURE * self.doubled > self.returned

    @property
    def is_source(self) -> bool:
        """Whether it brings much that is its own."""
        return self.own >= _OWN and _SURE * self.own > self.returned

    @property
    def is_over(self) -> bool:
        """Whether it returns nothing of what others send."""
        return self.sent >= _ALIVE and not self.returned


@attrs.frozen
class _Proof:
    """A payload that came back: when others sent it, as a place in the order, it came back first, and often enough.

    `turns` as of an `Echo`.
    """

    first: int
    back: int
    reached: int
    turns: int


class Sightings:
    """Who has sent which payloads, in the order in which they came, none left out."""

    def __init__(self, named: Collection[bytes] = frozenset()) -> None:
        """`named`: addresses from which other rules take the same flow: others, too, of whom nobody is refused here."""
        self._named = named
        self._senders: dict[Hashable, dict[Origin, list[int]]] = {}  # of each payload; places in the order of all
        self._often: dict[Origin, list[Hashable]] = {}  # payloads that came `AGAIN` times from one
        self.count = 0
        self._origins = set[Origin]()
        self._again = 0  # datagrams that the same origin has sent before
        self._new: int | None = None  # place of the first that was not on its way before; None: not known

    def add(self, origin: Origin, payload: Hashable) -> None:
        """One that came."""
        senders = self._senders.get(payload)
        if senders is None:
            senders = self._senders[payload] = {}
        places = senders.get(origin)
        if places is None:
            places = senders[origin] = []
            self._origins.add(origin)
        else:
            self._again += 1
        places.append(self.count)
        self.count += 1
        if len(places) == AGAIN:
            self._often.setdefault(origin, []).append(payload)

    def by_machine(self) -> "Sightings":
        """The same, with each MAC that sends from others' addresses what they have sent as one origin, as to that.

        Who returns datagrams of several senders from their own addresses (`source=keep`) is one of these. Machines
        behind one router have its MAC, too, but addresses of their own: they remain apart.
        """
        if len({each.address for each in self._origins}) == len(self._origins):
            return self  # nobody sends from another's
        keeping = {each.mac for senders in self._senders.values() for each in senders if _keeps_source(each, senders)}
        if not keeping:
            return self
        came = []
        for payload, senders in self._senders.items():
            first = next(iter(senders))
            for origin, places in senders.items():
                is_machine = origin.mac in keeping and (origin == first or _keeps_source(origin, senders))
                came += [(place, origin.machine if is_machine else origin, payload) for place in places]
        made = Sightings(self._named)
        for _, origin, payload in sorted(came):  # no two have the same place
            made.add(origin, payload)
        return made

    def settle(self) -> None:
        """What comes from here on is new, unless it is there already. Only the first call counts."""
        if self._new is None:
            self._new = self.count

    def echoes(self, of: Collection[Origin]) -> tuple[Echo, ...]:
        """What these send, and the others; none before `settle`.

        What is in a circle as the look begins comes within a turn. So much tells nothing of who returns it, either.
        """
        if self._new is None or not of:
            return ()
        returned, own, turns, sent = Counter[Origin](), Counter[Origin](), Counter[Origin](), list[int]()
        proofs = {each: self._proofs(each, self._named)[0] if each in self._often else [] for each in of}
        doubled, until = (
            Counter[Origin](),
            {each: max((proof.first for proof in proofs[each]), default=-1) for each in of},
        )
        new = {each: max(self._new, _turn(proofs[each])) for each in of}
        least = min(new.values())
        for senders in self._senders.values():
            who, places = next(iter(senders.items()))  # the first one
            if places[0] < least:
                continue
            if who in new:
                own[who] += places[0] >= new[who]
                continue
            back = [each for each in senders if each in new and places[0] >= new[each]]
            if who.address in self._named:  # whether that comes back or not is for its own rule to say
                doubled.update(each for each in back if len(senders[each]) < AGAIN and places[0] <= until[each])
            else:
                returned.update(back)
                turns |= Counter({each: _turns(len(senders[each]), len(places)) for each in back})
                sent.append(places[0])
        others = self._others()
        used = Counter(each.address for each in others)
        found = []
        for each in of:
            said, is_shared = sum(place >= new[each] for place in sent), used[each.address] > (each in others)
            is_little = new[each] > self._new and own[each] + said < _LITTLE
            echo = Echo(each, returned[each], own[each], said, is_shared, doubled[each], turns[each], is_little)
            found.append(echo)
        return tuple(found)

    def _others(self) -> set[Origin]:
        """All but the sources that other rules name."""
        return {each for each in self._origins if each.address not in self._named}

    def returners(self, enough: int = KINDS, chain: int = CHAIN) -> tuple[Return, ...]:
        """Origins that return what others send: so many payloads at the least, and so many in a chain.

        Each payload came first from another, who sent it once or twice, and then from them again and again. By
        redundancy nobody does so: there each sends the same number. Where many senders have the same few things to
        say, who says them often is first most of the time. After who takes over from another source that one is
        silent, so there is no chain. And a loop brings back nearly all that others send, but an echo what it is for.
        It may be a loop of what other rules take by source, which is told apart: their sources may be said again.
        """
        found = []
        for origin in self._often:
            if origin.address not in self._named:
                rest = self._returns(origin, enough, chain, self._named)
                whole = self._returns(origin, enough, chain, frozenset()) if self._named and not rest else None
                found.append(attrs.evolve(whole, is_beside=True) if whole else rest)
        return tuple(each for each in found if each)

    def part_returners(self, enough: int = KINDS, chain: int = CHAIN) -> tuple[Return, ...]:
        """Origins that are proven in the same way, but that much of what others send does not come back.

        In a loop that is full most gets lost. Who sends many times what all others do, or returns more than half,
        may be one.
        """
        others = (each for each in self._often if each.address not in self._named)
        proven = (self._proven(each, enough, chain, self._named) for each in others)
        found = (each for each in proven if each and (each.returned > _MOST * each.sent or self._drowns(each.origin)))
        return tuple(attrs.evolve(each, is_part=True) for each in found)

    def crowd(self) -> Crowd | None:
        """Who says the same few things so often that a full loop would look like it."""
        if not self._often or SAME * _DROWNS * len(self._senders) > (SAME + _DROWNS) * self.count:
            return None  # more payloads than there are then, its own and others'
        counts = Counter[Origin]()
        payloads = Counter[Origin]()
        for senders in self._senders.values():
            for origin, places in senders.items():
                counts[origin] += len(places)
                payloads[origin] += 1
        for origin, count in counts.most_common(1):
            is_same = count >= _CROWD and count >= SAME * payloads[origin]
            if is_same and self._drowns(origin) and origin.address not in self._named:
                is_shared = sum(each.address == origin.address for each in self._origins) > 1
                return Crowd(origin, count, payloads[origin], self.count - count, is_shared)
        return None

    def _drowns(self, origin: Origin) -> bool:
        """Whether it sends many times what all others do."""
        count = sum(len(senders.get(origin, ())) for senders in self._senders.values())
        return count >= _DROWNS * (self.count - count)

    def _returns(self, origin: Origin, enough: int, chain: int, but: Collection[bytes]) -> Return | None:
        """What it returns, if that is nearly all."""
        found = self._proven(origin, enough, chain, but)
        return found if found and found.returned >= _NEARLY_ALL * found.sent else None

    def _proven(self, origin: Origin, enough: int, chain: int, but: Collection[bytes]) -> Return | None:
        """What it returns, if that is proven without what comes from these addresses."""
        proofs, own = self._proofs(origin, but)
        if len(proofs) < max(enough, _SURE * own) or _chain(proofs) < chain:
            return None
        returned, sent = self._share(origin, max(each.first for each in proofs), but)
        return Return(origin, returned, sent, turns=max(each.turns for each in proofs))

    def _proofs(self, origin: Origin, but: Collection[bytes]) -> tuple[list[_Proof], int]:
        """Of payloads that came often from there, seldom from others: those that others sent first; how many rest."""
        proofs, own = list[_Proof](), 0
        for senders in map(self._senders.__getitem__, self._often[origin]):
            if next(iter(senders)).address in but:
                continue
            seldom = [places for who, places in senders.items() if len(places) < AGAIN and who.address not in but]
            times, back = sum(map(len, seldom)), senders[origin]
            if not 1 <= times <= _ORIGINAL or len(back) < again(times):
                continue
            first = min(seldom)
            if first[0] < back[0]:
                turns = _turns(len(back), len(first))
                proofs.append(_Proof(first[0], back[0], back[again(times) - 1], turns))
            else:
                own += 1
        return proofs, own

    def _share(self, origin: Origin, until: int, but: Collection[bytes]) -> tuple[int, int]:
        """Payloads that others sent first, until then, and came from there, too; and all that others sent first."""
        returned = sent = 0
        for senders in self._senders.values():
            first = next((each for each in senders.items() if each[0].address not in but), None)
            if first and first[0] != origin and first[1][0] <= until:
                sent += 1
                returned += origin in senders
        return returned, sent

    def are_over(self, known: Collection[Origin]) -> bool:
        """Whether others send that the rule takes, and nothing of that, or of what is named, comes from these."""
        alive = 0
        for senders in self._senders.values():
            if any(each not in known for each in senders):
                if any(each in known for each in senders):
                    return False
                alive += any(each.address not in self._named for each in senders)
        return alive >= _ALIVE

    @property
    def are_varied(self) -> bool:
        """Whether few of them came again: nothing is in a circle."""
        return self.count >= _FEW and 2 * self._again < self.count


def _keeps_source(origin: Origin, senders: Iterable[Origin]) -> bool:
    """Whether it has the address of the first of those who send a payload, and another MAC."""
    first = next(iter(senders))
    return origin.address == first.address and origin.mac != first.mac


def _turn(proofs: Iterable[_Proof]) -> int:
    """Datagrams between one of others and its return, at the most; but for one, which may have been slow."""
    longest = nlargest(2, (each.back - each.first - 1 for each in proofs))
    return longest[-1] if longest else 0


def _chain(proofs: Iterable[_Proof]) -> int:
    """How many there are at the most of which each began when the one before had been reached."""
    length, end = 0, -1
    for each in sorted(proofs, key=lambda proof: proof.reached):
        if each.first > end:
            length, end = length + 1, each.reached
    return length
