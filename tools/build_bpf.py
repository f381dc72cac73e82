"""Compiles the eBPF programs into a header of instructions that the native code is built with.

For developers: the header is committed, and nobody else needs this or clang. The version of clang is fixed, as another
one may choose other instructions.
"""

import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import click
from elftools.elf.elffile import ELFFile

from mcr.cli.failure import run
from mcr.errors import McrError

NATIVE = Path(__file__).resolve().parents[1] / "mcr" / "native"
HEADER = Path("bpf", "programs.h")
PROGRAMS = ("filter", "ingress")

VERSION = "14.0.6"
CLANG = "clang-14"
# Of the second version of the instruction set, which kernels know since 4.14.
TARGET = ("-target", "bpfel", "-mcpu=v2")
OPTIONS = (*TARGET, "-O2", "-ffreestanding", "-Wall", "-Wextra", "-Werror")

INSTRUCTION = struct.Struct("<BBhi")
LOAD_64 = 0x18  # BPF_LD | BPF_IMM | BPF_DW: takes the place of two
CALL, PSEUDO_CALL, PSEUDO_KERNEL = 0x85, 1, 2  # of a helper, of the program's own function, of one of the kernel's
PSEUDO_MAP_FD, PSEUDO_FUNCTION = 1, 4
JMP32, STX, ATOMIC, FETCH = 6, 3, 0xC0, 1  # classes of opcodes, a mode of STX, and a bit of its `imm`
LONGEST = 8192  # MCR_BPF_MAX_PROGRAM, of bpf/trim.h

TEMPLATE = """\
/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Made by `make bpf` (tools/build_bpf.py, clang {version}) from {sources}. Do not edit. */
#ifndef MCR_BPF_PROGRAMS_H
#define MCR_BPF_PROGRAMS_H

#include <linux/bpf.h>
#include <stdint.h>

/* What the loader fills in: maps, and numbers. */
enum mcr_bpf_symbol {{
{symbols}
}};

/* Where: the `imm` of an instruction. */
struct mcr_bpf_relocation {{
	uint16_t instruction;
	uint16_t symbol;
}};

/* clang-format off */
{programs}
#endif
"""


class BuildError(McrError):
    """The programs could not be compiled, or the header is not what they compile to."""


class NoClangError(BuildError):
    """This machine does not have the clang that the header was made with."""


@attrs.frozen
class Instruction:
    """An eBPF instruction and what it means, empty for the second half of a long one."""

    code: int
    dst: int
    src: int
    off: int
    imm: int
    meaning: str


@attrs.frozen
class Program:
    """A program; its relocations are indices of instructions and names. Its own functions are filled in."""

    name: str
    instructions: tuple[Instruction, ...]
    relocations: tuple[tuple[int, str], ...]


def find_clang() -> str:
    """The compiler.

    Raises:
        NoClangError: it is missing, or has another version.
    """
    path = shutil.which(CLANG)
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout if path else ""
    found = re.search(r"version (\d+\.\d+\.\d+)", said)
    if not path or not found or found[1] != VERSION:
        raise NoClangError(f"{CLANG} {VERSION} is not installed", f"sudo apt-get install -y {CLANG}")
    return path


def compile_header(native: Path) -> str:
    """What the header has to be.

    Args:
        native: the directory of the native code.

    Raises:
        BuildError: a program does not compile, or asks for what old kernels don't know.
    """
    clang = find_clang()
    programs = [compile_program(clang, native, name) for name in PROGRAMS]
    symbols = sorted({symbol for program in programs for _, symbol in program.relocations})  # maps first
    return TEMPLATE.format(
        version=VERSION,
        sources=", ".join(f"{name}.bpf.c" for name in PROGRAMS),
        symbols="\n".join(f"\tMCR_BPF_{symbol.upper()}," for symbol in [*symbols, "symbols"]),
        programs="\n".join(map(format_program, programs)),
    )


def compile_program(clang: str, native: Path, name: str) -> Program:
    """Compile one source file, which has one function, and those that the kernel is to call."""
    multiarch = subprocess.run(["cc", "-print-multiarch"], capture_output=True, text=True, check=True).stdout.strip()
    source = native / "bpf" / f"{name}.bpf.c"
    command = [clang, *OPTIONS, f"-I{native}", "-idirafter", f"/usr/include/{multiarch}", str(source), "-S", "-o"]
    with TemporaryDirectory() as temporary:
        target, listing = Path(temporary, "program.o"), Path(temporary, "program.s")
        assemble = [clang, *TARGET, "-c", str(listing), "-o", str(target)]
        for step in ([*command, str(listing)], assemble):
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BuildError(f"{name}.bpf.c does not compile", done.stderr.strip())
        return read_program(name, target, read_listing(listing.read_text()))


def read_listing(text: str) -> list[str]:
    """The instructions of an assembly listing, each with the label that stands before it."""
    found: list[str] = []
    label = ""
    for line in text.splitlines():
        if match := re.match(r"(L\w+):", line):
            label = f"{match[1]}: "
        elif re.match(r"\t[^.#]", line):  # not of assembler in the source, which begins and ends with a comment
            found.append(label + line.split("#")[0].strip())
            label = ""
    return found


