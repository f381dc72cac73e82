"""Whether rules are kept over restarts."""

import attrs


@attrs.frozen
class Saving:
    """Where rules are kept.

    Attributes:
        path: of the file; empty: nowhere.
        trouble: why nothing can be saved; empty: nothing is wrong, or rules are kept nowhere by choice.
        is_gone: somebody deleted or renamed the file since mcrd opened it.
    """

    path: str = ""
    trouble: str = ""
    is_gone: bool = False
