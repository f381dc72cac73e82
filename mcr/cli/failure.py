"""How a command of `mcrd` or `mcrctl` fails: one `Error: …` line, `hint: …` lines, an exit status."""

import click

from mcr.errors import McrError, UsageError
from mcr.visible import visible

_INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended


def run(command: click.Command, name: str) -> int:
    """Parse the command line, run the command, report its failure.

    An `McrError` is reported alone or out of the exception groups of a nursery; a bug keeps its traceback.

    Returns:
        The exit status.
    """
    try:
        status = command.main(prog_name=name, standalone_mode=False)
    except McrError as error:
        return report(error)
    except ExceptionGroup as group:
        _, bugs = group.split(McrError)
        if bugs:
            raise
        return report(_first(group))
    except click.Abort:
        return _INTERRUPTED
    except click.UsageError as error:
        return report(usage_error(error))
    return status if isinstance(status, int) else 0  # click returns a status for --help, a command None


def report(error: McrError) -> int:
    """Print an error and its hints, a line each; return its exit status."""
    click.echo(f"Error: {visible(error.message)}", err=True)
    for hint in error.hints:
        click.echo(f"hint: {visible(hint)}", err=True)
    return error.exit_status


def _first(error: Exception) -> McrError:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, McrError)
    return error


def usage_error(error: click.UsageError) -> UsageError:
    """What click found wrong with a command line, as one line and hints."""
    possibilities = getattr(error, "possibilities", None)  # of an option or, since click 8.4, of a command
    message = error.message if possibilities else error.format_message()
    hints = []
    if possibilities:
        hints.append(f"did you mean {' or '.join(possibilities)}?")
    elif error.ctx and isinstance(error.ctx.command, click.Group):
        hints.append(f"commands: {', '.join(error.ctx.command.commands)}")
    if error.ctx:
        by = [name for option in error.ctx.command.params for name in option.opts if name in ("--rule-id", "--name")]
        if "extra argument" in message and by:
            hints.append(f"name the rule by an option: {' or '.join(by)}")
        hints.append(f"see: {error.ctx.command_path} --help")
    return UsageError(" ".join(message.split()).removesuffix("."), *hints)
