"""What the documents claim of the native code's layout."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "mcr" / "native"
STEPS = ["gather", "plan", "message", "send", "commit", "loop"]
"""Each after those whose work it reads, or which it calls."""


def test_all_memory_ordering_is_in_one_header() -> None:
    """No other file has an atomic access, or a fence, of its own; but the eBPF programs', whose compiler is another."""
    ordering = re.compile(r"__atomic_|__sync_|stdatomic|asm\b|\bvolatile\b")
    sources = [*NATIVE.rglob("*.c"), *NATIVE.rglob("*.h")]
    of_programs = {"frame.h", "tap.h", "record.h", "brief.h"}
    assert {source.name for source in sources if ordering.search(source.read_text())} == {"ring.h"} | of_programs


def included(name: str) -> set[str]:
    """Headers of the native code that a file includes, also by way of others; without their endings."""
    reached: set[str] = set()
    ahead = [name]
    while ahead:
        direct = set(re.findall(r'#include "(\w+)\.h"', (NATIVE / ahead.pop()).read_text())) - reached
        reached |= direct
        ahead += [f"{each}.h" for each in direct]
    return reached


def test_steps_of_a_batch_know_none_that_comes_after_them() -> None:
    for place, step in enumerate(STEPS):
        for kind in ("c", "h"):
            assert not included(f"{step}.{kind}") & set(STEPS[place + 1 :]), f"{step}.{kind}"


def test_packets_only_read_the_rules() -> None:
    """No step of a batch can change what commands have put there."""
    for name in ["batch", *STEPS, "tally"]:
        for kind in ("c", "h"):
            text = (NATIVE / f"{name}.{kind}").read_text()
            assert not re.search(r"(?<!const )struct mcr_(rules|rule|output) ?\*", text), f"{name}.{kind}"
            assert not re.search(r"rules\.(rules|outputs)\[[^\]]*\]\.\w+ [-+|]?= ", text), f"{name}.{kind}"
