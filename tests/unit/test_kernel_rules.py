"""Which rules the kernel path may forward by, and what is said of the others."""

import os
from ipaddress import IPv4Address

import attrs
import pytest

from mcr.config.settings import Settings
from mcr.model.flow import Input
from mcr.model.log import LogLevels
from mcr.model.rule import Output, Path, Rule
from mcr.net.filter.path import is_realtime
from mcr.net.raw import RawLink
from mcr.process.descriptor_store import DescriptorStore
from mcr.relay.kernel_path import _why_not_to, open_kernel_rules
from mcr.rules.conditions import Conditions, Paths, view_of
from mcr.shm.kept import Kept

GROUP = Output(IPv4Address("239.2.2.2"), 6000, "out0")
HOST = Output(IPv4Address("192.0.2.7"), 6000, "out0")
RULE = Rule("id", Input("in0", IPv4Address("239.1.1.1"), 5000), (GROUP,))
UP = RawLink(bytes(6), 1500)
SOURCE = IPv4Address("192.0.2.1")
SETTINGS = Settings("", 1, LogLevels())


def test_a_group_on_ethernet_with_a_known_source_is_served() -> None:
    assert not _why_not_to(GROUP, UP, SOURCE, None)


@pytest.mark.parametrize(
    ("output", "link", "source", "neighbour", "reason"),
    [
        (HOST, UP, None, ("out0", HOST.group), "192.0.2.7 is a host, and its MAC has to be asked for"),
        (attrs.evolve(GROUP, gso="off"), UP, SOURCE, None, "239.2.2.2:6000:out0 has gso=off"),
        (GROUP, None, None, None, "out0 is about to be checked, or is not Ethernet, or takes no GSO batches"),
        (GROUP, attrs.evolve(UP, up=False), SOURCE, None, "out0 is down"),
        (GROUP, UP, None, ("out0", GROUP.group), "239.2.2.2 is reached through a gateway"),
        (
            GROUP,
            UP,
            None,
            None,
            "IP would do more for 239.2.2.2:6000:out0 than add headers: see the routes to 239.2.2.2",
        ),
    ],
)
def test_everything_else_is_the_workers_and_it_is_said_why(
    output: Output,
    link: RawLink | None,
    source: IPv4Address | None,
    neighbour: tuple[str, IPv4Address] | None,
    reason: str,
) -> None:
    assert _why_not_to(output, link, source, neighbour) == reason


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (Paths("", {"in0": ""}, {"id": ""}), ""),
        (Paths("all", {"in0": "input"}, {"id": "rule"}), "all"),
        (Paths("", {"in0": "input"}, {"id": "rule"}), "input"),
        (Paths("", {"in0": ""}, {"id": "rule"}), "rule"),
        (Paths(""), "it is about to be checked"),
    ],
)
def test_the_widest_reason_is_shown(paths: Paths, reason: str) -> None:
    view = view_of(RULE, 1, Conditions(1, paths=paths))
    assert (view.path, view.path_reason) == (Path.WORKER if reason else Path.KERNEL, reason)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (attrs.evolve(SETTINGS, kernel_path="off"), "MCR_KERNEL_PATH=off"),
        (attrs.evolve(SETTINGS, absorb=False), "MCR_ABSORB=0"),
        (attrs.evolve(SETTINGS, raw_send=False), "MCR_RAW_SEND=0"),
    ],
)
def test_settings_that_switch_it_off_are_named(settings: Settings, reason: str) -> None:
    with Kept.open(DescriptorStore(), 1) as kept, open_kernel_rules(settings, kept) as kernel:
        assert kernel.path is None
        assert kernel.paths({}).why_worker(RULE) == reason
        assert not kernel.is_waiting


@pytest.mark.parametrize(
    ("version", "so"),
    [("#1 SMP PREEMPT_RT Debian 6.12.9-1", True), ("#1 SMP PREEMPT_DYNAMIC Debian 6.12.9-1", False)],
)
def test_a_realtime_kernel_is_known_by_its_version(monkeypatch: pytest.MonkeyPatch, version: str, so: bool) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", "6.12.9", version, "x86_64")))
    assert is_realtime() == so
