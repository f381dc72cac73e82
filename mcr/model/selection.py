"""Which rules an operator means."""

import attrs


@attrs.frozen
class Selection:
    """Rules by their ids and names, or by shell patterns of these; or all that there are.

    Attributes:
        literal: ids and names are no patterns.
    """

    rule_ids: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    all: bool = False
    literal: bool = False
