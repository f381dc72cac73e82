"""A short look at the wire for datagrams that other machines return to a rule.

Its own packet socket sees what comes to either path, and costs packets only while it looks.
"""

import random
import socket
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Final

import attrs

from mcr.errors import SystemFault, errno_of
from mcr.model.flow import Flow
from mcr.net import uapi
from mcr.net.buffer import set_buffer
from mcr.net.filter.cbpf import REJECT_ALL, Instruction, accept_udp, attach_filter, select_udp
from mcr.net.filter.thinning import thin
from mcr.net.interfaces import link_header
from mcr.tap.copies import Crowd, Echo, Origin, Return, Sightings
from mcr.tap.reading import MOST, Reading
from mcr.tap.sampled import Sampled

_SECONDS: Final = 0.5  # of a look
_SETTLED: Final = 0.1  # of it, after which what was on its way when it began has come
_KNOWN_SECONDS: Final = 1.0  # of one at somebody who is known, which is to be surer
_KNOWN_SETTLED: Final = 0.3
_JUDGED: Final = 0.2  # after that, before which a proof does not end it: who sends what is to be told as well
_STEP: Final = 0.1  # at the longest, until what has come is judged
_BEHIND: Final = 0.1  # at the longest, until that has been read on a machine that is busy
_AT_ONCE = 2_048  # datagrams that are judged while more come: the socket has no room for those of a longer time
_HELD = 1_000  # flows, at the most, that a filter may hold
_SIGNS_SECONDS: Final = 3.0  # of one that has seen a payload come back, or is to see that nothing does any more
_PACE = 16_000  # datagrams a second of which all can be seen, on a machine that is busy
_MOST_SHARE = 1 << 16
_BUFFER = 8 << 20  # bytes of frames that wait


@attrs.frozen
class View:
    """What is to be looked at.

    Attributes:
        flows: what the rule takes, all in the same VLAN.
        index: of the interface.
        rate: datagrams a second that come, about.
        left: packed addresses, and MACs, of this machine: no rule takes what comes from there.
        known: who is said to return it.
        named: packed addresses from which other rules take the same flow.
        is_to_be_tried: whoever may be a full loop is refused for a moment, so nothing more is to be seen of it.
    """

    flows: Collection[Flow]
    index: int
    rate: float
    left: Collection[bytes] = frozenset()
    known: frozenset[Origin] = frozenset()
    named: frozenset[bytes] = frozenset()
    is_to_be_tried: bool = False

    @property
    def vlan(self) -> int:
        """Of the flows; 0: none."""
        return next((each.vlan for each in self.flows), None) or 0


@attrs.frozen
class Verdict:
    """What a look has found out.

    Attributes:
        returners: who sends what others have sent before.
        is_varied: if there are none: there was nothing that a loop might have brought.
        is_over: others send, and nothing of that comes from those who are known.
        seconds: that it took.
        echoes: what they send, and those who are known; none, if the look ended before anything was surely new.
        crowd: if there are none: who may be a loop that is full, or a source that repeats itself.
        is_whole: nothing was lost. Otherwise the look has ended early, and that nothing came back proves nothing.
    """

    returners: tuple[Return, ...] = ()
    is_varied: bool = False
    is_over: bool = False
    seconds: float = 0.0
    echoes: tuple[Echo, ...] = ()
    crowd: Crowd | None = None
    is_whole: bool = True

    @property
    def is_final(self) -> bool:
        """Whether another look would tell no more. Of who returns it is to be known what else comes from there.

        That is not so if the look was full before anything was surely new, either.
        """
        return bool(self.echoes) if self.returners else self.is_whole


def look_for_returners(view: View) -> Verdict:
    """Look at what comes in for a rule; and, if that is too much to see all of it, at a share of the payloads.

    Raises:
        SystemFault: no packet socket could be opened, or it ended.
    """
    name = str(view.index)
    try:
        name = socket.if_indextoname(view.index)
        seen = _look(view, name, 1)
        if seen.verdict.is_final and (seen.verdict.is_whole or not view.named):
            return seen.verdict
        if view.is_to_be_tried and seen.verdict.crowd:
            return seen.verdict
        second = _look(view, name, share_of(view.rate * seen.frames_each)).verdict
        if not second.is_final:
            second = attrs.evolve(second, returners=())
        if second.returners or second.crowd:
            return second
        return attrs.evolve(second, crowd=seen.verdict.crowd)  # of few payloads there may be none in the share
    except OSError as error:
        raise SystemFault(f"Cannot look for a loop on {name}", errno_of(error)) from None


