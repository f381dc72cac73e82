"""When a table of neighbours counts as full, and for whom."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

import attrs
import pytest

from mcr.model.flow import Address
from mcr.net import neighbour_tables, routes
from mcr.net.links import Link
from mcr.net.neighbour_tables import Table, find_full
from mcr.net.routes import Neighbour, Path

HOST, GATEWAY, HOST6 = IPv4Address("198.18.1.2"), IPv4Address("198.18.1.254"), IPv6Address("fd00::2")
OTHER = IPv4Address("198.18.1.3")


@pytest.mark.parametrize(
    ("entries", "refused", "full"),
    [
        (1100, 0, {}),  # permanent entries: there is room
        (1024, 0, {}),  # at the limit, and nothing is refused
        (700, 5, {}),
        (1024, 1, {4: 1024}),
        (1100, 9, {4: 1024}),
    ],
)
def test_a_table_is_full_if_it_refuses_entries(
    monkeypatch: pytest.MonkeyPatch, entries: int, refused: int, full: dict[int, int]
) -> None:
    before = {4: Table(entries, 1024, 1_000_000), 6: Table(1024, 1024, 3)}
    looks = iter([before, before | {4: attrs.evolve(before[4], refused=1_000_000 + refused)}])
    monkeypatch.setattr(neighbour_tables, "read_tables", lambda: next(looks))
    monkeypatch.setattr(neighbour_tables, "LOOK_SECONDS", 0)
    assert find_full() == full


def test_who_has_got_an_entry_meanwhile_is_not_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor has the table of IPv4 anything to do with hosts of IPv6."""
    link = Link("out0", 8)

    def still(hosts: Iterable[tuple[Address, int]]) -> set[tuple[int, Address]]:
        return {(index, host) for host, index in hosts if host != OTHER}

    monkeypatch.setattr(routes, "find_full", lambda: {4: 1024})
    monkeypatch.setattr(routes, "find_unknown", still)
    near = Path(None, None, Neighbour.UNKNOWN)
    far = attrs.evolve(near, gateway=GATEWAY)
    paths: dict[tuple[Address, Link], Path] = {(HOST, link): far, (OTHER, link): near, (HOST6, link): near}
    assert routes._find_roomless(paths) == {(HOST, link): attrs.evolve(far, full=1024)}
