"""The page of rules and their outputs.

There may be 10,000 rules with 150,000 samples. So the text of a sample is made when its rule comes or changes, and only
numbers are put into it at a scrape, for some hundred samples at a time.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import is_

import attrs

from mcr.metrics.exposition import Family, Format, Kind, label_text, page
from mcr.metrics.health import health_sections
from mcr.metrics.totals import IN_DOUBT, SEND
from mcr.model.health import StreamHealth
from mcr.model.rule import RuleState
from mcr.relay.placement import PlacedRule
from mcr.shm.segment import Cells
from mcr.stats.readings import Reading
from mcr.text.addresses import ports_text

INFO = Family("mcr_rule", Kind.INFO, "A rule's name and input, by its id.")
STATE = Family("mcr_rule_state", Kind.GAUGE, "1 for the state that a rule is in, 0 for the others.")
PACKETS = Family("mcr_rule_packets", Kind.COUNTER, "Datagrams that matched a rule.")
OUTPUT_PACKETS = Family("mcr_output_packets", Kind.COUNTER, "Datagrams owed to an output, by result.")
OUTPUT_ERRORS = Family(
    "mcr_output_errors", Kind.COUNTER, "The datagrams of result error, by error; where there are any."
)
OUTPUT_BYTES = Family("mcr_output_bytes", Kind.COUNTER, "Payload of what was sent to an output.", "bytes")

_BLOCK_BITS = 8  # slots of rules in a block: what changes makes the text of one block anew
_STATES = {state: tuple(int(state is each) for each in RuleState) for state in (None, *RuleState)}


class RulesPage:
    """The page. It keeps the text between scrapes; one thread at a time may use it."""

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}

    def make(
        self,
        now: Reading,
        rules: Iterable[PlacedRule],
        states: Mapping[str, RuleState],
        chosen: Format,
        health: Callable[[], Mapping[str, StreamHealth]] = dict,
    ) -> list[bytes]:
        """The page with all rules, in pieces.

        Args:
            now: a reading that has the slots of these rules.
            rules: all of them.
            states: by rule id.
            chosen: the format.
            health: of streams that are watched, by rule id.
        """
        placed = defaultdict[int, list[PlacedRule]](list)
        for each in rules:
            placed[each.slot >> _BLOCK_BITS].append(each)
        self._blocks = {number: self._block(number, those) for number, those in placed.items()}
        return _make([*self._blocks.values()], now, states, health(), chosen)

    def _block(self, number: int, rules: Sequence[PlacedRule]) -> "_Block":
        known = self._blocks.get(number)
        if known and len(known.rules) == len(rules) and all(map(is_, known.rules, rules)):
            return known
        return _Block.of(rules)


def one_rule(
    now: Reading,
    rules: Iterable[PlacedRule],
    states: Mapping[str, RuleState],
    chosen: Format,
    health: Callable[[], Mapping[str, StreamHealth]] = dict,
) -> list[bytes]:
    """The same page with only a few rules."""
    return _make([_Block.of([*rules])], now, states, health(), chosen)


def _make(
    blocks: Sequence["_Block"],
    now: Reading,
    states: Mapping[str, RuleState],
    health: Mapping[str, StreamHealth],
    chosen: Format,
) -> list[bytes]:
    parts = [each.fill(now, states) for each in blocks]
    return page(
        [
            (INFO, [each.info for each in blocks]),
            (STATE, [each.state for each in parts]),
            (PACKETS, [each.packets for each in parts]),
            (OUTPUT_PACKETS, [each.output_packets for each in parts]),
            (OUTPUT_ERRORS, [each.output_errors for each in parts]),
            (OUTPUT_BYTES, [each.output_bytes for each in parts]),
            *health_sections(health),
        ],
        chosen,
    )


@attrs.frozen
class _Filled:
    """The samples of a block."""

    state: bytes
    packets: bytes
    output_packets: bytes
    output_errors: bytes
    output_bytes: bytes


@attrs.define
class _Block:
    """Some rules, and the text of their samples, with a gap for each number.

    Attributes:
        ids: of the rules.
        cells: of the rules' counters.
        output_cells: of their outputs' counters, rule by rule.
        outputs: labels of the outputs, likewise.
    """

    rules: Sequence[PlacedRule]
    ids: Sequence[str]
    cells: Cells
    output_cells: Cells
    outputs: Sequence[str]
    info: bytes
    state: str
    packets: str
    output_packets: str
    output_bytes: str
    _last_states: tuple[tuple[RuleState | None, ...], bytes] = ((), b"")

    @classmethod
    def of(cls, rules: Sequence[PlacedRule]) -> "_Block":
        """Make the text."""
        ids = [each.rule.rule_id for each in rules]
        labels = [label_text(rule=each) for each in ids]
        outputs = [label_text(rule=each.rule.rule_id, output=output) for each in rules for output in each.rule.outputs]
        return cls(
            rules=rules,
            ids=ids,
            cells=Cells.of_rules((each.slot, each.tag) for each in rules),
            output_cells=Cells.of_outputs(chain.from_iterable(each.outputs for each in rules)),
            outputs=outputs,
            info="".join(map(_info, rules)).encode(),
            state=_text(STATE, labels, [label_text(state=state) for state in RuleState]),
            packets=_text(PACKETS, labels),
            output_packets=_text(OUTPUT_PACKETS, outputs, [label_text(result=each) for each in ("sent", "error")]),
            output_bytes=_text(OUTPUT_BYTES, outputs),
        )

    def fill(self, now: Reading, states: Mapping[str, RuleState]) -> _Filled:
        """Put the numbers in."""
        sent, errors, in_doubt, sent_bytes = now.outputs_sent(self.output_cells)
        return _Filled(
            state=self._state_lines(states),
            packets=(self.packets % now.rules_matched(self.cells)).encode(),
            output_packets=(self.output_packets % tuple(chain.from_iterable(zip(sent, errors, strict=True)))).encode(),
            output_errors="".join(self._error_lines(errors, in_doubt)).encode() if any(errors) else b"",
            output_bytes=(self.output_bytes % sent_bytes).encode(),
        )

    def _state_lines(self, states: Mapping[str, RuleState]) -> bytes:
        """A quarter of the page, which hardly ever changes."""
        now = tuple(map(states.get, self.ids))
        filled, lines = self._last_states
        if now != filled:
            lines = (self.state % tuple(chain.from_iterable(map(_STATES.__getitem__, now)))).encode()
            self._last_states = now, lines
        return lines

    def _error_lines(self, errors: Iterable[int], in_doubt: Iterable[int]) -> Iterator[str]:
        for labels, failed, doubtful in zip(self.outputs, errors, in_doubt, strict=True):
            if failed:
                yield OUTPUT_ERRORS.line(f"{labels},{label_text(error=SEND)}", failed - doubtful)
                yield OUTPUT_ERRORS.line(f"{labels},{label_text(error=IN_DOUBT)}", doubtful)


def _info(placed: PlacedRule) -> str:
    rule = placed.rule
    labels = label_text(
        rule=rule.rule_id,
        name=rule.name or "",
        interface=rule.input.interface,
        group=rule.input.named_groups,
        port=ports_text(rule.input.port, rule.input.last_port),
        **({} if rule.input.vlan is None else {"vlan": rule.input.vlan}),
        **({"sources": ",".join(map(str, rule.input.sources))} if rule.input.sources else {}),
    )
    return INFO.line(labels, 1)


def _text(family: Family, labels: Iterable[str], more: Sequence[str] = ("",)) -> str:
    """A sample for each of these labels, with each of some more, and with gaps for the numbers."""
    escaped = (each.replace("%", "%%") for each in labels)
    return "".join(family.line(f"{each},{other}" if other else each, "%d") for each in escaped for other in more)
