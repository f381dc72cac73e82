"""Refuses what comes from a machine that returns to a rule what others send, for as long as it does so.

It is refused by its address, whatever it sends: once copies are dropped, a payload that comes again proves nothing.
Every refusal ends by itself, whatever is silent, lost or wrong here.
"""

from collections.abc import Callable, Collection, Iterable
from ipaddress import ip_address
from typing import Final

import attrs
import trio

from mcr.actors.loop_lines import LoopLines
from mcr.actors.refusal_telling import Teller
from mcr.actors.refused import Fall, Others, Refused, SparedSenders, Trial
from mcr.actors.worker_supervisor import WorkerSupervisor
from mcr.logs.logger import get_logger
from mcr.model.flow import Address, Flow, Input
from mcr.model.log import Facility
from mcr.relay.placement import PlacedRule
from mcr.relay.refusals import MAX_REFUSED, Refusal
from mcr.rules.change_log import fields_of
from mcr.stats.meter import Meter
from mcr.tap.copies import Crowd, Echo, Origin, Return
from mcr.tap.returns import Verdict
from mcr.text.plurals import counted

log = get_logger(Facility.NETWORK)

CROWDED: Final = 2_000.0
"""Packets a second of a rule that may be in a loop that is full; sources that repeat themselves mostly send fewer."""

_EVERY: Final = 0.05  # seconds between two readings of who sends
_UNPROVEN: Final = 60.0  # seconds in which no look has seen anything come back
_PUT_OFF: Final = 60.0  # seconds until somebody is tried again who could not be refused
_SOURCE: Final = "it was a source of its own when it was refused"
_SHARED: Final = "others send from this address, too"
_UNSEEN: Final = "no look has shown that to refuse it ends the loop"
_UNBROKEN: Final = "what others send went on to come back again and again while it was refused"
_GOES_ON: Final = "it went on while it was refused, as a source does"
_UNSURE: Final = "it was not seen whether it falls silent"
_ONCE: Final = "that it once fell silent was all that spoke for a loop"
_PAUSED: Final = "has only paused: it is in no loop"
_OWN: Final = "now sends what is its own: it closes no loop"
_CLEARED: Final = "is taken again, and only its silence spoke for a loop"
_NAMED: Final = "another rule names it as a source"
_LITTLE: Final = "too little was seen that was not on its way before; it is looked at again"
_BESIDE: Final = "it is only seen to return what sources of other rules send"


@attrs.frozen
class Tried:
    """Somebody who may be a loop that is full was refused for a moment.

    `why_not`: why it is in no loop, behind its name; empty: it fell silent then.
    """

    placed: PlacedRule
    origin: Origin
    fall: Fall
    why_not: str


