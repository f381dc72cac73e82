"""The limits that requests are checked against are those of the worker's tables."""

from mcr import model
from mcr._native import lib


def test_limits_are_the_native_ones() -> None:
    ours = (
        model.MAX_RULES,
        model.MAX_OUTPUTS,
        model.MAX_OUTPUTS_PER_RULE,
        model.MAX_INTERFACES,
        model.MAX_NEIGHBOURS,
        model.MAX_BATCH,
    )
    assert ours == (
        lib.MCR_MAX_RULES,
        lib.MCR_MAX_OUTPUTS,
        lib.MCR_MAX_RULE_OUTPUTS,
        lib.MCR_MAX_INTERFACES,
        lib.MCR_MAX_NEIGHBOURS,
        lib.MCR_BATCH_SLOTS,
    )
