"""What one should know of a rule when it is added, though nothing is wrong with it."""

from ipaddress import IPv4Network
from typing import Final

from mcr.model.flow import WITH_SOURCE, Input
from mcr.model.rule import Output

_ONE_LINK: Final = IPv4Network("224.0.0.0/24")


def advice(source: Input, outputs: tuple[Output, ...]) -> tuple[str, ...]:
    """Sentences about groups that are for something else than what a rule does with them."""
    said = []
    if source.group in WITH_SOURCE and not source.sources:
        said.append(
            f"{source.group} is a group of source-specific multicast ({WITH_SOURCE}): the rule takes it from any "
            "source and joins it without one, and routers forward it only to who names the source: --input-source ADDR"
        )
    groups = dict.fromkeys((source.group, *(each.group for each in outputs)))
    said += [
        f"{group} is for control protocols of one network ({_ONE_LINK}), such as IGMP and routing: hosts and switches "
        "there may act on what is relayed"
        for group in groups
        if group in _ONE_LINK
    ]
    return tuple(said)
