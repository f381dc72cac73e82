"""Refuses what comes from a machine that returns to a rule what others send, for as long as it does so.

It is refused by its address, whatever it sends: once copies are dropped, a payload that comes again proves nothing.
Every refusal ends by itself, whatever is silent, lost or wrong here.
"""

from collections.abc import Collection, Iterable
from ipaddress import ip_address
from typing import Final

import attrs
import trio

from mcr.actors.worker_supervisor import WorkerSupervisor
from mcr.errors import ShuttingDown, SystemFault
from mcr.logs.logger import get_logger
from mcr.model.flow import Address, Flow, Input
from mcr.model.log import Facility
from mcr.model.loop import REFUSED_SECONDS
from mcr.relay.placement import PlacedRule
from mcr.relay.refusals import MAX_REFUSED, Refusal
from mcr.rules.change_log import fields_of
from mcr.stats.meter import Meter
from mcr.tap.copies import Echo, Origin, Return, are_again
from mcr.tap.returns import Verdict
from mcr.text.plurals import counted

log = get_logger(Facility.NETWORK)

_EVERY: Final = 0.05  # seconds between two readings of who sends
_ON_ITS_WAY: Final = 0.3  # seconds after others' last datagram in which it may still come back
_ALONE: Final = 10  # datagrams after that, at most: who sends more is no echo
_TRIAL: Final = 5.0  # seconds in which a look has to show that a circle was broken that is not proven as a whole
_LONGEST_TRIAL: Final = 15.0  # the same, where no look has ended
_DRAINED: Final = 1.0  # seconds after its beginning in which a full link may still bring more than others send
_SURELY_OVER: Final = 64  # payloads of others of which nothing came back on a link that may be full
_UNPROVEN: Final = 60.0  # seconds in which no look has seen anything come back
_SPARED: Final = 600.0  # seconds in which a machine that was no echo is not refused again; doubled each time
_LONGEST_SPARED: Final = 86_400.0
_PUT_OFF: Final = 60.0  # seconds until somebody is tried again who could not be refused
_SOURCE: Final = "it was a source of its own when it was refused"
_SHARED: Final = "others send from this address, too"
_UNSEEN: Final = "no look has shown that to refuse it ends the loop"
_UNBROKEN: Final = "what others send went on to come back again and again while it was refused"
_NAMED: Final = "another rule names it as a source"
_LITTLE: Final = "too little was seen that was not on its way before; it is looked at again"
_BESIDE: Final = "it is only seen to return what sources of other rules send"


@attrs.define
class _Others:
    """Whether anybody sends but the one who is refused.

    Attributes:
        matched: what rules had matched of them when that was read last.
        heard: when it was seen to grow.
        alone: what the counter of the refused one said when nothing of others could be on its way; None: something can.
    """

    matched: int
    heard: float
    alone: int | None = None

    def are_silent(self, matched: int, refused: int, now: float) -> bool:
        """Whether more has been refused since they fell silent than an echo explains."""
        if matched != self.matched:
            self.matched, self.heard, self.alone = matched, now, None
        elif self.alone is None:
            self.alone = refused if now >= self.heard + _ON_ITS_WAY else None
        return self.alone is not None and refused > self.alone + _ALONE


@attrs.define
class _Trial:
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
class _Refused:
    """Somebody whose datagrams are refused.

    Attributes:
        before: what its counter said when that began.
        others: those of the rule; not sources that other rules name.
        told: when the workers were told of it last; before that, when it began.
        is_part: much of what others send did not come back: it stays refused while looks see the circle broken.
        trial: of that; None: there is none, or a look has seen it.
        accused: turns of what came back most often in the look for which it is refused; 0: not known.
    """

    placed: PlacedRule
    origin: Origin
    refusal: Refusal
    began: float
    proven: float
    before: int
    others: _Others
    told: float
    is_part: bool
    trial: _Trial | None
    accused: int

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
        if self.is_part and now < self.began + _DRAINED:
            return False
        return self.others.are_silent(matched, refused, now)


