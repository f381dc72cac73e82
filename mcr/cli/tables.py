"""Tables for people, made from the daemon's answers.

Rules of the module:

1. It takes the JSON of the control protocol, and shows counters under the names they have there.
2. Nothing is cut off: a terminal too narrow folds a table's cells; see `mcr.cli.grid`.
3. What needs attention says so in words; colour only repeats it.
"""

from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap
from typing import Any, Final

from mcr.cli import terminal
from mcr.cli.grid import clip, fits, table
from mcr.cli.health import health_table, health_view
from mcr.cli.quantities import count, duration, endpoint, input_text, label, megabits, rate, size
from mcr.text.answers import NO_ANSWER
from mcr.text.plurals import counted

_NO_RULES: Final = (
    "No rules. Add one:\n  mcrctl add --input-interface IF --input-group G --input-port P --outputs G:P:IF[,G:P:IF...]"
)
_NO_WORKERS: Final = "No workers. See the log of mcrd for why."
_LOSS: Final = "red"
_NOTE: Final = "yellow"
_NAMED: Final = 3  # rules before a reason that they share
_HOSTS: Final = 5  # that wait, in one table; and outputs with errors, where lines are few
_CAUSE_COLUMNS: Final = 24  # that the meaning of a counter has at least
_REASON_COLUMNS: Final = 24  # that a reason has at least beside the rest of its row
_LOST: Final = "What is sent to a host that does not answer is lost, though it counts as sent."
_GROUPS: Final = frozenset(map(str, range(224, 240)))  # first numbers of IPv4 groups
_MEANING_COLUMNS: Final = 40  # that the meaning of a setting has at least beside it
_NAME_COLUMNS: Final = 16  # that a rule's name has at least before outputs get lines of their own
_COUNTED: Final = ("#MATCHED", "#SENT", "#ERRORS", "#BYTES", "#PPS", "#MBIT/S", "#IDLE")  # of rules
# Counters that may need attention: the colour when they are not zero, and what they mean.
_CAUSES: Final = {
    "parse_err": (_NOTE, "not a valid UDP datagram for this machine"),
    "malformed": (_NOTE, "of parse_err: cut short or malformed"),
    "fragment": (_NOTE, "of parse_err: fragments that can belong to no datagram"),
    "fragment_overlap": (_NOTE, "of parse_err: fragments that overlap, or came twice"),
    "fragment_incomplete": (_NOTE, "of parse_err: fragments of datagrams of which others did not come"),
    "fragment_evicted": (_LOSS, "of parse_err: fragments, too many datagrams were incomplete"),
    "checksum": (_NOTE, "of parse_err: the checksum of the IP header or of UDP is wrong"),
    "source": (_NOTE, "of parse_err: from an address that no host can have"),
    "loop": (_LOSS, "of parse_err: this machine sent it, and it came back"),
    "returned": (_LOSS, "of parse_err: another machine returned what others had sent"),
    "other_host": (_NOTE, "of parse_err: to another host's MAC"),
    "vlan": (_NOTE, "of parse_err: with a second VLAN tag, or one that is not 802.1Q's"),
    "no_match": (_NOTE, "no rule takes them"),
    "screened": (_NOTE, "of no_match: rejected in the kernel, so in no worker's recv"),
    "buf_exhaust": (_LOSS, "dropped: no buffer was free"),
    "kernel_drops": (_LOSS, "dropped: the capture ring was full, or another eBPF program took them"),
    "errors": (_LOSS, "not sent"),
    "in_doubt": (_NOTE, "of the errors: in hand when a worker died, perhaps sent"),
}


