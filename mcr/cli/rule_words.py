"""Rules as an operator writes them: options of `mcrctl add`, and lines of a batch file.

They become parameters of the control protocol; the daemon judges the values.
"""

import codecs
import re
import shlex
from collections.abc import Callable
from itertools import zip_longest
from typing import Any, TypeVar

import click

from mcr.cli.completion import interfaces
from mcr.cli.failure import usage_error
from mcr.config.output_text import parse_output
from mcr.errors import InterfaceNotFound, InvalidParams, McrError, RuleExists, SystemFault, UsageError

_OF_A_RULE = {fault.code for fault in (InvalidParams, RuleExists, InterfaceNotFound, SystemFault)}
_BYTE_ORDER_MARK = codecs.BOM_UTF8
_LINE_EXAMPLE = "--input-interface eth0 --input-group 239.1.1.1 --input-port 5000 --outputs 239.2.2.2:5000:eth1"
_EXAMPLE = "for example: --outputs 239.2.2.2:5000:eth1,239.2.2.3:5000:eth2"

_F = TypeVar("_F", bound=Callable[..., Any])


def rule_options(command: _F) -> _F:
    """Give a command the options that make a rule."""
    options = (
        click.option(
            "--input-interface", metavar="IF", shell_complete=interfaces, help="Interface that datagrams arrive on."
        ),
        click.option("--input-group", metavar="G", help="Multicast group they are sent to."),
        click.option("--input-port", metavar="P", type=int, help="UDP port they are sent to."),
        click.option(
            "--outputs",
            metavar="G:P:IF[,G:P:IF...]",
            multiple=True,
            help="Where to send them: group or host, port, interface to leave by. With :gso=N or :gso=off behind it, "
            "at most N datagrams, or one, leave in one system call (2 to 64; not given: 32).",
        ),
        click.option("--rule-id", metavar="ID", help="Id of the rule.  [default: a hash of the input]"),
        click.option("--name", help="Name of the rule, for people."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def rule_params(options: dict[str, Any]) -> dict[str, Any]:
    """The rule, as the protocol spells it."""
    needed = ("input_interface", "input_group", "input_port", "outputs")
    if missing := [f"--{name.replace('_', '-')}" for name in needed if options[name] in (None, ())]:
        raise UsageError(f"Missing: {', '.join(missing)}", "see: mcrctl add --help")
    return {
        "input": {name: options[f"input_{name}"] for name in ("interface", "group", "port")},
        "outputs": [_output(text.strip()) for texts in options["outputs"] for text in texts.split(",")],
        "rule_id": options["rule_id"],
        "name": options["name"],
    }


def _output(text: str) -> dict[str, Any]:
    if not text:
        raise UsageError("Invalid outputs: one of them is empty", "is there a comma too many?", _EXAMPLE)
    try:
        return parse_output(text)
    except UsageError as error:
        raise UsageError(error.message, *error.hints, _EXAMPLE) from None


@click.command(add_help_option=False)
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
        if name == "input_port":
            if not (value.isascii() and value.isdecimal()):
                return None
            options[name] = int(value)
        else:
            options[name] = (*options[name], value) if name == "outputs" else value
    return options


def read_batch(file: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The rules of a file, and the place where each stands."""
    name = "<stdin>" if file == "-" else file
    try:
        with click.open_file(file, "rb") as stream:
            lines = stream.read().split(b"\n")
    except OSError as error:
        raise SystemFault(f"Cannot read {name}", error.errno or 0) from None
    lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)  # some editors begin a file with it
    rules, places = [], []
    for number, line in enumerate(lines, 1):
        place = f"{name}:{number}"
        try:
            if words := _words(line.decode()):
                rules.append(rule_params(_plain_options(words) or _batch_line.make_context("mcrctl add", words).params))
                places.append(place)
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
    if not rules:
        raise UsageError(
            f"No rules in {name}",
            f"each line has the options of mcrctl add: {_LINE_EXAMPLE}",
            "lines with # are comments",
        )
    return rules, places


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


def name_lines(error: McrError, places: list[str]) -> McrError:
    """Put lines of the batch in place of the rules that the daemon counts; a single rule it does not count."""
    named = re.sub(
        r"\brules\[(\d+)\](\.?)", lambda match: places[int(match[1])] + (", " if match[2] else ""), error.message
    )
    # What mcrctl itself met, such as a socket that is not there, is of a class of its own.
    if len(places) == 1 and named == error.message and type(error) is McrError and error.code in _OF_A_RULE:
        named = f"{places[0]}: {named}"
    error.message = named
    return error
