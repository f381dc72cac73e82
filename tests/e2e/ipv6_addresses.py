"""Addresses of IPv6 that can be used."""

from ipaddress import IPv6Interface
from pathlib import Path

from lab import Namespace
from mcr_process import wait_until


def speak_ipv6(namespace: Namespace, interface: str, address: str) -> None:
    """Switch IPv6 on at an interface, and give it an address."""
    namespace.sysctl(f"net.ipv6.conf.{interface}.accept_dad", "0")
    namespace.sysctl(f"net.ipv6.conf.{interface}.disable_ipv6", "0")
    namespace.ip(f"address add {address} dev {interface} nodad")
    wait_for_address(namespace, address)


def wait_for_address(namespace: Namespace, address: str) -> None:
    """Until a new address can be used: without duplicate address detection, too, a thread of the kernel does the rest.

    Before that nothing is bound to it, nothing has it as source, and what is sent to it does not arrive.
    """
    entry = f"{IPv6Interface(address).packed.hex()} 80 "

    def is_there() -> bool:
        with namespace.entered():
            return entry in Path("/proc/thread-self/net/ipv6_route").read_text(encoding="ascii")

    wait_until(is_there, f"{address} can be used")
