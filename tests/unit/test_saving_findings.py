"""What doctor says of rules that are saved, or are not."""

import pytest

from mcr.diagnosis.saving_findings import judge_saving
from mcr.model.finding import Verdict
from mcr.model.saving import Saving


@pytest.mark.parametrize(
    ("saving", "verdict", "what"),
    [
        (Saving("/var/lib/mcr/rules.sqlite"), Verdict.OK, "there again after a restart"),
        (Saving(), Verdict.OK, "--no-state was given"),
        (Saving("", "State directory /var/lib/mcr: Permission denied"), Verdict.ADVICE, "forgotten when mcrd ends"),
        (Saving("/var/lib/mcr/rules.sqlite", "No space left on device"), Verdict.FAULT, "No rule can be changed"),
    ],
)
def test_each_case_has_its_verdict(saving: Saving, verdict: Verdict, what: str) -> None:
    finding = judge_saving(saving)
    assert (finding.verdict, what in finding.what) == (verdict, True)
    assert bool(finding.remedy) == (verdict is not Verdict.OK)
    assert saving.trouble in finding.evidence
