"""What the log says of neighbours that the kernel can't be made to ask for."""

import errno
from ipaddress import IPv4Address, IPv6Address

import pytest

from mcr.relay import next_hops
from mcr.relay.next_hops import NextHop, NextHops


@pytest.mark.parametrize(
    ("host", "setting"),
    [
        (IPv4Address("192.0.2.1"), "net.ipv4.neigh.default.gc_thresh3"),
        (IPv6Address("fe80::1"), "net.ipv6.neigh.default.gc_thresh3"),
    ],
)
def test_a_full_table_is_named_by_its_version_of_ip(
    host: IPv4Address | IPv6Address, setting: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(those: list[NextHop]) -> dict[NextHop, int]:
        return dict.fromkeys(those, errno.ENOBUFS)

    monkeypatch.setattr(next_hops, "use_neighbours", refuse)
    hops = NextHops()
    hops.use("r1", [(1, host)])
    hops.ask()
    assert f"the kernel's table is full ({setting})" in caplog.text
