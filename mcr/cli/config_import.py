"""`mcrctl config import`: what other programs have for a configuration, as a configuration file of MCR."""

from typing import Any

import click

from mcr.cli import completion, terminal
from mcr.cli.config import fault_lines, plain_faults
from mcr.cli.options import common_options
from mcr.cli.session import Session
from mcr.errors import McrError
from mcr.text.plurals import counted


@click.command("import")
@click.option(
    "--from",
    "program",
    type=click.Choice(["smcroute", "igmpproxy", "rust-mcr"]),
    required=True,
    help="Whose configuration it is; rust-mcr: JSON5 of the Rust relay that MCR descends from.",
)
@click.argument("file", metavar="FILE", shell_complete=completion.files)
@common_options
@click.pass_obj
def import_file(session: Session, program: str, file: str) -> None:
    """Print another program's configuration.

    It is printed as a configuration file of mcrd; nothing is applied. What could not be translated is told on
    standard error, each with its place. smcroute and igmpproxy name no ports: their rules have port 0, which mcrctl
    config check refuses line by line until it is replaced. Exit status: 0 if all of it was translated, 1 if
    something was not, or has to be filled in, 2 if FILE can't be read or is none of the program.
    """
    imported = _reader(program)(file)
    text = imported.text()
    result = {"rule": [each.table for each in imported.rules], "untranslated": plain_faults(imported.untranslated)}
    session.show(result, lambda *_: text.removesuffix("\n"))
    if not session.json:  # it has them
        for line in fault_lines(imported.untranslated):
            terminal.show(line, err=True)
    if imported.untranslated:
        raise McrError(
            f"Not all of {file} is translated: {counted(len(imported.untranslated), 'thing')} to see to",
            "write what is printed to a file, complete it, then: mcrctl config check FILE",
        )


def _reader(program: str) -> Any:
    """What reads files of a program."""
    match program:
        case "smcroute":
            from mcr.config.foreign.smcroute import read_smcroute  # noqa: PLC0415 - slow to import

            return read_smcroute
        case "igmpproxy":
            from mcr.config.foreign.igmpproxy import read_igmpproxy  # noqa: PLC0415 - slow to import

            return read_igmpproxy
        case _:
            from mcr.config.foreign.rust_mcr import read_rust_mcr  # noqa: PLC0415 - slow to import

            return read_rust_mcr
