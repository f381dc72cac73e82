"""Tables for people, made from the daemon's answers.

Rules of the module:

1. It takes the JSON of the control protocol, and shows counters under the names they have there.
2. Nothing is cut off: a terminal too narrow folds a table's cells; in a pipe a row is as wide as it must be.
3. What needs attention says so in words; colour only repeats it.
4. No rich unless a table must be folded: it takes 0.3 ms a row, which is a second for 3,000 rules.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Final

import click

_GAP = "  "
_LEAST_TEXT = 8  # columns that a cell can be folded into; with less, the terminal itself had better wrap the line
_NO_RULES: Final = (
    "No rules. Add one:\n  mcrctl add --input-interface IF --input-group G --input-port P --outputs G:P:IF[,G:P:IF...]"
)
_NO_WORKERS: Final = "No workers. See the log of mcrd for why."
_LOSS: Final = "red"
_NOTE: Final = "yellow"
_NAMED: Final = 3  # rules before a reason that they share
# Counters that may need attention: the colour when they are not zero, and what they mean.
_CAUSES: Final = {
    "parse_err": (_NOTE, "not a valid IPv4 UDP datagram for this machine"),
    "malformed": (_NOTE, "of parse_err: cut short or malformed"),
    "fragment": (_NOTE, "of parse_err: fragments are not put together"),
    "checksum": (_NOTE, "of parse_err: the checksum of the IP header or of UDP is wrong"),
    "source": (_NOTE, "of parse_err: from an address that no host can have"),
    "loop": (_LOSS, "of parse_err: this machine sent it, and it came back"),
    "other_host": (_NOTE, "of parse_err: to another host's MAC"),
    "no_match": (_NOTE, "no rule takes them"),
    "screened": (_NOTE, "of no_match: rejected in the kernel, so in no worker's recv"),
    "buf_exhaust": (_LOSS, "dropped: no buffer was free"),
    "kernel_drops": (_LOSS, "dropped: the capture ring was full, or another eBPF program took them"),
    "errors": (_LOSS, "not sent"),
    "in_doubt": (_NOTE, "of the errors: in hand when a worker died, perhaps sent"),
}


def rules_view(rules: Sequence[Any], width: int | None) -> str:
    """The rules, one line per output. If some stand in files, these are marked.

    Args:
        rules: the result of `list`.
        width: columns of the terminal, None if there is no limit.
    """
    if not rules:
        return _NO_RULES
    named = any(rule["name"] for rule in rules)
    filed = any(map(_is_filed, rules))
    rows = []
    for rule in rules:
        name = [rule["name"] or ""] if named else []
        origin = ["file" if _is_filed(rule) else ""] if filed else []
        first, *others = (_output(output) for output in rule["outputs"])
        rows.append([rule["rule_id"], *name, *origin, rule["state"], _endpoint(rule["input"]), first])
        rows.extend([""] * (len(rows[-1]) - 1) + [other] for other in others)
    more = [*(["NAME"] if named else []), *(["FROM"] if filed else [])]
    table = _table(["RULE ID", *more, "STATE", "=INPUT", "=OUTPUTS"], rows, width)
    return "\n".join([table, *reasons(rules)])


def _is_filed(rule: dict[str, Any]) -> bool:
    return rule.get("origin") == "file"


def _output(output: dict[str, Any]) -> str:
    """An output, and its state unless that is the expected one."""
    state = output.get("state", "active")
    return _endpoint(output) + (f" ({state})" if state == "waiting" else "")


def reasons(rules: Sequence[Any]) -> list[str]:
    """Lines below the table of rules: why they are not active, and their warnings; each reason once."""
    said: dict[str, list[str]] = {}
    for rule in rules:
        for what in (rule.get("reason"), *rule.get("warnings", ())):
            if what:
                said.setdefault(what, []).append(rule["rule_id"])
    lines = []
    for what, those in said.items():
        more = f" and {len(those) - _NAMED:,} more" if len(those) > _NAMED else ""
        lines.append(click.style(f"{', '.join(those[:_NAMED])}{more}: {what}", fg=_NOTE))
    return ["", *lines] if lines else []


def workers_view(workers: Sequence[Any], width: int | None) -> str:
    """The workers: the result of `list_workers`."""
    if not workers:
        return _NO_WORKERS
    exits = ["LAST EXIT"] if any(worker["last_exit"] for worker in workers) else []
    header = ["#WORKER", "#PID", "#CORE", "STATE", "#RESTARTS", "#GENERATION", "IO", "INTERFACES", *exits]
    rows = [
        [
            str(worker["worker_id"]),
            str(worker["pid"] or "-"),
            str(worker["core"]),
            worker["state"],
            _count(worker["restarts"]),
            _count(worker["generation"]),
            worker["io"] or "-",
            ", ".join(worker["interfaces"]) or "-",
            *([worker["last_exit"] or "-"] if exits else []),
        ]
        for worker in workers
    ]
    return _table(header, rows, width)


def settings_view(settings: Sequence[Any], width: int | None) -> str:
    """The settings: the result of `settings`."""
    rows = [
        [setting["name"], setting["value"], setting["source"], setting["effective"] or "", setting["meaning"]]
        for setting in settings
    ]
    return _table(["SETTING", "VALUE", "FROM", "IN FORCE", "MEANING"], rows, width)


def levels_view(levels: dict[str, str], width: int | None) -> str:
    """The level of every facility: the result of `log_level.get`."""
    return _table(["FACILITY", "LEVEL"], [list(item) for item in levels.items()], width)


def watched_view(stats: dict[str, Any], width: int | None, height: int | None) -> str:
    """Statistics for so many lines of a terminal. If they don't fit, zeros and workers are left out first."""
    whole = stats_view(stats, width)
    if height is None or len(whole.splitlines()) <= height:
        return whole
    return cut(stats_view(stats, width, short=True), height)


