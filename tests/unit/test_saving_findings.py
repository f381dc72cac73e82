"""What doctor says of rules that are saved, or are not."""

import errno
import os
from ipaddress import IPv4Address
from pathlib import Path

import attrs
import pytest

from mcr.config.file import FileRule, FormerPlace
from mcr.diagnosis.saving_findings import judge_saving, judge_set_aside, judge_unusable, judge_yielding
from mcr.model.finding import Verdict
from mcr.model.flow import Input
from mcr.model.rule import Origin, Output, Rule
from mcr.model.saving import Saving
from mcr.rules.conditions import view_of_unusable
from mcr.rules.disk import is_writable
from mcr.rules.file_rules import FileRules, Precedence, Yielding

A, B, C, D = (
    Rule(each, Input("eth0", IPv4Address("239.1.1.1"), port), (Output(IPv4Address("239.2.2.2"), 6000, "eth1"),))
    for port, each in enumerate("abcd", 5000)
)


@pytest.mark.parametrize(
    ("saving", "verdict", "what"),
    [
        (Saving("/var/lib/mcr/rules.sqlite"), Verdict.OK, "there again after a restart"),
        (Saving(), Verdict.OK, "--no-state was given"),
        (Saving("", "State directory /var/lib/mcr: Permission denied"), Verdict.ADVICE, "forgotten when mcrd ends"),
        (Saving("/var/lib/mcr/rules.sqlite", "No space left on device"), Verdict.FAULT, "No rule can be changed"),
        (Saving("/var/lib/mcr/rules.sqlite", is_gone=True), Verdict.FAULT, "their file was deleted or renamed"),
        (Saving("/var/lib/mcr/rules.sqlite", "EACCES", is_gone=True), Verdict.FAULT, "was deleted or renamed"),
    ],
)
def test_each_case_has_its_verdict(saving: Saving, verdict: Verdict, what: str) -> None:
    finding = judge_saving(saving)
    assert (finding.verdict, what in finding.what) == (verdict, True)
    assert bool(finding.remedy) == (verdict is not Verdict.OK)
    assert saving.trouble in finding.evidence


@pytest.mark.parametrize(
    ("free", "verdict", "what"),
    [
        (1 << 20, Verdict.OK, "there again after a restart"),
        ((1 << 20) - 1, Verdict.ADVICE, "the disk is nearly full"),
        (0, Verdict.FAULT, "the disk is full: changes may be refused"),
    ],
)
def test_a_full_disk_is_told_before_a_change_fails(free: int, verdict: Verdict, what: str) -> None:
    finding = judge_saving(Saving("/s/rules.sqlite"), free)
    assert (finding.verdict, what in finding.what) == (verdict, True)
    assert judge_saving(Saving("/s/rules.sqlite", "EIO"), 0).what.startswith("No rule can be changed")


@pytest.mark.parametrize(
    ("number", "free", "writable", "over"),
    [
        (errno.ENOSPC, 0, True, ""),
        (errno.ENOSPC, None, True, ""),
        (errno.ENOSPC, 1 << 20, True, "there is room for 1,048,576 bytes now"),
        (errno.EROFS, 1 << 20, False, ""),
        (errno.EROFS, 1 << 20, True, "its file can be written now"),
        (errno.EIO, 1 << 20, True, ""),
    ],
)
def test_a_trouble_that_is_over_is_told_as_such(number: int, free: int | None, *, writable: bool, over: str) -> None:
    saving = Saving("/s/rules.sqlite", "Rules can't be saved in /s", errno=number, ago=30.4)
    finding = judge_saving(saving, free, writable=writable)
    if over:
        assert (finding.verdict, finding.remedy) == (Verdict.ADVICE, "try it again")
        assert finding.what == f"The last change of a rule, 30 s ago, could not be saved; {over}"
    else:
        assert (finding.verdict, finding.evidence) == (Verdict.FAULT, f"30 s ago: {saving.trouble}")
        assert finding.remedy.endswith("then try again: df /s/rules.sqlite")


def test_a_file_in_a_directory_that_is_not_writable_is_not_either(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SQLite makes others beside it. What root may: everything."""
    file = tmp_path / "rules.sqlite"
    file.touch()
    assert is_writable(str(file))
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) == file)
    assert not is_writable(str(file))


def test_a_file_that_could_not_be_opened_takes_another_start() -> None:
    finding = judge_saving(Saving("/s/rules.sqlite", "EROFS", errno=errno.EROFS), 1 << 20, writable=True)
    assert finding.verdict is Verdict.FAULT
    assert "then restart mcrd" in finding.remedy


def test_a_file_that_was_set_aside_is_told_until_it_is_gone() -> None:
    assert not [*judge_set_aside([])]
    older, newer = "/s/rules.sqlite.set-aside-1", "/s/rules.sqlite.set-aside-2"
    (finding,) = judge_set_aside([older, newer])
    assert finding.evidence == f"{older}, {newer}"
    assert finding.remedy.endswith(f"sudo sh -c 'rm {older}* {newer}*'")  # mcrd's user alone may look there


def test_saved_rules_that_give_way_are_named_with_where() -> None:
    assert not [*judge_yielding([])]
    rival = FileRule(D, FormerPlace("today"))
    those = [attrs.evolve(each, name=D.name, input=D.input) for each in (A, B, C)]
    (finding,) = judge_yielding([Yielding(each, rival, f"mcrctl remove {each.label}") for each in (*those, D)])
    assert finding.what.startswith("4 saved rules not used")
    assert finding.evidence.startswith(
        "a has the same input as d in the configuration files as they were before today, b has"
    )
    assert finding.evidence.endswith("and 1 more")
    assert finding.remedy == "keep one of each: take it out of the file, or: mcrctl remove a"


def test_the_command_for_a_rule_that_gives_way_means_no_rule_of_any_file() -> None:
    """Its id is one that another file's rule has than the one that it gives way to."""
    precedence, place = Precedence(), FormerPlace("today")
    saved = attrs.evolve(A, name="cam", input=B.input)
    precedence.note(FileRules(FileRule(each, place) for each in (B, attrs.evolve(C, rule_id="a"))), [saved])
    (finding,) = judge_yielding(precedence.yielding())
    assert finding.evidence.startswith("a (cam) has the same input as b in")
    assert finding.remedy.endswith(": mcrctl remove --name cam")


def test_rules_that_cannot_be_used_are_told_by_their_causes() -> None:
    views = [view_of_unusable(each, why, Origin.RUNTIME) for each, why in ((A, "x"), (B, "y"), (C, "x"))]
    assert [(each.verdict, each.what, each.evidence) for each in judge_unusable(views)] == [
        (Verdict.FAULT, "2 rules cannot be used: x", "mcrctl list: a and 1 more"),
        (Verdict.FAULT, "1 rule cannot be used: y", "mcrctl list: b"),
    ]
