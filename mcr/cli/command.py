"""Command lines, as click reads them, but that an option given twice is an error: click would take the last one."""

from collections import UserDict
from importlib import import_module
from typing import Any

import click

from mcr.cli.failure import judging
from mcr.errors import UsageError


class Command(click.Command):
    """A command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments."""
        _refuse_repeated(self, ctx, args)
        return super().parse_args(ctx, args)


class _Commands(UserDict[str, click.Command]):
    """Commands by name. One that is given as ``module:attribute`` is imported when somebody looks it up."""

    def __getitem__(self, name: str) -> click.Command:
        found: click.Command | str = self.data[name]
        if not isinstance(found, str):
            return found
        module, _, attribute = found.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        self.data[name] = command
        return command


class Examination(Command):
    """A command whose exit status is what it has found: 0, 1 or 2. If it finds out nothing, it is 3."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Read the command line."""
        with judging():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Carry it out."""
        with judging():
            return super().invoke(ctx)


class Group(click.Group):
    """A command that has commands."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.commands = _Commands(self.commands)

    def add_later(self, **places: str) -> None:
        """Add commands by name, each ``module:attribute``, which is imported when it is needed."""
        self.commands.update(places)  # type: ignore[arg-type]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments, up to the command."""
        _refuse_repeated(self, ctx, args)
        return super().parse_args(ctx, args)


def _refuse_repeated(command: click.Command, context: click.Context, args: list[str]) -> None:
    if context.resilient_parsing:  # for completion
        return
    _, _, given = command.make_parser(context).parse_args(args=[*args])
    options: list[Any] = [each for each in given if isinstance(each, click.Option)]
    for option in options:
        if options.count(option) > 1 and not (option.multiple or option.is_flag):
            raise UsageError(f"Option '{option.opts[0]}' is given twice", f"see: {context.command_path} --help")
