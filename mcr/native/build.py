"""Compiles the native code into the extension module `mcr._native` (cffi, API mode)."""

import os
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def _find(pattern: str) -> list[str]:
    """Files here and below, relative to the root; without the eBPF programs, of which bpf/programs.h is made."""
    found = (each for each in HERE.rglob(pattern) if ".bpf" not in each.suffixes)
    return sorted(os.path.relpath(each, ROOT) for each in found)


ffi = FFI()
ffi.cdef((HERE / "cdef.txt").read_text())
ffi.set_source(
    "mcr._native",
    """
    #include <sys/socket.h>

    #include "bpf/load.h"
    #include "bpf/path.h"
    #include "bpf/types.h"
    #include "cgroup.h"
    #include "checksum.h"
    #include "engine.h"
    #include "gateway.h"
    #include "health/stream.h"
    #include "health/tap.h"
    #include "join.h"
    #include "journal.h"
    #include "later.h"
    #include "look.h"
    #include "match.h"
    #include "pace.h"
    #include "packet.h"
    #include "privileges.h"
    #include "own.h"
    #include "ring.h"
    #include "sanity.h"
    #include "source.h"
    #include "worker.h"
    """,
    sources=_find("*.c"),
    depends=[*_find("*.h"), os.path.relpath(__file__, ROOT)],
    include_dirs=[os.path.relpath(HERE, ROOT)],
    libraries=["uring"],
    extra_compile_args=["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-g", "-fno-strict-aliasing"],
)
