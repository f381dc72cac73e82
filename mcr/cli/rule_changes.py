"""The commands that change rules: add, change, remove."""

import shlex
from contextlib import suppress
from typing import Any

import click

from mcr.cli import completion, terminal
from mcr.cli.batch import (
    Batch,
    clashes,
    hints_of,
    in_order,
    is_about_rules,
    name_places,
    read_batch,
    sum_up,
    value_faults,
    with_clashes,
)
from mcr.cli.command import Command
from mcr.cli.failure import NO_SPACE
from mcr.cli.options import common_options
from mcr.cli.quantities import label
from mcr.cli.rule_words import health_option, outputs_params, rule_options, rule_params
from mcr.cli.session import Session
from mcr.errors import McrError, RuleNotFound, UsageError, together
from mcr.text.plurals import counted, were
from mcr.text.visible import all_visible

_OUTPUTS = "G:P:IF[,G:P:IF...]"
_NAMED = 10  # rules that stay
_PATTERN = frozenset("*?[")
_SEE_RULES = "ids and names are shown by: mcrctl list"

_WAIT = click.option(
    "--wait", is_flag=True, help="Wait for interfaces that are not there, instead of refusing the rule."
)


@click.command(cls=Command)
@rule_options
@click.option(
    "--batch",
    metavar="FILE|-",
    shell_complete=completion.files,
    help="Add the rules of a file: one rule per line, written as the options above, or what mcrctl list --json prints.",
)
@click.option("--best-effort", is_flag=True, help="With --batch: add what can be added, and name the rest.")
@click.option(
    "--idempotent",
    is_flag=True,
    help="A rule that is there already, with the same input, outputs and name, is no error.",
)
@_WAIT
@common_options
@click.pass_obj
def add(session: Session, /, batch: str | None, best_effort: bool, **options: Any) -> None:  # noqa: FBT001 - by name
    """Add a rule, or with --batch all rules of a file or none."""
    params = {name: True for name in ("wait", "idempotent") if options.pop(name)}
    if batch is None:
        if best_effort:
            raise UsageError("--best-effort goes with --batch", "a single rule is added or not")
        added = session.call("add", {"rules": [rule_params(options)], **params})
        session.show(added, _one_added)
        _warn(session, added)
    else:
        if any(options.values()):
            raise UsageError(
                "--batch takes no other options of a rule", "write the rule's options on a line of the file"
            )
        added = _add_batch(session, batch, params, best_effort=best_effort)
    _check_active(session, added)


def _one_added(rules: list[dict[str, Any]], _width: int | None) -> str:
    rule_id = rules[0]["rule_id"]
    return f"Added rule {rule_id}" if rules[0].get("added", True) else f"Rule {rule_id} is there already"


def _added(rules: list[dict[str, Any]], _width: int | None) -> str:
    there = sum(not rule.get("added", True) for rule in rules)
    words = f"Added {counted(len(rules) - there, 'rule')}"
    return f"{words}; {there:,} {were(there)} there already" if there else words


def _add_batch(session: Session, file: str, params: dict[str, Any], *, best_effort: bool) -> list[dict[str, Any]]:
    batch, faults = read_batch(file)
    if faults and not best_effort:
        raise sum_up(batch, together(in_order([*faults, *value_faults(batch), *_as_usage(clashes(batch))], batch)))
    added = _add_some(session, batch, params, faults if best_effort else None) if batch.rules else []
    session.show(added, _added)
    _warn(session, added)
    if faults:
        number = counted(len(batch.rules) + _unread(faults), "rule")
        error = McrError(f"{len(faults):,} of {number} were not added", *hints_of(faults, batch))
        error.faults = tuple(faults)
        raise error
    return added


def _as_usage(faults: list[McrError]) -> list[McrError]:
    return [UsageError(each.message, *each.hints) for each in faults]


def _unread(faults: list[McrError]) -> int:
    return sum(isinstance(fault, UsageError) for fault in faults)


