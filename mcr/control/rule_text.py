"""Rules and their statistics as JSON, without JSON values for them: there may be thousands.

The text is the same, and nothing is left that has to be freed while others wait. What stays the same is kept for the
next time: programs ask once a second.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from mcr.control.kept_blocks import KeptBlocks
from mcr.control.structure import unstructure
from mcr.control.wire import MANY, Written, dump
from mcr.errors import describe_errno
from mcr.model.flow import Input
from mcr.model.health import StreamHealth
from mcr.model.rule import Output, OutputView, RuleView
from mcr.model.stats import SendError
from mcr.relay.placement import PlacedRule
from mcr.stats.columns import OutputColumns, RuleColumns
from mcr.text.addresses import plain

_NEVER = '"last_error":null,"last_error_ago":null'

_kept = lru_cache(1024)(dump)
"""The same, for text that many have: names of interfaces, states, reasons."""


class RuleText:
    """Writes rules. Several threads may use it."""

    def __init__(self) -> None:
        self._views = KeptBlocks(_views)
        self._heads = KeptBlocks(_heads)

    def listed(self, views: Sequence[RuleView], more: Mapping[str, Mapping[str, Any]]) -> Written:
        """Rules as `list` shows them, one or all; as in `views_text`."""
        texts = self._views.of(views) if len(views) > MANY else _views(views)
        return _together(views, texts, more)

    def stats(self, columns: RuleColumns, health: Mapping[str, StreamHealth]) -> Written:
        """Rules as `stats` shows them. `health`: of streams that are watched, by the ids of their rules."""
        heads = self._heads.of(columns.rules) if len(columns.rules) > MANY else _heads(columns.rules)
        outputs = _outputs(columns.outputs, [each for _, of_outputs in heads for each in of_outputs])
        counted = columns.matched, columns.sent, columns.errors, columns.bytes, columns.pps, columns.bps
        rules = [
            f'{head}{matched},"sent":{sent},"errors":{errors},"bytes":{size},"pps":{pps},"bps":{bps},'
            f'"outputs":[{",".join(islice(outputs, len(of_outputs)))}],'
            f'"last_packet_ago":{"null" if ago is None else ago},"health":{_health(health, placed)}}}'
            for placed, (head, of_outputs), matched, sent, errors, size, pps, bps, ago in zip(
                columns.rules, heads, *counted, columns.last_packet_ago, strict=True
            )
        ]
        return Written(f"[{','.join(rules)}]")


def views_text(views: Sequence[RuleView], more: Mapping[str, Mapping[str, Any]] | None = None) -> Written:
    """Rules as `list` shows them. `more`: members of some, by their ids."""
    return _together(views, _views(views), more or {})


def _together(views: Sequence[RuleView], texts: list[str], more: Mapping[str, Mapping[str, Any]]) -> Written:
    members = {rule_id: f",{dump(those)[1:-1]}}}" for rule_id, those in more.items()}
    if members:
        texts = [
            text[:-1] + members[each.rule_id] if each.rule_id in members else text
            for each, text in zip(views, texts, strict=True)
        ]
    return Written(f"[{','.join(texts)}]")


def _views(views: Sequence[RuleView]) -> list[str]:
    return [*map(_view, views)]


def _view(view: RuleView) -> str:
    outputs = ",".join(map(_output_view, view.outputs))
    warnings = dump(view.warnings) if view.warnings else "[]"
    return (
        f'{{"rule_id":{dump(view.rule_id)},"name":{dump(view.name)},"input":{_input(view.input)},"outputs":[{outputs}],'
        f'"state":{_kept(view.state)},"reason":{_kept(view.reason)},"warnings":{warnings},'
        f'"origin":{_kept(view.origin)},"path":{_kept(view.path)},"path_reason":{_kept(view.path_reason)},'
        f'"health":{_kept(view.health)}}}'
    )


def _input(taken: Input) -> str:
    if taken.vlan is not None or taken.sources or taken.is_range:
        return dump(unstructure(taken))
    return f'{{"interface":{_kept(taken.interface)},"group":"{plain(taken.group)}","port":{taken.port}}}'


def _output_view(output: OutputView) -> str:
    if not output.is_plain:
        return dump(unstructure(output))
    return (
        f'{{"group":"{plain(output.group)}","port":{output.port},"interface":{_kept(output.interface)},"gso":"auto",'
        f'"state":{_kept(output.state)},"reason":{_kept(output.reason)}}}'
    )


def _heads(rules: Sequence[PlacedRule]) -> list[tuple[str, list[str]]]:
    """Of each rule and its outputs the text before what is counted."""
    return [
        (
            f'{{"rule_id":{dump(each.rule.rule_id)},"name":{dump(each.rule.name)},"matched":',
            [
                f'{{"group":"{plain(to.group)}","port":{to.port},"interface":{_kept(to.interface)},"submitted":'
                for to in each.rule.outputs
            ],
        )
        for each in rules
    ]


def _outputs(columns: OutputColumns, heads: Sequence[str]) -> Iterator[str]:
    counted = columns.submitted, columns.sent, columns.errors, columns.in_doubt, columns.bytes
    rates = columns.pps, columns.bps, columns.error_pps
    for to, head, submitted, sent, errors, in_doubt, size, pps, bps, error_pps, error in zip(
        columns.outputs, heads, *counted, *rates, columns.last_error, strict=True
    ):
        yield (
            f'{head}{submitted},"sent":{sent},"errors":{errors},"in_doubt":{in_doubt},"bytes":{size},'
            f'"pps":{pps},"bps":{bps},"error_pps":{error_pps},{_options(to)}{_error(error) if error else _NEVER}}}'
        )


def _options(to: Output) -> str:
    if to.vlan is None and to.prefix is None and to.last_port is None:
        return ""
    given = {"vlan": to.vlan, "prefix": to.prefix, "last_port": to.last_port}
    return "".join(f'"{name}":{value},' for name, value in given.items() if value is not None)


def _error(error: SendError) -> str:
    return f'"last_error":{_kept(describe_errno(error.errno))},"last_error_ago":{error.ago}'


def _health(health: Mapping[str, StreamHealth], placed: PlacedRule) -> str:
    rule_id = placed.rule.rule_id
    return dump(unstructure(health[rule_id])) if rule_id in health else "null"
