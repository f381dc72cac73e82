"""smcroute.conf(5): static multicast routes, by interface and group, without ports."""

import glob
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Final

import attrs

from mcr.config.foreign.imported import Findings, Imported, read_text
from mcr.errors import UsageError

_DIRECTIVES: Final = ("mroute", "mgroup", "ssmgroup", "phyint", "include")
_ANY_SOURCE: Final = ("0.0.0.0", "0.0.0.0/0")  # noqa: S104 - nothing is bound to it
_MOST_FILES: Final = 1_000


@attrs.frozen
class _Line:
    """A line of a file, as words."""

    file: str
    number: int
    words: tuple[str, ...]


@attrs.frozen
class _Path:
    """What follows mroute or mgroup: from where to where."""

    line: _Line
    interface: str
    group: str
    source: str
    outputs: tuple[str, ...]


def read_smcroute(path: str) -> Imported:
    """Read a file, and those that it includes.

    Raises:
        UsageError: it can't be read, or is none of smcroute.
    """
    findings = Findings("smcroute")
    lines = [*_lines(path, findings, set())]
    if lines and not any(line.words[0] in _DIRECTIVES for line in lines):
        raise UsageError(f"{path} is no smcroute.conf", f"its lines begin with {', '.join(_DIRECTIVES)}")
    closed = _phyints(lines, findings)
    routes = [*_paths(lines, ("mroute",), findings)]
    _translate(routes, closed, findings)
    joined = {(route.interface, route.group) for route in routes}
    for join in _paths(lines, ("mgroup", "ssmgroup"), findings):
        if (join.interface, join.group) not in joined:
            _note(findings, join.line, f"no mroute takes {join.group}: MCR joins the groups of its rules by itself")
    return findings.result()


def _note(findings: Findings, line: _Line, message: str, *hints: str) -> None:
    findings.note(line.file, line.number, message, *hints)


def _lines(path: str, findings: Findings, seen: set[str]) -> Iterator[_Line]:
    """The lines that are not empty, with those of included files in their places."""
    seen.add(os.path.realpath(path))
    for number, text in enumerate(read_text(path).split("\n"), 1):
        words = tuple(text.partition("#")[0].split())
        if not words:
            continue
        line = _Line(path, number, words)
        yield line
        if words[0] == "include":
            yield from _included(line, findings, seen)
        elif words[0] not in _DIRECTIVES:
            _note(findings, line, f"Unknown directive {words[0]!r}", f"directives: {', '.join(_DIRECTIVES)}")


def _included(line: _Line, findings: Findings, seen: set[str]) -> Iterator[_Line]:
    pattern = " ".join(line.words[1:])
    files = [file for file in sorted(glob.glob(pattern)) if os.path.isfile(file)]  # noqa: PTH113, PTH207 - as given
    if not files:
        _note(findings, line, f"no file is there that it includes: {pattern or 'it names none'}")
    for file in files:
        if os.path.realpath(file) in seen or len(seen) == _MOST_FILES:
            continue
        try:
            yield from _lines(file, findings, seen)
        except UsageError as error:
            _note(findings, line, error.message)


def _phyints(lines: Sequence[_Line], findings: Findings) -> dict[str, _Line]:
    """Interfaces that smcroute is told not to use."""
    closed: dict[str, _Line] = {}
    for line in lines:
        match line.words:
            case ("phyint", interface, *options):
                if "disable" in options:
                    closed[interface] = line
                else:
                    closed.pop(interface, None)
                _note_options(line, options, findings)
            case ("phyint",):
                _note(findings, line, "phyint lacks an interface")
            case _:
                pass
    return closed


def _note_options(line: _Line, options: Sequence[str], findings: Findings) -> None:
    remaining = iter(options)
    for option in remaining:
        match option:
            case "enable" | "disable":
                pass
            case "mrdisc":
                _note(findings, line, "mrdisc: MCR does not announce itself as a multicast router")
            case "ttl-threshold" | "threshold":
                limit = next(remaining, "")
                if limit != "1":
                    _note(findings, line, f"{option} {limit}: MCR relays packets of any TTL")
            case _:
                _note(findings, line, f"Unknown option {option!r} of phyint")


def _paths(lines: Sequence[_Line], directives: Collection[str], findings: Findings) -> Iterator[_Path]:
    """What these directives say, as far as it is complete."""
    for line in lines:
        if line.words[0] not in directives:
            continue
        given: dict[str, str] = {}
        words = line.words[1:]
        outputs: tuple[str, ...] = ()
        while words:
            keyword, *rest = words
            if keyword == "to":
                outputs, words = tuple(rest), ()
            elif keyword in ("from", "source", "group") and rest:
                given[keyword], words = rest[0], tuple(rest[1:])
            else:
                _note(findings, line, f"Unknown word {keyword!r} in {line.words[0]}")
                words = tuple(rest)
        needed = ("from", "group", *(("to",) if line.words[0] == "mroute" else ()))
        missing = [name for name in needed if not (outputs if name == "to" else given.get(name))]
        if missing:
            _note(findings, line, f"{line.words[0]} lacks {' and '.join(missing)}")
        else:
            group = given["group"].removesuffix("/32")
            yield _Path(line, given["from"], group, given.get("source", ""), outputs)


def _translate(routes: Sequence[_Path], closed: dict[str, _Line], findings: Findings) -> None:
    # There is one rule for each input.
    merged: dict[tuple[str, str, str], tuple[_Line, list[str]]] = {}
    for route in routes:
        outputs = [name for name in route.outputs if name != route.interface]
        reason = _hindrance(route, outputs, closed)
        if reason:
            _note(findings, route.line, reason)
            continue
        source = "" if route.source in _ANY_SOURCE else route.source.removesuffix("/32")
        if "/" in source:
            _note(findings, route.line, f"source {source}: the rule takes {route.group} from any source")
            source = ""
        if len(outputs) < len(route.outputs):
            _note(findings, route.line, f"to {route.interface}: packets came from there, and are not sent back")
        line = route.line
        if findings.can_relay(line.file, line.number, route.interface, route.group, outputs, source=source):
            merged.setdefault((route.interface, route.group, source), (line, []))[1].extend(outputs)
    for (interface, group, source), (line, outputs) in merged.items():
        findings.add_without_port(line.file, line.number, interface, group, outputs, source=source)


def _hindrance(route: _Path, outputs: Sequence[str], closed: dict[str, _Line]) -> str:
    """Why there is no rule for it; empty: there is one."""
    for name in (route.interface, *outputs):
        if name.endswith("+"):
            return f"{name} stands for several interfaces: MCR takes one by its name; write a rule for each"
        if name in closed:
            return f"{name} is disabled at {closed[name].file}:{closed[name].number}, so smcroute does not use it"
    if not outputs:
        return f"to {route.interface}: packets came from there, and are not sent back"
    return ""
