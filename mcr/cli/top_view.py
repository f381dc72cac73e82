"""What `mcrctl top` shows: lines of text, made of readings and of the keys that were pressed. Pure.

Rules of the module:

1. No line is wider than the terminal. What is cut here stands whole where a rule is shown alone.
2. Words come from elsewhere: each is made visible before it is drawn.
3. Colour repeats what words and numbers say: red for what is being lost now, yellow for what was.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from mcr.cli import terminal
from mcr.cli.grid import clip, columns
from mcr.cli.quantities import duration, endpoint, input_text, megabits, rate, size
from mcr.cli.tables import rule_stats_view, with_states
from mcr.text.plurals import counted
from mcr.text.visible import all_visible, visible

ORDERS: Final = ("rate", "errors", "idle", "state", "name")
_REMEMBERED = 60  # readings of each rule's rate
_BLOCKS, _PLAIN = "▁▂▃▄▅▆▇█", "_.-~=+*#"
_LOSSES: Final = ("kernel_drops", "buf_exhaust", "parse_err")
_ALSO_SHOWN: Final = ("no_match",)
_REASONS = 3  # lines about rules that are not active, at most
_NAMED = 3  # rules in such a line
_FIXED = 52  # columns of a row, but for the rule's name and its curve
_LONGEST_CURVE = 30
_HELP = "q quit  enter rule  s sort  / filter"
_STYLE = re.compile(r"(\x1b\[[0-9;]*m)")


class Shown(Protocol):
    """A reading."""

    @property
    def stats(self) -> Any:
        """Result of `stats`."""

    @property
    def rules(self) -> Any:
        """Result of `list`."""

    @property
    def started(self) -> str:
        """When mcrd was."""

    @property
    def away(self) -> str:
        """Why there are none of these; empty: there are."""


class Row:
    """One rule: its counters, how it stands, and what its rate was."""

    def __init__(self, stats: dict[str, Any], view: dict[str, Any] | None, before: "Row | None") -> None:
        self.stats = stats
        self.view = view or {"state": "", "reason": "", "outputs": stats["outputs"], "input": None}
        self.rates: deque[float] = before.rates if before else deque(maxlen=_REMEMBERED)
        self.rates.append(stats["pps"])
        self.new_errors: int = max(0, stats["errors"] - before.stats["errors"]) if before else 0

    @property
    def name(self) -> str:
        """What an operator calls it."""
        return str(self.stats["name"] or self.stats["rule_id"])

    def mentions(self, text: str) -> bool:
        """Whether a filter lets it through."""
        source = self.view["input"]
        words = [self.stats["rule_id"], self.stats["name"] or "", self.view["state"]]
        words += [*([input_text(source)] if source else []), *map(endpoint, self.stats["outputs"])]
        return any(text in word.lower() for word in words)


_KEYS: Final[dict[str, Callable[[Row], Any]]] = {
    "rate": lambda row: -row.stats["pps"],
    "errors": lambda row: (not row.new_errors, -row.stats["errors"]),
    "idle": lambda row: -(row.stats["last_packet_ago"] or 0.0),
    "state": lambda row: (row.view["state"] == "active", -row.stats["pps"]),
    "name": lambda row: row.name,
}


class Top:
    """The newest reading, what was before it, and what the operator wants to see of it."""

    def __init__(self, order: str, text: str, *, blocks: bool) -> None:
        self._order = order
        self._filter = text
        self._types = False  # the filter
        self._alone: str | None = None  # id of the rule that is shown alone
        self._chosen = 0  # place of the rule that is marked
        self._follows = ""  # its id: it stays marked wherever it goes
        self._moved = False  # until somebody has chosen it, the first one is marked, whichever that is
        self._ramp, self._cut = (_BLOCKS, "…") if blocks else (_PLAIN, "~")
        self._rows: dict[str, Row] = {}
        self._ordered: list[Row] = []
        self._stats: dict[str, Any] = {}
        self._new: dict[str, int] = {}
        self._in: deque[float] = deque(maxlen=_REMEMBERED)
        self._out: deque[float] = deque(maxlen=_REMEMBERED)
        self._started = ""
        self._away = ""
        self._page = 1

    # Readings.

    def take(self, reading: Shown) -> None:
        """Show this from now on. While mcrd is away, what it said last stays."""
        self._away = reading.away
        if reading.away:
            return
        views = {each["rule_id"]: each for each in reading.rules}
        self._rows = {
            each["rule_id"]: Row(each, views.get(each["rule_id"]), self._rows.get(each["rule_id"]))
            for each in reading.stats["rules"]
        }
        now, before = _totals(reading.stats), _totals(self._stats) if self._stats else {}
        self._new = {name: max(0, count - before.get(name, count)) for name, count in now.items()}
        self._stats, self._started = reading.stats, reading.started
        self._in.append(reading.stats["ingress"]["pps"])
        self._out.append(reading.stats["egress"]["pps"])
        self._arrange()

    def _arrange(self) -> None:
        wanted = self._filter.lower()
        rows = [row for row in self._rows.values() if not wanted or row.mentions(wanted)]
        self._ordered = sorted(sorted(rows, key=lambda row: row.name), key=_KEYS[self._order])
        ids = [row.stats["rule_id"] for row in self._ordered]
        self._mark(ids.index(self._follows) if self._follows in ids else self._chosen)

    def _mark(self, place: int) -> None:
        self._chosen = max(0, min(place, len(self._ordered) - 1))
        if self._ordered and self._moved:
            self._follows = self._ordered[self._chosen].stats["rule_id"]

    # Keys.

    def press(self, key: str) -> bool:
        """Do what a key means; False: end."""
        if self._types:
            self._type(key)
        elif key == "q":
            return False
        elif key in {"escape", "backspace"}:
            self._alone, self._filter = None, self._filter if self._alone else ""
        elif key == "enter":
            self._alone = None if self._alone or not self._ordered else self._ordered[self._chosen].stats["rule_id"]
        elif key == "s":
            self._order = ORDERS[(ORDERS.index(self._order) + 1) % len(ORDERS)]
            self._chosen, self._follows, self._moved = 0, "", False
        elif key == "/":
            self._types, self._alone = True, None
        else:
            self._move(key)
        self._arrange()
        return True

    def _type(self, key: str) -> None:
        if key in {"enter", "escape"}:
            self._types = False
            self._filter = self._filter if key == "enter" else ""
        elif key == "backspace":
            self._filter = self._filter[:-1]
        elif len(key) == 1:
            self._filter += key

    def _move(self, key: str) -> None:
        end = len(self._ordered)
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -self._page, "page down": self._page}
        steps |= {"home": -end, "end": end}
        if key in steps:
            self._moved = True
            self._mark(self._chosen + steps[key])

    # The screen.

    def frame(self, width: int, height: int) -> list[str]:
        """The lines of a terminal of this size."""
        lines = [*self._head(width), ""]
        room = max(height - len(lines) - 1, 1)
        if self._alone:
            lines += self._one(width)[:room]
        else:
            lines += self._table(width, room)
        lines = lines[: height - 1]
        lines += [""] * (height - 1 - len(lines))
        return [self._fit(line, width) for line in [*lines, self._foot()]]

    def text(self) -> Iterator[str]:
        """All of it, for a pipe."""
        width = 120
        yield from (terminal.unstyle(line).rstrip() for line in self._head(0))
        yield ""
        yield terminal.unstyle(self._title(width, marked=False))
        yield from (terminal.unstyle(self._row(row, width, marked=None)) for row in self._ordered)

    def _head(self, width: int) -> Iterator[str]:
        yield self._summary()
        curve = max(min(width - 60, _LONGEST_CURVE), 0)
        ingress, egress = self._stats["ingress"], self._stats["egress"]
        bits = sum(row.stats["bps"] for row in self._rows.values())
        yield f"in   {rate(ingress['pps']):>11} pps  matched {ingress['matched']:>15,}{self._curve(self._in, curve)}"
        out = f"{rate(egress['pps']):>11} pps  {megabits(bits):>10} Mbit/s"
        yield f"out  {out:<39}{self._curve(self._out, curve)}"
        yield self._lost()
        yield from self._not_active()

    def _summary(self) -> str:
        if self._away:
            return terminal.style(f"mcrd is away, top waits for it: {visible(self._away)}", fg="red", bold=True)
        states = [row.view["state"] for row in self._rows.values()]
        bad = len([state for state in states if state not in {"active", ""}])
        rules = f"{counted(len(states), 'rule')}, " if states else "no rules"
        told = terminal.style(f"{bad:,} not active", fg="red") if bad else "all active" if states else ""
        return f"mcrd{_uptime(self._started)}: {rules}{told}, {counted(len(self._stats['workers']), 'worker')}"

    def _lost(self) -> str:
        parts = []
        for name, value in _totals(self._stats).items():
            if not value:
                continue
            moves = f" (+{self._new[name]:,})" if self._new[name] else ""
            loss = name not in _ALSO_SHOWN
            colour = "red" if moves and loss else "yellow" if moves or loss else None
            parts.append(terminal.style(f"{name} {value:,}{moves}", fg=colour, bold=bool(moves and loss)))
        return f"lost {'  '.join(parts)}" if parts else "lost nothing"

    def _not_active(self) -> Iterator[str]:
        said: dict[tuple[str, str], list[str]] = {}
        for row in self._rows.values():
            if row.view["state"] not in {"active", ""}:
                said.setdefault((row.view["state"], row.view["reason"]), []).append(row.name)
        for (state, why), names in [*said.items()][:_REASONS]:
            more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
            line = f"{len(names):,} {state}: {visible(why)} ({visible(', '.join(names[:_NAMED]))}{more})"
            yield terminal.style(line, fg="yellow")
        if len(said) > _REASONS:
            yield terminal.style(f"and {len(said) - _REASONS:,} more reasons: s sorts by state", fg="yellow")

    def _table(self, width: int, room: int) -> Iterator[str]:
        yield self._title(width, marked=True)
        self._page = max(room - 1, 1)
        first = max(0, min(self._chosen - self._page // 2, len(self._ordered) - self._page))
        for at, row in enumerate(self._ordered[first : first + self._page], first):
            yield self._row(row, width, marked=at == self._chosen)

    def _title(self, width: int, *, marked: bool) -> str:
        name, _ = _widths(width)
        titles = ["RULE", *("STATE", "PPS", "MBIT/S", "ERRORS", "IDLE")]
        titles = [
            f"{title}*" if title == {"rate": "PPS"}.get(self._order, self._order.upper()) else title for title in titles
        ]
        if self._order == "name":
            titles[0] = "RULE*"
        rule, state, pps, bits, errors, idle = titles
        line = f"{rule:<{name}}  {state:<8} {pps:>9} {bits:>9} {errors:>9} {idle:>7}  "
        return f"  {line}RATE" if marked else line.rstrip()

    def _row(self, row: Row, width: int, *, marked: bool | None) -> str:
        name, curve = _widths(width)
        stats, state = row.stats, row.view["state"]
        shown_state = f"{state:<8}"
        if state not in {"active", ""}:
            shown_state = terminal.style(shown_state, fg="red" if state == "waiting" else "yellow")
        errors = f"{_short(stats['errors']):>9}"
        if stats["errors"]:
            errors = terminal.style(errors, fg="red" if row.new_errors else "yellow", bold=bool(row.new_errors))
        cells = f"{rate(stats['pps']):>9} {megabits(stats['bps']):>9} {errors} {duration(stats['last_packet_ago']):>7}"
        label = self._fit(visible(row.name), name)
        label += " " * (name - columns(label))
        if marked:
            label = terminal.style(label, reverse=True)
        mark = "" if marked is None else "> " if marked else "  "
        return f"{mark}{label}  {shown_state} {cells}{'' if marked is None else self._curve(row.rates, curve)}"

    def _one(self, width: int) -> list[str]:
        row = self._rows.get(self._alone or "")
        if row is None:
            return ["This rule is no more."]
        view, stats = all_visible(row.view), all_visible(row.stats)
        lines = [f"{stats['name'] or ''} {stats['rule_id']}".strip()]
        if view["input"]:
            lines.append(
                f"{input_text(view['input'])}  {view['state']}" + (f": {view['reason']}" if view["reason"] else "")
            )
            lines += [f"warning: {each}" for each in view.get("warnings", ())]
            why = f": {view['path_reason']}" if view.get("path_reason") else ""
            lines.append(f"path: {view.get('path', '')}{why}")
        lines += ["", self._curve(row.rates, min(width, _REMEMBERED)).strip(), ""]
        return lines + rule_stats_view(
            with_states({"rules": [stats]}, [view | {"rule_id": stats["rule_id"]}]), width
        ).split("\n")

    def _foot(self) -> str:
        if self._types:
            return f"filter: {visible(self._filter)}_   enter keeps it, escape drops it"
        shown = f"   filter: {visible(self._filter)} ({len(self._ordered):,})" if self._filter else ""
        keys = "q quit  escape back" if self._alone else _HELP
        return terminal.style(f"{keys}   sort: {self._order}{shown}", dim=True)

    def _curve(self, rates: Sequence[float], width: int) -> str:
        """A line of blocks, as high as the rates were, the newest at the right."""
        newest = [*rates][-width:] if width else []
        most = max(newest, default=0.0)
        if not newest:
            return ""
        steps = len(self._ramp) - 1
        drawn = (
            self._ramp[round(each / most * steps)] if most and each else " " if not each else "" for each in newest
        )
        return "  " + "".join(drawn).rjust(width)

    def _fit(self, line: str, width: int) -> str:
        """The line, cut if it is wider than this."""
        if columns(_STYLE.sub("", line)) <= width:
            return line
        left, parts = width - 1, []
        for part in _STYLE.split(line):
            if not part.startswith("\x1b"):
                kept = clip(part, left)
                left -= columns(kept)
                parts.append(kept)
                left = left if kept == part else 0
            else:
                parts.append(part)
        return "".join(parts) + self._cut


def _totals(stats: dict[str, Any]) -> dict[str, int]:
    """What says that packets are lost, or nobody wants them."""
    ingress = stats["ingress"]
    lost = {name: ingress[name] for name in _LOSSES}
    health = [rule["health"] for rule in stats["rules"] if rule.get("health")]
    streams = {
        name: sum(each["lost"] for each in health if ("rtp" in each["kind"]) is is_rtp)
        for name, is_rtp in (("rtp", True), ("ts", False))
    }
    here = lost | {"errors": stats["egress"]["errors"]} | {name: ingress[name] for name in _ALSO_SHOWN}
    return here | streams


def _widths(width: int) -> tuple[int, int]:
    """Columns for a rule's name, and for its curve."""
    free = max(width - _FIXED, 8)
    curve = min(free // 3, _LONGEST_CURVE)
    return free - curve, curve


def _short(value: int) -> str:
    text = f"{value:,}"
    return text if len(text) <= 9 else size(value).removesuffix("B").strip()  # noqa: PLR2004 - its column


def _uptime(started: str) -> str:
    try:
        since = datetime.fromisoformat(started)
    except ValueError:
        return ""
    return f" up {duration(max(0.0, (datetime.now(UTC) - since).total_seconds()))}"
