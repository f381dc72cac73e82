"""The kernel path goes, and nothing else, where this kernel does not load its programs any more."""

import errno
from ipaddress import IPv4Address
from typing import Any

import pytest

from filters import WANTED, Wire, frame, may_load_ebpf, opened
from mcr._native import lib
from mcr.model.flow import Flow
from mcr.net.filter import ebpf, refusal
from mcr.net.filter.ebpf import EbpfFilters
from mcr.net.filter.path import KernelPath
from mcr.net.interfaces import find_interface
from mcr.process.descriptor_store import DescriptorStore
from mcr.shm.kernel_counters import KernelCounters

CAPTURE = 3
SOURCE = IPv4Address("198.18.0.1")


class Unjitted:
    """The library, on a kernel that loads no filter which decides for the kernel path."""

    def __getattr__(self, name: str) -> Any:
        return getattr(lib, name)

    def mcr_bpf_load_filter(self, wanted: int, rejected: int, maps: Any, filtered: Any) -> int:
        return -errno.EINVAL if maps else int(lib.mcr_bpf_load_filter(wanted, rejected, maps, filtered))


def test_captures_open_and_filters_change_when_the_jit_compiler_was_switched_off(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Workers get everything then, and it is said once why."""
    if not may_load_ebpf():
        pytest.skip("eBPF is forbidden here (no CAP_BPF outside user namespaces)")
    store = DescriptorStore()
    with KernelCounters.make(store) as counters, KernelPath(1, counters) as path:
        with wire.b.entered():
            filters = EbpfFilters(store, path, suppress=True)
        if not filters.suppressor or not filters.suppressor.has_path:
            pytest.skip("this kernel has no kernel path")
        filters.change([(CAPTURE, each) for each in WANTED], ())
        rejected = opened(filters, wire, CAPTURE)
        monkeypatch.setattr(ebpf, "lib", Unjitted())
        monkeypatch.setattr(refusal, "_is_jit_off", lambda: True)
        filters.change([(CAPTURE, Flow(WANTED[0].group, 5000, source=SOURCE))], ())  # another program, for sources
        with wire.b.entered(), wire._raw(wire.b, "b0", deaf=True) as other:
            filters.open(CAPTURE + 1, find_interface("b0"), [other]).close()
        assert path.why_refused == refusal.JIT_OFF
        assert caplog.text.count(f"MCR_KERNEL_PATH has no effect: {refusal.JIT_OFF}: ") == 1
        wire.send(frame(), frame(port=5001))
        assert wire.receive(1) == [frame()]
        assert rejected.read() == 1
        rejected.close()
        filters.close()
