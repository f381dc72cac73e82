from ipaddress import IPv4Address, IPv6Address

from mcr.net.procfs import Joined, parse_igmp, parse_igmp6, parse_packet, parse_udp

IGMP = """Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter
1\tlo        :     1      V3
\t\t\t\t010000E0     1 0:00000000\t\t0
11\tinput-port-one:     2      V2
\t\t\t\t010101EF     1 0:00000000\t\t1
\t\t\t\t010000E0     1 0:00000000\t\t0
12\tout0      :     0      V3
"""

PACKET = """sk               RefCnt Type Proto  Iface R Rmem   User   Inode
0000000000000000 3      3    0003   11    1 0      0      4001
0000000000000000 3      3    0003   -1    1 0      0      4002
0000000000000000 3      3    0003   12    1 0      0      4003
0000000000000000 3      2    0003   0     1 0      0      4004
"""


UDP = """   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref
  391: 020202EF:1770 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4001 2 0000000000000000 0
  391: 00000000:1771 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4002 2 0000000000000000 0
 1234: 00000000:14E9 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4003 2 0000000000000000 0
"""


def test_memberships_by_interface() -> None:
    all_hosts = IPv4Address("224.0.0.1")
    assert list(parse_igmp(IGMP)) == [
        Joined(1, "lo", "V3", (all_hosts,)),
        Joined(11, "input-port-one", "V2", (IPv4Address("239.1.1.1"), all_hosts)),
        Joined(12, "out0", "V3", ()),
    ]
    assert list(parse_igmp(IGMP.splitlines()[0])) == []


def test_only_our_sockets_that_are_bound_to_an_interface_count() -> None:
    assert list(parse_packet(PACKET, [4001, 4002, 4004])) == [11]


def test_udp_sockets_of_others_are_listed() -> None:
    assert list(parse_udp(UDP, [4002])) == [(IPv4Address("239.2.2.2"), 6000), (IPv4Address(0), 5353)]


IGMP6 = """1    lo              ff020000000000000000000000000001     1 0000000C 0
11   in0             ff150000000000000000000000000001     1 00000004 0
"""

UDP6 = """  sl  local_address                         remote_address                        st tx rx tr tm->when
  391: 000015FF000000000000000001000000:1770 00000000000000000000000000000000:0000 07 0:0 00:0 0 0 0 4001 2 0
  391: 00000000000000000000000000000000:14E9 00000000000000000000000000000000:0000 07 0:0 00:0 0 0 0 4003 2 0
"""


def test_ipv6_udp_sockets_are_listed() -> None:
    assert list(parse_udp(UDP6, [4001])) == [(IPv6Address(0), 5353)]
    assert list(parse_udp(UDP6, [4003])) == [(IPv6Address("ff15::1"), 6000)]


def test_ipv6_memberships_by_interface() -> None:
    assert list(parse_igmp6(IGMP6)) == [(1, IPv6Address("ff02::1")), (11, IPv6Address("ff15::1"))]
