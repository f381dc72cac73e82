"""`mcrctl config`: configuration files, checked without mcrd, and made of what it has.

Import-light: what reads files is imported by the commands that read one.
"""

import os
from typing import TYPE_CHECKING, Any

import click

from mcr.cli import completion
from mcr.cli.session import Session, common_options
from mcr.config.paths import CONFIGURATION
from mcr.errors import UsageError
from mcr.text.plurals import counted

if TYPE_CHECKING:
    from mcr.config.file import Configuration
    from mcr.model.rule import Rule


@click.group("config", no_args_is_help=False)
@common_options
def config() -> None:
    """Check configuration files, or make one."""


_files = click.argument("files", metavar="[FILE|DIRECTORY]...", nargs=-1, shell_complete=completion.files)


@config.command()
@_files
@common_options
@click.pass_obj
def check(session: Session, files: tuple[str, ...]) -> None:
    """Tell every fault of configuration files, each with its line; of a directory, of all *.toml in it.

    It needs neither mcrd nor privileges. Without FILE: of those that the service reads, /etc/mcr/mcr.toml and
    /etc/mcr/rules.d. Exit status: 0 if there is no fault, 2 if there is.
    """
    configuration = _read(files)
    session.show(_summary(configuration), _check_view)
    refuse_faults(configuration)


def _read(files: tuple[str, ...]) -> "Configuration":
    from mcr.config.file import read_configuration  # noqa: PLC0415 - slow to import

    chosen = files or tuple(path for path in CONFIGURATION if os.path.exists(path))  # noqa: PTH110
    if not chosen:
        raise UsageError(f"There is neither {' nor '.join(CONFIGURATION)}", "name a file or a directory of *.toml")
    return read_configuration(chosen)


def _summary(configuration: "Configuration") -> dict[str, Any]:
    return {
        "files": list(configuration.files),
        "settings": len(configuration.settings),
        "rules": len(configuration.rules),
        "faults": [
            {"file": fault.file, "line": fault.line, "message": fault.message, "hints": list(fault.hints)}
            for fault in configuration.faults
        ],
    }


def _check_view(summary: dict[str, Any], _width: int | None) -> str:
    if not summary["faults"]:
        files, settings, rules = len(summary["files"]), summary["settings"], summary["rules"]
        return f"No fault: {counted(files, 'file')}, {counted(settings, 'setting')}, {counted(rules, 'rule')}"
    lines = []
    for fault in summary["faults"]:
        place = f"{fault['file']}:{fault['line']}" if fault["line"] else fault["file"]
        lines += [f"{place}: {fault['message']}", *(f"hint: {hint}" for hint in fault["hints"])]
    return "\n".join(lines)


def refuse_faults(configuration: "Configuration") -> None:
    """Fail if there are faults, which have been told.

    Raises:
        UsageError: there are.
    """
    if configuration.faults:
        raise UsageError(f"{counted(len(configuration.faults), 'fault')} in the configuration")


@config.command()
@common_options
@click.pass_obj
def export(session: Session) -> None:
    """Print the rules of mcrd as a configuration file.

    The same rules give the same text, so two of them can be compared.
    """
    from mcr.config.writing import table_of, toml_of  # noqa: PLC0415 - slow to import

    rules = _rules_of(session, session.call("list"))
    text = toml_of(rules)
    session.show({"rule": [*map(table_of, rules)]}, lambda *_: text.removesuffix("\n"))


def _rules_of(session: Session, views: list[dict[str, Any]]) -> "list[Rule]":
    """The rules that mcrd lists, as values."""
    from mcr.config.rule_table import rule_of  # noqa: PLC0415 - slow to import

    with session.understand():
        return [rule_of(view) for view in views]
