"""Group memberships, so that switches which snoop IGMP or MLD forward the input groups here.

Sockets hold memberships and nothing else: bound to no port, they receive nothing. One socket holds as many as the
kernel lets it (20 by default, net.ipv4.igmp_max_memberships, and what net.core.optmem_max has room for); then the
next one is opened, so neither is a limit on the number of groups. For IPv6 groups there are sockets of IPv6.

A group is joined from one source (IGMPv3, RFC 3376; MLDv2, RFC 3810), or from any. A socket can't have both of one
group, so there are sockets for either; what is on the wire is the kernel's sum of all: any source, if somebody asks for
that.

Those of the mcrd before this one are closed once this one has joined what its rules ask for: the kernel counts sockets,
and reports a group as left when the last one leaves it. So a switch sees no change.
"""

import errno
import os
import socket
import struct
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from mcr._native import ffi, lib
from mcr.errors import SystemFault, errno_of
from mcr.model.flow import IPV4, IPV6, Address
from mcr.net import uapi
from mcr.net.egress import NO_IPV6
from mcr.net.interfaces import Interface
from mcr.net.patience import set_option
from mcr.process.descriptor_store import DescriptorStore


class _Key(NamedTuple):
    """What is asked for. By the name that rules have for the interface: an index may be another's by now."""

    group: Address
    source: Address | None
    interface: str

    @property
    def kind(self) -> tuple[int, bool]:
        """Of its socket: version of IP, and whether it is for one source."""
        return self.group.version, self.source is not None

    def __str__(self) -> str:
        return f"{self.group}{f' from {self.source}' if self.source else ''} on {self.interface}"


_NAME = "groups."  # of the sockets, in the store of descriptors

_FULL = (errno.ENOBUFS, errno.ENOMEM)  # what the kernel says of a socket that is

_AT_ONCE = 256  # groups, of which a socket takes 20 unless net.ipv4.igmp_max_memberships says otherwise

_WITHOUT_IPV6 = (errno.EINVAL, errno.ENODEV, errno.ENETDOWN)  # of an interface that is there

_FAMILIES = {IPV4: socket.AF_INET, IPV6: socket.AF_INET6}
_LEVELS = {IPV4: socket.IPPROTO_IP, IPV6: socket.IPPROTO_IPV6}


