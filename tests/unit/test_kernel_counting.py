"""When the kernel path's counters begin, and when those of the mcrd before are settled."""

from types import SimpleNamespace
from typing import cast

import pytest

from mcr.net.filter.path import INHERITED, KernelPath
from mcr.relay.captures import Capture
from mcr.relay.kernel_path import KernelRules
from mcr.relay.relay import _start_counting
from mcr.shm.kept import Kept
from mcr.shm.kernel_counters import KernelCounters


def test_what_the_mcrd_before_has_lost_is_counted_before_a_gate_may_open() -> None:
    did: list[str] = []
    path = cast("KernelPath", SimpleNamespace(unbar=did.append))
    counters = cast("KernelCounters", SimpleNamespace(settle=lambda: did.append("settle")))
    KernelRules(path, counters=counters).take_over()
    assert did == ["settle", INHERITED]


@pytest.mark.parametrize("has_path", [True, False])
def test_a_capture_is_started_by_the_kernel_path_where_there_is_one(has_path: bool) -> None:
    """What was handed over before is not counted for it then."""
    did: list[str] = []
    path, counters, segment = (
        SimpleNamespace(start_capture=lambda slot, who=who: did.append(f"{who} {slot}"))
        for who in ("path", "counters", "segment")
    )
    kernel = KernelRules(cast("KernelPath", path) if has_path else None, counters=cast("KernelCounters", counters))
    capture, kept = SimpleNamespace(slot=3), SimpleNamespace(segments=[segment])
    _start_counting([cast("Capture", capture)], cast("Kept", kept), kernel)
    assert did == ["segment 3", "path 3" if has_path else "counters 3"]
