"""What errors say and which code and exit status they have."""

import errno
import pickle

import pytest

from mcr import errors
from mcr.errors import MAX_FAULTS, LimitReached, McrError, SystemFault, UsageError, describe_errno, errno_of, together

ALL = [error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, McrError)]


def test_every_error_that_may_travel_has_its_own_code() -> None:
    codes = [error.code for error in ALL if error is not UsageError]  # it never leaves the command that met it
    assert len(set(codes)) == len(codes)


def test_codes_are_those_json_rpc_reserves() -> None:
    assert errors.ParseError.code == -32700
    assert errors.InvalidRequest.code == -32600
    assert errors.MethodNotFound.code == -32601
    assert errors.InvalidParams.code == -32602
    own = {error.code for error in ALL} - {-32700, -32600, -32601, -32602}
    assert all(-32099 <= code <= -32000 for code in own)


def test_only_a_wrong_command_line_exits_with_two() -> None:
    assert {error for error in ALL if error.exit_status == 2} == {UsageError}
    assert all(error.exit_status == 1 for error in ALL if error is not UsageError)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.EPERM, "Operation not permitted (os error 1)"),
        (errno.EACCES, "Permission denied (os error 13)"),
        (errno.ECONNREFUSED, "Connection refused (os error 111)"),
    ],
)
def test_an_errno_is_described_the_way_scripts_rely_on(number: int, text: str) -> None:
    assert describe_errno(number) == text


def test_a_system_fault_names_the_step() -> None:
    fault = SystemFault("Failed to bind to /run/mcr/control.sock", errno.EACCES, "a hint")
    assert fault.message == "Failed to bind to /run/mcr/control.sock: Permission denied (os error 13)"
    assert (fault.errno, fault.hints) == (errno.EACCES, ("a hint",))


def test_a_system_fault_without_a_step_is_the_systems_words_alone() -> None:
    assert SystemFault("", errno.EACCES).message == "Permission denied (os error 13)"


@pytest.mark.parametrize("kind", ALL)
def test_every_error_can_travel_and_be_told_of_a_part_of_a_request(kind: type[McrError]) -> None:
    error = SystemFault("Cannot open", errno.ENODEV, "hint") if kind is SystemFault else kind("Cannot open", "hint")
    place = error.at("rules[3]")
    assert str(place) == place.message == f"{error.message} (rules[3])"
    for each in (place, pickle.loads(pickle.dumps(error))):  # noqa: S301
        assert (type(each), each.hints) == (kind, ("hint",))
        assert getattr(each, "errno", None) == getattr(error, "errno", None)


def test_an_error_prints_as_its_message() -> None:
    assert str(McrError("message", "hint")) == "message"


def test_a_place_is_added_to_a_copy_whatever_the_class_takes() -> None:
    fault = SystemFault("Interface eth0", errno.EMFILE, "a hint")
    there = fault.at("rules[3]")
    assert there.message == str(there) == f"{fault.message} (rules[3])"
    assert (type(there), there.errno, there.hints, there.code) == (SystemFault, errno.EMFILE, ("a hint",), fault.code)
    assert "rules" not in fault.message


def test_one_error_for_several_lists_them_and_names_the_first() -> None:
    faults = [LimitReached(f"fault {number}", "a hint", f"hint {number}") for number in range(MAX_FAULTS + 5)]
    assert together(faults[:1]) is faults[0]
    assert together(faults[:2]).message == "fault 0; fault 1"
    error = together(faults)
    assert error.message == "fault 0; fault 1; fault 2; and more faults"
    assert (type(error), error.hints) == (LimitReached, ("a hint", "hint 0", "hint 1", "hint 2"))
    listed = error.to_json()["data"]["faults"]
    assert len(listed) == MAX_FAULTS
    assert listed[1] == {"message": "fault 1", "hints": ["a hint", "hint 1"]}
    assert error.at("x").faults[1].message == "fault 1 (x)"
    assert "faults" not in together(faults[:1]).to_json()["data"]


@pytest.mark.parametrize(
    ("error", "number"),
    [(OSError(errno.EPERM, ""), errno.EPERM), (OSError(), errno.EIO), (TimeoutError("timed out"), errno.ETIMEDOUT)],
)
def test_no_error_is_a_success(error: OSError, number: int) -> None:
    """Python's own have no number, and that of 0 is Success."""
    assert errno_of(error) == number
