"""A loop over other machines."""

from typing import Final

import attrs

from mcr.model.flow import Address
from mcr.model.rule import Rule

REFUSED_SECONDS: Final = 10.0
"""For which workers refuse a source unless they are told again."""


@attrs.frozen
class Loop:
    """What a rule sends seems to come back to it.

    Attributes:
        rule: that one.
        returners: who sends it back, each an address and a MAC in words.
        returned: datagrams of others that came back from the first of them, when that was seen last.
        sent: datagrams of others, of the same time.
        within: seconds that this took.
        seconds: since it was noticed.
        ago: seconds since it was seen last.
        refused: addresses from which the rule takes nothing meanwhile.
        dropped: datagrams from there.
        why_not: why nobody is refused; empty: nobody is to be.
        before: packets a second from the first of them, if falling silent while refused is the proof; 0: it is not.
        after: the same, while it was refused.
    """

    rule: Rule
    returners: tuple[str, ...]
    returned: int
    sent: int
    within: float
    seconds: float
    ago: float
    refused: tuple[Address, ...] = ()
    dropped: int = 0
    why_not: str = ""
    before: float = 0.0
    after: float = 0.0


@attrs.frozen
class Suspicion:
    """A source that repeats itself, or a loop over another machine that is so full that nothing new gets in.

    Attributes:
        rule: that takes it.
        who: sends it, an address and a MAC in words.
        count: datagrams from there that a look has seen.
        payloads: different ones among them.
        others: datagrams of all others, of the same time.
        within: seconds that the look took.
        ago: seconds since.
    """

    rule: Rule
    who: str
    count: int
    payloads: int
    others: int
    within: float
    ago: float
