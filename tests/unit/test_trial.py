"""Trials of what configuration files say: how long they last, and what ends them."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from mcr.errors import UnconfirmedApply
from mcr.model.rule import Rule
from mcr.rules.trial import Moment, Trial, after_apply, after_start, kept_trial
from saved_files import rule
from test_config_command import RULES

A, B, C = (rule(number) for number in range(3))
BEGUN = Moment(1_767_225_600.0, 500.0, "this")
TRIAL = Trial((A,), (B,), BEGUN, 120)


def later(seconds: float, *, day: float | None = None, boot: str = "this") -> Moment:
    """So much later; the clock of the day may show something else."""
    return Moment(BEGUN.day + (seconds if day is None else day), BEGUN.uptime + seconds, boot)


@pytest.mark.parametrize(
    ("now", "left"),
    [
        (later(0), 120),
        (later(50), 70),
        (later(120), 0),
        (later(5000), 0),
        (later(50, day=1e9), 70),
        (later(50, day=-1e9), 70),
        (Moment(BEGUN.day + 50, 3.0, "next"), 70),
        (Moment(BEGUN.day + 500, 3.0, "next"), 0),
        (Moment(0.0, 3.0, "next"), 120),
    ],
    ids=[
        *("at once", "later", "at its end", "after it", "clock set on", "clock set back"),
        *("machine started again", "and too late", "and without a clock"),
    ],
)
def test_time_passes_whatever_becomes_of_the_clock(now: Moment, left: float) -> None:
    assert TRIAL.left(now) == left


def test_the_deadline_is_told_by_the_clock_of_the_day() -> None:
    assert TRIAL.deadline(later(50)) == "2026-01-01T00:02:00Z"
    assert TRIAL.deadline(later(50, day=3650)) == "2026-01-01T01:02:00Z"
    assert attrs.evolve(TRIAL, taken_back=True).deadline(later(5000)) == "2026-01-01T00:02:00Z"


@examples(0.2)  # of up to ten rules, each independent of the others
@given(RULES, RULES, st.booleans())
def test_what_was_kept_is_the_same_again(before: list[Rule], after: list[Rule], taken_back: bool) -> None:
    trial = Trial(tuple(before), tuple(after), BEGUN, 7, taken_back)
    assert kept_trial(trial.text()) == trial


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"before": 1}', TRIAL.text().replace("eth0", "")])
def test_what_is_no_trial_is_none(text: str) -> None:
    assert kept_trial(text) is None


def test_at_a_start_a_trial_goes_on_or_is_over() -> None:
    taken_back = attrs.evolve(TRIAL, taken_back=True)
    assert after_start(None, (B,), later(0)) is None
    assert after_start(TRIAL, (B,), later(50)) == TRIAL
    assert after_start(TRIAL, (C,), later(50)) == attrs.evolve(TRIAL, after=(C,))
    assert after_start(TRIAL, (B,), later(120)) == taken_back
    assert after_start(taken_back, (B,), later(9999)) == taken_back
    assert after_start(TRIAL, (C,), later(120)) == attrs.evolve(taken_back, after=(C,))
    assert after_start(taken_back, (C,), later(120)) is None
    assert after_start(TRIAL, (A,), later(50)) is None


def test_another_apply_goes_back_to_what_was_before_the_first() -> None:
    assert after_apply(None, (A,), (B,), None, BEGUN) is None
    assert after_apply(None, (A,), (A,), 120, BEGUN) is None
    assert after_apply(None, (A,), (B,), 120, BEGUN) == TRIAL
    now = later(50)
    assert after_apply(TRIAL, (B,), (C,), 60, now) == Trial((A,), (C,), now, 60)
    assert after_apply(TRIAL, (B,), (B,), 60, now) == Trial((A,), (B,), now, 60)
    assert after_apply(TRIAL, (B,), (A,), None, now) is None
    with pytest.raises(UnconfirmedApply, match=r"waits for confirmation, for another 70 s"):
        after_apply(TRIAL, (B,), (C,), None, now)
    taken_back = attrs.evolve(TRIAL, taken_back=True)
    assert after_apply(taken_back, (A,), (B,), None, now) is None
    assert after_apply(taken_back, (A,), (B,), 60, now) == Trial((A,), (B,), now, 60)


def test_a_reload_uses_no_rules_that_were_taken_back() -> None:
    taken_back = attrs.evolve(TRIAL, taken_back=True)
    with pytest.raises(UnconfirmedApply, match=r"Nobody has confirmed what the configuration files say"):
        after_apply(taken_back, (A,), (B,), None, later(150), reload=True)
    for stated in (A,), (C,):
        assert after_apply(taken_back, (A,), stated, None, later(150), reload=True) is None


def test_rules_that_were_added_or_changed_are_on_trial() -> None:
    changed = attrs.evolve(A, name="new")
    assert Trial((A, B), (changed, C), BEGUN, 1).differing == {A.rule_id, C.rule_id}