class Damper:
    """Who is refused, and who is not to be."""

    def __init__(self, workers: WorkerSupervisor, meter: Meter, tried: Callable[[Tried], None]) -> None:
        """`tried`: is told how a trial has ended in which somebody was to fall silent."""
        self._meter, self._tried = meter, tried
        self.lines = LoopLines()
        self._refused: dict[tuple[int, bytes], Refused] = {}  # by tags of rules, and addresses
        self._spared = SparedSenders()
        self._why_not: dict[int, str] = {}  # by tags of rules
        self._rules: Collection[PlacedRule] = ()
        self._heard: tuple[int, ...] = ()  # how far workers had read at the last reading
        self._teller = Teller(workers, meter, self._refused, self._put_off)

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

    def _of(self, tag: int) -> list[Refused]:
        return [each for (of, _), each in self._refused.items() if of == tag]

    def _count(self, refused: Refused) -> int:
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
                each.is_part, each.trial, each.fall = False, None, None
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

    def may_try(self, placed: PlacedRule, crowd: Crowd | None = None) -> bool:
        """Whether somebody may be refused for a moment who may be a loop that is full. `crowd`: who; None: anybody."""
        source = placed.rule.input
        if not crowd:
            return not (source.sources or source.is_range or self._of(placed.tag) or self._spared.are_any(source))
        is_new = (placed.tag, crowd.origin.address) not in self._refused
        return is_new and not crowd.is_shared and not self._whether_not(source, _suspected(crowd), None)

    def try_crowd(self, placed: PlacedRule, crowd: Crowd, rate: float) -> bool:
        """Refuse it for a moment, if it may be: a circle falls silent. `rate`: packets a second from there."""
        place = self._free_place()
        if rate < CROWDED or place is None or not self.may_try(placed, crowd):
            return False
        fall = Fall(rate, len(placed.rule.outputs), trio.current_time())
        self._refuse(placed, _suspected(crowd), place, fall)
        what = "rule %s: what %s sends is refused for a moment: it falls silent if that is a loop that is full"
        self.lines.begin(placed.tag)
        self._notice(placed)(what, placed.rule.label, crowd.origin, **fields_of(placed.rule))
        return True

    def is_part(self, tag: int) -> bool:
        """Whether some of a loop was proven only in part: then eight payloads do not tell that it is over."""
        return any(each.is_part for each in self._of(tag))

    def _judge(self, refused: Refused, echo: Echo, *, is_alone: bool, is_whole: bool) -> None:
        """`is_alone`: nobody else is to be refused, who may close the circle. `is_whole`: nothing was lost."""
        if echo.is_shared:
            self._spare(refused, _SHARED, _SHARED)
        elif echo.is_source:
            self._spare(refused, "it sends what is its own", seen=_OWN)
        elif is_whole and refused.is_over(echo):
            self._end_unproven(refused, "it returns nothing any more")
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
            if (told := self._why_not.get(placed.tag, _LITTLE)) == _LITTLE != why:  # the next look tells more
                log.notice("rule %s: what %s sends is not refused: %s", rule.label, origin, why, **fields_of(rule))
            self._why_not[placed.tag] = told if why == _LITTLE else why
            return
        for each in self._of(placed.tag):
            each.trial = each.trial and Trial(trio.current_time())
        self._refuse(placed, returner, place)
        _say_refused(placed, origin, is_quiet=self.lines.are_quiet(placed.tag))

    def _refuse(self, placed: PlacedRule, returner: Return, place: int, fall: Fall | None = None) -> None:
        self._why_not.pop(placed.tag, None)
        rule, now, origin = placed.rule, trio.current_time(), returner.origin
        flow = attrs.evolve(rule.input.flows[0], source=ip_address(origin.address))
        refusal = Refusal(rule.input.interface, flow, place)
        before, others = self._meter.refused(place), Others(self._meter.matched(placed), now)
        trial = Trial(now) if returner.is_part and not fall else None
        is_part, accused = returner.is_part, returner.turns
        began = Refused(placed, origin, refusal, now, now, before, others, now, is_part, trial, accused, fall)
        self._refused[placed.tag, origin.address] = began
        self._teller.due.set()

    def _whether_not(self, source: Input, returner: Return, echo: Echo | None) -> str:
        origin = returner.origin
        if source.sources:
            return "the rule names it as a source"
        if source.is_range:
            return "the rule takes a range"
        if why := _what_else(returner, echo):
            return why
        if why := self._spared.why(source, origin.address, is_part=returner.is_part):
            return why
        flow = attrs.evolve(source.flows[0], source=ip_address(origin.address))
        return _NAMED if _is_named(self._rules, source.interface, flow) else ""

    def _free_place(self) -> int | None:
        taken = self._teller.ended | {each.refusal.place for each in self._refused.values()}
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
            elif _is_named(rules, each.refusal.interface, each.refusal.flow):
                self._end(each, _NAMED)
        if self._refused:
            self._teller.due.set()

    def end(self, tag: int, why: str) -> None:
        """Nothing more is told of the loop of this rule."""
        for each in self._of(tag):
            self._end(each, why)

    def clear(self) -> None:
        """Forget all."""
        self._refused.clear()

    def _spare(
        self, refused: Refused, why: str, then: str = _SOURCE, *, is_tried: bool = False, seen: str = _CLEARED
    ) -> None:
        """It is no echo. `then`: why it is not refused now, but for a whole (`is_tried`). `seen`: ends its loop."""
        seconds = self._spared.acquit(refused, then, is_tried=is_tried)
        self._why_not[refused.placed.tag] = then
        self._end(refused, f"{why}; it is not {'tried' if is_tried else 'refused'} again for {_in_words(seconds)}")
        if refused.fall and refused.fall.is_broken:
            self._tried(Tried(refused.placed, refused.origin, refused.fall, seen))

    def _end_unproven(self, refused: Refused, why: str) -> None:
        """Nothing is seen of it any more. Who only fell silent may have paused, and is not tried again at once."""
        if refused.fall:
            self._spare(refused, why, _ONCE, is_tried=True)
        else:
            self._end(refused, why)

    def _put_off(self, refused: Refused, why: str, *, is_tried: bool = False) -> None:
        """Nothing is proven of it, and it is not refused now. `is_tried`: unless the whole is proven."""
        self._spared.put_off(refused, why, _PUT_OFF, is_tried=is_tried)
        self._why_not[refused.placed.tag] = why
        self._end(refused, f"{why}; that is tried again in {_PUT_OFF:.0f} s")

    def _notice(self, placed: PlacedRule) -> Callable[..., None]:
        return log.debug if self.lines.are_quiet(placed.tag) else log.notice

    def _end(self, refused: Refused, why: str) -> None:
        rule = refused.placed.rule
        if not self._refused.pop((refused.placed.tag, refused.origin.address), None):
            return  # it has ended with another one
        self._teller.ended.add(refused.refusal.place)
        self._teller.due.set()
        what = "rule %s: what %s sends is taken again: %s; refused: %s"
        dropped = counted(self._count(refused), "datagram")
        self._notice(refused.placed)(what, rule.label, refused.origin, why, dropped, **fields_of(rule))
        if refused.fall and not refused.fall.is_broken:  # no loop is told of that could end
            self.lines.end(refused.placed.tag)

    # The clock.

    async def run(self) -> None:
        """Look after those who are refused until cancelled, or until mcrd ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._teller.run)
            while True:
                if self._teller.is_idle:
                    await self._teller.due.wait()
                self._read()
                await trio.sleep(_EVERY)

    def _read(self) -> None:
        """See who sends."""
        now, before, self._heard = trio.current_time(), self._heard, self._meter.heard()
        have_run = all(was != heard for was, heard in zip(before, self._heard, strict=False))
        for each in [*self._refused.values()]:
            count, matched = self._meter.refused(each.refusal.place), self._meter.matched(each.placed)
            is_heeded = have_run and count > each.before
            if each.fall and each.fall.is_undecided:
                self._teller.due.set()  # who reads that has run
            if each.fall and (is_loop := each.fall.read(now, count, matched, is_heeded=is_heeded)) is not None:
                self._end_fall(each, each.fall, is_loop=is_loop)
            elif each.are_others_silent(matched, count, now):
                self._spare(each, "it goes on while others are silent", seen=_OWN)
            elif each.trial and each.trial.is_in_vain(now):
                self._put_off(each, _UNSEEN, is_tried=True)
            elif now >= each.proven + _UNPROVEN:
                self._end_unproven(each, f"it was not seen to return anything for {_UNPROVEN:.0f} s")

    def _end_fall(self, refused: Refused, fall: Fall, *, is_loop: bool) -> None:
        """It is known whether somebody fell silent by being refused."""
        placed, origin = refused.placed, refused.origin
        if is_loop:
            self._tried(Tried(placed, origin, fall, ""))
            _say_refused(placed, origin, is_quiet=self.lines.are_quiet(placed.tag))
            return
        why = _GOES_ON if fall.is_loud else _UNSURE
        self._spare(refused, why, why, is_tried=True, seen=_PAUSED)
        if not fall.is_broken:
            self._tried(Tried(placed, origin, fall, _PAUSED))


def _suspected(crowd: Crowd) -> Return:
    return Return(crowd.origin, 0, 0, is_part=True)


def _say_refused(placed: PlacedRule, origin: Origin, *, is_quiet: bool) -> None:
    rule, source = placed.rule, ip_address(origin.address)
    what = "rule %s: what %s sends is refused, and counts as returned; a rule with --input-source %s takes it"
    say = log.debug if is_quiet else log.warning
    say(what, rule.label, origin, source, **fields_of(rule))


def _in_words(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 2 * 60 else f"{seconds:.0f} s"


def _is_named(rules: Iterable[PlacedRule], interface: str, flow: Flow) -> bool:
    """Whether a rule takes it by its source."""
    inputs = (each.rule.input for each in rules)
    return any(flow.source in each.sources and each.interface == interface and each.covers(flow) for each in inputs)


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
