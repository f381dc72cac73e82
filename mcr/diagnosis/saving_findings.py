"""Judges whether rules survive a restart, and whether all that did are used. Pure."""

import errno
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from mcr.model.finding import Finding, Verdict
from mcr.model.rule import RuleView
from mcr.model.saving import Saving
from mcr.rules.conditions import UNUSABLE
from mcr.rules.file_rules import Yielding, shared
from mcr.text.plurals import counted

_CHECK = "saved_rules"
_CAUSES = 3  # that are told apart
_NAMED = 3
_ROOM = 1 << 20  # bytes; with less it is time to act
_LOCKED = {errno.EROFS, errno.EACCES}
_ENOUGH = 1 << 16  # bytes; a change of some rules fits
_PAGE = 4096  # bytes; the least that SQLite asks the disk for


def judge_saving(saving: Saving, free: int | None = None, *, writable: bool = False) -> Finding:
    """Whether the next change of the rules is there again after a restart.

    Args:
        saving: how it stands, by the last write.
        free: bytes that the disk has room for; None: not known.
        writable: the file and its directory can be written, as far as their rights and the mount say.
    """
    if not saving.path and not saving.trouble:
        return Finding(_CHECK, Verdict.OK, "Rules are not saved: --no-state was given", "mcrctl settings")
    if not saving.path:
        return Finding(
            _CHECK,
            Verdict.ADVICE,
            "Rules are forgotten when mcrd ends",
            saving.trouble,
            "give mcrd a directory that only its user may write: --state-dir DIR; or say --no-state",
        )
    if saving.is_gone:
        return Finding(
            _CHECK,
            Verdict.FAULT,
            "Saved rules are lost when mcrd ends: their file was deleted or renamed",
            saving.trouble or saving.path,
            "take them down: mcrctl config export > rules.toml; the next change of a rule saves all of them again",
        )
    if saving.trouble:
        return _judge_trouble(saving, free or 0, writable=writable)
    if free is not None and free < _ROOM:
        return Finding(
            _CHECK,
            Verdict.FAULT if free < _PAGE else Verdict.ADVICE,
            f"Rules are saved, but the disk is {'' if free < _PAGE else 'nearly '}full: changes may be refused",
            f"{saving.path}: room for {free:,} bytes",
            f"make room: df {saving.path}",
        )
    return Finding(_CHECK, Verdict.OK, "Rules are saved, and there again after a restart", saving.path)


def _judge_trouble(saving: Saving, free: int, *, writable: bool) -> Finding:
    """What was wrong with the last write, and whether it still is, as far as that can be seen without another."""
    no_change = "No rule can be changed: changes cannot be saved"
    if saving.ago is None:  # the file could not be opened for writing at the start, and is not opened again
        remedy = f"make room or mend the disk, then restart mcrd: df {saving.path}"
        return Finding(_CHECK, Verdict.FAULT, no_change, saving.trouble, remedy)
    mended = ""
    if saving.errno == errno.ENOSPC and free >= _ENOUGH:
        mended = f"there is room for {free:,} bytes now"
    elif saving.errno in _LOCKED and writable:
        mended = "its file can be written now"
    if mended:
        what = f"The last change of a rule, {saving.ago:,.0f} s ago, could not be saved; {mended}"
        return Finding(_CHECK, Verdict.ADVICE, what, saving.trouble, "try it again")
    see = f"{saving.ago:,.0f} s ago: {saving.trouble}"
    return Finding(
        _CHECK, Verdict.FAULT, no_change, see, f"make room or mend the disk, then try again: df {saving.path}"
    )


def judge_set_aside(files: Sequence[str]) -> Iterator[Finding]:
    """Whether rules may be missing since a file of saved rules could not be used."""
    if files:
        yield Finding(
            "state_set_aside",
            Verdict.ADVICE,
            "Rules may be missing: a file of saved rules was damaged or foreign, and was set aside",
            ", ".join(files[-_NAMED:]),
            f"add what mcrctl list lacks, then: sudo sh -c 'rm {' '.join(f'{file}*' for file in files)}'",
        )


def judge_yielding(yielding: Sequence[Yielding]) -> Iterator[Finding]:
    """Whether saved rules are not used because files have others with the same input, id or name."""
    if yielding:
        named = [
            f"{each.rule.label} has the same {shared(each.rule, each.rival.rule)} as {each.rival.rule.label}"
            f" in {each.rival.place}"
            for each in yielding[:_NAMED]
        ]
        more = [f"and {len(yielding) - _NAMED:,} more"] if len(yielding) > _NAMED else []
        yield Finding(
            "rules_give_way",
            Verdict.ADVICE,
            f"{counted(len(yielding), 'saved rule')} not used, in favour of configuration files",
            ", ".join([*named, *more]),
            f"keep one of each: take it out of the file, or: {yielding[0].forgetting}",
        )


def judge_unusable(rules: Iterable[RuleView]) -> Iterator[Finding]:
    """Whether there are rules that could not be had; each cause once."""
    causes: defaultdict[str, list[str]] = defaultdict(list)
    for rule in rules:
        if rule.reason.startswith(UNUSABLE):
            causes[rule.reason.removeprefix(UNUSABLE)].append(rule.rule_id)
    for cause, those in islice(causes.items(), _CAUSES):
        more = f" and {len(those) - 1:,} more" if len(those) > 1 else ""
        others = f"; and {len(causes) - _CAUSES:,} more causes" if len(causes) > _CAUSES else ""
        yield Finding(
            "rule_unusable",
            Verdict.FAULT,
            f"{counted(len(those), 'rule')} cannot be used: {cause}",
            f"mcrctl list: {those[0]}{more}{others}",
            "mcrd tries again by itself; see its log",
        )
