"""Files of rules for `mcrctl add --batch`: lines of options of `mcrctl add`, or what `mcrctl list --json` prints."""

import codecs
import json
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from mcr.cli.command import Command
from mcr.cli.failure import usage_error
from mcr.cli.rule_words import rule_options, rule_params
from mcr.config.output_text import parse_output
from mcr.errors import (
    MAX_FAULTS,
    InterfaceNotFound,
    InvalidParams,
    LimitReached,
    McrError,
    RuleExists,
    SystemFault,
    UsageError,
    errno_of,
    together,
)
from mcr.text.ranges import taken_apart

if TYPE_CHECKING:
    from mcr.model.rule import Rule

_OF_A_RULE = {fault.code for fault in (InvalidParams, RuleExists, InterfaceNotFound, SystemFault, LimitReached)}
_HINTS = 10
_BYTE_ORDER_MARK = codecs.BOM_UTF8
_LINE_EXAMPLE = "--input-interface eth0 --input-group 239.1.1.1 --input-port 5000 --outputs 239.2.2.2:5000:eth1"
_TOLD = frozenset({"state", "reason"})  # what `mcrctl list` tells of outputs, and nobody can set
_TOLD_OF_RULES = _TOLD | {"warnings", "origin", "path", "path_reason", "added"}


class Batch(NamedTuple):
    """The rules of a file, as the protocol spells them; where each stands; what is between that and a field of it."""

    file: str
    rules: list[Any]
    places: list[str]
    separator: str = ", "

    def part(self, start: int, end: int) -> "Batch":
        """Some of them."""
        return Batch(self.file, self.rules[start:end], self.places[start:end], self.separator)


def read_batch(file: str) -> tuple[Batch, list[McrError]]:
    """The rules of a file, and the faults of those that can't be read."""
    name = "<stdin>" if file == "-" else file
    try:
        with click.open_file(file, "rb") as stream:
            text = stream.read().removeprefix(_BYTE_ORDER_MARK)  # some editors begin a file with it
    except OSError as error:
        raise SystemFault(f"Cannot read {name}", errno_of(error)) from None
    if text.lstrip()[:1] in (b"[", b"{"):
        batch, faults = _read_json(text, name)
    else:
        batch, faults = _read_lines(text, name)
    if not (batch.rules or faults):
        raise UsageError(
            f"No rules in {name}",
            f"each line has the options of mcrctl add: {_LINE_EXAMPLE}",
            "lines with # are comments",
        )
    return batch, faults


# JSON.


def _read_json(text: bytes, name: str) -> tuple[Batch, list[McrError]]:
    try:
        rules = json.loads(text)
    except UnicodeDecodeError:
        raise UsageError(f"{name}: not text in UTF-8", "save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{name}:{error.lineno}: not JSON: {error.msg}", "JSON as mcrctl list --json prints it: an array of rules"
        ) from None
    except (ValueError, RecursionError):
        raise UsageError(f"{name}: not JSON that can be read", "an array of rules: mcrctl list --json") from None
    batch, faults = Batch(name, [], [], "."), list[McrError]()
    for index, rule in enumerate(rules if isinstance(rules, list) else [rules]):
        place = f"{name}: rules[{index}]"
        try:
            batch.rules.append(_without_what_is_told(rule))
            batch.places.append(place)
        except UsageError as error:
            faults.append(UsageError(f"{place}: {error.message}", *error.hints))
    return batch, faults


def _without_what_is_told(rule: Any) -> Any:
    """A rule without what is only shown of it, its ends taken apart; what it says is for the daemon to judge.

    Raises:
        UsageError: an output is a text, as on a line, and can't be read.
    """
    if not isinstance(rule, dict):
        return rule
    kept = {name: value for name, value in rule.items() if name not in _TOLD_OF_RULES}
    if "input" in kept:
        kept["input"] = taken_apart(kept["input"])
    if isinstance(outputs := kept.get("outputs"), list):
        kept["outputs"] = [
            {name: value for name, value in each.items() if name not in _TOLD}
            if isinstance(each, dict)
            else parse_output(each)
            if isinstance(each, str)
            else each
            for each in outputs
        ]
    return kept


