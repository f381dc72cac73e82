"""Whether rules are kept over restarts."""

import attrs


@attrs.frozen
class Saving:
    """Where rules are kept.

    Attributes:
        path: of the file; empty: nowhere.
        trouble: why nothing can be saved; empty: nothing is wrong, or rules are kept nowhere by choice.
        is_gone: somebody deleted or renamed the file since mcrd opened it.
        errno: of the trouble; 0: nothing is wrong, or it has none.
        ago: seconds since a change could not be saved; None: the last one could, or none can since mcrd started.
    """

    path: str = ""
    trouble: str = ""
    is_gone: bool = False
    errno: int = 0
    ago: float | None = None
