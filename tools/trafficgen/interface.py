"""The interface that frames leave by: its addresses, and a socket that puts whole frames on it."""

import errno
import fcntl
import socket
import struct
from ipaddress import IPv4Address

import attrs

from mcr.errors import SystemFault, UsageError

_SIOCGIFADDR = 0x8915
_SIOCGIFHWADDR = 0x8927


@attrs.frozen
class InterfaceAddress:
    """What a frame says about who sent it."""

    mac: str
    address: IPv4Address | None
    """Its first IPv4 address; None if it has none."""


def interface_address(interface: str) -> InterfaceAddress:
    """Return the addresses of an interface of this thread's network namespace.

    Raises:
        UsageError: there is no interface of that name.
    """
    request = struct.pack("16s24x", interface.encode())  # struct ifreq: the name, then 24 bytes for the answer
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            hardware = fcntl.ioctl(sock, _SIOCGIFHWADDR, request)
        except OSError:
            raise _no_interface(interface) from None
        try:
            address = IPv4Address(fcntl.ioctl(sock, _SIOCGIFADDR, request)[20:24])
        except OSError:
            address = None
    return InterfaceAddress(hardware[18:24].hex(":"), address)


def open_interface(interface: str) -> socket.socket:
    """Return a socket that sends frames out of an interface of this thread's namespace, and receives none.

    Raises:
        UsageError: there is no interface of that name.
        SystemFault: this user may not.
    """
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)  # protocol 0: send only
    except PermissionError as error:
        raise SystemFault("Cannot send frames", error.errno or 0, "run as root, or with CAP_NET_RAW") from None
    try:
        sock.bind((interface, 0))
    except OSError as error:
        sock.close()
        if error.errno == errno.ENODEV:
            raise _no_interface(interface) from None
        raise SystemFault(f"Cannot send on {interface}", error.errno or 0) from None
    return sock


def send_error(interface: str, error: OSError) -> SystemFault:
    """Say what a refusal to send means, and what to do."""
    hints = {
        errno.EMSGSIZE: f"a frame is longer than the MTU: less payload, or: ip link set {interface} mtu N",
        errno.ENETDOWN: f"bring it up: ip link set {interface} up",
    }
    number = error.errno or 0
    return SystemFault(f"Cannot send on {interface}", number, *([hints[number]] if number in hints else []))


def _no_interface(interface: str) -> UsageError:
    return UsageError(f"No such interface: {interface}", "see: ip link show")
