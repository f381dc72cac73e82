"""Sockets for an interface that has just gone."""

import errno
import socket
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address
from typing import NoReturn

import attrs
import pytest

from mcr.config.settings import settings_from
from mcr.errors import SystemFault
from mcr.net.interfaces import Interface
from mcr.net.patience import close_all
from mcr.relay.neighbours import Neighbours
from mcr.relay.placement import Key

HOST = IPv4Address("198.18.2.255")


def found(name: str) -> Interface:
    return Interface(name, socket.if_nametoindex(name), 1500, None)


def refused(*_: object, **__: object) -> NoReturn:
    raise SystemFault("Cannot send on lo: socket", errno.EMFILE)


def test_that_they_cannot_be_had_is_no_news(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log says that it has gone, and they are opened with it when it is back. Other refusals are told."""
    neighbours = Neighbours(settings_from({}))
    gone = Interface("gone0", 999_999, 1500, None)
    assert neighbours.open_now([Key("gone0", HOST)], {"gone0": gone}) == []
    assert caplog.messages == []
    monkeypatch.setattr("mcr.relay.neighbours.open_egress", refused)
    here = found("lo")
    assert neighbours.open_now([Key("gone0", HOST), Key("lo", HOST)], {"gone0": gone, "lo": here}) == []
    why = "Cannot send on lo: socket: Too many open files (os error 24)"
    told = [f"{why}: groups whose routes lead to a gateway now can keep others waiting"]
    assert caplog.messages == told
    assert neighbours.open_now([Key("gone0", HOST)], {"gone0": gone}) == []
    assert neighbours.open_now([Key("lo", HOST)], {"lo": here}) == []
    assert caplog.messages == told  # of lo it has been said


def test_those_of_others_are_opened() -> None:
    neighbours = Neighbours(settings_from({}))
    gone, of_gone, of_other = Interface("gone0", 999_999, 1500, None), Key("gone0", HOST), Key("lo", HOST)
    try:
        neighbours.open_now([of_gone, of_other], {"gone0": gone, "lo": found("lo")})
        assert neighbours.keys() == {of_other}
    finally:
        neighbours.close()


@pytest.mark.parametrize("host", [HOST, IPv6Address("2001:db8::7")], ids=str)
def test_one_that_goes_once_more_keeps_no_other_from_its_sockets(host: IPv4Address | IPv6Address) -> None:
    """Both were made again. When it is back, its own are opened with it."""
    neighbours, here = Neighbours(settings_from({})), found("lo")
    other, going = Key("lo", host), Key("gone0", host)
    gone, back = Interface("gone0", 999_999, 1500, None), attrs.evolve(here, name="gone0")
    try:
        with ExitStack() as undo:
            opened = neighbours.open([other, going], {"lo": here, "gone0": back}, undo)
            undo.pop_all()
        neighbours.adopt(opened)
        assert renewed(neighbours, gone, here) == {"lo"}
        assert neighbours.unrenewed == {}
        assert renewed(neighbours, back) == {"gone0"}
    finally:
        neighbours.close()


def renewed(neighbours: Neighbours, *interfaces: Interface) -> frozenset[str]:
    done = neighbours.renew(interfaces)
    for each in done.dropped:
        close_all(each.all_sockets)
    return done.interfaces
