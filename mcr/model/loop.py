"""A loop over other machines."""

import attrs

from mcr.model.rule import Rule


@attrs.frozen
class Loop:
    """What a rule sends comes back to it.

    Attributes:
        rule: that one.
        seconds: for which it has been suspected.
        ago: seconds since the last datagram was dropped for it.
        returned: how many were, on the rule's interface.
    """

    rule: Rule
    seconds: float
    ago: float
    returned: int
