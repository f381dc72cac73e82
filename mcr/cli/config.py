"""`mcrctl config`: configuration files, checked without mcrd, and made of what it has.

Import-light: what reads files is imported by the commands that read one.
"""

import os
import sys
from collections.abc import Iterable, Sized
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from mcr.cli import completion
from mcr.cli.command import Group
from mcr.cli.failure import judging
from mcr.cli.options import common_options
from mcr.cli.session import DEFAULT, Session
from mcr.cli.tables import reasons
from mcr.config.paths import CONFIGURATION
from mcr.errors import UsageError
from mcr.text.addresses import end_text
from mcr.text.plurals import counted
from mcr.text.visible import visible

if TYPE_CHECKING:
    from mcr.config.file import Configuration, FileFault
    from mcr.model.rule import Rule


@click.group("config", cls=Group, no_args_is_help=False)
@common_options
def config() -> None:
    """Check, apply and make configuration files."""


config.add_later(**{"import": "mcr.cli.config_import:import_file"})

_files = click.argument("files", metavar="[FILE|DIRECTORY]...", nargs=-1, shell_complete=completion.files)


@config.command()
@_files
@common_options
@click.pass_obj
def check(session: Session, files: tuple[str, ...]) -> None:
    """Tell every fault of configuration files.

    Each is told with its line; of a directory, those of all *.toml in it. It needs neither mcrd nor privileges.
    Without FILE: of those that the service reads, /etc/mcr/mcr.toml and /etc/mcr/rules.d. Exit status: 0 if there
    is no fault, 2 if there is.
    """
    configuration = _read(files)
    session.show(_summary(configuration), _check_view)
    refuse_faults(configuration.faults)


def _read(files: tuple[str, ...]) -> "Configuration":
    from mcr.config.file import ConfigurationPaths  # noqa: PLC0415 - slow to import

    paths = ConfigurationPaths(files or CONFIGURATION, must_exist=bool(files))
    if not paths.are_there():
        raise UsageError(f"There is neither {' nor '.join(CONFIGURATION)}", "name a file or a directory of *.toml")
    return paths.read()


def _summary(configuration: "Configuration") -> dict[str, Any]:
    return {
        "files": list(configuration.files),
        "settings": len(configuration.settings),
        "rules": len(configuration.rules),
        "faults": plain_faults(configuration.faults),
        "warnings": list(configuration.warnings),
    }


def _check_view(summary: dict[str, Any], _width: int | None) -> str:
    lines = _fault_lines(summary["faults"])
    if not lines:
        files, settings, rules = len(summary["files"]), summary["settings"], summary["rules"]
        lines = [f"No fault: {counted(files, 'file')}, {counted(settings, 'setting')}, {counted(rules, 'rule')}"]
    return "\n".join([*lines, *_warning_lines(summary)])


def _warning_lines(read: dict[str, Any]) -> list[str]:
    return [f"warning: {each}" for each in read.get("warnings", ())]


def _fault_lines(faults: Iterable[dict[str, Any]]) -> list[str]:
    lines = []
    for fault in faults:
        place = f"{fault['file']}:{fault['line']}" if fault["line"] else fault["file"]
        lines += [f"{place}: {fault['message']}", *(f"hint: {hint}" for hint in fault["hints"])]
    return lines


def plain_faults(faults: "Iterable[FileFault]") -> list[dict[str, Any]]:
    """Faults as JSON has them."""
    return [
        {"file": fault.file, "line": fault.line, "message": fault.message, "hints": list(fault.hints)}
        for fault in faults
    ]


def fault_lines(faults: "Iterable[FileFault]") -> list[str]:
    """Faults as a terminal may have them, with their hints."""
    return [visible(line) for line in _fault_lines(plain_faults(faults))]


def refuse_faults(faults: Sized) -> None:
    """Fail if there are faults, which have been told.

    Raises:
        UsageError: there are.
    """
    if faults:
        raise UsageError(f"{counted(len(faults), 'fault')} in the configuration")


