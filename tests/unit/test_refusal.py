"""What the system refused is named by the call, as the source has it."""

import os
from pathlib import Path

import pytest

from mcr.cli import failure
from mcr.process.refusal import describe_refusal, refusal

GONE = "No such file or directory (os error 2)"


def test_the_call_is_named_without_its_arguments() -> None:
    def opens(path: str) -> tuple[int, int]:
        return (os.open("/", os.O_RDONLY), os.open(
            path,
            os.O_RDONLY,
        ))  # fmt: skip

    with pytest.raises(FileNotFoundError) as caught:
        opens("/nonexistent")
    assert describe_refusal(caught.value) == f"os.open: {GONE}"
    with pytest.raises(FileNotFoundError) as caught:
        Path("/nonexistent").unlink()
    assert describe_refusal(caught.value) == f"os.unlink: {GONE}"
    assert describe_refusal(FileNotFoundError(2, "?")) == f"a call: {GONE}"


def test_the_operator_is_told_where_and_what_it_may_be() -> None:
    error = refusal(FileNotFoundError(2, "?"))
    assert error.message == f"The system refuses a call that is needed: a call: {GONE}"
    assert error.hints[-1] == "it is made at an unknown place"


def test_a_thread_that_cannot_be_started_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Command:
        def main(self, **_: object) -> None:
            raise RuntimeError("can't start new thread")

    assert failure.run(Command(), "mcrd") == 1  # type: ignore[arg-type]
    assert capsys.readouterr().err.startswith("Error: Cannot start a thread\nhint: allow more: ulimit -u; ")
