"""What of a firewall is a blocker; the kernel's answers: tests/e2e/test_raw_frames.py."""

import errno
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from mcr.model.flow import IPV6
from mcr.net import ip_bypass
from mcr.net.firewall import Chain, Firewall
from mcr.net.ip_bypass import Blocker, EgressChanges, find_blocker, firewall_blocker, netdev_blocker


def chain(hook: str, *, drops: bool = False, rules: int = 0, kind: str = "filter") -> Chain:
    return Chain("inet t", "c", hook, drops=drops, rules=rules, igmp=False, kind=kind)


@pytest.mark.parametrize(
    "firewall",
    [
        Firewall(),
        Firewall((chain("output"), chain("postrouting", kind="nat"))),
        Firewall((chain("input", drops=True, rules=3), chain("prerouting", rules=1, kind="nat"))),
    ],
    ids=["none", "empty", "inward"],
)
def test_nothing_blocks(firewall: Firewall) -> None:
    assert firewall_blocker(firewall) is None


@pytest.mark.parametrize(
    ("firewall", "reason"),
    [
        (Firewall((chain("output", drops=True),)), "nftables has a chain c at output, in table inet t"),
        (Firewall((chain("postrouting", rules=1),)), "nftables has a chain c at postrouting, in table inet t"),
        (Firewall((chain("output", rules=1, kind="route"),)), "nftables has a chain c at output, in table inet t"),
        (
            Firewall((chain("postrouting", rules=1, kind="nat"),)),
            "nftables has a chain c at postrouting, in table inet t",
        ),
        (Firewall(legacy=("mangle",)), "legacy iptables has a table mangle"),
        (Firewall(legacy_hidden=True), "legacy iptables cannot be seen"),
        (
            Firewall(hidden="Operation not permitted (os error 1)"),
            "nftables cannot be seen: Operation not permitted (os error 1)",
        ),
    ],
    ids=lambda value: "" if isinstance(value, Firewall) else value[:30],
)
def test_something_blocks_or_may(firewall: Firewall, reason: str) -> None:
    assert firewall_blocker(firewall) == Blocker(reason)


def test_what_acts_on_ipv6_is_told_by_its_name() -> None:
    assert firewall_blocker(Firewall(legacy=("filter",)), IPV6) == Blocker("legacy ip6tables has a table filter")
    assert firewall_blocker(Firewall(legacy_hidden=True), IPV6) == Blocker("legacy ip6tables cannot be seen")


@pytest.mark.parametrize("hook", ["egress", "ingress"])
def test_what_acts_right_at_an_interface_is_in_the_way_of_the_kernel_path_only(hook: str) -> None:
    firewall = Firewall((chain(hook, rules=1),))
    assert firewall_blocker(firewall) is None
    reason = f"nftables has a chain c at {hook}, in table inet t"
    assert netdev_blocker(firewall) == Blocker(reason, of_kernel_path=True)
    assert netdev_blocker(Firewall((chain(hook), chain("output", rules=1)))) is None


def _count_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_legacy_tables_are_seen_whenever_their_module_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file comes with it. Of one that was unloaded reading fails, as of a process that has ended."""
    tables, descriptors = tmp_path / "tables", _count_descriptors()
    monkeypatch.setattr(ip_bypass, "LEGACY_TABLES", tables)
    monkeypatch.setattr(ip_bypass, "LEGACY_TABLES6", tmp_path / "tables6")
    monkeypatch.setattr(ip_bypass, "_HEARD", ())
    monkeypatch.setattr(ip_bypass, "_control_group", lambda _: None)
    changes = EgressChanges()

    def is_changed() -> bool:
        unheard = changes.unheard()
        assert changes.hear().blocker == unheard
        return unheard

    assert not is_changed()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as module:
        tables.symlink_to(f"/proc/{module.pid}/comm")
        assert is_changed()
        assert not is_changed()
        module.communicate()
    assert is_changed()
    assert not is_changed()
    tables.unlink()
    tables.write_text("mangle\n")
    assert is_changed()
    assert not is_changed()
    changes.close()
    assert _count_descriptors() == descriptors


def test_control_groups_that_cannot_be_seen_are_named_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """And changes of all else are heard of."""

    def hidden(*_: object) -> int:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(ip_bypass, "_HEARD", ())
    monkeypatch.setattr(ip_bypass, "_cgroups", hidden)
    monkeypatch.setattr(ip_bypass, "look_at_firewall", lambda *_: Firewall())
    EgressChanges().close()
    blocker = find_blocker()
    assert blocker
    assert "programs of the control group cannot be seen: no cgroup2 is mounted here" in blocker.reason


@pytest.mark.parametrize(
    ("line", "is_taken"),
    [
        ("30 1 {device} / {where} rw - cgroup2 none rw", True),
        ("30 1 0:1 / {where} rw - cgroup2 none rw", False),
        ("30 1 {device} /part {where} rw - cgroup2 none rw", False),
        ("30 1 {device} / {where} rw - cgroup none rw", False),
        ("30 1 {device} / {where}/gone rw - cgroup2 none rw", False),
    ],
    ids=["a mount", "another over it", "a part of it", "version 1", "hidden"],
)
def test_control_groups_are_read_where_a_mount_shows_all_of_them(
    line: str, is_taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path.stat().st_dev
    shown = line.format(device=f"{os.major(device)}:{os.minor(device)}", where=tmp_path)
    monkeypatch.setattr(Path, "read_text", lambda _: shown)
    monkeypatch.setattr(ip_bypass, "lib", SimpleNamespace(mcr_cgroup_open=lambda: -errno.EPERM))
    before = _count_descriptors()
    if is_taken:
        opened = ip_bypass._cgroups()
        assert os.path.samestat(os.fstat(opened), tmp_path.stat())
        os.close(opened)
    else:
        with pytest.raises(FileNotFoundError):
            ip_bypass._cgroups()
    assert _count_descriptors() == before
