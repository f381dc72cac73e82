"""Rights of clients on the control socket, by the credentials of the process at its other end.

The socket file's mode decides which users may connect: root, the user that mcrd runs as, the group `mcr`. All of them
may read. Only root, that user, and members of the group `mcr-admin` may change something.
"""

import grp
import os
import socket
import struct
from typing import Final

import attrs
import trio

from mcr.errors import NotPermitted
from mcr.net import uapi
from mcr.process.accounts import user_name

ADMIN_GROUP: Final = "mcr-admin"
"""Name of the group that may change rules."""

_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid
_MOST_GROUPS_BYTES = 1024  # that Python's getsockopt takes


@attrs.frozen
class Peer:
    """The process that connected, as it was then. `groups`: its group ids, the supplementary ones among them."""

    pid: int
    uid: int
    groups: frozenset[int]


def peer_of(connection: socket.socket | trio.socket.SocketType) -> Peer:
    """Ask the kernel for the process at the other end of a connected unix socket (unix(7), SO_PEERCRED)."""
    pid, uid, gid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    try:
        supplementary = connection.getsockopt(socket.SOL_SOCKET, uapi.SO_PEERGROUPS, _MOST_GROUPS_BYTES)
    except OSError:  # more than 256 of them
        supplementary = b""
    return Peer(pid, uid, frozenset((gid, *(number for (number,) in struct.iter_unpack("=I", supplementary)))))


@attrs.frozen
class Rights:
    """The rights to change something. `admins`: id of the group that has them, None if there is no such group."""

    own_uid: int
    admins: int | None

    @classmethod
    def of_this_machine(cls) -> "Rights":
        """As users and groups are now."""
        try:
            admins = grp.getgrnam(ADMIN_GROUP).gr_gid
        except KeyError:
            admins = None
        return cls(os.geteuid(), admins)

    def may_change(self, peer: Peer) -> bool:
        """Whether a process may do more than read."""
        return peer.uid in (0, self.own_uid) or self.admins in peer.groups

    def refusal(self, peer: Peer, method: str) -> NotPermitted:
        """The error for a process that may not change anything."""
        user = user_name(peer.uid)
        own = f"root, {user_name(self.own_uid)} (the user that mcrd runs as)," if self.own_uid else "root"
        hints = [
            f"allowed: {own} and members of {ADMIN_GROUP}",
            f"use sudo; or join that group and log in again: sudo usermod -aG {ADMIN_GROUP} {user}",
        ]
        if self.admins is None:
            hints.append(f"there is no such group yet: sudo groupadd --system {ADMIN_GROUP}; then restart mcrd")
        return NotPermitted(f"{user} may read from this relay but not change it: {method} was refused", *hints)
