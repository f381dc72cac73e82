"""What is said if the kernel does not load an eBPF program."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from mcr.net.filter import refusal

NOT_SUPPORTED = 524  # ENOTSUPP, of the kernel alone


@pytest.mark.parametrize(
    ("number", "jit", "level", "words"),
    [
        (errno.EACCES, "1", "warning", "CAP_PERFMON"),
        (errno.EACCES, "0", "warning", "CAP_PERFMON"),
        (errno.EPERM, "0", "info", "(os error 1)"),
        (errno.ENOMEM, "0", "info", "(os error 12)"),
        (errno.EINVAL, "1", "info", "(os error 22)"),
        (errno.EINVAL, None, "info", "(os error 22)"),
        (errno.EINVAL, "0", "warning", "sudo sysctl -w net.core.bpf_jit_enable=1"),
        (NOT_SUPPORTED, "0", "warning", "sudo sysctl -w net.core.bpf_jit_enable=1"),
    ],
)
def test_a_refusal_with_a_remedy_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, jit: str | None, *, level: str, words: str
) -> None:
    """By the verifier, or as the JIT compiler is off; that file is not there in every network namespace."""
    said: list[tuple[str, str]] = []
    log = SimpleNamespace(
        warning=lambda text, *given: said.append(("warning", text % given)),
        info=lambda text, *given: said.append(("info", text % given)),
    )
    monkeypatch.setattr(refusal, "log", log)
    monkeypatch.setattr(refusal, "_JIT", tmp_path / "bpf_jit_enable")
    if jit:
        refusal._JIT.write_text(f"{jit}\n")
    refusal.tell_refusal("MCR_X has no effect: {}: workers forward", error := OSError(number, ""))
    ((as_level, text),) = said
    assert as_level == level
    assert text.startswith(f"MCR_X has no effect: {refusal.why_refused(error)}: workers forward")
    assert words in text
    assert (refusal.why_refused(error) == refusal.JIT_OFF) == (refusal.JIT_REMEDY in text)