def share_of(rate: float) -> int:
    """One payload of how many is to be looked at: a power of two."""
    return min(_MOST_SHARE, 1 << (int(rate) // _PACE).bit_length())


@attrs.frozen
class _Seen:
    """A look that has ended.

    Attributes:
        verdict: what it has found out.
        frames_each: for each datagram of the rule; more than one, if the filter lets in what it does not take.
    """

    verdict: Verdict
    frames_each: float


def _look(view: View, name: str, share: int) -> _Seen:
    taken = Taken(view)
    with _open(view, name, share) as tap, Reading(tap, link_header(tap), view.vlan, taken.takes) as reading:
        return _watch(reading, view)


def _open(view: View, name: str, share: int) -> socket.socket:
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        attach_filter(tap, REJECT_ALL)
        set_buffer(tap, socket.SO_RCVBUF, _BUFFER)
        tap.setsockopt(socket.SOL_SOCKET, uapi.SO_RXQ_OVFL, 1)
        tap.setsockopt(uapi.SOL_PACKET, uapi.PACKET_AUXDATA, 1)
        tap.setsockopt(uapi.SOL_PACKET, uapi.PACKET_VNET_HDR, 1)
        tap.setsockopt(uapi.SOL_PACKET, uapi.PACKET_IGNORE_OUTGOING, 1)  # or the kernel clones each that leaves
        tap.bind((name, uapi.ETH_P_ALL))
        attach_filter(tap, _select(view, link_header(tap), share, random.getrandbits(32)))
    except OSError:
        tap.close()
        raise
    return tap


def _select(view: View, link: int, share: int, seed: int) -> Sequence[Instruction]:
    """What the rule takes; if that is so many flows that no filter holds them, all UDP: `Taken` tells later."""
    with suppress(OverflowError):
        if len(view.flows) > _HELD:  # to find out takes long, and nobody else is answered meanwhile
            raise OverflowError
        wanted = select_udp(view.flows, link, by_source=True)
        return wanted if share == 1 else thin(wanted, link, share, seed)
    wanted = accept_udp({view.vlan})
    return wanted if share == 1 else thin(wanted, link, share, seed)


class Taken:
    """Tells what a rule takes, of which a filter has let in more."""

    def __init__(self, view: View) -> None:
        self._left = view.left
        packed = ((each, each.group.packed + each.port.to_bytes(2)) for each in view.flows)
        self._flows = {flow + each.source.packed if each.source else flow for each, flow in packed}

    def takes(self, origin: Origin, flow: bytes) -> bool:
        """Whether it is one of the rule's flows, and not from this machine."""
        if origin.address in self._left or origin.mac in self._left:
            return False
        return flow in self._flows or flow + origin.address in self._flows


def _watch(reading: Reading, view: View) -> _Seen:
    """See what comes, until something is proven, or lost: what came before that is whole."""
    held, start, count = Sampled(view.named), time.monotonic(), 0
    seconds, settled = (_KNOWN_SECONDS, _KNOWN_SETTLED) if view.known else (_SECONDS, _SETTLED)
    end, settled = start + seconds, start + settled
    judged = settled + _JUDGED
    while reading.is_whole and max(count, reading.frames) < MOST and not held.is_full:
        now = time.monotonic()
        if now >= end:
            if end > start + seconds or not _is_worth_more(held.seen, view.known):
                break
            end = start + _SIGNS_SECONDS
        is_late = now >= settled
        came = reading.read(min(_STEP, end - now if held.is_settled else max(settled - now, 0.0)))
        count += len(came)
        held.add(came)
        if is_late and not (reading.is_behind and now < settled + _BEHIND):
            held.settle()  # what had come by then has been read
        if held.is_plain and not view.known:
            return _Seen(Verdict(is_varied=True, seconds=time.monotonic() - start), frames_each=1.0)
        is_soon = now + _STEP < judged  # nothing ends the look before, and a share costs less to judge
        if view.is_to_be_tried and held.is_settled and held.seen.crowd():
            break
        if is_soon or held.is_alone or reading.is_behind or not held.judge(_AT_ONCE):
            continue
        if _is_proven(held.seen, is_part_enough=end > start + seconds) and time.monotonic() >= judged:
            break
    verdict = _judge(held.seen, view.known, start, is_whole=reading.is_whole)
    return _Seen(verdict, max(reading.frames / max(count, 1), 1.0))


def _is_proven(seen: Sightings, *, is_part_enough: bool) -> bool:
    """Whether somebody returns what others send."""
    return any(not each.is_beside for each in seen.returners()) or (is_part_enough and bool(seen.part_returners()))


def _judge(seen: Sightings, known: frozenset[Origin], start: float, *, is_whole: bool) -> Verdict:
    """`is_whole`: nothing was lost."""
    machines = seen.by_machine()
    returners = seen.returners() or machines.returners() or seen.part_returners()
    return Verdict(
        returners,
        is_varied=is_whole and seen.are_varied,
        is_over=bool(known) and is_whole and seen.are_over(known) and machines.are_over(known),
        seconds=time.monotonic() - start,
        echoes=seen.echoes({*known, *(each.origin for each in returners)}),
        crowd=None if returners else seen.crowd(),
        is_whole=is_whole,
    )


def _is_worth_more(seen: Sightings, known: frozenset[Origin]) -> bool:
    """Whether a look that was short so far goes on."""
    machines = seen.by_machine()
    if seen.returners() or machines.returners() or seen.part_returners():
        return False
    if seen.returners(1, 1) or machines.returners(1, 1) or seen.part_returners(1, 1) or seen.crowd():
        return True
    is_over = seen.are_over(known) and machines.are_over(known)
    return bool(known) and not is_over and not any(each.returned for each in seen.echoes(known))
