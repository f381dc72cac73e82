"""Thousands of rules that a relay takes at once, with sockets of its own."""

from collections.abc import Iterator, Sequence
from ipaddress import ip_address

import attrs
import pytest

from lab import Lab
from mcr.config.settings import Settings
from mcr.model.flow import Input
from mcr.model.log import LogLevels
from mcr.model.rule import Output, Rule, RuleChange
from mcr.net.patience import close_all
from mcr.process.descriptor_store import DescriptorStore
from mcr.relay.kernel_path import KernelRules
from mcr.relay.placement import PlacedRule, Replacement
from mcr.relay.relay import Relay
from mcr.rules.catalog import MANY
from mcr.shm.kept import Kept

OUTPUT = Output(ip_address("239.9.9.1"), 6000, "out0")
FIRST, *OTHERS = [Rule(f"r{i}", Input("in0", ip_address("239.1.1.1"), 5000 + i), (OUTPUT,)) for i in range(MANY + 2)]


@pytest.fixture
def relay(lab: Lab) -> Iterator[Relay]:
    source, inside = lab.namespace("source"), lab.namespace("inside")
    lab.link(source, "src0", inside, "in0")
    lab.link(source, "rx0", inside, "out0", b_address="198.18.2.1/24")
    settings = Settings("", 1, LogLevels())
    with Kept.open(DescriptorStore(), 1) as kept, inside.entered(), Relay(settings, kept, KernelRules(None)) as made:
        yield made
        for capture in made.inputs:  # what others count by
            capture.rejected.close()
            close_all(capture.group.watched)


def test_the_kernel_path_hears_of_changed_rules_however_many_are_new(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is new alone may wait until workers know it: then others do not hear of a change."""
    told: list[tuple[int, int]] = []

    def use(_: object, added: Sequence[PlacedRule], changed: Sequence[Replacement]) -> None:
        told.append((len(added), len(changed)))

    monkeypatch.setattr(KernelRules, "use", use)
    relay._apply(RuleChange(2, added=(FIRST,)))
    longer = attrs.evolve(FIRST, outputs=(OUTPUT, attrs.evolve(OUTPUT, port=6001)))
    step = relay._apply(RuleChange(3, added=tuple(OTHERS), changed=(longer,)))
    assert told == [(1, 0), (MANY + 1, 1)]
    assert step.later == ()
    step = relay._apply(RuleChange(4, removed=tuple(OTHERS)))
    step = relay._apply(RuleChange(5, added=tuple(OTHERS)))
    assert told == [(1, 0), (MANY + 1, 1), (0, 0)]
    assert len(step.later) == MANY + 1
