"""The program that takes IPv6, where it can't be loaded."""

import errno
import time

import pytest

from mcr.net.filter.path import KernelPath
from mcr.process.descriptor_store import DescriptorStore
from mcr.shm.kernel_counters import KernelCounters


@pytest.mark.parametrize(("error", "again"), [(errno.EMFILE, True), (errno.EACCES, False)])
def test_what_is_short_for_a_moment_is_tried_again_later(
    error: int, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, tries = 100.0, 0

    def refuse() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError(error, "")

    kernel_path = KernelPath(1, KernelCounters.make(DescriptorStore()))
    kernel_path.learn_ipv6 = refuse
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(2):
        assert "can't be loaded" in kernel_path.why_no_ipv6()
    assert tries == 1, "thousands of rules ask"
    now += 10
    assert bool(kernel_path.why_no_ipv6()) != again
