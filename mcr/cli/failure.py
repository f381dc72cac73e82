"""Failures of the commands of `mcrd` and `mcrctl`: one `Error: …` line, `hint: …` lines, an exit status.

Import-light: `mcr.cli.requests` needs it before click is there.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mcr.cli import terminal
from mcr.errors import McrError, UsageError
from mcr.text.visible import visible

if TYPE_CHECKING:
    import click

_MORE_THREADS = (
    "allow more: ulimit -u; systemd's TasksMax=; --pids-limit of a container; clone3(2) where it is filtered"
)
NO_SPACE = "no space behind a comma: --outputs 239.2.2.2:5000:eth1,239.2.2.3:5000:eth2"
_EXTRA = re.compile(r"unexpected extra arguments? \((.*)\)")
_INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended
_NO_VERDICT = 3  # "unknown" of monitoring plugins


def run(command: "click.Command", name: str) -> int:
    """Parse the command line, run the command, report its failure.

    Returns:
        The exit status.
    """
    import click  # noqa: PLC0415 - whose time is most of a command's

    def act() -> object:
        try:
            return command.main(prog_name=name, standalone_mode=False)
        except click.Abort:
            return _INTERRUPTED
        except click.UsageError as error:
            raise usage_error(error) from None

    return attempt(act)


def attempt(act: Callable[[], object]) -> int:
    """Do it, and report its failure.

    An `McrError`, or what the system refused, is reported alone or out of the exception groups of a nursery; a bug
    keeps its traceback.

    Returns:
        The exit status.
    """
    try:
        status = act()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        worded = _words(error)
        if worded is None:
            raise
        return report(worded)
    return status if isinstance(status, int) else 0  # click returns a status for --help, a command None


@contextmanager
def judging() -> Iterator[None]:
    """Do what has exit statuses that are verdicts: a failure has another one.

    Raises:
        McrError: the failure.
    """
    import click  # noqa: PLC0415

    try:
        yield
    except (McrError, click.UsageError, OSError) as error:
        worded = usage_error(error) if isinstance(error, click.UsageError) else _words(error)
        if worded is None:
            raise
        worded.exit_status = _NO_VERDICT
        raise worded from None


def report(error: McrError) -> int:
    """Print an error and its hints, a line each, or as one line of JSON; return its exit status.

    Whether as JSON is looked up on the command line itself: it may be what could not be read.
    """
    if "--json" in sys.argv:
        terminal.show(json.dumps({"error": error.to_json()}), err=True)
        return error.exit_status
    for fault in error.faults:
        terminal.show(visible(fault.message), err=True)
    terminal.show(f"Error: {visible(error.message)}", err=True)
    for hint in error.hints:
        terminal.show(f"hint: {visible(hint)}", err=True)
    return error.exit_status


def _words(error: Exception) -> McrError | None:
    """The error for an operator; None for a bug."""
    match error:
        case McrError():
            return error
        case OSError():
            from mcr.process.refusal import refusal  # noqa: PLC0415 - seldom needed, and slow to import

            return refusal(error)
        case RuntimeError(args=("can't start new thread",)):  # Python does not say why
            return McrError("Cannot start a thread", _MORE_THREADS)
        case ExceptionGroup():
            known, rest = error.split(McrError)
            worded = list(map(_words, (*(known.exceptions if known else ()), *(rest.exceptions if rest else ()))))
            return None if None in worded else worded[0]
    return None


def _hints_for_extra(words: str, context: "click.Context") -> Iterator[str]:
    """The option that was probably meant by a word in the place of an option."""
    options = {name for option in context.command.params for name in option.opts}
    if "--global" in options:
        yield f"for all facilities: {context.command_path} --global {words}"
        yield f"for one: {context.command_path} --facility NAME --level {words}"
    elif "--outputs" in options and ":" in words:
        yield NO_SPACE


def usage_error(error: "click.UsageError") -> UsageError:
    """Click's complaint about a command line, as one line and hints."""
    import click  # noqa: PLC0415

    possibilities = getattr(error, "possibilities", None)  # of an option or, since click 8.4, of a command
    message = error.message if possibilities else error.format_message()
    hints = []
    if possibilities:
        hints.append(f"did you mean {possibilities[0]}?")  # the nearest
    elif error.ctx and isinstance(error.ctx.command, click.Group):
        hints.append(f"commands: {', '.join(error.ctx.command.commands)}")
    if error.ctx:
        if extra := _EXTRA.search(message):
            hints.extend(_hints_for_extra(extra[1], error.ctx))
        hints.append(f"see: {error.ctx.command_path} --help")
    return UsageError(" ".join(message.split()).removesuffix("."), *hints)
