"""The committed eBPF instructions are what their sources compile to; what is not is noticed."""

import shutil
from pathlib import Path

import pytest

import build_bpf
from build_bpf import (
    HEADER,
    INSTRUCTION,
    NATIVE,
    BuildError,
    NoClangError,
    check_header,
    compile_program,
    decode,
    find_clang,
    format_program,
)
from mcr.cli.failure import run

FILTER = Path("bpf", "filter.bpf.c")


@pytest.fixture
def native(tmp_path: Path) -> Path:
    """A copy of the native code, to be changed."""
    try:
        find_clang()
    except NoClangError as error:
        pytest.skip(error.message)
    return Path(shutil.copytree(NATIVE, tmp_path / "native"))


def change(path: Path, old: str, new: str) -> None:
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new))


# That the header is what the sources compile to is a step of `make check`.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "file", "old", "new"),
    [
        ("ingress", Path("bpf", "ingress.bpf.c"), "", ""),
        ("filter", FILTER, "datagrams : 1", "datagrams : 2"),
        ("ingress", Path("bpf", "frame.h"), "PACKET_OUTGOING", "PACKET_OTHERHOST"),
        ("ingress", Path("parse.h"), "0x3fff", "0x1fff"),
    ],
    ids=["nothing", "a program", "what programs share", "what the worker shares"],
)
def test_header_has_what_a_program_compiles_to_until_something_changes(
    native: Path, program: str, file: Path, old: str, new: str
) -> None:
    change(native / file, old, new)
    compiled = format_program(compile_program(find_clang(), native, program))
    assert (compiled in (native / HEADER).read_text()) == (old == new)


def test_a_header_that_is_another_is_refused(native: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = (native / HEADER).read_text()
    monkeypatch.setattr(build_bpf, "compile_header", lambda _: compiled)
    check_header(native)
    changed = compiled.replace("{ 0x95, 0, 0, 0, 0 }", "{ 0x95, 0, 0, 0, 1 }")
    assert changed != compiled
    (native / HEADER).write_text(changed)
    with pytest.raises(BuildError, match=r"programs\.h is not what its sources compile to") as caught:
        check_header(native)
    number = compiled[: compiled.index("{ 0x95, 0, 0, 0, 0 }")].count("\n") + 1
    hint, first = caught.value.hints
    assert hint == "make bpf"
    assert f" {number}: committed: {{ 0x95, 0, 0, 0, 1 }}," in first
    assert "compiled: { 0x95, 0, 0, 0, 0 }," in first
    assert len(first) < 300  # of which there would be thousands


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "value", "reason"),
    [
        ("static int kept = 1;", "*number + kept++", "filter.bpf.c has data"),
        ('static __attribute__((noinline)) int f(int n) { asm(""); return n; }', "f(*number)", "calls a function"),
        ("", "number->no_such", "does not compile"),
    ],
    ids=["data", "call", "error"],
)
def test_what_the_loader_could_not_load_is_refused(native: Path, before: str, value: str, reason: str) -> None:
    (native / FILTER).write_text(f"{before}\nint filter(const int *number)\n{{\n\treturn {value};\n}}\n")
    with pytest.raises(BuildError, match=reason):
        check_header(native)


@pytest.mark.parametrize(
    ("opcode", "imm"), [(0x16, 0), (0xDB, 0x01), (0xC3, 0xE1)], ids=["32-bit jump", "fetch and add", "exchange"]
)
def test_what_trim_does_not_know_is_refused(opcode: int, imm: int) -> None:
    """It would take a register for what it was before, or a jump for none."""
    (added,) = decode("filter", INSTRUCTION.pack(0xDB, 0x21, 8, 0), {}, ["lock *(u64 *)(r1 + 8) += r2"])
    assert (added.dst, added.src) == (1, 2)
    with pytest.raises(BuildError, match=f"an instruction that bpf/trim.c does not know: {opcode:#x}"):
        decode("filter", INSTRUCTION.pack(opcode, 0x21, 8, imm), {}, ["what it means"])


@pytest.mark.parametrize("installed", ["none", "another version"])
def test_without_the_right_clang_it_says_so_and_ci_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], installed: str
) -> None:
    if installed != "none":
        (tmp_path / "clang-14").write_text("#!/bin/sh\necho 'Debian clang version 14.0.0'\n")
        (tmp_path / "clang-14").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["build_bpf.py", "--check"])
    monkeypatch.delenv("MCR_RUN_ALL", raising=False)
    assert run(build_bpf.main, "build_bpf.py") == 0
    said = capsys.readouterr().err
    assert said == "clang-14 14.0.6 is not installed: the eBPF programs were not compared with their sources\n"
    monkeypatch.setenv("MCR_RUN_ALL", "1")
    assert run(build_bpf.main, "build_bpf.py") == 1
    assert capsys.readouterr().err.startswith("Error: clang-14 14.0.6 is not installed\nhint: ")
