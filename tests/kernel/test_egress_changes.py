"""What outputs depend on is looked at again when it changes, and not each time that an address lives longer."""

from ipaddress import ip_address

import pytest

from lab import Lab
from mcr.net import ip_bypass
from mcr.net.ip_bypass import EgressChanges
from mcr_process import wait_until


def test_an_address_that_only_lives_longer_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after each Router Advertisement; what else becomes of it is one."""
    monkeypatch.setattr(ip_bypass, "_control_group", lambda _: None)
    with Lab() as lab:
        inside = lab.namespace("inside")
        inside.ip("link add a0 type veth peer name a1")
        inside.sysctl("net.ipv6.conf.a0.disable_ipv6", "0")
        inside.sysctl("net.ipv6.conf.a0.addr_gen_mode", "1")  # no fe80::, which changes when nobody else has it
        inside.bring_up("a1", "a0")
        with inside.entered():
            changes = EgressChanges()

        def is_change(*commands: str) -> bool:
            inside.ip(*commands)
            return changes.hear().route

        def add(own: str, *lives: str) -> bool:
            """The kernel tells of a new address of IPv6 in a thread of its own, which has the network's lock."""
            inside.ip(f"address add {own} {' '.join(lives)}")
            packed = ip_address(own.partition("/")[0]).packed
            heard = []

            def is_known() -> bool:
                heard.append(changes.hear().route)
                return any(address == packed for _, address in changes._lifetimes._known)

            wait_until(is_known, f"{own} is heard of")
            inside.ip("link set a0 mtu 1500")  # waits for the lock: its route has been told of, too
            changes.hear()
            return any(heard)

        try:
            for own in "2001:db8::1/64 dev a0 nodad", "198.18.0.1/24 dev a0":
                lives = f"address change {own} valid_lft 1000 preferred_lft"
                assert add(own, "valid_lft 900 preferred_lft 900")
                assert not is_change(f"{lives} 500", f"{lives} 600")
                assert is_change(f"{lives} 0")  # it is deprecated
                assert is_change(f"{lives} 500")
                assert is_change(f"address delete {own}")
                assert add(own, "valid_lft 1000 preferred_lft 500")
                assert is_change(f"{lives} 600", "link set a0 mtu 1400", f"{lives} 700")
                inside.ip("link set a0 mtu 1500")
        finally:
            changes.close()
