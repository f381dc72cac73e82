"""How the tools fail: one ``Error: …`` line, then ``hint: …`` lines, on stderr, and an exit status."""

import sys
from typing import NoReturn

import click

from mcr.errors import McrError, SystemFault


def show(error: McrError) -> None:
    """Print an error and its hints on stderr."""
    print(f"Error: {error.message}", file=sys.stderr)
    for hint in error.hints:
        print(f"hint: {hint}", file=sys.stderr)


def run_command(command: click.Command) -> NoReturn:
    """Run a tool's command line and exit with the status its function returned.

    Raises:
        SystemExit: always.
    """
    try:
        status: object = command.main(standalone_mode=False)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        show(
            McrError(
                error.format_message(), f"see: {context.command_path if context else command.name} --help"
            )
        )
        sys.exit(error.exit_code)
    except McrError as error:
        show(error)
        sys.exit(error.exit_status)
    except OSError as error:
        show(SystemFault(str(error.filename or ""), error.errno or 0))
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        print("Error: Interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)
