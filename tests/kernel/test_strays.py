"""Datagrams that another program at the ingress has taken, and that no packet has followed on their processor."""

import os

import pytest

from filters import Wire, frame, look_for_lost
from mcr._native import lib
from mcr.shm.kernel_counters import Taken
from test_gates import CAPTURE, Relay, relay

__all__ = ["relay"]

pytestmark = pytest.mark.usefixtures("one_processor")


@pytest.fixture
def stray(relay: Relay, wire: Wire) -> Relay:
    """One is lost, and nobody has counted it."""
    assert relay.filters.suppressor
    lib.mcr_bpf_unlink(os.dup(*relay.filters.suppressor._links.values()))
    wire.send(frame())
    relay.counters.look()
    assert relay.taken() == Taken()
    return relay


def test_the_next_capture_in_a_slot_begins_without_them(stray: Relay, wire: Wire) -> None:
    assert look_for_lost(stray.counters, CAPTURE) == 1
    stray.path.start_capture(CAPTURE)
    stray.counters.look()
    assert not any(each.since for each in stray.counters._strays)
    wire.send(frame())  # its filter finds what nobody has carried out
    assert wire.receive(1) == [frame()]
    assert stray.taken() == Taken()


def test_the_next_packet_counts_them_in_their_place(stray: Relay, wire: Wire) -> None:
    assert look_for_lost(stray.counters, CAPTURE) == 1
    wire.send(frame())
    assert wire.receive(1) == [frame()]
    assert stray.taken() == Taken(lost=1)
    stray.counters.look()
    assert not any(each.since for each in stray.counters._strays)
    assert stray.taken() == Taken(lost=1)
