"""What is read of nftables is what is there."""

from typing import Any

import pytest
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.nftables.expressions import genex
from pyroute2.nftables.main import NFTables

from lab import Lab
from mcr.model.flow import IPV4, IPV6
from mcr.net.firewall import Chain, Firewall, look_at_firewall

ACCEPT, DROP = 1, 0
FAMILIES = {"inet": 1, "ip": 2, "ip6": 10, "bridge": 7}
OTHERS = 300  # more than one message of a dump holds


def about(protocol: int) -> Any:
    """A rule that loads a byte and compares it."""
    return (
        genex("payload", {"DREG": 1, "BASE": 1, "OFFSET": 9, "LEN": 1}),
        genex("cmp", {"SREG": 1, "OP": 0, "DATA": {"attrs": [("NFTA_DATA_VALUE", bytes([protocol]))]}}),
    )


def test_nothing_is_there(lab: Lab) -> None:
    with lab.namespace("quiet").entered():
        assert look_at_firewall() == look_at_firewall(IPV6) == Firewall()


def test_chains_are_read_with_their_rules(lab: Lab) -> None:
    """Those at a hook of this version of IP, or of both; with a word of what their table compares."""
    with lab.namespace("guarded").entered():
        for family, number in FAMILIES.items():
            with NFTables(nfgen_family=number) as netlink:
                try:
                    netlink.table("add", name=f"t-{family}")
                except NetlinkError as error:
                    pytest.skip(f"this kernel has no nftables: {error}")
                hook = {"hook": "prerouting", "type": "filter"}
                netlink.chain("add", table=f"t-{family}", name="first", policy=DROP, **hook)
                netlink.chain("add", table=f"t-{family}", name="plain")
                netlink.rule("add", table=f"t-{family}", chain="first", expressions=())
                if family == "ip":
                    netlink.chain("add", table="t-ip", name="out", hook="output", type="route", policy=ACCEPT)
                    netlink.rule("add", table="t-ip", chain="plain", expressions=(about(17),))
                    netlink.rule("add", table="t-ip", chain="plain", expressions=(about(2),))
                    for _ in range(OTHERS):
                        netlink.rule("add", table="t-ip", chain="out", expressions=(about(17),))
                if family == "ip6":
                    netlink.rule("add", table="t-ip6", chain="plain", expressions=(about(2),))
        inet = Chain("inet t-inet", "first", "prerouting", drops=True, rules=1, igmp=False)
        ip = Chain("ip t-ip", "first", "prerouting", drops=True, rules=1, igmp=True)
        route = Chain("ip t-ip", "out", "output", drops=False, rules=OTHERS, igmp=True, kind="route")
        ip6 = Chain("ip6 t-ip6", "first", "prerouting", drops=True, rules=1, igmp=False)
        assert {*look_at_firewall(IPV4).chains} == {inet, ip, route}
        assert {*look_at_firewall(IPV6).chains} == {inet, ip6}
