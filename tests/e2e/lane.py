"""How the lane of parallel tests is shared out between its processes."""

from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[2]


class Lane(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Each test goes to any process; those that share what their file sets up go to one, and begin first.

    The mark xdist_group is of no use: pytest-xdist 3.8 puts it into node ids, where pytest 9.2 has no place for it
    (github.com/pytest-dev/pytest-xdist/issues/1386), and nothing says so.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if shares(file) else nodeid


@cache
def shares(file: str) -> bool:
    """Whether tests of this file, a path from the root, have fixtures that are set up once for all of them."""
    return 'scope="module"' in (ROOT / file).read_text(encoding="utf-8")
