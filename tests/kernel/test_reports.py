"""The query by which this machine asks itself for its groups."""

import socket

import pytest

from lab import Lab
from mcr.net.igmp import ask_for_reports
from mcr_process import PATIENCE

GROUPS = 5_000


@pytest.mark.parametrize(("version", "tenths"), [("3", 5), ("2", 50)])
def test_only_reports_of_single_groups_are_given_time(lab: Lab, version: str, tenths: int) -> None:
    """IGMPv3 reports all groups at one moment, which should come soon."""
    machine, there = lab.namespace("machine"), lab.namespace("there")
    lab.link(machine, "in0", there, "far0", a_address="198.18.0.1/24")
    machine.sysctl("net.ipv4.conf.in0.force_igmp_version", version)
    with machine.entered():
        heard = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
        index = socket.if_nametoindex("in0")
        with heard:
            heard.settimeout(PATIENCE)
            ask_for_reports(index, GROUPS)
            packet = heard.recv(100)
    message = packet[4 * (packet[0] & 0x0F) :]
    assert (message[0], message[1]) == (0x11, tenths)
