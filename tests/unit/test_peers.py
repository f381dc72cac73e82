"""Who may change the relay."""

import pytest

from mcr.control.peers import Peer, Rights

RIGHTS = Rights(own_uid=990, admins=991)


@pytest.mark.parametrize(
    ("peer", "may"),
    [
        (Peer(1, 0, frozenset({0})), True),
        (Peer(1, 990, frozenset({990})), True),
        (Peer(1, 1000, frozenset({1000, 991})), True),
        (Peer(1, 1000, frozenset({1000, 990})), False),
        (Peer(1, 65_534, frozenset({65_534})), False),
    ],
    ids=["root", "the daemon's user", "an admin", "a user who may read", "nobody"],
)
def test_root_the_own_user_and_admins_may_change(peer: Peer, may: bool) -> None:
    assert RIGHTS.may_change(peer) is may


def test_without_an_admin_group_nobody_else_may() -> None:
    assert not Rights(own_uid=990, admins=None).may_change(Peer(1, 1000, frozenset({1000, 991})))


def test_a_refusal_names_the_user_what_was_asked_and_the_remedy() -> None:
    error = RIGHTS.refusal(Peer(1, 4_000_000, frozenset()), "add")
    assert error.message == "4000000 may read from this relay but not change it: add was refused"
    assert "sudo usermod -aG mcr-admin 4000000" in error.hints[1]
    assert len(RIGHTS.refusal(Peer(1, 1, frozenset()), "add").hints) == 2
    assert Rights(0, 991).refusal(Peer(1, 1, frozenset()), "add").hints[0] == "allowed: root and members of mcr-admin"
    assert "groupadd" in Rights(0, None).refusal(Peer(1, 1, frozenset()), "add").hints[2]
