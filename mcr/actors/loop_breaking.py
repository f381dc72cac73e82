"""The message by which the owner of the workers is told which rules are suspected of a loop."""

from collections.abc import Awaitable, Callable

import attrs

from mcr.actors.mailbox import Reply


@attrs.frozen
class BreakLoops:
    """Have workers drop what loops bring back to these rules, by id, and to no others."""

    rules: frozenset[str]
    reply: Reply[None]


async def heed_loops(command: BreakLoops, break_loops: Callable[[frozenset[str]], Awaitable[None]]) -> None:
    """Carry it out, for the owner of the workers."""
    with command.reply:
        await break_loops(command.rules)
        command.reply.resolve(None)
