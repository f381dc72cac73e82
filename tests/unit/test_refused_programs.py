"""What the log says if the kernel does not load an eBPF program."""

import errno
from types import SimpleNamespace

import pytest

from mcr.net.filter import ebpf


@pytest.mark.parametrize(
    ("number", "level", "remedy"),
    [(errno.EACCES, "warning", True), (errno.EPERM, "info", False), (errno.EINVAL, "info", False)],
)
def test_a_refusal_by_the_verifier_is_a_warning_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, number: int, level: str, *, remedy: bool
) -> None:
    said: list[tuple[str, str]] = []
    log = SimpleNamespace(
        warning=lambda text, *given: said.append(("warning", text % given)),
        info=lambda text, *given: said.append(("info", text % given)),
    )
    monkeypatch.setattr(ebpf, "log", log)
    ebpf.tell_refusal("MCR_X has no effect: {}: workers forward", OSError(number, ""))
    ((as_level, text),) = said
    assert as_level == level
    assert text.startswith("MCR_X has no effect: ")
    assert f"(os error {number}): workers forward" in text
    assert ("CAP_PERFMON" in text) == remedy
