#!/usr/bin/env python3
"""Fuzzes by coverage: the frame parser, compiled with sanitizers, and the control protocol. `make fuzz`.

The parser's fuzzer needs no more than the compiler (tests/native/guided.h). That of the control protocol is atheris.
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
_PARSER: Final = ("packet.c", "sanity.c", "checksum.c", "own.c")
_FLAGS: Final = (
    *("-std=gnu11", "-g", "-O2", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", f"-I{_NATIVE}", f"-I{_PROGRAMS}"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fsanitize-coverage=trace-pc"),
)


def build_parser_fuzzer(directory: Path) -> Path:
    """The program, made in this directory."""
    program = directory / "packet_fuzz"
    sources = [_PROGRAMS / "packet_fuzz.c", *(_NATIVE / each for each in _PARSER)]
    subprocess.run(["cc", *_FLAGS, *sources, "-o", program], check=True)
    return program


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executions", type=int, default=10_000_000, help="of the frame parser")
    parser.add_argument("--seconds", type=int, default=30, help="for the control protocol")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        program = build_parser_fuzzer(Path(made))
        arguments: list[str | Path] = [program, CORPORA / "packet", str(options.executions), str(options.seed)]
        failed = subprocess.run(arguments, check=False).returncode
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
