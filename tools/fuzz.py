#!/usr/bin/env python3
"""Fuzzes by coverage: frame parser and reassembly, compiled with sanitizers, and the control protocol. `make fuzz`.

The fuzzers of C need no more than the compiler (tests/native/guided.h). That of the control protocol is atheris.
Both begin with the seeds of tests/corpora, and end with the input that broke something, if any did.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
CORPORA: Final = ROOT / "tests" / "corpora"
_NATIVE: Final = ROOT / "mcr" / "native"
_PROGRAMS: Final = ROOT / "tests" / "native"
_SOURCES: Final = {
    "packet": ("packet.c", "look.c", "sanity.c", "checksum.c", "own.c"),
    "reassembly": ("reassembly.c", "packet.c"),
}
_FLAGS: Final = (
    *("-std=gnu11", "-g", "-O2", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", f"-I{_NATIVE}", f"-I{_PROGRAMS}"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fsanitize-coverage=trace-pc"),
)


def build_fuzzer(name: str, directory: Path) -> Path:
    """The program of this name, made in this directory; its seeds are in `CORPORA`, by the same name."""
    program = directory / f"{name}_fuzz"
    sources = [_PROGRAMS / f"{name}_fuzz.c", *(_NATIVE / each for each in _SOURCES[name])]
    subprocess.run(["cc", *_FLAGS, *sources, "-o", program], check=True)
    return program


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executions", type=int, default=10_000_000, help="of the parser; of reassembly a 20th")
    parser.add_argument("--seconds", type=int, default=30, help="for the control protocol")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        failed = 0
        for name, executions in (("packet", options.executions), ("reassembly", max(1, options.executions // 20))):
            program = build_fuzzer(name, Path(made))
            arguments: list[str | Path] = [program, CORPORA / name, str(executions), str(options.seed)]
            failed |= subprocess.run(arguments, check=False).returncode
        found = Path(made) / "control"
        found.mkdir()
        limits = [f"-max_total_time={options.seconds}", f"-seed={options.seed}", "-max_len=4096", "-verbosity=0"]
        control: list[str | Path] = [
            sys.executable,
            ROOT / "tools" / "fuzz_control.py",
            *limits,
            "-print_final_stats=1",
            found,
        ]
        failed |= subprocess.run([*control, CORPORA / "control"], check=False).returncode
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    _main()
