"""Functions of the kernel are found by its description of its types (BTF), whatever else that describes."""

import struct
from pathlib import Path

import pytest

from mcr._native import ffi, lib

KERNEL = Path("/sys/kernel/btf/vmlinux")
FUNCTION, PROTOTYPE = 12, 13
BESIDES = {1: 4, 3: 12, 4: 12, 5: 12, 6: 8, PROTOTYPE: 8, 14: 4, 15: 12, 17: 4, 19: 12}
"""Bytes that follow a type of each kind that has any, with one member."""


def described(*kinds: tuple[int, str]) -> bytes:
    types, names = b"", b"\0"
    for kind, name in kinds:
        types += struct.pack("=III", len(names), kind << 24 | 1, 1) + bytes(BESIDES.get(kind, 0))
        names += name.encode() + b"\0"
    return struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names)) + types + names


def found(path: Path, *names: str) -> list[int]:
    texts = [ffi.new("char[]", name.encode()) for name in names]
    numbers = ffi.new("uint32_t[]", [7] * len(names))
    lib.mcr_bpf_types_find(str(path).encode(), ffi.new("const char *[]", texts), numbers, len(names))
    return list(numbers)


def test_functions_are_found_behind_types_of_each_kind(tmp_path: Path) -> None:
    kinds = [(kind, f"kind{kind}") for kind in range(1, 20)]
    path = tmp_path / "types"
    path.write_bytes(described((PROTOTYPE, "one"), *kinds, (FUNCTION, "one"), (FUNCTION, "another")))
    assert found(path, "another", "one", "none", "kind12", "kind13") == [22, 21, 0, 13, 0]


def test_what_is_cut_off_is_not_found(tmp_path: Path) -> None:
    whole = described((PROTOTYPE, "one"), (FUNCTION, "two"))
    path = tmp_path / "types"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert found(path, "two") == [0]
    path.write_bytes(whole)
    assert found(path, "two") == [2]
    assert found(tmp_path / "none", "two") == [0]


def test_what_says_that_it_is_longer_is_not_read(tmp_path: Path) -> None:
    """Types with more members than are there end the description."""
    whole = bytearray(described((4, "struct"), (FUNCTION, "two")))
    whole[28:30] = b"\xff\xff"  # members of the first type
    path = tmp_path / "types"
    path.write_bytes(whole)
    assert found(path, "two") == [0]


def test_the_running_kernel_has_those_that_have_been_there_for_long() -> None:
    if not KERNEL.exists():
        pytest.skip("this kernel describes no types")
    here, nowhere = found(KERNEL, "netif_rx", "mcr_is_not_there")
    assert here > 0
    assert nowhere == 0