@config.command()
@common_options
@click.pass_obj
def export(session: Session) -> None:
    """Print the rules of mcrd as a configuration file.

    They are in the order of their inputs. The same rules give the same text, so two of them can be compared.
    """
    from mcr.config.writing import in_order, table_of, toml_of  # noqa: PLC0415 - slow to import

    rules = in_order(_rules_of(session, session.call("list")))
    text = toml_of(rules)
    session.show({"rule": [*map(table_of, rules)]}, lambda *_: text.removesuffix("\n"))


@config.command()
@_files
@common_options
@click.pass_obj
def diff(session: Session, files: tuple[str, ...]) -> None:
    """Show what config apply would change.

    That is the rules of files that mcrd goes by, beside those files now; with FILE, beside that file. Exit status:
    0 if nothing differs, 1 if something does, 2 if a file has a fault, 3 if mcrd could not be asked.
    """
    _end(session, _differences(session, files) if files else _ask(session, "config.diff"))


def _ask(session: Session, method: str) -> Any:
    with judging():
        return session.call(method)


class _Seconds(click.IntRange):
    name = "number of seconds"  # as click calls it where something else was given


@config.command("apply")
@click.option("--dry-run", is_flag=True, help="Only show what would change, as mcrctl config diff.")
@click.option(
    "--confirm",
    metavar="SECONDS",
    type=_Seconds(1),
    help="Go back to the rules of before after so many seconds, unless mcrctl confirm comes; also over a restart.",
)
@click.option(
    "--reload",
    is_flag=True,
    help="Fail if nobody confirmed what the files say and it was taken back: systemctl reload.",
)
@common_options
@click.pass_obj
def apply_files(session: Session, *, dry_run: bool, confirm: int | None, reload: bool) -> None:
    """Have mcrd go by its configuration files.

    It reads them again, and goes by all of them, or nothing is changed. What did not change loses no packet. Of
    rules that are new or changed and not active it is told why. Exit status: 0 if mcrd goes by the files now, 2 if
    one has a fault and nothing was changed; with --dry-run as of mcrctl config diff.
    """
    if dry_run and (confirm or reload):
        raise UsageError("--dry-run takes neither --confirm nor --reload", "with --dry-run nothing changes")
    if dry_run:
        _end(session, _ask(session, "config.diff"))
    if reload and session.origin == DEFAULT:
        _use_socket_of_files(session)
    params = {name: value for name, value in (("confirm", confirm), ("reload", reload)) if value}
    done = session.call("config.apply", params or None)
    session.show(done, _applied_view)
    with session.understand():
        refuse_faults(done["faults"])


def _use_socket_of_files(session: Session) -> None:
    """Ask the mcrd that files have serve another control socket, if it does: systemd knows no other way to name it."""
    from mcr.config.file import ConfigurationPaths  # noqa: PLC0415 - slow to import
    from mcr.config.table import CONTROL_SOCKET  # noqa: PLC0415

    configuration = ConfigurationPaths(CONFIGURATION, must_exist=False).read()
    chosen = configuration.settings.get(CONTROL_SOCKET.name)
    # Not yet, if the files have changed since mcrd was started.
    if chosen and os.path.exists(chosen):  # noqa: PTH110 - whatever keeps it from being seen
        session.path, session.origin = chosen, "from the configuration files"


def _applied_view(done: dict[str, Any], width: int | None) -> str:
    return "\n".join([_differences_view(done, width), *reasons(done.get("not_active", ()))])


@click.command("confirm")
@common_options
@click.pass_obj
def confirm_apply(session: Session) -> None:
    """Keep what mcrctl config apply --confirm has changed."""
    session.show(session.call("confirm"), lambda *_: "Confirmed: it is no longer taken back")


def _end(session: Session, found: dict[str, Any]) -> NoReturn:
    session.show(found, _differences_view)
    with session.understand():
        refuse_faults(found["faults"])
        sys.exit(1 if found["differences"] or found["restart"] else 0)