def _add_some(
    session: Session, batch: Batch, params: dict[str, Any], faults: list[McrError] | None
) -> list[dict[str, Any]]:
    """Add all rules of a batch. With `faults` those that can be: of what is refused, each half is tried by itself."""
    try:
        added: list[dict[str, Any]] = session.call("add", {"rules": batch.rules, **params})
    except McrError as error:
        if faults is None or not is_about_rules(error):
            raise sum_up(batch, with_clashes(name_places(error, batch), batch)) from None
        half = len(batch.rules) // 2
        if not half:
            faults.append(name_places(error, batch))
            return []
        first = _add_some(session, batch.part(0, half), params, faults)
        return [*first, *_add_some(session, batch.part(half, len(batch.rules)), params, faults)]
    return added


@click.command(cls=Command)
@click.argument("rule", required=False, shell_complete=completion.rules)
@click.option("--rule-id", metavar="ID", shell_complete=completion.rule_ids, help="Id of the rule.")
@click.option("--name", shell_complete=completion.rule_names, help="Name of the rule.")
@click.option("--outputs", metavar=_OUTPUTS, multiple=True, help="All outputs that it has then, written as for add.")
@click.option(
    "--add-outputs", metavar=_OUTPUTS, multiple=True, help="More outputs; one that is there gets the options given."
)
@click.option("--remove-outputs", metavar=_OUTPUTS, multiple=True, help="Fewer outputs.")
@click.option("--new-name", metavar="NAME", help="Another name.")
@health_option("")
@_WAIT
@common_options
@click.pass_obj
def change(session: Session, /, rule: str | None, rule_id: str | None, name: str | None, **options: Any) -> None:
    """Change a rule's outputs, name or health.

    What stays loses no packet, and its counters go on.

    The rule is RULE, an id or a name; or it is named by --rule-id or --name.
    """
    if [rule, rule_id, name].count(None) != 2:  # noqa: PLR2004
        hint = NO_SPACE if rule and ":" in rule else _SEE_RULES
        if name is not None and hint != NO_SPACE:
            hint = f"to give the rule another name: --new-name {shlex.quote(name)}"
        raise UsageError("Give either RULE, or --rule-id, or --name", hint)
    params: dict[str, Any] = {"name": name} if name is not None else {"rule_id": rule_id}
    for option in ("outputs", "add_outputs", "remove_outputs"):
        if options[option]:
            params[option] = outputs_params(options[option])
    for option in ("new_name", "health"):
        if options[option] is not None:
            params[option] = options[option]
    if len(params) == 1:
        raise UsageError("Nothing to change", "give --outputs, --add-outputs, --remove-outputs, --new-name or --health")
    if options["outputs"] and (options["add_outputs"] or options["remove_outputs"]):
        raise UsageError("Give either --outputs, or --add-outputs and --remove-outputs", "see: mcrctl change --help")
    if rule is not None:
        params["rule_id"] = _id_of(session, rule)
    changed = session.call("change", params | ({"wait": True} if options["wait"] else {}))
    session.show(changed, lambda rule, _width: f"Changed rule {rule['rule_id']}")
    _warn(session, [changed])
    _check_active(session, [changed])


@click.command(cls=Command)
@click.argument("rules", metavar="[RULE]...", nargs=-1, shell_complete=completion.rules)
@click.option(
    "--rule-id",
    "rule_ids",
    metavar="ID",
    multiple=True,
    shell_complete=completion.rule_ids,
    help="Id of a rule, or a shell pattern of ids; may be given several times.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    shell_complete=completion.rule_names,
    help="Name of a rule, or a shell pattern of names such as 'studio-*'; may be given several times.",
)
@click.option("--all", "everything", is_flag=True, help="Remove all rules but those of configuration files.")
@common_options
@click.pass_obj
def remove(
    session: Session, /, rules: tuple[str, ...], rule_ids: tuple[str, ...], names: tuple[str, ...], *, everything: bool
) -> None:
    """Remove rules, all that are named or none.

    A RULE is an id or a name; the options take shell patterns, too.
    """
    if everything == bool(rules or rule_ids or names):
        which = "either --all, or RULE, --rule-id or --name" if everything else "RULE, --rule-id or --name, or --all"
        raise UsageError(f"Give {which}", _SEE_RULES)
    try:
        ids, called = _known_by(session, rules)
        removed = session.call("remove", _selected(rule_ids + ids, names + called, everything=everything))
    except McrError as error:
        if len(rules) + len(rule_ids) + len(names) > 1:
            error.hints = (*error.hints, "no rule was removed: all that are named are removed, or none")
        raise
    session.show(removed, _removed)
    if session.json:  # it has the warnings
        return
    with session.understand():
        for rule in all_visible(removed if isinstance(removed, list) else [removed]):
            for remark in rule.get("warnings", ()):
                terminal.show(f"Note: rule {label(rule)}: {remark}", err=True)
    if everything:
        _note_what_stays(session)


