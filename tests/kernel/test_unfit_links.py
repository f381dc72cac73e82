"""Why raw frames cannot leave by an interface."""

import socket

from lab import Lab
from mcr.net.raw import find_links, why_unfit


def test_the_one_reason_is_named(lab: Lab) -> None:
    inside = lab.namespace("inside")
    with inside.entered():
        inside.ip("link add a0 gso_max_segs 8 type veth peer name a1")
        loopback, cut, there = map(socket.if_nametoindex, ("lo", "a0", "a1"))
        assert list(find_links({loopback, cut, there})) == [there]
        assert why_unfit(loopback) == "it is not Ethernet"
        assert why_unfit(cut) == "it takes no GSO batches"
        assert why_unfit(2**30) == "there is no such interface now"