def rules_view(rules: Sequence[Any], width: int | None) -> str:
    """The rules, one line per output. If some stand in files, these are marked.

    Where there is no room for an input and an output on one line, outputs stand below their rule.

    Args:
        rules: the result of `list`.
        width: columns of the terminal, None if there is no limit.
    """
    if not rules:
        return _NO_RULES
    named = any(rule["name"] for rule in rules)
    filed = any(map(_is_filed, rules))
    header = ["=RULE ID", *(["NAME"] if named else []), *(["=FROM"] if filed else []), "=STATE", "=INPUT"]
    rows, outputs = [], []
    for rule in rules:
        name = [rule["name"] or ""] if named else []
        origin = ["file" if _is_filed(rule) else ""] if filed else []
        rows.append([rule["rule_id"], *name, *origin, rule["state"], input_text(rule["input"])])
        outputs.append([_output(output) for output in rule["outputs"]])
    beside = [[*header, "=OUTPUTS"], *_beside(rows, outputs)]
    least = [[row[0], clip(row[1], _NAME_COLUMNS), *row[2:]] for row in beside] if named else beside
    if width is None or fits(least, width):
        drawn = table(beside[0], beside[1:], width)
    else:
        drawn = table(["RULE ID", *header[1:]], rows, width, below=[["OUTPUTS"], *outputs])
    return "\n".join([drawn, *reasons(rules)])


def _beside(rows: Sequence[list[str]], outputs: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """Each row with its first output; the others on lines of their own."""
    for row, (first, *others) in zip(rows, outputs, strict=True):
        yield [*row, first]
        yield from ([""] * len(row) + [other] for other in others)


def _is_filed(rule: dict[str, Any]) -> bool:
    return rule.get("origin") == "file"


def _output(output: dict[str, Any]) -> str:
    """An output, and its state unless that is the expected one."""
    state = output.get("state", "active")
    return endpoint(output) + (f" ({state})" if state == "waiting" else "")


def reasons(rules: Sequence[Any]) -> list[str]:
    """Lines below the table of rules: why they are not active, and their warnings; each reason once."""
    said: dict[str, list[str]] = {}
    for rule in rules:
        for what in (rule.get("reason"), *rule.get("warnings", ())):
            if what:
                said.setdefault(what, []).append(label(rule))
    lines = []
    for what, those in said.items():
        more = f" and {len(those) - _NAMED:,} more" if len(those) > _NAMED else ""
        lines.append(terminal.style(f"{', '.join(those[:_NAMED])}{more}: {what}", fg=_NOTE))
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
            count(worker["restarts"]),
            count(worker["generation"]),
            worker["io"] or "-",
            ", ".join(worker["interfaces"]) or "-",
            *([worker["last_exit"] or "-"] if exits else []),
        ]
        for worker in workers
    ]
    return table(header, rows, width)


def settings_view(settings: Sequence[Any], width: int | None) -> str:
    """The settings: the result of `settings`. Where there is little room, meanings stand below."""
    header = ["=SETTING", "VALUE", "FROM", "IN FORCE"]
    rows = [[each["name"], each["value"], each["source"], each["effective"] or ""] for each in settings]
    meanings = [each["meaning"] for each in settings]
    beside = [[*row, clip(meaning, _MEANING_COLUMNS)] for row, meaning in zip(rows, meanings, strict=True)]
    if width is None or fits([[*header, "MEANING"], *beside], width):
        whole = [[*row, meaning] for row, meaning in zip(rows, meanings, strict=True)]
        return table([*header, "MEANING"], whole, width)
    return table(header, rows, width, below=[["MEANING"], *(wrap(each, max(width - 4, 1)) for each in meanings)])


def levels_view(levels: dict[str, str], width: int | None) -> str:
    """The level of every facility: the result of `log_level.get`."""
    return table(["FACILITY", "LEVEL"], [list(item) for item in levels.items()], width)


def watched_view(stats: dict[str, Any], width: int | None, height: int | None) -> str:
    """Statistics for so many lines of a terminal.

    If they don't fit, zeros and workers are left out first. What fails stands before the rules then: their end is cut.
    """
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
    return "\n".join([*lines[:kept], f"... {len(lines) - kept:,} more lines: mcrctl top, or mcrctl stats RULE"])


