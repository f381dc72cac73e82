"""The health of streams, as tables show it: how they come in, before the relay has touched them."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from mcr.cli import terminal
from mcr.cli.grid import table
from mcr.cli.quantities import count, duration
from mcr.text.streams import pids_text, unit_of

_RTP: Final = {
    "late": "came after they were counted as lost",
    "reordered": "came behind later ones",
    "duplicates": "came twice",
    "restarts": "another sender, or numbers from elsewhere",
}
_TS: Final = {
    "continuity": "counters do not follow each other",
    "sync_losses": "synchronization was lost",
    "sync_bytes": "packets do not begin with 0x47",
    "pat": "no PAT for 0.5 s",
    "pmt": "no PMT of a program for 0.5 s",
    "pid": "a PID that a PMT refers to did not come for 5 s",
    "transport": "packets are marked as damaged",
}


def health_table(rules: Sequence[Any], width: int | None) -> str:
    """The rules whose streams are watched, one line each; empty if there are none."""
    rows = [
        [
            rule["name"] or rule["rule_id"],
            rule["health"]["reason"] or rule["health"]["kind"],
            _lost(rule["health"]),
            *_errors(rule["health"]),
            count(rule["health"]["stalls"]),
            *_gap(rule["health"]),
            _mdi(rule["health"]["mdi"]),
        ]
        for rule in rules
        if rule.get("health")
    ]
    header = ["RULE", "STREAM IN", "#LOST", "#MISPLACED", "#TS ERRORS", "#STALLS", "#LONGEST GAP", "#MDI"]
    return table(header, rows, width)


def _lost(health: dict[str, Any]) -> str:
    """With its unit, which is not the same in each line."""
    return f"{count(health['lost'])} {unit_of(health['kind']).split()[0]}"


def _errors(health: dict[str, Any]) -> Iterator[str]:
    rtp, ts = health["rtp"], health["ts"]
    yield count(rtp["late"] + rtp["reordered"] + rtp["duplicates"]) if rtp else "-"
    yield count(sum(ts[name] for name in _TS)) if ts else "-"


def _gap(health: dict[str, Any]) -> Iterator[str]:
    yield milliseconds(health["gaps"]["longest"]) if health["gaps"] else "-"


def _mdi(mdi: dict[str, Any] | None) -> str:
    """As RFC 4445 writes it: the delay factor in milliseconds, and the media loss rate."""
    return f"{1000 * mdi['delay_factor']:.1f}:{mdi['loss_rate']}" if mdi else "-"


def milliseconds(seconds: float) -> str:
    """A short time."""
    return f"{1000 * seconds:,.3g} ms" if seconds < 1 else f"{seconds:,.3g} s"


def health_view(health: dict[str, Any]) -> str:
    """The health of one stream."""
    if health["reason"]:
        return terminal.style(f"Stream in: not watched: {health['reason']}", fg="yellow")
    return "\n".join([f"Stream in ({health['kind']})", *_lines(health)])


def _lines(health: dict[str, Any]) -> Iterator[str]:
    yield _counted("packets", health["packets"], "")
    for name, meaning in (("unseen", "came, and could not be looked at"), ("other", f"are not {health['kind']}")):
        if health[name]:
            yield _counted(name, health[name], meaning)
    yield _counted("stalls", health["stalls"], "gaps of 50 ms or more, ten times the usual one")
    if gaps := health["gaps"]:
        median, p99, longest = (milliseconds(gaps[name]) for name in ("median", "p99", "longest"))
        yield f"  {'gaps':<12} {median:>19}  usual; 1 in 100 above {p99}, longest {longest} (last half minute)"
    if health["rtp"] or health["ts"]:
        age = health.get("lost_age")
        last = "" if age is None else f", the last {duration(age)} ago"
        yield _counted("lost", health["lost"], f"{unit_of(health['kind'])}s that did not come{last}")
    if rtp := health["rtp"]:
        for name, meaning in _RTP.items():
            yield _counted(name, rtp[name], meaning)
        jitter = "-" if rtp["jitter"] is None else milliseconds(rtp["jitter"])
        yield f"  {'jitter':<12} {jitter:>19}"
    if ts := health["ts"]:
        for name, meaning in _TS.items():
            yield _counted(name, ts[name], meaning)
        if ts["away"]:
            yield terminal.style(f"  {'away now':<12} {pids_text(ts['away'])}", fg="yellow")
    if mdi := health["mdi"]:
        highest = f"highest {1000 * mdi['longest_delay_factor']:.1f}:{mdi['highest_loss_rate']} (last half minute)"
        yield f"  {'MDI':<12} {_mdi(mdi):>19}  ms to buffer : {_media(health)}; {highest}"


def _media(health: dict[str, Any]) -> str:
    """What the media loss rate counts."""
    if not (health["ts"] or health["rtp"]):
        return "losses are unknown"
    return f"{'TS' if health['ts'] else 'RTP'} packets lost per second"


def _counted(name: str, value: int, meaning: str) -> str:
    line = f"  {name:<12} {count(value):>19}"
    return terminal.style(f"{line}  {meaning}", fg="yellow") if value and meaning else line