def _selected(rule_ids: tuple[str, ...], names: tuple[str, ...], *, everything: bool) -> dict[str, Any]:
    """Parameters of `remove`."""
    match rule_ids, names:
        case (rule_id,), () if not _PATTERN.intersection(rule_id):
            return {"rule_id": rule_id}
        case (), (name,) if not _PATTERN.intersection(name):
            return {"name": name}
        case _:
            given = {"rule_ids": [*rule_ids], "names": [*names], "all": everything}
            return {each: value for each, value in given.items() if value}


def _note_what_stays(session: Session) -> None:
    """Name the rules of files, which `--all` leaves where they are. The others are gone, even if these can't be had."""
    names = []
    with suppress(McrError), session.understand():
        stay = [rule for rule in all_visible(session.call("list")) if rule.get("origin") == "file"]
        names = [rule["name"] or rule["rule_id"] for rule in stay]
    if names:
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        rules = f"{counted(len(names), 'rule')} of configuration files {'stays' if len(names) == 1 else 'stay'}"
        terminal.show(f"Note: {rules}: {', '.join(names[:_NAMED])}{more}", err=True)


def _known_by(session: Session, rules: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which of these are ids of rules, and which names. Each that there is not is named.

    A name goes to mcrd as a name: a saved rule that is not in use may have the same id.
    """
    ids, names, missing = list[str](), list[str](), list[McrError]()
    for rule in rules:
        try:
            (ids if _id_of(session, rule) == rule else names).append(rule)
        except McrError as error:
            if error.code != RuleNotFound.code:
                raise
            missing.append(error)
    if missing:
        raise together(missing)
    return tuple(ids), tuple(names)


def _id_of(session: Session, rule: str) -> str:
    """The id of a rule that is named by its id or its name."""
    try:
        found = session.call("list", {"rule": rule})
    except McrError as error:
        if error.code == RuleNotFound.code and _PATTERN.intersection(rule):
            error.hints = (f"a pattern stands behind an option: --name {shlex.quote(rule)}", *error.hints)
        raise
    with session.understand():
        return str(found[0]["rule_id"])


def _removed(result: Any, _width: int | None) -> str:
    rules = result if isinstance(result, list) else [result]
    return f"Removed rule {rules[0]['rule_id']}" if len(rules) == 1 else f"Removed {counted(len(rules), 'rule')}"


def _warn(session: Session, added: list[dict[str, Any]]) -> None:
    """Print warnings about rules that were added, and reasons why they are not served now. JSON has them already."""
    if session.json:
        return
    said: dict[str, list[str]] = {}
    with session.understand():
        for rule in all_visible(added):
            for what in (*rule.get("warnings", ()), rule.get("reason") if rule["state"] != "pending" else ""):
                if what:
                    said.setdefault(what, []).append(label(rule))
    for what, rules in said.items():
        others = f" (and {counted(len(rules) - 1, 'more rule')})" if len(rules) > 1 else ""
        terminal.show(f"Warning: rule {rules[0]}{others}: {what}", err=True)


def _check_active(session: Session, added: list[dict[str, Any]]) -> None:
    """Fail if rules were added that not every worker forwards by yet."""
    with session.understand():
        pending = [label(rule) for rule in added if rule["state"] == "pending"]
    if pending:
        which, them = (f"rule {pending[0]} is", "it") if len(pending) == 1 else (f"{len(pending):,} rules are", "them")
        raise McrError(
            f"The {which} in place, but not active yet: not every worker has acknowledged {them} yet",
            "see how the workers are: mcrctl list-workers",
            "see when it becomes active: mcrctl list",
        )