# Lines.


@click.command(cls=Command, add_help_option=False)
@rule_options
def _batch_line(**_: Any) -> None:
    """Parses a line of a batch; never run."""


_PLAIN = {option.opts[0]: option.name for option in _batch_line.params if option.name}


def _plain_options(words: list[str]) -> dict[str, Any] | None:
    """What click would make of a line of plain options and values, twenty times as fast; None for any other line."""
    options: dict[str, Any] = dict.fromkeys(_PLAIN.values())
    options["outputs"] = ()
    for option, value in zip_longest(words[::2], words[1::2], fillvalue=""):
        name = _PLAIN.get(option)
        if not name or not value or value.startswith("-"):
            return None
        if name == "outputs":
            options[name] = (*options[name], value)
        elif options[name] is None:
            options[name] = value
        else:
            return None
    return options


def _read_lines(text: bytes, name: str) -> tuple[Batch, list[McrError]]:
    batch, faults = Batch(name, [], []), list[McrError]()
    for number, line in enumerate(text.split(b"\n"), 1):
        place = f"{name}:{number}"
        try:
            for rule in _read_line(line, place):
                batch.rules.append(rule)
                batch.places.append(place)
        except UsageError as error:
            faults.append(error)
    return batch, faults


def _read_line(line: bytes, place: str) -> Iterator[dict[str, Any]]:
    """The rule on a line, if there is one."""
    try:
        if words := _words(line.decode()):
            yield rule_params(_plain_options(words) or _batch_line.make_context("mcrctl add", words).params)
    except click.UsageError as error:
        fault = usage_error(error)
        raise UsageError(f"{place}: {fault.message}", *fault.hints) from None
    except UsageError as error:
        raise UsageError(f"{place}: {error.message}", *error.hints) from None
    except UnicodeDecodeError:
        raise UsageError(f"{place}: not text in UTF-8", "save the file as UTF-8") from None
    except ValueError as error:  # of shlex
        raise UsageError(
            f"{place}: {error}", "a rule is one line: no quotation and no \\ goes on to the next"
        ) from None


_SPECIAL = re.compile(r"""['"\\#]|[^\x00-\x7f]""")
_QUOTED_OR_COMMENT = re.compile(r"""('[^']*'|"(?:\\.|[^"\\])*"|\\.)|(?<!\S)#.*""")


def _words(line: str) -> list[str]:
    """Split a line as a shell would, and take the command away, if it has one.

    shlex alone would take a # in the middle of a word for a comment.
    """
    if not _SPECIAL.search(line):
        words = line.split()  # the same, and 50 times as fast
    else:
        words = shlex.split(_QUOTED_OR_COMMENT.sub(lambda match: match[1] or "", line))
    start = 1 if words[:1] == ["sudo"] else 0
    if len(words) > start + 1 and words[start].rpartition("/")[2] == "mcrctl" and words[start + 1] == "add":
        return words[start + 2 :]
    return words


def value_faults(batch: Batch) -> list[McrError]:
    """The faults of rules that could be read, for when others could not and the daemon is not asked."""
    from mcr.control.structure import check_rules  # noqa: PLC0415 - slow to import, seldom needed

    try:
        check_rules(batch.rules)
    except McrError as error:
        faults = [*error.faults] or [error]
        alone = f"{batch.places[0]}: " if len(batch.rules) == 1 else ""
        named = [name_places(each, batch).reworded(lambda message: alone + message) for each in faults]
        return [UsageError(each.message, *each.hints) for each in named]
    return []