def cut(view: str, height: int | None) -> str:
    """So many lines of it, of which the last says how many there is no room for."""
    lines = view.splitlines()
    if height is None or len(lines) <= height:
        return view
    kept = max(height - 1, 0)
    return "\n".join([*lines[:kept], f"... {len(lines) - kept:,} more lines: mcrctl stats, or mcrctl stats RULE"])


def stats_view(stats: dict[str, Any], width: int | None, *, short: bool = False) -> str:
    """Totals and rates: the result of `stats`."""
    ingress, egress = stats["ingress"], stats["egress"]
    bps = sum(rule["bps"] for rule in stats["rules"])
    screened = ["screened"] if ingress.get("screened") else []
    causes = {name: count for name, count in ingress.get("parse_errors", {}).items() if count}
    counters = ("recv", "matched", "no_match", *screened, "parse_err", *causes, "buf_exhaust", "kernel_drops")
    sent = ("submitted", "sent", "errors", *(["in_doubt"] if egress["in_doubt"] else []), "bytes")
    if short:
        counters = tuple(name for name in counters if name not in _CAUSES or (causes | ingress)[name])
        sent = tuple(name for name in sent if name not in _CAUSES or egress[name])
    parts = [
        _block("Ingress", causes | ingress, counters, recv=f"{_rate(ingress['pps'])} pps"),
        _block(
            "Egress",
            egress,
            sent,
            sent=f"{_rate(egress['pps'])} pps",
            bytes=f"{_megabits(bps)} Mbit/s",
        ),
        _rules_table(stats["rules"], width) or _NO_RULES,
        _failing_outputs_table(stats["rules"], width),
        "" if short else _workers_table(stats["workers"], stats.get("kernel_path", {}), width),
    ]
    return "\n\n".join(part for part in parts if part)


def rule_stats_view(stats: dict[str, Any], width: int | None) -> str:
    """One rule and each of its outputs: the result of `stats` with a rule."""
    rows = [
        [_endpoint(output), *(_count(output[name]) for name in ("submitted", "sent", "errors")), _size(output["bytes"])]
        for rule in stats["rules"]
        for output in rule["outputs"]
    ]
    outputs = _table(["OUTPUT", "#SUBMITTED", "#SENT", "#ERRORS", "#BYTES"], rows, width)
    parts = (_rules_table(stats["rules"], width), outputs, _failing_outputs_table(stats["rules"], width))
    return "\n\n".join(part for part in parts if part)


def _block(title: str, values: dict[str, Any], names: Iterable[str], **rates: str) -> str:
    lines = [title]
    for name in names:
        value = values[name]
        line = f"  {name:<12} {_count(value):>19}"
        if value and name in _CAUSES:
            colour, cause = _CAUSES[name]
            line = click.style(f"{line}  {cause}", fg=colour)
        elif name in rates:
            line = f"{line}  {rates[name]}"
        lines.append(line)
    return "\n".join(lines)


