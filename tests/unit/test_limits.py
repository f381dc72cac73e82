"""The limits that requests are checked against are those of the worker's tables."""

from mcr._native import lib
from mcr.model import limits


def test_limits_are_the_native_ones() -> None:
    ours = (
        limits.MAX_RULES,
        limits.MAX_OUTPUTS,
        limits.MAX_OUTPUTS_PER_RULE,
        limits.INTERFACE_SLOTS,
        limits.MAX_NEIGHBOURS,
        limits.MAX_BATCH,
    )
    assert ours == (
        lib.MCR_MAX_RULES,
        lib.MCR_MAX_OUTPUTS,
        lib.MCR_MAX_RULE_OUTPUTS,
        lib.MCR_MAX_INTERFACES,
        lib.MCR_MAX_NEIGHBOURS,
        lib.MCR_BATCH_SLOTS,
    )
