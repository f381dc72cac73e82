"""The status page: how the relay is at a glance, for a browser.

The page is one document with nothing to fetch. Its script replaces what is shown by what comes as server-sent events
(HTML Living Standard, 9.2); without scripts the browser loads it again every few seconds.
"""

import base64
import hashlib
import math
import re
import time
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

import attrs

import mcr
from mcr.model.rule import RuleState, RuleView
from mcr.model.stats import InterfaceStats, RuleStats, Stats
from mcr.model.worker import WorkerState, WorkerView
from mcr.text.plurals import counted
from mcr.text.streams import lost_packets, pids_text
from mcr.text.visible import visible

MOST_RULES: Final = 200
"""Rules on the page: those that are not active, then those with the most packets."""

MOST_OUTPUTS: Final = 10
"""Outputs of a rule on the page: those that are not active first."""

_DOCUMENT: Final = files("mcr.metrics").joinpath("status.html").read_text("utf-8")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400  # seconds


def _digest(element: str) -> str:
    """Of what stands in an element of the document, as a Content-Security-Policy names it."""
    (content,) = re.findall(f"<{element}>(.*?)</{element}>", _DOCUMENT, re.DOTALL)
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


POLICY: Final = (
    f"default-src 'none'; style-src '{_digest('style')}'; script-src '{_digest('script')}'; connect-src 'self'; "
    "img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""The page's Content-Security-Policy: its own script and style, and nothing else."""


@attrs.frozen
class Status:
    """What the page shows.

    Attributes:
        host: name of this machine.
        started: when this mcrd was, in seconds since 1970.
    """

    host: str
    started: float
    stats: Stats
    rules: Sequence[RuleView]
    workers: Sequence[WorkerView]


def page(host: str, shown: str) -> bytes:
    """The document; `shown`: its content."""
    return Template(_DOCUMENT).substitute(host=_text(host), main=shown).encode()


def event(shown: str) -> bytes:
    """What a page that is open shows from now on, as a server-sent event."""
    return f"data: {shown}\n\n".encode()


def content(status: Status) -> str:
    """What changes of the page, in one line."""
    parts = (
        _head(status),
        _tiles(status),
        _rules(status),
        _interfaces(status.stats.interfaces),
        _workers(status.workers),
    )
    return "".join(parts).replace("\n", " ")


def _head(status: Status) -> str:
    waiting = [each for each in status.rules if each.state is not RuleState.ACTIVE]
    failing = [each for each in status.workers if each.state is not WorkerState.RUNNING]
    total = len(status.rules)
    faults = []
    if waiting:
        faults.append(
            f"{len(waiting):,} of {counted(total, 'rule')} {'is' if len(waiting) == 1 else 'are'} not active."
        )
    if failing:
        faults.append(f"{len(failing):,} of {counted(len(status.workers), 'worker')} not running.")
    words = " ".join(faults) or (f"{counted(total, 'rule')}, all active." if total else "No rules.")
    now = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())
    return (
        f"<h1>MCR on {_text(status.host)}</h1><p class={'bad' if faults else 'good'}>{_text(words)}</p>"
        f"<p class=dim>mcrd {mcr.__version__}, up for {_duration(time.time() - status.started)}, at {now}</p>"
    )


def _tiles(status: Status) -> str:
    ingress, egress = status.stats.ingress, status.stats.egress
    bits = math.fsum(each.bps for each in status.stats.rules)
    tiles = [
        ("In", f"{ingress.pps:,.0f} pps", f"{ingress.recv:,} received", False),
        ("Out", f"{egress.pps:,.0f} pps", f"{bits / 1e6:,.1f} Mbit/s", False),
        ("Matched", f"{ingress.matched:,}", f"{ingress.no_match:,} wanted by no rule", False),
        ("Full buffers", f"{ingress.kernel_drops + ingress.buf_exhaust:,}", "kernel_drops and buf_exhaust", True),
        ("Not sound", f"{ingress.parse_err:,}", _causes(status.stats), True),
        ("Send errors", f"{egress.errors:,}", f"{egress.sent:,} sent", True),
    ]
    return f"<dl class=tiles>{''.join(_tile(*each) for each in tiles)}</dl>"


def _tile(name: str, value: str, more: str, loss: bool) -> str:  # noqa: FBT001 - a row of the table above
    bad = " class=bad" if loss and value != "0" else ""
    return f"<div><dt>{name}</dt><dd{bad}>{value}<small>{_text(more)}</small></dd></div>"


def _causes(stats: Stats) -> str:
    found = {name: count for name, count in attrs.asdict(stats.ingress.parse_errors).items() if count}
    return ", ".join(f"{name} {count:,}" for name, count in found.items()) or "parse_err"


