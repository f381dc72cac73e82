"""What this machine's network is, as the kernel tells it."""

import socket
from ipaddress import IPv4Interface

from pyroute2 import IPRoute

from mcr.net.rtnetlink import DUMPS, Known, request_dump


def test_this_machine_is_seen_as_pyroute2_sees_it() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        known = Known(netlink.getsockname()[0])
        for dump in DUMPS:
            known.begin(dump)
            netlink.send(request_dump(dump))
            while known.dumping:
                known.heed(netlink.recv(65_536))
    network = known.network()
    with IPRoute() as netlink:
        links = {each["index"]: each for each in netlink.get_links()}
        addresses = {
            (each["index"], IPv4Interface((each.get("local"), each["prefixlen"])))
            for each in netlink.get_addr(family=socket.AF_INET)
        }
    assert {index: each.name for index, each in network.links.items()} == {
        index: each.get("ifname") for index, each in links.items()
    }
    for index, each in network.links.items():
        assert each.mtu == links[index].get("mtu")
        assert each.mac.hex(":") == (links[index].get("address") or "")
        assert each.carrier == bool(links[index].get("carrier"))
    assert {(index, each) for index, those in network.addresses.items() for each in those} == addresses