def _rules_table(rules: Sequence[Any], width: int | None) -> str:
    named = any(rule["name"] for rule in rules)
    header = ["RULE ID", *(["NAME"] if named else [])]
    rows = [
        [
            rule["rule_id"],
            *([rule["name"] or ""] if named else []),
            *(_count(rule[name]) for name in ("matched", "sent", "errors")),
            _size(rule["bytes"]),
            _rate(rule["pps"]),
            _megabits(rule["bps"]),
        ]
        for rule in rules
    ]
    return _table([*header, "#MATCHED", "#SENT", "#ERRORS", "#BYTES", "#PPS", "#MBIT/S"], rows, width)


def _failing_outputs_table(rules: Sequence[Any], width: int | None) -> str:
    rows = [
        [rule["rule_id"], _endpoint(output), _count(output["errors"]), output["last_error"] or "-"]
        for rule in rules
        for output in rule["outputs"]
        if output["errors"]
    ]
    return _table(["RULE ID", "=OUTPUT WITH ERRORS", "#ERRORS", "LAST ERROR"], rows, width)


def _workers_table(workers: Sequence[Any], kernel_path: dict[str, Any], width: int | None) -> str:
    """Each one's share; so has the kernel path one, if it has done something."""
    shares = [(str(worker["worker_id"]), worker) for worker in workers]
    if any(kernel_path.values()):
        shares.append(("kernel", {"buf_exhaust": 0, **kernel_path}))
    rows = [
        [
            name,
            *(_count(share[counter]) for counter in ("recv", "matched", "sent", "errors")),
            _count(share["buf_exhaust"] + share["kernel_drops"]),
        ]
        for name, share in shares
    ]
    return _table(["#WORKER", "#RECV", "#MATCHED", "#SENT", "#ERRORS", "#DROPPED"], rows, width)


def _endpoint(value: dict[str, Any]) -> str:
    """An input or output, as `mcrctl add` takes it."""
    gso = value.get("gso", "auto")
    options = "" if gso == "auto" else f":gso={gso}"
    return f"{value['group']}:{value['port']}:{value['interface']}{options}"


def _count(value: int) -> str:
    return f"{value:,}"


def _rate(value: float) -> str:
    return f"{value:,.0f}"


def _megabits(bits: float) -> str:
    return f"{bits / 1e6:,.2f}"


def _size(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1_000:  # noqa: PLR2004
            return f"{value:.4g} {unit}"
        value /= 1_000
    return f"{value:,.1f} PB"


# Tables. A header that begins with "#" is that of a column of numbers, which stand at the right; "=", of words that one
# wants to copy. Neither is folded, if there is room for the others.


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> str:
    """A table with its header, nothing if it has no rows."""
    if not rows:
        return ""
    right = [title.startswith("#") for title in header]
    lines = [[title.lstrip("#=") for title in header], *rows]
    widths = [max(map(_columns, cells)) for cells in zip(*lines, strict=True)]
    if width is not None and sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        for whole in ([title[0] in "#=" for title in header], right):
            kept = sum(columns + len(_GAP) for columns, is_kept in zip(widths, whole, strict=True) if is_kept)
            if width - kept >= _LEAST_TEXT * whole.count(False):
                return _folded(right, whole, lines, width)
    return "\n".join(_GAP.join(map(_align, cells, widths, right)).rstrip() for cells in lines)


def _align(cell: str, width: int, right: bool) -> str:  # noqa: FBT001
    padding = " " * (width - _columns(cell))
    return padding + cell if right else cell + padding


def _columns(text: str) -> int:
    """Columns of a terminal that the text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _folded(right: Sequence[bool], whole: Sequence[bool], lines: Sequence[Sequence[str]], width: int) -> str:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table.grid(padding=(0, len(_GAP), 0, 0), pad_edge=False)
    for is_right, is_whole in zip(right, whole, strict=True):
        table.add_column(justify="right" if is_right else "left", overflow="fold", no_wrap=is_whole)
    for cells in lines:
        table.add_row(*cells)
    console = Console(width=width, highlight=False, markup=False, emoji=False, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
