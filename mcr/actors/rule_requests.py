"""What the rule store is asked to do with its rules."""

from collections.abc import Mapping

import attrs
import trio

from mcr.actors.mailbox import Reply
from mcr.config.file import FileRule
from mcr.logs.asker import asker
from mcr.model.edit import RuleEdit
from mcr.model.rule import Rule
from mcr.model.selection import Selection
from mcr.rules.catalog import Entry
from mcr.rules.conditions import Standing


@attrs.frozen
class Applied:
    """A change that was applied: the rules that it is about, and their state then.

    Attributes:
        there: ids of those that were there already.
        remarks: what is to be said of some that are removed, by their ids.
        advice: what is to be said of some that are there, by their ids.
    """

    entries: tuple[Entry, ...]
    generation: int
    standing: Standing
    there: frozenset[str] = frozenset()
    remarks: Mapping[str, str] = attrs.field(factory=dict)
    advice: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)


@attrs.frozen
class Add:
    """Add all of these. `idempotent`: but for those that are there. `by`: who asks, here and below."""

    rules: tuple[Rule, ...]
    wait: bool
    idempotent: bool
    reply: Reply[Applied]
    by: str = attrs.field(factory=asker)


@attrs.frozen
class Edit:
    """Change one rule in its place."""

    rule_id: str | None
    name: str | None
    edit: RuleEdit
    wait: bool
    reply: Reply[Applied]
    by: str = attrs.field(factory=asker)


@attrs.frozen
class Remove:
    """Remove all of these."""

    selection: Selection
    reply: Reply[Applied]
    by: str = attrs.field(factory=asker)


@attrs.frozen
class Use:
    """Go by these rules of configuration files, and no longer by those that these said before.

    Attributes:
        kept: text that is kept beside the saved rules from then on; None: the one that is.
    """

    rules: tuple[FileRule, ...]
    kept: str | None
    reply: Reply[Applied]


@attrs.frozen
class Hold:
    """Make no change from the answer on, which is what another mcrd gets, until somebody says whether it has that.

    Attributes:
        taken: says so; closed without a word: it has not, and changes are made again.
        reply: the rules of run time.
    """

    taken: trio.MemoryReceiveChannel[None]
    reply: Reply[tuple[Rule, ...]]


@attrs.frozen
class TryAgain:
    """Use some of the rules that could not be used so far, if they can be now. The reply: whether any could."""

    reply: Reply[bool]


AtRunTime = Add | Edit | Remove
Change = AtRunTime | Use | Hold | TryAgain