def clashes(batch: Batch) -> list[McrError]:
    """The faults of rules that are sound, and cannot be beside earlier ones of the file."""
    from mcr.control.structure import check_rules  # noqa: PLC0415 - slow to import, seldom needed
    from mcr.rules.catalog import Catalog  # noqa: PLC0415

    rules: list[Rule] = []
    sound = Batch(batch.file, [], [], batch.separator)
    for value, place in zip(batch.rules, batch.places, strict=True):
        with suppress(McrError):
            rules += check_rules([value])
            sound.places.append(place)
    try:
        Catalog().plan_addition(rules)
    except McrError as error:
        return [name_places(each, sound) for each in error.faults or [error]]
    return []


def with_clashes(error: McrError, batch: Batch) -> McrError:
    """What the daemon says of a file, and what it has not looked for, as values are wrong."""
    if error.code != InvalidParams.code or not value_faults(batch) or not (more := clashes(batch)):
        return error
    faults = [*(error.faults or [error]), *more]
    told = together(faults)
    told.faults = tuple(in_order(faults, batch)[:MAX_FAULTS])
    return told


def in_order(faults: Iterable[McrError], batch: Batch) -> list[McrError]:
    """Faults as their lines are in the file."""
    place = re.compile(re.escape(batch.file) + r":(\d+)")

    def line(fault: McrError) -> int:
        found = place.search(fault.message)
        return int(found[1]) if found else 0

    return sorted(faults, key=line)


# Faults that the daemon finds.


def is_about_rules(error: McrError) -> bool:
    """Whether the daemon refused rules. What mcrctl itself met, such as a missing socket, is of a class of its own."""
    return type(error) is McrError and error.code in _OF_A_RULE


_LAST = re.compile(r" \(rules\[(\d+)\]([^()]*)\)$")  # the rule that a fault is about, and what of it
_COUNTED = re.compile(r"\brules\[(\d+)\](\.?)")
_SAME = re.compile(r"Rule already exists: rules\[(\d+)\] has ")


def name_places(error: McrError, batch: Batch) -> McrError:
    """Put places in the file where the daemon counts rules, in front; a single rule it does not count."""

    def place(match: re.Match[str]) -> str:
        return batch.places[int(match[1])] + (batch.separator if match[2] else "")

    def name(message: str) -> str:
        front = ""
        if found := _LAST.search(message):
            rest = f" ({more})" if (more := found[2].lstrip(".; ")) else ""
            front, message = f"{batch.places[int(found[1])]}: ", f"{message[: found.start()]}{rest}"
        elif found := _SAME.match(message):
            front = f"{batch.places[int(found[1])]}: "
            message = f"Rule already exists: it has {message[found.end() :]}"
        elif len(batch.places) == 1 and is_about_rules(error) and not _COUNTED.search(message):
            front = f"{batch.places[0]}: "
        return front + _COUNTED.sub(place, message)  # a place in JSON counts rules itself

    return error.reworded(name)


def hints_of(faults: Sequence[McrError], batch: Batch) -> tuple[str, ...]:
    """What to do about faults: what is for several of them once, and the rest with the place."""
    at = re.compile(re.escape(batch.file) + r":(\d+| rules\[\d+\])(?=[:.])")
    given: defaultdict[str, set[str]] = defaultdict(set)
    for fault in faults:
        place = at.match(fault.message)
        for hint in fault.hints:
            given[hint].add(place[0] if place else "")
    return tuple(
        f"{one}: {hint}" if len(places) == 1 < len(faults) and (one := min(places)) else hint
        for hint, places in given.items()
    )[:_HINTS]


def sum_up(batch: Batch, error: McrError) -> McrError:
    """The error for a file of which no rule was added: how many faults it has, if they are listed."""
    if error.faults:
        number = f"At least {MAX_FAULTS}" if len(error.faults) >= MAX_FAULTS else len(error.faults)
        error.message = f"{number} faults in {batch.file}: no rule was added"
        error.hints = hints_of(error.faults, batch)
    return error
