"""Sockets for an interface that has just gone."""

import errno
import socket
from ipaddress import IPv4Address
from typing import NoReturn

import pytest

from mcr.config.settings import settings_from
from mcr.errors import SystemFault
from mcr.net.interfaces import Interface
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
    assert caplog.messages == [f"{why}: groups whose routes lead to a gateway now can keep others waiting"]


def test_those_of_others_are_opened() -> None:
    neighbours = Neighbours(settings_from({}))
    gone, of_gone, of_other = Interface("gone0", 999_999, 1500, None), Key("gone0", HOST), Key("lo", HOST)
    try:
        neighbours.open_now([of_gone, of_other], {"gone0": gone, "lo": found("lo")})
        assert neighbours.keys() == {of_other}
    finally:
        neighbours.close()
