"""Command lines, as click reads them, but that an option given twice is an error: click would take the last one."""

from typing import Any

import click

from mcr.errors import UsageError


class Command(click.Command):
    """A command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments."""
        _refuse_repeated(self, ctx, args)
        return super().parse_args(ctx, args)


class Group(click.Group):
    """A command that has commands."""

    command_class = Command
    group_class = type

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
