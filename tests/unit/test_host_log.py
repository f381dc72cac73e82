"""What the log says of hosts that do not answer ARP."""

from ipaddress import IPv4Address, IPv6Address

import attrs
import pytest

from mcr.model.log import Level
from mcr.net.network import Neighbour, Network
from mcr.rules.conditions import Attachment, Hop
from mcr.rules.host_log import HostLog

REACHABLE, FAILED, INCOMPLETE = Neighbour(0x02), Neighbour(0x20, silent=True), Neighbour(0x01)
FORGOTTEN = None
INDEX = 3
DEAD = "198.18.3.9 on eth3 does not answer ARP: 1 output waits"
BACK = "198.18.3.9 on eth3 answers again: 1 output goes on"


@attrs.define
class Hosts:
    """Outputs by eth3, and what is logged of them."""

    log: HostLog = attrs.field(factory=HostLog)
    outputs: list[str] = attrs.field(factory=lambda: ["198.18.3.9"])
    gateway: str = ""

    def say(self, neighbour: Neighbour | None, time: float = 0.0) -> list[tuple[Level, str]]:
        hosts = [(IPv4Address(each), "eth3") for each in self.outputs]
        hops: dict[tuple[IPv4Address | IPv6Address, str], Hop] = {
            each: Hop(IPv4Address(self.gateway) if self.gateway else each[0]) for each in hosts
        }
        known = {(INDEX, hop.neighbour): neighbour for hop in hops.values() if neighbour}
        self.log.note(hosts, hops, {"eth3": Attachment("eth3", INDEX)}, Network(neighbours=known))
        return self.log.lines(time)

    def said(self, *neighbours: Neighbour | None, time: float = 0.0) -> list[str]:
        return [text for each in neighbours for _, text in self.say(each, time)]


@pytest.fixture
def hosts() -> Hosts:
    return Hosts()


def test_silence_and_its_end_are_said_once(hosts: Hosts) -> None:
    assert hosts.say(FAILED) == [(Level.WARNING, DEAD)]
    assert hosts.said(FAILED, FAILED) == []
    assert hosts.say(REACHABLE) == [(Level.NOTICE, BACK)]
    assert hosts.said(REACHABLE, INCOMPLETE, FORGOTTEN) == []


def test_host_that_the_kernel_has_forgotten_does_not_answer_by_that(hosts: Hosts) -> None:
    """As when its interface was down, or made again."""
    assert hosts.said(FAILED, FORGOTTEN, INCOMPLETE, FAILED, REACHABLE) == [DEAD, BACK]


def test_outputs_are_counted_and_many_hosts_are_one_line(hosts: Hosts) -> None:
    hosts.outputs = ["198.18.3.1", "198.18.3.1", "198.18.3.2", "198.18.3.3"]
    assert hosts.said(FAILED, REACHABLE) == [
        "198.18.3.1 on eth3 and 2 more neighbours do not answer ARP: 4 outputs wait",
        "198.18.3.1 on eth3 and 2 more neighbours answer again: 4 outputs go on",
    ]


def test_gateway_is_named_for_all_hosts_behind_it(hosts: Hosts) -> None:
    hosts.outputs, hosts.gateway = ["203.0.113.1", "203.0.113.2"], "198.18.3.77"
    assert hosts.said(FAILED) == ["the gateway 198.18.3.77 on eth3 does not answer ARP: 2 outputs wait"]


def test_host_that_comes_and_goes_all_the_time_is_told_seldom_and_as_it_is_in_the_end(hosts: Hosts) -> None:
    lines = []
    for second in range(60):
        lines += hosts.said(FAILED if second % 2 else REACHABLE, time=second)
    assert 8 <= len(lines) <= 12
    hosts.said(FAILED, time=100.0)
    assert hosts.said(REACHABLE, time=110.0) == [BACK]


def test_host_that_no_rule_names_any_more_is_forgotten(hosts: Hosts) -> None:
    assert hosts.said(FAILED) == [DEAD]
    hosts.outputs = []
    assert hosts.said(FAILED) == []
    hosts.outputs = ["198.18.3.9"]
    assert hosts.said(REACHABLE) == []
