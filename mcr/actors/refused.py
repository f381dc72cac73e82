"""Who is refused, and what speaks for it: whether it goes on alone, and whether that has broken a circle."""

from typing import Final

import attrs
import trio

from mcr.model.flow import Input
from mcr.relay.placement import PlacedRule
from mcr.relay.refusals import Refusal
from mcr.tap.copies import Echo, Origin, are_again

_ON_ITS_WAY: Final = 0.3  # seconds after others' last datagram in which it may still come back
_ALONE: Final = 10  # datagrams after that, at most: who sends more is no echo
_TRIAL: Final = 5.0  # seconds in which a look has to show that a circle was broken that is not proven as a whole
_LONGEST_TRIAL: Final = 15.0  # the same, where no look has ended
_DRAINED: Final = 1.0  # seconds after its beginning in which a full link may still bring more than others send
_SURELY_OVER: Final = 64  # payloads of others of which nothing came back on a link that may be full
_SPARED: Final = 600.0  # seconds in which a machine that was no echo is not refused again; doubled each time
_SPARED_DOUBTFULLY: Final = 10.0  # the same, after its first trial on a machine that is very busy
_LONGEST_SPARED: Final = 86_400.0
_LATE: Final = 0.15  # seconds between two readings: then the whole machine may have stood still, and they tell nothing
_SOON: Final = 0.025  # seconds after workers were told in which a reading tells too little
_SLOW: Final = 0.1  # seconds until workers are told: nothing tells on so busy a machine how much waits for them
_FALLEN: Final = 0.1  # of what somebody sent before: it fell silent, but for what others send
_AS_BEFORE: Final = 0.5  # of it: it goes on
_LOUD: Final = 2  # readings after which it is taken again
_SILENT: Final = 4  # readings, one after the other, that prove a circle: a source that pauses goes on sooner
_LONGEST_FALL: Final = 1.0  # seconds in which it is to be seen whether somebody falls silent
_AGAIN: Final = 10  # readings, one after the other, in which it goes on later: it has only paused for long


@attrs.define
class Fall:
    """Whether somebody falls silent by being refused: a circle through this machine does, and a source goes on.

    Attributes:
        before: packets a second from there, before.
        outputs: of the rule: each may bring back once what others send.
        asked: when workers were to be told.
        after: packets a second, while it was silent.
        is_broken: it has fallen silent.
        is_doubtful: the machine is so busy that a worker may still drop what came long ago.
    """

    before: float
    outputs: int
    asked: float
    after: float = 0.0
    is_broken: bool = False
    is_doubtful: bool = False
    _last: tuple[float, int, int] | None = None
    """When counters were read last, and what they said; None: workers were not told yet."""
    _ends: float = 0.0
    _readings: int = 0
    _silent: int = 0
    _loud: int = 0

    def begin(self, now: float, refused: int, matched: int) -> None:
        """Workers refuse it from now on. What they are told again changes nothing."""
        if self._last is None:
            self._last, self._ends = (now, refused, matched), now + _LONGEST_FALL
            self.is_doubtful = now > self.asked + _SLOW

    @property
    def is_undecided(self) -> bool:
        """Whether workers refuse it, and it is to be seen what it does then."""
        return self._last is not None and not self.is_broken

    @property
    def is_loud(self) -> bool:
        """Whether it was seen to go on."""
        return self._loud > 0

    def read(self, now: float, refused: int, matched: int, *, is_heeded: bool) -> bool | None:
        """See what both counters say: that of the refused one, and that of the rule, which others send.

        Args:
            now: the time.
            refused: what the one says.
            matched: what the other says.
            is_heeded: all workers have run since the last reading, and something was refused. Otherwise the counter
                stands still whoever sends.

        Returns:
            True, once: it has fallen silent. False: it goes on, maybe later. None: that is not known, or known.
        """
        if self._last is None or now < self._last[0] + _SOON:
            return None
        (time, refused_before, matched_before), self._last = self._last, (now, refused, matched)
        seconds = now - time
        if seconds > _LATE:
            self._silent = self._loud = 0
            self.is_doubtful = True
        else:
            rates = (refused - refused_before) / seconds, (matched - matched_before) / seconds
            self._count(*rates, is_heeded=is_heeded)
        if self.is_broken:
            return False if self._loud >= _AGAIN else None
        self.is_broken = self._silent >= _SILENT
        goes_on = now >= self._ends or (self._readings >= _LOUD and self._loud > 0)
        return self.is_broken or (False if goes_on else None)

    def _count(self, rate: float, others: float, *, is_heeded: bool) -> None:
        """A reading, in packets a second."""
        half = _AS_BEFORE * self.before
        if not is_heeded and rate <= half:  # who reads that may stand still: it tells nothing
            self.is_doubtful = True
            return
        is_silent = others <= half and rate <= min(_FALLEN * self.before + self.outputs * others, half)
        self._readings += 1
        self._silent = self._silent + 1 if is_silent else 0
        self._loud = self._loud + 1 if rate > half else 0
        if not self.is_broken:
            self.after = rate


