"""Losses that are over."""

import attrs

from mcr.diagnosis.fading import RECENT_SECONDS, Losses
from mcr.model.finding import Finding, Verdict

LOSS = Finding("kernel_drops", Verdict.FAULT, "9 packets on in0 were lost", "kernel_drops=9 of in0", "larger rings")
OTHER = Finding("cores", Verdict.ADVICE, "Workers share a core", "2 workers")


def verdicts(losses: Losses, now: float, *findings: Finding) -> list[Verdict]:
    return [each.verdict for each in losses.fade(findings, now)]


def test_a_loss_is_advice_for_an_hour_and_again_when_it_grows() -> None:
    losses = Losses()
    assert verdicts(losses, 0, LOSS, OTHER) == [Verdict.FAULT, Verdict.ADVICE]
    assert verdicts(losses, RECENT_SECONDS - 1, LOSS, OTHER) == [Verdict.FAULT, Verdict.ADVICE]
    (over, other) = losses.fade([LOSS, OTHER], 2 * RECENT_SECONDS)
    assert (over.verdict, over.what, over.remedy) == (Verdict.OK, f"{LOSS.what}; none for the last 2 h", "")
    assert other == OTHER
    grown = attrs.evolve(LOSS, evidence="kernel_drops=10 of in0")
    assert verdicts(losses, 2 * RECENT_SECONDS + 1, grown) == [Verdict.FAULT]
    assert verdicts(losses, 2 * RECENT_SECONDS + 2, LOSS) == [Verdict.FAULT]  # of another interface of that name
