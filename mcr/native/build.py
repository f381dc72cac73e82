"""Compiles the native code into the extension module `mcr._native` (cffi, API mode)."""

import os
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

ffi = FFI()
ffi.cdef((HERE / "cdef.txt").read_text())
ffi.set_source(
    "mcr._native",
    """
    #include <sys/socket.h>

    #include "bpf.h"
    #include "checksum.h"
    #include "engine.h"
    #include "gateway.h"
    #include "journal.h"
    #include "later.h"
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
    sources=sorted(os.path.relpath(source, ROOT) for source in HERE.glob("*.c")),
    depends=sorted(os.path.relpath(header, ROOT) for header in HERE.glob("*.h")),
    include_dirs=[os.path.relpath(HERE, ROOT)],
    libraries=["uring"],
    extra_compile_args=["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-g", "-fno-strict-aliasing"],
)