def with_hosts(stats: dict[str, Any]) -> list[str]:
    """Ids of the rules that have a host among their outputs, and not only groups."""
    return [rule["rule_id"] for rule in stats["rules"] if not all(_is_group(each["group"]) for each in rule["outputs"])]


def _is_group(address: str) -> bool:
    first, dot, _ = address.partition(".")
    return first in _GROUPS if dot else address[:2].lower() == "ff"


def with_states(stats: dict[str, Any], rules: Sequence[Any]) -> dict[str, Any]:
    """Statistics whose outputs have the states that `list` tells of them."""
    states = {(rule["rule_id"], *_end(each)): each for rule in rules for each in rule["outputs"]}
    marked = []
    for rule in stats["rules"]:
        told = [states.get((rule["rule_id"], *_end(each)), {}) for each in rule["outputs"]]
        outputs = [
            each | {name: view[name] for name in ("state", "reason") if name in view}
            for each, view in zip(rule["outputs"], told, strict=True)
        ]
        marked.append(rule | {"outputs": outputs})
    return stats | {"rules": marked}


def _end(output: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(output.get(name) for name in ("group", "port", "interface", "vlan", "prefix", "last_port"))


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
    troubles = (
        _failing_outputs_table(stats["rules"], width, most=_HOSTS if short else None),
        *_silent_hosts(stats["rules"], width),
    )
    parts = [
        _block("Ingress", causes | ingress, counters, width, recv=f"{rate(ingress['pps'])} pps"),
        _block(
            "Egress",
            egress,
            sent,
            width,
            sent=f"{rate(egress['pps'])} pps",
            bytes=f"{megabits(bps)} Mbit/s",
        ),
        *(troubles if short else ()),
        _rules_table(stats["rules"], width) or _NO_RULES,
        *(() if short else troubles),
        health_table(stats["rules"], width),
        "" if short else _workers_table(stats["workers"], stats.get("kernel_path", {}), width),
    ]
    return "\n\n".join(part for part in parts if part)


def rule_stats_view(stats: dict[str, Any], width: int | None) -> str:
    """One rule and each of its outputs: the result of `stats` with a rule."""
    rows = [
        [
            _output(output),
            *(count(output[name]) for name in ("submitted", "sent", "errors")),
            size(output["bytes"]),
            rate(output["pps"]),
            megabits(output["bps"]),
        ]
        for rule in stats["rules"]
        for output in rule["outputs"]
    ]
    outputs = table(["=OUTPUT", "#SUBMITTED", "#SENT", "#ERRORS", "#BYTES", "#PPS", "#MBIT/S"], rows, width)
    parts = (
        _rules_table(stats["rules"], width),
        outputs,
        *_sent_formerly(stats["rules"]),
        _failing_outputs_table(stats["rules"], width),
        *_silent_hosts(stats["rules"], width),
        *(health_view(rule["health"]) for rule in stats["rules"] if rule.get("health")),
    )
    return "\n\n".join(part for part in parts if part)


def _sent_formerly(rules: Sequence[Any]) -> Iterator[str]:
    """Why the numbers of a rule's outputs don't add up to its own, where they don't: a counter never goes back."""
    for rule in rules:
        sent, errors = (rule[name] - sum(each[name] for each in rule["outputs"]) for name in ("sent", "errors"))
        if sent > 0 or errors > 0:
            also = f", and {count(errors)} of its errors," if errors > 0 else ""
            yield f"{count(sent)} of the rule's sent{also} are of outputs that it has no more."


def _block(title: str, values: dict[str, Any], names: Iterable[str], width: int | None, **rates: str) -> str:
    lines = [title]
    for name in names:
        value = values[name]
        line = f"  {name:<12} {count(value):>19}"
        if value and name in _CAUSES:
            colour, cause = _CAUSES[name]
            beside = " " * (len(line) + 2)
            folded = [cause] if width is None else wrap(cause, max(width - len(beside), _CAUSE_COLUMNS))
            line = terminal.style(f"{line}  " + f"\n{beside}".join(folded), fg=colour)
        elif name in rates:
            line = f"{line}  {rates[name]}"
        lines.append(line)
    return "\n".join(lines)


def _rules_table(rules: Sequence[Any], width: int | None) -> str:
    """With ids and names if there is room for both. Names alone are folded, where they are long."""
    named = any(rule["name"] for rule in rules)
    header = ["RULE ID", *(["NAME"] if named else []), *_COUNTED]
    rows = [
        [
            rule["rule_id"],
            *([rule["name"] or ""] if named else []),
            *(count(rule[name]) for name in ("matched", "sent", "errors")),
            size(rule["bytes"]),
            rate(rule["pps"]),
            megabits(rule["bps"]),
            duration(rule.get("last_packet_ago")),
        ]
        for rule in rules
    ]
    if named and width is not None and not fits([header, *rows], width):
        return table(["RULE", *_COUNTED], [[row[1] or row[0], *row[2:]] for row in rows], width)
    return table(header, rows, width)


def _failing_outputs_table(rules: Sequence[Any], width: int | None, *, most: int | None = None) -> str:
    rows = [
        [rule["name"] or rule["rule_id"], endpoint(output), count(output["errors"]), _last_error(output)]
        for rule in rules
        for output in rule["outputs"]
        if output["errors"]
    ]
    drawn = _with_reasons(["RULE", "=OUTPUT WITH ERRORS", "#ERRORS", "LAST ERROR"], rows[:most], width)
    more = len(rows) - len(rows[:most])
    return f"{drawn}\n{counted(more, 'more output')} with errors: mcrctl stats" if more else drawn


def _with_reasons(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> str:
    """A table whose last column has reasons, which stand below their rows where there is no room beside them."""
    least = [[*row[:-1], clip(row[-1], _REASON_COLUMNS)] for row in (header, *rows)]
    if width is None or fits(least, width):
        return table(header, rows, width)
    below = [wrap(row[-1], max(width - 4, _REASON_COLUMNS), break_on_hyphens=False) for row in (header, *rows)]
    return table(header[:-1], [row[:-1] for row in rows], width, below=below)


def _silent_hosts(rules: Sequence[Any], width: int | None) -> Iterator[str]:
    """Hosts that do not answer: what is sent there counts as sent while the kernel asks for their MACs.

    What waits for anything else, such as an interface, counts as errors.
    """
    waiting = [
        [rule["name"] or rule["rule_id"], endpoint(output), count(output["sent"]), output["reason"]]
        for rule in rules
        for output in rule["outputs"]
        if output.get("state") == "waiting" and not _is_group(output["group"]) and NO_ANSWER in output["reason"]
    ]
    if waiting:
        yield _with_reasons(["RULE", "=HOST THAT WAITS", "#SENT", "WHY"], waiting[:_HOSTS], width)
        more = f"{len(waiting) - _HOSTS:,} more wait: mcrctl list. " if len(waiting) > _HOSTS else ""
        lost = f"{more}{_LOST}"
        yield terminal.style(lost if width is None else "\n".join(wrap(lost, width)), fg=_NOTE)


def _last_error(output: dict[str, Any]) -> str:
    if not output["last_error"]:
        return "-"
    return f"{output['last_error']}, {duration(output['last_error_ago'])} ago"


def _workers_table(workers: Sequence[Any], kernel_path: dict[str, Any], width: int | None) -> str:
    """Each one's share; so has the kernel path one, if it has done something."""
    shares = [(str(worker["worker_id"]), worker) for worker in workers]
    if any(kernel_path.values()):
        shares.append(("kernel", {"buf_exhaust": 0, **kernel_path}))
    rows = [
        [
            name,
            *(count(share[counter]) for counter in ("recv", "matched", "sent", "errors")),
            count(share["buf_exhaust"] + share["kernel_drops"]),
        ]
        for name, share in shares
    ]
    return table(["#WORKER", "#RECV", "#MATCHED", "#SENT", "#ERRORS", "#DROPPED"], rows, width)
