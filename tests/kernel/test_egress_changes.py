"""What outputs depend on is looked at again when it changes, and not each time that an address lives longer."""

import pytest

from lab import Lab
from mcr.net import ip_bypass
from mcr.net.ip_bypass import EgressChanges


def test_an_address_that_only_lives_longer_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after each Router Advertisement; what else becomes of it is one."""
    monkeypatch.setattr(ip_bypass, "_control_group", lambda: None)
    with Lab() as lab:
        inside = lab.namespace("inside")
        inside.ip("link add a0 type veth peer name a1")
        inside.sysctl("net.ipv6.conf.a0.disable_ipv6", "0")
        inside.ip("link set a1 up", "link set a0 up")
        with inside.entered():
            changes = EgressChanges()

        def is_change(*commands: str) -> bool:
            inside.ip(*commands)
            return changes.hear().route

        try:
            for own in "2001:db8::1/64 dev a0 nodad", "198.18.0.1/24 dev a0":
                lives = f"address change {own} valid_lft 1000 preferred_lft"
                assert is_change(f"address add {own} valid_lft 900 preferred_lft 900")
                assert not is_change(f"{lives} 500", f"{lives} 600")
                assert is_change(f"{lives} 0")  # it is deprecated
                assert is_change(f"{lives} 500")
                assert is_change(f"address delete {own}")
                assert is_change(f"address add {own} valid_lft 1000 preferred_lft 500")
                assert is_change(f"{lives} 600", "link set a0 mtu 1400", f"{lives} 700")
                inside.ip("link set a0 mtu 1500")
        finally:
            changes.close()
