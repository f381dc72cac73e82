"""The match table against a dictionary."""

import errno

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from mcr._native import ffi, lib

# Few captures, groups and ports, so that keys meet; and some that share a home bucket by chance.
KEYS = st.builds(lib.mcr_match_key, st.integers(0, 3), st.integers(0, 40), st.integers(1, 20))


class MatchTable(RuleBasedStateMachine):
    """Every put, drop and find answers as a dictionary would."""

    known = Bundle("known")

    def __init__(self) -> None:
        super().__init__()
        self.table = ffi.new("struct mcr_match *")
        lib.mcr_match_init(self.table)
        self.model: dict[int, int] = {}

    @rule(target=known, key=KEYS, value=st.integers(0, lib.MCR_MAX_RULES - 1))
    def put(self, key: int, value: int) -> int:
        assert lib.mcr_match_put(self.table, key, value) == 0
        self.model[key] = value
        return key

    @rule(key=st.one_of(known, KEYS))
    def drop(self, key: int) -> None:
        expected = 0 if self.model.pop(key, None) is not None else -errno.ENOENT
        assert lib.mcr_match_drop(self.table, key) == expected

    @rule(key=st.one_of(known, KEYS))
    def find(self, key: int) -> None:
        assert lib.mcr_match_find(self.table, key) == self.model.get(key, lib.MCR_NO_RULE)

    @invariant()
    def counts(self) -> None:
        assert self.table.used == len(self.model)


TestMatchTable = MatchTable.TestCase
TestMatchTable.settings = settings(max_examples=40, stateful_step_count=80, deadline=None)


def test_full_table_still_answers() -> None:
    """MAX_RULES keys fit, one more is refused, all are found; emptied, none is."""
    table = ffi.new("struct mcr_match *")
    lib.mcr_match_init(table)
    keys = [lib.mcr_match_key(i % 7, i * 2654435761 % 2**32, i % 65535 + 1) for i in range(lib.MCR_MAX_RULES)]
    for value, key in enumerate(keys):
        assert lib.mcr_match_put(table, key, value) == 0
    assert lib.mcr_match_put(table, lib.mcr_match_key(99, 1, 1), 0) == -errno.ENOSPC
    assert [lib.mcr_match_find(table, key) for key in keys] == list(range(len(keys)))
    for key in keys[::2]:
        assert lib.mcr_match_drop(table, key) == 0
    found = [lib.mcr_match_find(table, key) for key in keys]
    assert found[1::2] == list(range(1, len(keys), 2))
    assert set(found[::2]) == {lib.MCR_NO_RULE}
