"""What every start of mcrd asks the kernel, without pyroute2: the answers are the same."""

import socket
import sys
from contextlib import closing

from pyroute2 import IPRoute
from pyroute2.ethtool.ioctl import IoctlEthtool

from firewalls import ACCEPT, firewall
from lab import Lab
from mcr.net.firewall import look_at_firewall
from mcr.net.netlink import look_at_links
from mcr.net.offloads import features_on, has_chains

ASK = """\
import sys
from mcr.net.firewall import look_at_firewall
from mcr.net.local_receivers import without_local_receivers
from mcr.net.offloads import has_chains
from mcr.net.raw import find_links
print(find_links({10}), without_local_receivers({10}), has_chains("a0"), look_at_firewall(), file=sys.stderr)
print(*sys.modules)
"""


def test_links_are_as_pyroute2_sees_them_and_those_that_have_gone_are_left_out(lab: Lab) -> None:
    inside = lab.namespace("inside")
    inside.ip("link add br0 type bridge", "link add a0 gso_max_segs 8 type veth peer name a1", "link set a0 master br0")
    with inside.entered(), IPRoute() as netlink:
        seen = {each["index"]: each for each in netlink.get_links()}
        found = look_at_links([*seen, 2**30])
    assert [each.index for each in found] == [*seen]
    for each in found:
        link = seen[each.index]
        assert (each.name, each.kind, each.flags) == (link.get("ifname"), link["ifi_type"], link["flags"])
        assert (each.mac.hex(":"), each.mtu) == (link.get("address"), link.get("mtu"))
        assert (each.master, each.most_segments) == (link.get("master") or 0, link.get("gso_max_segs"))
    assert {each.name: bool(each.master) for each in found if each.name[0] == "a"} == {"a0": True, "a1": False}


def test_features_are_as_pyroute2_sees_them(lab: Lab) -> None:
    inside = lab.namespace("inside")
    inside.ip("link add a0 type veth peer name a1")
    with inside.entered():
        for name in ("lo", "a0"):
            with closing(IoctlEthtool(name)) as interface:
                seen = interface.get_features()
            assert features_on(name) == {each for each, *_ in seen if seen[each]}
        assert not has_chains("a0")
        for feature in ("rx-gro", "rx-gro-list"):
            inside.set_feature("a0", feature, enable=True)
        assert has_chains("a0")
        assert has_chains("gone")  # it can't be seen


def test_a_firewall_is_seen_from_its_first_chain_on(lab: Lab) -> None:
    inside = lab.namespace("inside")
    with inside.entered():
        assert not look_at_firewall().chains
        with firewall(inside, "output", ACCEPT, rule=True):
            (chain,) = look_at_firewall().chains
            assert (chain.hook, chain.rules) == ("output", 1)
        assert not look_at_firewall().chains


def test_where_there_is_no_firewall_pyroute2_is_not_imported(lab: Lab) -> None:
    """It takes as long as a quarter of all that a start imports."""
    inside = lab.namespace("inside")
    inside.ip("link add a0 index 10 type veth peer name a1")
    with inside.entered():
        assert socket.if_nametoindex("a0") == 10
    done = inside.run([sys.executable, "-I", "-c", ASK])
    assert "RawLink" in done.stderr
    assert not {"pyroute2", "asyncio"} & {*done.stdout.split()}