class Memberships:
    """Counts the requests for each group on an interface: the first joins, the last leaves."""

    def __init__(self, store: DescriptorStore) -> None:
        self._store = store
        numbers = [each.removeprefix(_NAME) for each in store.inherited(_NAME)]
        self._named = max((int(each) for each in numbers if each.isdecimal()), default=-1)
        self._names: dict[socket.socket, str] = {}
        self._users: Counter[_Key] = Counter()
        self._holder: dict[_Key, tuple[socket.socket, int]] = {}  # and the interface's index
        self._held: Counter[socket.socket] = Counter()
        # Sockets that had room when last seen, by version of IP: for any source, and for one.
        self._roomy: dict[tuple[int, bool], list[socket.socket]] = {
            (version, by_source): [] for version in _FAMILIES for by_source in (False, True)
        }

    def join(self, group: Address, interface: Interface, source: Address | None = None) -> None:
        """Ask for a group, from this source or from any.

        Raises:
            SystemFault: the kernel refused; the group is not counted.
        """
        key = _Key(group, source, interface.name)
        users = self._users.get(key, 0)
        if not users:
            try:
                self._join(key, interface.index)
            except OSError as error:
                raise _fault(key, error) from None
        self._users[key] = users + 1

    def join_all(self, groups: Sequence[Address], interface: Interface) -> None:
        """Ask for groups of IPv4 from any source, of which there may be thousands.

        Raises:
            SystemFault: the kernel refused one; none is counted.
        """
        keys = [_Key(group, None, interface.name) for group in groups]
        fresh = [key for key in dict.fromkeys(keys) if key not in self._users]
        done = 0
        try:
            while done < len(fresh):
                done += self._join_some(fresh[done : done + _AT_ONCE], interface.index)
        except OSError as error:
            failed = next(key for key in fresh if key not in self._holder)
            for key in reversed(fresh[: fresh.index(failed)]):
                self._release(key)
            raise _fault(failed, error) from None
        self._users.update(keys)

    def _join_some(self, keys: Sequence[_Key], index: int) -> int:
        """Join the first of these by a socket that has room, or the very first by another; how many those are."""
        roomy = self._roomy[keys[0].kind]
        if not roomy:
            self._join(keys[0], index)
            return 1
        error, holder = ffi.new("int *"), roomy[-1]
        groups = ffi.from_buffer("uint32_t[]", b"".join([key.group.packed for key in keys]))
        joined: int = lib.mcr_join(holder.fileno(), index, groups, len(keys), error)
        self._holder |= dict.fromkeys(keys[:joined], (holder, index))
        self._held[holder] += joined
        if error[0] in _FULL:
            roomy.pop()
        elif error[0]:
            raise OSError(error[0], os.strerror(error[0]))
        return joined

    def wait(self, group: Address, interface: Interface, source: Address | None = None) -> None:
        """Count a request for a group on an interface that is not there; `move` joins it on the one that comes."""
        self._users[_Key(group, source, interface.name)] += 1

    def leave(self, group: Address, interface: Interface, source: Address | None = None) -> None:
        """Take one request for a group back."""
        key = _Key(group, source, interface.name)
        self._users[key] -= 1
        if self._users[key]:
            return
        del self._users[key]
        self._release(key)

    def _release(self, key: _Key) -> None:
        if key not in self._holder:
            return
        holder, index = self._holder.pop(key)
        # An interface that has gone took its memberships along.
        _leave_quietly(holder, key, index)
        self._held[holder] -= 1
        if not self._held[holder]:
            self._close(holder)
        elif holder not in (roomy := self._roomy[key.kind]):
            roomy.append(holder)

    def move(self, interface: Interface) -> None:
        """Join the groups of an interface on the one that has its name now, and leave them where they were joined.

        A membership goes with its interface, but the socket that held it still says that it has it.

        Raises:
            SystemFault: not all could be joined; `join_missing` tries again.
        """
        for key in [key for key in self._holder if key.interface == interface.name]:
            self._release(key)
        if not interface.is_absent:
            self.join_missing(interface)

    def join_missing(self, interface: Interface) -> None:
        """Join the groups of an interface that are asked for and could not be joined so far.

        Raises:
            SystemFault: not all could be.
        """
        for key in self._users.keys() - self._holder.keys():
            if key.interface == interface.name:
                try:
                    self._join(key, interface.index)
                except OSError as error:
                    raise _fault(key, error) from None

    def with_ipv6(self) -> set[str]:
        """Names of the interfaces on which groups of IPv6 are asked for."""
        return {key.interface for key in self._users if key.group.version == IPV6}

    def forgotten(self, joined: Collection[tuple[int, object]], due: Collection[str]) -> dict[str, list[_Key]]:
        """What sockets still hold of IPv6 and the kernel has forgotten, by the interface's name: for `join_again`.

        Args:
            joined: indices of interfaces, and groups that the kernel has there.
            due: names of interfaces that have forgotten all.
        """
        found: defaultdict[str, list[_Key]] = defaultdict(list)
        for key, (_, index) in self._holder.items():
            if key.group.version == IPV6 and (key.interface in due or (index, key.group) not in joined):
                found[key.interface].append(key)
        return found

    def join_again(self, interface: Interface, forgotten: Sequence[_Key]) -> None:
        """Leave groups of an interface, and join what is missing there.

        Raises:
            SystemFault: not all could be joined; `join_missing` tries again.
        """
        for key in reversed(forgotten):  # the kernel looks for each from the newest on
            self._release(key)
        self.join_missing(interface)

    def count(self, name: str) -> int:
        """How many groups are joined on an interface."""
        return len({key.group for key in self._holder if key.interface == name})

    def leave_former(self) -> None:
        """Leave the groups of the mcrd before this one that no rule of this one asks for."""
        self._store.close_inherited(_NAME)

    def close(self) -> None:
        """Leave every group."""
        # The kernel looks for each from the newest on.
        for holder in reversed(list(self._held)):
            self._close(holder)

    def _join(self, key: _Key, index: int) -> None:
        roomy = self._roomy[key.kind]
        while roomy:
            if self._try_join(roomy[-1], key, index):
                return
            roomy.pop()
        fresh = socket.socket(_FAMILIES[key.group.version], socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            _ask(fresh, key, index)
        except OSError:
            fresh.close()
            raise
        self._named += 1
        self._names[fresh] = f"{_NAME}{self._named}"
        self._store.put(self._names[fresh], fresh.fileno())
        roomy.append(fresh)
        self._record(fresh, key, index)

    def _try_join(self, holder: socket.socket, key: _Key, index: int) -> bool:
        """False: this socket is full."""
        try:
            _ask(holder, key, index)
        except OSError as error:
            if error.errno in _FULL:
                return False
            raise
        self._record(holder, key, index)
        return True

    def _record(self, holder: socket.socket, key: _Key, index: int) -> None:
        self._holder[key] = holder, index
        self._held[holder] += 1

    def _close(self, holder: socket.socket) -> None:
        del self._held[holder]
        for roomy in self._roomy.values():
            if holder in roomy:
                roomy.remove(holder)
        self._store.drop(self._names.pop(holder))
        holder.close()


def _fault(key: _Key, error: OSError) -> SystemFault:
    hints: tuple[str, ...] = ()
    if error.errno == errno.EAFNOSUPPORT:
        hints = (NO_IPV6,)
    elif key.group.version == IPV6 and error.errno in _WITHOUT_IPV6:
        off = f"sudo sysctl -w net.ipv6.conf.{key.interface}.disable_ipv6=0"
        hints = (f"IPv6 is off on {key.interface}: {off}; it takes an MTU of 1280",)
    return SystemFault(f"Cannot join {key}", errno_of(error), *hints)


def _ask(holder: socket.socket, key: _Key, index: int) -> None:
    if key.source is not None:
        request = _source_req(key.group, key.source, index)
        set_option(holder, _LEVELS[key.group.version], uapi.MCAST_JOIN_SOURCE_GROUP, request)
    elif key.group.version == IPV6:
        set_option(holder, socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, _mreq6(key.group, index))
    else:
        set_option(holder, socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _mreqn(key.group, index))


def _mreqn(group: Address, index: int) -> bytes:
    return struct.pack("4s4si", group.packed, b"", index)


def _mreq6(group: Address, index: int) -> bytes:
    return struct.pack("16si", group.packed, index)


def _source_req(group: Address, source: Address, index: int) -> bytes:
    """`struct group_source_req` (RFC 3678): an interface, and two `struct sockaddr_storage`."""
    return uapi.GROUP_SOURCE_REQ.pack(index, _sockaddr(group), _sockaddr(source))


def _sockaddr(address: Address) -> bytes:
    if address.version == IPV6:
        return uapi.SOCKADDR_IN6.pack(socket.AF_INET6, 0, 0, address.packed, 0)
    return uapi.SOCKADDR_IN.pack(socket.AF_INET, 0, address.packed)


def _leave_quietly(holder: socket.socket, key: _Key, index: int) -> None:
    try:
        _unask(holder, key, index)
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.EADDRNOTAVAIL):
            raise


def _unask(holder: socket.socket, key: _Key, index: int) -> None:
    if key.source is not None:
        try:
            request = _source_req(key.group, key.source, index)
            set_option(holder, _LEVELS[key.group.version], uapi.MCAST_LEAVE_SOURCE_GROUP, request)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
        else:
            return
        # The interface has gone, so the kernel has not looked at the socket's list: there the group is, with all of its
        # sources, and takes room. They have gone along.
    if key.group.version == IPV6:
        set_option(holder, socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, _mreq6(key.group, index))
    else:
        set_option(holder, socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, _mreqn(key.group, index))
