"""Firewalls, without nft."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.nftables.main import NFTables

from lab import Namespace

ACCEPT, DROP = 1, 0  # NF_ACCEPT, NF_DROP


def close_firewall(namespace: Namespace, *hooks: str) -> None:
    """Make a firewall that drops by default and has no rules."""
    with namespace.entered(), NFTables(nfgen_family=2) as netlink:
        try:
            netlink.table("add", name="closed")
            for hook in hooks:
                netlink.chain("add", table="closed", name=hook, hook=hook, type="filter", policy=0)
        except NetlinkError as error:
            pytest.skip(f"this kernel has no nftables: {error}")


@contextmanager
def firewall(namespace: Namespace, hook: str, policy: int, *, rule: bool = False) -> Iterator[None]:
    """A chain of nftables, with a rule that accepts everything if asked for."""
    with namespace.entered():
        netlink = NFTables(nfgen_family=2)
    try:
        netlink.table("add", name="filter")
        netlink.chain("add", table="filter", name="passed", hook=hook, type="filter", policy=policy)
        if rule:
            netlink.rule("add", table="filter", chain="passed", expressions=())
        yield
        netlink.table("del", name="filter")
    except NetlinkError as error:
        pytest.skip(f"this kernel has no nftables: {error}")
    finally:
        netlink.close()
