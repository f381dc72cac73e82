"""Groups that are joined for rules which then fail."""

import errno
from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import pytest

from mcr.errors import SystemFault
from mcr.model.columns import FEW
from mcr.model.flow import Address, Input
from mcr.relay.inputs import _join

GROUPS = [ip_address(f"239.1.1.{number}") for number in range(1, FEW + 2)]


class Groups:
    """Which were joined and left, one after the other. Leaving the second fails."""

    def __init__(self) -> None:
        self.joined: list[Address] = []
        self.left: list[Address] = []

    def join(self, group: Address, *_where: object) -> None:
        self.joined.append(group)

    def join_all(self, groups: Sequence[Address], *_where: object) -> None:
        self.joined += groups

    def leave(self, group: Address, *_where: object) -> None:
        self.left.append(group)
        if group == GROUPS[1]:
            raise SystemFault("Cannot leave", errno.EPERM)


@pytest.mark.parametrize("asked", [GROUPS[:FEW], GROUPS])
def test_a_group_that_cannot_be_left_keeps_no_other_joined(asked: list[Address]) -> None:
    groups: Any = Groups()
    captures: Any = {"eth0": SimpleNamespace(interface="eth0", is_lost=False)}
    undo = ExitStack()
    _join(groups, [Input("eth0", each, 5000) for each in asked], captures, undo)
    assert groups.joined == asked
    with pytest.raises(SystemFault):
        undo.close()
    assert groups.left == asked[::-1]