@attrs.frozen
class _Spared:
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


class Damper:
    """Who is refused, and who is not to be."""

    def __init__(self, workers: WorkerSupervisor, meter: Meter) -> None:
        self._workers, self._meter = workers, meter
        self._refused: dict[tuple[int, bytes], _Refused] = {}  # by tags of rules, and addresses
        self._spared: dict[tuple[Input, bytes], _Spared] = {}
        self._ended: set[int] = set()  # places in which workers count until they are told of it
        self._why_not: dict[int, str] = {}  # by tags of rules
        self._rules: Collection[PlacedRule] = ()
        self._due = trio.Event()

    # What is told of it.

    def refused(self, tag: int) -> tuple[Address, ...]:
        """Addresses from which a rule takes nothing."""
        return tuple(ip_address(each.origin.address) for each in self._of(tag))

    def dropped(self, tag: int) -> int:
        """Datagrams that were refused since."""
        return sum(self._count(each) for each in self._of(tag))

    def why_not(self, tag: int) -> str:
        """Why the one who was seen last is not refused; empty: it is."""
        return self._why_not.get(tag, "")

    def since(self, tag: int) -> float | None:
        """When the youngest of a rule's refusals began; None: there is none."""
        return max((each.began for each in self._of(tag)), default=None)

    def _of(self, tag: int) -> list[_Refused]:
        return [each for (of, _), each in self._refused.items() if of == tag]

    def _count(self, refused: _Refused) -> int:
        return self._meter.refused(refused.refusal.place) - refused.before

    # What looks show.

    def heed(self, placed: PlacedRule, verdict: Verdict) -> tuple[Echo, ...]:
        """Refuse no longer who does not return what others send. What is seen of the rest."""
        echoes = {each.origin: each for each in verdict.echoes}
        others = [each for each in verdict.returners if (placed.tag, each.origin.address) not in self._refused]
        why_not = (self._whether_not(placed.rule.input, each, echoes.get(each.origin)) for each in others)
        is_alone = all(why not in {"", _LITTLE} for why in why_not)
        whole = {each.origin for each in verdict.returners if not each.is_part and not each.is_beside}
        for each in self._of(placed.tag):
            if each.origin in whole:
                each.is_part, each.trial = False, None
            if each.trial:
                each.trial.is_looked_at = True
            if echo := echoes.get(each.origin):
                self._judge(each, echo, is_alone=is_alone, is_whole=verdict.is_whole)
        left = {each.origin for each in self._of(placed.tag)}
        return tuple(each for each in verdict.echoes if each.origin in left and each.returned)

    def consider(self, placed: PlacedRule, verdict: Verdict) -> None:
        """Refuse who returns what others send, unless something speaks against it."""
        echoes = {each.origin: each for each in verdict.echoes}
        for each in verdict.returners:
            if (placed.tag, each.origin.address) not in self._refused:
                self._consider(placed, each, echoes.get(each.origin))

    def is_part(self, tag: int) -> bool:
        """Whether some of a loop was proven only in part: then eight payloads do not tell that it is over."""
        return any(each.is_part for each in self._of(tag))

    def _judge(self, refused: _Refused, echo: Echo, *, is_alone: bool, is_whole: bool) -> None:
        """`is_alone`: nobody else is to be refused, who may close the circle. `is_whole`: nothing was lost."""
        if echo.is_shared:
            self._spare(refused, _SHARED, _SHARED)
        elif echo.is_source:
            self._spare(refused, "it sends what is its own")
        elif is_whole and refused.is_over(echo):
            self._end(refused, "it returns nothing any more")
        elif refused.goes_on(echo):
            if is_alone:
                self._spare(refused, _UNBROKEN, _UNBROKEN, is_tried=True)
        elif echo.returned:
            refused.proven = trio.current_time()
            refused.trial = None if is_whole else refused.trial

    def _consider(self, placed: PlacedRule, returner: Return, echo: Echo | None) -> None:
        rule, place, origin = placed.rule, self._free_place(), returner.origin
        why = self._whether_not(rule.input, returner, echo)
        if why or place is None:
            why = why or f"{MAX_REFUSED} others are refused already"
            if why != _LITTLE and self._why_not.get(placed.tag, _LITTLE) == _LITTLE:  # the next look tells more
                log.notice("rule %s: what %s sends is not refused: %s", rule.label, origin, why, **fields_of(rule))
            self._why_not[placed.tag] = why
            return
        self._why_not.pop(placed.tag, None)
        now, source = trio.current_time(), ip_address(origin.address)
        flow = attrs.evolve(rule.input.flows[0], source=source)
        refusal = Refusal(rule.input.interface, flow, place)
        before, others = self._meter.refused(place), _Others(self._meter.matched(placed), now)
        for each in self._of(placed.tag):
            each.trial = each.trial and _Trial(now)
        trial = _Trial(now) if returner.is_part else None
        is_part, accused = returner.is_part, returner.turns
        began = _Refused(placed, origin, refusal, now, now, before, others, now, is_part, trial, accused)
        self._refused[placed.tag, origin.address] = began
        self._due.set()
        what = "rule %s: what %s sends is refused, and counts as returned; a rule with --input-source %s takes it"
        log.warning(what, rule.label, origin, source, **fields_of(rule))

    def _whether_not(self, source: Input, returner: Return, echo: Echo | None) -> str:
        origin = returner.origin
        spared = self._spared.get((source, origin.address))
        if source.sources:
            return "the rule names it as a source"
        if source.is_range:
            return "the rule takes a range"
        if why := _what_else(returner, echo):
            return why
        if spared and trio.current_time() < spared.until and (returner.is_part or not spared.is_tried):
            return spared.why
        flow = attrs.evolve(source.flows[0], source=ip_address(origin.address))
        return _NAMED if self._is_named(source.interface, flow) else ""

    def _is_named(self, interface: str, flow: Flow) -> bool:
        """Whether a rule takes it by its source."""
        inputs = (each.rule.input for each in self._rules)
        return any(flow.source in each.sources and each.interface == interface and each.covers(flow) for each in inputs)

    def _free_place(self) -> int | None:
        taken = self._ended | {each.refusal.place for each in self._refused.values()}
        return next((each for each in range(MAX_REFUSED) if each not in taken), None)

    # How it ends.

    def follow(self, rules: Collection[PlacedRule]) -> None:
        """Rules have changed. What stays refused may have given way meanwhile, so the workers are told again."""
        self._rules, there = rules, {each.tag: each for each in rules}
        self._why_not = {tag: why for tag, why in self._why_not.items() if tag in there}
        for each in [*self._refused.values()]:
            now = there.get(each.placed.tag)
            if now is None or now.rule != each.placed.rule:
                self._end(each, "the rule was changed" if now else "the rule is gone")
            elif self._is_named(each.refusal.interface, each.refusal.flow):
                self._end(each, _NAMED)
        if self._refused:
            self._due.set()

    def end(self, tag: int, why: str) -> None:
        """Nothing more is told of the loop of this rule."""
        for each in self._of(tag):
            self._end(each, why)

    def clear(self) -> None:
        """Forget all."""
        self._refused.clear()

    def _spare(self, refused: _Refused, why: str, then: str = _SOURCE, *, is_tried: bool = False) -> None:
        """It is no echo. `then`: why it is not refused from now on. `is_tried`: it may be, if the whole is proven."""
        seconds = min(max(2 * self._acquitted(refused), _SPARED), _LONGEST_SPARED)
        self._leave(refused, _Spared(trio.current_time() + seconds, seconds, then, is_tried))
        what = "tried" if is_tried else "refused"
        self._end(refused, f"{why}; it is not {what} again for {seconds / 60:.0f} minutes")

    def _put_off(self, refused: _Refused, why: str, *, is_tried: bool = False) -> None:
        """Nothing is proven of it, and it is not refused now. `is_tried`: unless the whole is proven."""
        self._leave(refused, _Spared(trio.current_time() + _PUT_OFF, self._acquitted(refused), why, is_tried))
        self._end(refused, f"{why}; that is tried again in {_PUT_OFF:.0f} s")

    def _acquitted(self, refused: _Refused) -> float:
        """For how many seconds, lately."""
        now = trio.current_time()
        self._spared = {each: spared for each, spared in self._spared.items() if now < spared.until + spared.seconds}
        before = self._spared.get((refused.placed.rule.input, refused.origin.address))
        return before.seconds if before else 0.0

    def _leave(self, refused: _Refused, spared: _Spared) -> None:
        self._spared[refused.placed.rule.input, refused.origin.address] = spared
        self._why_not[refused.placed.tag] = spared.why

    def _end(self, refused: _Refused, why: str) -> None:
        rule = refused.placed.rule
        del self._refused[refused.placed.tag, refused.origin.address]
        self._ended.add(refused.refusal.place)
        self._due.set()
        what = "rule %s: what %s sends is taken again: %s; refused: %s"
        dropped = counted(self._count(refused), "datagram")
        log.notice(what, rule.label, refused.origin, why, dropped, **fields_of(rule))

    # The clock.

    async def run(self) -> None:
        """Look after those who are refused until cancelled, or until mcrd ends."""
        told = float("-inf")
        while True:
            if not self._refused and not self._ended:
                await self._due.wait()
            self._read()
            if self._due.is_set() or trio.current_time() >= told + REFUSED_SECONDS / 4:
                self._due, told = trio.Event(), trio.current_time()
                await self._tell()
            await trio.sleep(_EVERY)

    def _read(self) -> None:
        """See who sends."""
        now = trio.current_time()
        for each in [*self._refused.values()]:
            count = self._meter.refused(each.refusal.place)
            if each.are_others_silent(self._meter.matched(each.placed), count, now):
                self._spare(each, "it goes on while others are silent")
            elif each.trial and each.trial.is_in_vain(now):
                self._put_off(each, _UNSEEN, is_tried=True)
            elif now >= each.proven + _UNPROVEN:
                self._end(each, f"it was not seen to return anything for {_UNPROVEN:.0f} s")

    async def _tell(self) -> None:
        asked, ended, now = [*self._refused.values()], [*self._ended], trio.current_time()
        try:
            await self._workers.refuse(tuple(each.refusal for each in asked))
        except SystemFault as error:
            for each in asked:  # it is tried again, and workers go on with those that they were told of, for a while
                there = self._refused.get((each.placed.tag, each.origin.address)) is each
                if there and now >= each.told + REFUSED_SECONDS:
                    self._put_off(each, f"it cannot be refused: {error}")
        except ShuttingDown:
            log.debug("nobody is refused any more: mcrd ends")
        else:
            self._ended.difference_update(ended)
            for each in asked:
                each.told = now


def _what_else(returner: Return, echo: Echo | None) -> str:
    """What else comes from there, or may, but what others of the rule have sent; empty: nothing."""
    if not returner.origin.address:
        return "it sends from addresses of others"
    if returner.is_beside:
        return _BESIDE
    if not echo or echo.is_shared:
        return _SHARED if echo else ""
    if echo.is_source:
        return "it also sends what is its own"
    if echo.is_double:
        return "it also sends what a source of another rule sends"
    return _LITTLE if echo.is_little else ""


def rules_beside(asked: Input, rules: Iterable[PlacedRule]) -> tuple[PlacedRule, ...]:
    """Those that take the same flow from certain sources, where `asked` takes it from any."""
    if asked.sources:
        return ()
    near = (each for each in rules if each.rule.input.sources and each.rule.input.group == asked.group)
    return tuple(each for each in near if attrs.evolve(each.rule.input, sources=()) == asked)
