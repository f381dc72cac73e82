"""Judges whether rules survive a restart. Pure."""

from mcr.model.finding import Finding, Verdict
from mcr.model.saving import Saving

_CHECK = "saved_rules"


def judge_saving(saving: Saving) -> Finding:
    """Whether the next change of the rules is there again after a restart."""
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
    if saving.trouble:
        return Finding(
            _CHECK,
            Verdict.FAULT,
            "No rule can be changed: changes cannot be saved",
            saving.trouble,
            f"make room or mend the disk: df {saving.path}",
        )
    return Finding(_CHECK, Verdict.OK, "Rules are saved, and there again after a restart", saving.path)