@attrs.define
class Others:
    """Whether anybody sends but the one who is refused.

    Attributes:
        matched: what rules had matched of them when that was read last.
        heard: when it was seen to grow.
        alone: what the counter of the refused one said when nothing of others could be on its way; None: something can.
    """

    matched: int
    heard: float
    alone: int | None = None

    def are_heard(self, matched: int, now: float) -> bool:
        """Whether they have sent since that was asked last."""
        if matched == self.matched:
            return False
        self.matched, self.heard, self.alone = matched, now, None
        return True

    def are_silent(self, matched: int, refused: int, now: float) -> bool:
        """Whether more has been refused since they fell silent than an echo explains."""
        if not self.are_heard(matched, now) and self.alone is None:
            self.alone = refused if now >= self.heard + _ON_ITS_WAY else None
        return self.alone is not None and refused > self.alone + _ALONE


@attrs.define
class Trial:
    """Whether a circle that is not proven as a whole ends, if somebody is refused.

    Attributes:
        began: when; anew, if somebody else is refused, too.
        is_looked_at: a look has ended that began later.
    """

    began: float
    is_looked_at: bool = False

    def is_in_vain(self, now: float) -> bool:
        """Whether looks had the time to show it."""
        return now >= self.began + (_TRIAL if self.is_looked_at else _LONGEST_TRIAL)


@attrs.define
class Refused:
    """Somebody whose datagrams are refused.

    Attributes:
        before: what its counter said when that began.
        others: those of the rule; not sources that other rules name.
        told: when the workers were told of it last; before that, when it began.
        is_part: much of what others send did not come back: it stays refused while looks see the circle broken.
        trial: of that; None: there is none, or a look has seen it.
        fall: of what nobody has seen come back; None: that was seen.
        accused: turns of what came back most often in the look for which it is refused; 0: not known.
    """

    placed: PlacedRule
    origin: Origin
    refusal: Refusal
    began: float
    proven: float
    before: int
    others: Others
    told: float
    is_part: bool
    trial: Trial | None
    accused: int
    fall: Fall | None = None

    def goes_on(self, echo: Echo) -> bool:
        """Whether no circle was broken: things come as often as in one, or for one output, and hardly less than before.

        What a circle brings becomes less once it is broken, and what a device repeats does not.
        """
        is_as_before = are_again(echo.turns, 1) and 2 * echo.turns > self.accused > 0
        return self.is_part and (is_as_before or are_again(echo.turns, len(self.placed.rule.outputs)))

    def is_over(self, echo: Echo) -> bool:
        """Whether it returns nothing any more; on a full link what it returns may be lost."""
        if self.is_part:
            return not self.trial and echo.is_over and echo.sent >= _SURELY_OVER
        return echo.is_over

    def are_others_silent(self, matched: int, refused: int, now: float) -> bool:
        """Whether it is none of them who sends."""
        is_drained = self.fall.is_broken if self.fall else now >= self.began + _DRAINED
        if self.is_part and not is_drained:
            self.others.are_heard(matched, now)
            return False
        return self.others.are_silent(matched, refused, now)


@attrs.frozen
class Spared:
    """Somebody who is not refused.

    Attributes:
        until: then it may be.
        seconds: for which it was acquitted last; 0: it never was.
        why: as is told.
        is_tried: only a trial says so: it is refused nevertheless if the whole is proven.
    """

    until: float
    seconds: float
    why: str
    is_tried: bool = False


class SparedSenders:
    """All of them, by what rules take, and by addresses."""

    def __init__(self) -> None:
        """There are none."""
        self._spared: dict[tuple[Input, bytes], Spared] = {}

    def why(self, source: Input, address: bytes, *, is_part: bool) -> str:
        """Why it is not refused now; empty: it may be. `is_part`: it is not proven that all comes back."""
        spared = self._spared.get((source, address))
        is_so = spared and trio.current_time() < spared.until and (is_part or not spared.is_tried)
        return spared.why if spared and is_so else ""

    def are_any(self, source: Input) -> bool:
        """Whether anybody is spared now, of what a rule takes."""
        now = trio.current_time()
        return any(of == source and now < each.until for (of, _), each in self._spared.items())

    def acquit(self, refused: Refused, why: str, *, is_tried: bool) -> float:
        """Spare it for longer than the last time; for how many seconds."""
        is_doubtful = refused.fall and refused.fall.is_doubtful and not refused.fall.is_broken
        before = self._acquitted(refused)
        seconds = min(max(2 * before, _SPARED), _LONGEST_SPARED)
        if is_doubtful and not before:
            seconds = _SPARED_DOUBTFULLY
        self._spared[_key(refused)] = Spared(trio.current_time() + seconds, seconds, why, is_tried)
        return seconds

    def put_off(self, refused: Refused, why: str, seconds: float, *, is_tried: bool) -> None:
        """Spare it for so long: nothing is proven."""
        before = self._acquitted(refused)
        self._spared[_key(refused)] = Spared(trio.current_time() + seconds, before, why, is_tried)

    def _acquitted(self, refused: Refused) -> float:
        """For how many seconds, lately."""
        now = trio.current_time()
        self._spared = {each: spared for each, spared in self._spared.items() if now < spared.until + spared.seconds}
        before = self._spared.get(_key(refused))
        return before.seconds if before else 0.0


def _key(refused: Refused) -> tuple[Input, bytes]:
    return refused.placed.rule.input, refused.origin.address
