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
def firewall(namespace: Namespace, hook: str, policy: int, *, rule: bool = False, family: int = 2) -> Iterator[None]:
    """A chain of nftables, with a rule that accepts everything if asked for. `family`: 10: of IPv6."""
    with namespace.entered():
        netlink = NFTables(nfgen_family=family)
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


@contextmanager
def egress_firewall(namespace: Namespace, interface: str) -> Iterator[None]:
    """A chain of nftables that everything passes that leaves by an interface, with a rule that accepts it."""
    with namespace.entered():
        netlink = NFTables(nfgen_family=5)  # NFPROTO_NETDEV
    at = [("NFTA_HOOK_HOOKNUM", 1), ("NFTA_HOOK_PRIORITY", 0), ("NFTA_HOOK_DEV", interface)]  # NF_NETDEV_EGRESS
    try:
        netlink.table("add", name="last")
        netlink.chain("add", table="last", name="passed", policy=ACCEPT, NFTA_CHAIN_HOOK={"attrs": at})
        netlink.rule("add", table="last", chain="passed", expressions=())
        yield
        netlink.table("del", name="last")
    except NetlinkError as error:
        pytest.skip(f"this kernel has no nftables for egress: {error}")
    finally:
        netlink.close()