def _differences(session: Session, files: tuple[str, ...]) -> dict[str, Any]:
    """What `config.diff` of mcrd gives, for other files."""
    from mcr.config.difference import difference  # noqa: PLC0415 - slow to import
    from mcr.rules.file_rules import FileRules, displaced  # noqa: PLC0415

    configuration = _read(files)
    views = _ask(session, "list")
    in_files = _rules_of(session, [rule for rule in views if rule.get("origin") == "file"])
    others = _rules_of(session, [rule for rule in views if rule.get("origin") != "file"])
    sound = not configuration.faults
    found = difference(in_files, (each.rule for each in configuration.rules)) if sound else ()
    run_time = displaced(others, FileRules(configuration.rules)) if sound else ()
    return {
        "files": list(configuration.files),
        "faults": plain_faults(configuration.faults),
        "warnings": list(configuration.warnings),
        "differences": [each.json for each in found],
        "run_time": [each.json for each in run_time],
        "restart": [],
        "trial": None,
    }


def _differences_view(found: dict[str, Any], _width: int | None) -> str:
    if found["faults"]:
        return "\n".join(_fault_lines(found["faults"]))
    lines = [line for each in found["differences"] for line in _difference_lines(each)]
    lines += map(_run_time_line, found.get("run_time", ()))
    if found["restart"]:
        lines.append(f"settings that count from the next start of mcrd: {', '.join(found['restart'])}")
    if not lines:
        lines = [f"Nothing differs: {counted(len(found['files']), 'file')}"]
    return "\n".join([*lines, *_warning_lines(found), *_trial_lines(found.get("trial"))])


def _trial_lines(trial: dict[str, Any] | None) -> list[str]:
    match trial:
        case {"state": "waiting", "deadline": deadline, "seconds_left": left}:
            return [f"What the files say is taken back in {left:.0f} s, at {deadline}. Keep it: mcrctl confirm"]
        case {"state": "taken_back", "deadline": deadline}:
            return [f"Nobody confirmed what the files say, so it was taken back at {deadline}"]
        case _:
            return []


def _difference_lines(difference: dict[str, Any]) -> list[str]:
    """`+` and `-` before rules that are new or gone; of a changed one the parts that differ."""
    before, after = difference["before"] or {}, difference["after"] or {}
    source = (after or before)["input"]
    mark = {"added": "+", "removed": "-"}.get(difference["change"], "~")
    name = f" {after.get('name', before.get('name'))}" if (after or before).get("name") else ""
    head = f"{mark} {difference['rule_id']}{name}: {_shown(source)}"
    if mark != "~":
        return [f"{head} to {', '.join((after or before)['outputs'])}"]
    lines = [head]
    keys = [key for key in ("name", "input") if before.get(key) != after.get(key)]
    lines += [f"    {key}: {_shown(before.get(key))} becomes {_shown(after.get(key))}" for key in keys]
    lines += [f"    - {each}" for each in before["outputs"] if each not in after["outputs"]]
    lines += [f"    + {each}" for each in after["outputs"] if each not in before["outputs"]]
    return lines if len(lines) > 1 else [head, "    its outputs in another order"]


def _run_time_line(change: dict[str, Any]) -> str:
    """What becomes of a rule that was added at run time."""
    rule = change["rule"]
    mark, becomes = _OF_RUN_TIME[change["change"]]
    name = f" {rule['name']}" if rule.get("name") else ""
    what = f"{_shown(rule['input'])} to {', '.join(rule['outputs'])}"
    return f"{mark} {change['rule_id']}{name} (run time): {what}: {becomes.format(change['rival'])}"


_OF_RUN_TIME: Final = {
    "displaced": ("-", "not used any more, in favour of the files' rule {}; it stays saved"),
    "moved": ("=", "it stands in the files now, and goes on; it stays saved, too"),
    "restored": ("+", "used again, as it is saved, and the files have no such rule any more"),
}


def _shown(part: Any) -> str:
    if isinstance(part, dict):
        tag = f" in VLAN {part['vlan']}" if "vlan" in part else ""
        sources = f" from {', '.join(part['sources'])}" if "sources" in part else ""
        return f"{end_text(part)} on {part['interface']}{tag}{sources}"
    return "none" if part is None else str(part)


def _rules_of(session: Session, views: list[dict[str, Any]]) -> "list[Rule]":
    """The rules that mcrd lists, as values."""
    from mcr.config.rule_table import rule_of  # noqa: PLC0415 - slow to import

    with session.understand():
        return [rule_of(view) for view in views]