def _rules(status: Status) -> str:
    counters = {each.rule_id: each for each in status.stats.rules}
    views = sorted(status.rules, key=lambda each: _rank(each, counters.get(each.rule_id)))
    rows = [_rule(each, counters.get(each.rule_id)) for each in views[:MOST_RULES]]
    header = ("Rule", "State", "Input", "Outputs", "Path", "#Packets/s", "#Mbit/s", "#Matched", "#Sent", "#Errors")
    left_out = len(views) - len(rows)
    more = f"<p class=dim>and {left_out:,} more: mcrctl list</p>" if left_out else ""
    return _table("Rules", header, rows) + more if rows else ""


def _rank(view: RuleView, counters: RuleStats | None) -> tuple[bool, float]:
    return view.state is RuleState.ACTIVE, -(counters.pps if counters else 0)


def _rule(view: RuleView, counters: RuleStats | None) -> list[str]:
    active = view.state is RuleState.ACTIVE
    state = f"<span class={'good' if active else 'bad'}>{view.state}</span>"
    numbers = ["-"] * 5
    if counters:
        errors = f"<span class=bad>{counters.errors:,}</span>" if counters.errors else "0"
        totals = f"{counters.matched:,}", f"{counters.sent:,}", errors
        numbers = [f"{counters.pps:,.0f}", f"{counters.bps / 1e6:,.2f}", *totals]
    reason = f"<br>{_text(view.reason)}" if view.reason else ""
    name, source = _text(view.name or view.rule_id), _text(str(view.input)) + _health(counters)
    return [name, state + reason, source, _outputs(view), str(view.path), *numbers]


def _health(counters: RuleStats | None) -> str:
    """How a stream that is watched comes in."""
    health = counters.health if counters else None
    if not health:
        return ""
    if health.reason:
        return f"<br><span class=dim>not watched: {_text(health.reason)}</span>"
    broken = health.is_losing or bool(health.away)
    away = f", {pids_text(health.away)} away" if health.away else ""
    lost, stalls = lost_packets(health.lost, health.kind), counted(health.stalls, "stall")
    words = f"{health.kind}: {lost} lost, {stalls}{away}"
    return f"<br><span class={'bad' if broken else 'dim'}>{_text(words)}</span>"


def _outputs(view: RuleView) -> str:
    shown = sorted(view.outputs, key=lambda each: each.state is RuleState.ACTIVE)[:MOST_OUTPUTS]
    lines = [
        _text(f"{each}{'' if each.state is RuleState.ACTIVE or each.state is view.state else f' ({each.state})'}")
        for each in shown
    ]
    more = [f"and {len(view.outputs) - len(shown):,} more"] if len(view.outputs) > len(shown) else []
    return "<br>".join([*lines, *more])


def _interfaces(interfaces: Iterable[InterfaceStats]) -> str:
    rows = [
        [
            _text(each.interface),
            *(f"{number:,}" for number in (each.recv, each.matched, each.no_match)),
            *(f"{number:,}" for number in (sum(attrs.astuple(each.parse_errors)), each.buf_exhaust, each.kernel_drops)),
        ]
        for each in interfaces
    ]
    names = ("#recv", "#matched", "#no_match", "#parse_err", "#buf_exhaust", "#kernel_drops")
    return _table("Input interfaces", ("Interface", *names), rows) if rows else ""


def _workers(workers: Iterable[WorkerView]) -> str:
    rows = [
        [
            str(each.worker_id),
            f"<span class={'good' if each.state is WorkerState.RUNNING else 'bad'}>{each.state}</span>",
            str(each.core),
            _text(", ".join(each.interfaces) or "-"),
            f"{each.restarts:,}",
            _text(each.last_exit or "-"),
        ]
        for each in workers
    ]
    return _table("Workers", ("Worker", "State", "Core", "Interfaces", "#Restarts", "Last exit"), rows)


def _table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of HTML. A column whose name begins with # holds numbers."""
    columns = [(name.removeprefix("#"), " class=number" if name.startswith("#") else "") for name in header]
    head = "".join(f"<th{kind}>{name}</th>" for name, kind in columns)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td{kind} data-name="{name}"><span>{cell}</span></td>'
            for (name, kind), cell in zip(columns, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<h2>{title}</h2><div class=wide>{table}</div>"


def _duration(seconds: float) -> str:
    whole = int(seconds)
    for unit, name, smaller, less in ((_DAY, "d", _HOUR, "h"), (_HOUR, "h", _MINUTE, "min"), (_MINUTE, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller} {less}"
    return f"{whole} s"


def _text(text: str) -> str:
    """Text from elsewhere, for HTML."""
    return escape(visible(text))