def read_program(name: str, path: Path, meanings: Sequence[str]) -> Program:
    """Read an object file.

    Raises:
        BuildError: it has what no loader but libbpf could load.
    """
    with path.open("rb") as file:
        elf: Any = ELFFile(file)
        if any(section["sh_size"] for section in elf.iter_sections() if section.name in (".data", ".bss", ".rodata")):
            raise BuildError(f"{name}.bpf.c has data, which old kernels don't know")
        code = elf.get_section_by_name(".text").data()
        symbols, table = elf.get_section_by_name(".symtab"), elf.get_section_by_name(".rel.text")
        relocations = tuple(
            (each["r_offset"] // INSTRUCTION.size, symbols.get_symbol(each["r_info_sym"]).name)
            for each in (table.iter_relocations() if table else ())
        )
    instructions = decode(name, code, dict(relocations), meanings)
    return Program(name, instructions, tuple((index, symbol) for index, symbol in relocations if symbol))


def decode(name: str, code: bytes, relocations: dict[int, str], meanings: Sequence[str]) -> tuple[Instruction, ...]:
    """Tell instructions apart, and give them their meanings."""
    found: list[Instruction] = []
    remaining = iter(meanings)
    for index, (opcode, registers, off, imm) in enumerate(INSTRUCTION.iter_unpack(code)):
        if found and found[-1].code == LOAD_64 and found[-1].meaning:
            found.append(Instruction(opcode, 0, 0, off, imm, ""))
            continue
        symbol, src, number = relocations.get(index), registers >> 4, imm
        if symbol == "":  # of the section: a function of the program's, by where it begins there
            src, number = PSEUDO_FUNCTION, imm // INSTRUCTION.size - index - 1
        elif symbol and symbol.startswith("map_"):
            src = PSEUDO_MAP_FD
        elif symbol and symbol.startswith("function_"):
            src, number = PSEUDO_KERNEL, 0
        if opcode == CALL and src == PSEUDO_CALL:
            raise BuildError(f"{name}.bpf.c calls a function that was not inlined")
        if _is_strange(opcode, imm):
            raise BuildError(f"{name}.bpf.c has an instruction that bpf/trim.c does not know: {opcode:#x}")
        found.append(Instruction(opcode, registers & 15, src, off, number, next(remaining)))
    if len(found) > LONGEST or [*remaining]:
        raise BuildError(f"{name}.bpf.c: the listing is not that of the program, or the program is too long")
    return tuple(found)


def _is_strange(opcode: int, imm: int) -> bool:
    """Whether it is a jump of 32 bits, or an atomic one that also writes a register."""
    kind, mode = opcode & 0x07, opcode & 0xE0
    return kind == JMP32 or (kind == STX and mode == ATOMIC and bool(imm & FETCH))


def format_program(program: Program) -> str:
    """A program in C."""
    lines = [f"static const struct bpf_insn mcr_bpf_{program.name}_code[] = {{"]
    for index, each in enumerate(program.instructions):
        fields = f"0x{each.code:02x}, {each.dst}, {each.src}, {each.off}, {each.imm}"
        comment = f" /* {index:3}  {each.meaning} */" if each.meaning else ""
        lines.append(f"\t{{ {fields} }},".ljust(32 if comment else 0) + comment)
    lines += ["};", "", f"static const struct mcr_bpf_relocation mcr_bpf_{program.name}_relocations[] = {{"]
    lines += [f"\t{{ {index}, MCR_BPF_{symbol.upper()} }}," for index, symbol in program.relocations]
    return "\n".join([*lines, "};", ""])


def check_header(native: Path) -> None:
    """Compare the header with what its sources compile to.

    Raises:
        BuildError: it is another.
    """
    committed, compiled = (native / HEADER).read_text(), compile_header(native)
    if committed != compiled:
        pairs = zip_longest(*(each.splitlines(keepends=True) for each in (committed, compiled)), fillvalue="")
        number, (old, new) = next((number, pair) for number, pair in enumerate(pairs, 1) if pair[0] != pair[1])
        first = f"the first line that differs is {number}: committed: {old.strip()}; compiled: {new.strip()}"
        raise BuildError(f"{HEADER} is not what its sources compile to", "make bpf", first)


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; fail if the header is not what the sources compile to.")
def main(*, check: bool) -> int:
    """Write mcr/native/bpf/programs.h.

    Without the right clang, --check says so and succeeds; it fails if MCR_RUN_ALL is set, as it is in CI.
    """
    if not check:
        (NATIVE / HEADER).write_text(compile_header(NATIVE))
        return 0
    try:
        check_header(NATIVE)
    except NoClangError as error:
        if os.environ.get("MCR_RUN_ALL"):
            raise
        print(f"{error.message}: the eBPF programs were not compared with their sources", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run(main, "build_bpf.py"))
