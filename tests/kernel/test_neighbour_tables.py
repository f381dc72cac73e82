"""Room in the kernel's tables of neighbours, which all network namespaces share."""

import socket
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from lab import Lab
from mcr.net.neighbour_tables import read_tables
from mcr.net.next_hop import find_unknown

# Both in the first namespace alone:
LIMIT = Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3")
COUNTERS = Path("/proc/net/stat/arp_cache")


def test_entries_and_limits_are_read_in_any_namespace() -> None:
    hosts = [IPv4Address(f"198.18.0.{number}") for number in range(1, 7)]
    with Lab() as lab:
        made = lab.namespace("inside")
        made.ip("link add a0 type veth peer name a1")
        made.ip("link set a0 up")
        for host in hosts[:5]:
            made.ip(f"neighbour add {host} lladdr 02:00:00:00:00:07 dev a0")
        with made.entered():
            tables = read_tables()
            index = socket.if_nametoindex("a0")
            unknown = find_unknown((host, index) for host in hosts)
    assert tables.keys() == {4, 6}
    assert tables[4].entries >= len(hosts[:5])
    assert unknown == {(index, hosts[5])}
    if LIMIT.exists():
        assert tables[4].limit == int(LIMIT.read_text())


@pytest.mark.skipif(not COUNTERS.exists(), reason="not in the first network namespace")
def test_entries_that_were_refused_are_counted() -> None:
    before, refused, after = refused_entries(), read_tables()[4].refused, refused_entries()
    assert before <= refused <= after


def refused_entries() -> int:
    names, *processors = (line.split() for line in COUNTERS.read_text().splitlines())
    column = names.index("table_fulls")
    return sum(int(each[column], 16) for each in processors)
