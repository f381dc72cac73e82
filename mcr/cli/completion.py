"""Completion of the values of options at the Tab key: click's `shell_complete` functions.

Rules of the module:

1. It prints proposals and nothing else: an operator who presses Tab has not asked for an error.
2. It is imported by every command, so what only a completion needs is imported in the function that needs it.
"""

import os
import shlex
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from mcr.errors import McrError
from mcr.text.addresses import end_text
from mcr.text.visible import all_visible

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def rule_ids(context: click.Context, _: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Ids of the daemon's rules; none if it can't be asked."""
    return _rules(context, incomplete, ids=True, names=False)


def rule_names(context: click.Context, _: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Names of the daemon's rules; none if it can't be asked."""
    return _rules(context, incomplete, ids=False, names=True)


def rules(context: click.Context, _: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Ids and names of the daemon's rules; none if it can't be asked."""
    return _rules(context, incomplete, ids=True, names=True)


def interfaces(_context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Interfaces of this machine."""
    try:
        return [name for _, name in socket.if_nameindex() if name.startswith(incomplete) and _is_plain(name)]
    except OSError:
        return []


def levels(_context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Log levels."""
    from mcr.model.log import Level  # noqa: PLC0415

    return [level.label for level in Level if level.label.startswith(incomplete)]


def facilities(_context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Facilities of the log."""
    from mcr.model.log import Facility  # noqa: PLC0415

    return [facility.label for facility in Facility if facility.label.startswith(incomplete)]


def files(_context: click.Context, _: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """The shell's own proposals for a path."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415

    return [CompletionItem(incomplete, type="file")]


def _rules(context: click.Context, incomplete: str, *, ids: bool, names: bool) -> "list[CompletionItem[str]]":
    from click.shell_completion import CompletionItem  # noqa: PLC0415

    from mcr.cli.session import Session  # noqa: PLC0415 - which offers files by this module

    items = []
    session = context.ensure_object(Session)
    try:
        with session.understand():
            for rule in all_visible(session.call("list")):
                source = rule["input"]
                where = f"{end_text(source)} on {source['interface']}"
                if ids:
                    items.append(CompletionItem(rule["rule_id"], help=f"{rule['name'] or ''} {where}".strip()))
                if names and rule["name"]:
                    items.append(CompletionItem(rule["name"], help=where))
            return [*_proposed([item for item in items if item.value.startswith(incomplete)])]
    except McrError:
        return []


def _proposed(items: "list[CompletionItem[str]]") -> "Iterator[CompletionItem[str]]":
    """What the shell has to be told: zsh and fish quote a proposal themselves, bash puts it on the line as it is."""
    bash = os.environ.get("_MCRCTL_COMPLETE", "").startswith("bash")
    begun = bash and os.environ["COMP_WORDS"].split("\n")[-1].startswith(("'", '"'))
    for item in items:
        if bash and not _is_plain(item.value):
            if "\\" in item.value or "'" in item.value:  # which click's script for bash would spoil
                continue
            if not begun:
                item.value = shlex.quote(item.value)
        yield item


def _is_plain(proposal: str) -> bool:
    """Whether it need not be quoted."""
    return shlex.quote(proposal) == proposal
