"""Finds what acts on packets between IP and the interface: a blocker. Raw frames bypass it, so there may be none.

Looked for: rules of nftables, legacy iptables, IPsec policies, eBPF programs of mcrd's control group (as systemd's
``IPAddressDeny=`` and ``IPAccounting=`` make them). To see them takes CAP_NET_ADMIN; what can't be seen may be there.
Routes and addresses are asked for output by output (`mcr.net.raw.find_sources`). Not looked for: eBPF programs that are
linked to netfilter's hooks (Linux 6.4), IPVS, security modules that label packets.
"""

import errno
import os
import re
import select
import socket
import struct
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import attrs

from mcr._native import lib
from mcr.errors import check_result, describe_errno, errno_of
from mcr.model.flow import IPV4, IPV6
from mcr.net import uapi
from mcr.net.capture import describes_super_frames
from mcr.net.firewall import LEGACY_TABLES, LEGACY_TABLES6, Chain, Firewall, look_at_firewall
from mcr.net.netlink import drain
from mcr.net.rtnetlink import Lifetimes
from mcr.text.plurals import counted


@attrs.frozen
class Blocker:
    """Something because of which raw frames may not bypass IP, whether it is there or can't be seen.

    Attributes:
        reason: it, in words.
        of_kernel_path: it is passed by raw frames, but not by what the kernel path sends.
    """

    reason: str
    of_kernel_path: bool = False


@attrs.frozen
class Blockers:
    """What was found. `of_ipv6`: of the kernel path's IPv6 alone; raw frames are of IPv4."""

    of_all: Blocker | None = None
    of_ipv6: Blocker | None = None


UNSURE = Blocker("what acts on packets between IP and the interfaces has changed")
"""Why no raw frames leave until that has been checked."""

_MESSAGE_BYTES = 65_536

_NO_SUCH_FAMILY = (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ESOCKTNOSUPPORT)

_OF_IPV4 = uapi.RTMGRP_IPV4_IFADDR | uapi.RTMGRP_IPV4_ROUTE | uapi.RTMGRP_IPV4_RULE
_OF_IPV6 = uapi.RTMGRP_IPV6_IFADDR | uapi.RTMGRP_IPV6_ROUTE | uapi.RTMGRP_IPV6_RULE

# Groups of what changes are told of, as bits.
_HEARD = (
    (socket.NETLINK_ROUTE, uapi.RTMGRP_LINK | _OF_IPV4 | _OF_IPV6),
    (uapi.NETLINK_NETFILTER, uapi.NFNLGRP_NFTABLES_BIT),
    (uapi.NETLINK_XFRM, uapi.XFRMGRP_POLICY),
)


_HIDDEN = "no cgroup2 is mounted here, as under ip netns exec; nsenter --net=/run/netns/NAME keeps it visible"


@attrs.frozen
class Heard:
    """What may have changed: there is a new blocker, or an interface, address or route is another."""

    blocker: bool
    route: bool


class EgressChanges:
    """Hears of changes of interfaces, addresses, routes, nftables and IPsec in this network namespace.

    Raises:
        OSError: this process may not (CAP_NET_ADMIN), or has no descriptors.
    """

    def __init__(self) -> None:
        with ExitStack() as undo:
            self._poll = undo.enter_context(select.epoll())
            self._sockets: dict[int, socket.socket] = {}
            for family, groups in _HEARD:
                try:
                    news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
                except OSError as error:
                    if error.errno in _NO_SUCH_FAMILY:  # not in this kernel, and so never changed
                        continue
                    raise
                self._sockets[family] = undo.enter_context(news)
                news.setblocking(False)
                news.bind((0, groups))
                self._poll.register(news, select.EPOLLIN)
            self._legacy = [_TableNames(each) for each in (LEGACY_TABLES, LEGACY_TABLES6)]
            for each in self._legacy:
                undo.callback(each.close)
            self._group: int | None = None  # there is none, or it can't be seen: `find_blocker` tells
            with suppress(FileNotFoundError, PermissionError):
                self._group = _control_group(undo)
            self._undo = undo.pop_all()
        self._lifetimes = Lifetimes()
        self._silent = self._look()

    def _look(self) -> tuple[list[bytes], int]:
        """State whose changes the kernel does not report. It is read once per second, so files stay open."""
        tables = [each.read() for each in self._legacy]
        return tables, 0 if self._group is None else lib.mcr_bpf_count_egress(self._group)

    def hear(self) -> Heard:
        """Take note of all there were so far."""
        before, self._silent = self._silent, self._look()
        missed = self._lifetimes.forget
        heard = [
            family for family, news in self._sockets.items() if drain(news, partial(self._matters, family), missed)
        ]
        return Heard(
            blocker=before != self._silent or any(family != socket.NETLINK_ROUTE for family in heard),
            route=socket.NETLINK_ROUTE in heard,
        )

    def _matters(self, family: int, datagram: bytes) -> bool:
        return family != socket.NETLINK_ROUTE or not self._lifetimes.are_all(datagram)

    def unheard(self) -> bool:
        """Whether legacy iptables or the control group has changed since `hear`: the kernel does not report that."""
        return self._silent != self._look()

    def fileno(self) -> int:
        """The descriptor to wait on: readable when there are changes."""
        return self._poll.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._undo.close()


class _TableNames:
    """The names of a kind of legacy iptables' tables. The file comes and goes with the kernel's module."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: int | None = None

    def read(self) -> bytes:
        """The names, one a line; none: there are none, or they can't be seen: `find_blocker` tells."""
        try:
            if self._opened is None:
                self._opened = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(self._opened, _MESSAGE_BYTES, 0)
        except OSError:  # EIO: the module was unloaded; the file of the next one has to be opened anew
            self.close()
            return b""

    def close(self) -> None:
        """Until it is read again."""
        if self._opened is not None:
            os.close(self._opened)
            self._opened = None


def describe_hidden(error: OSError) -> str:
    """Why something cannot be seen."""
    return _HIDDEN if isinstance(error, FileNotFoundError) else describe_errno(errno_of(error))


def find_blocker() -> Blocker | None:
    """What acts on packets between IP and the interfaces, if anything does. It waits for the kernel."""
    return firewall_blocker(look_at_firewall()) or _ipsec_blocker() or _control_group_blocker()


def find_blockers() -> Blockers:
    """The same, or else what only the kernel path would bypass; and what only its IPv6 would."""
    firewall = look_at_firewall()
    of_all = firewall_blocker(firewall) or _ipsec_blocker() or _control_group_blocker() or netdev_blocker(firewall)
    return Blockers(of_all, None if of_all else firewall_blocker(look_at_firewall(IPV6), IPV6))


def kernel_blocker() -> Blocker | None:
    """Why this kernel takes no raw frames, if it does not. Found out on the loopback interface."""
    if describes_super_frames():
        return None
    return Blocker("raw frames need Linux 6.2, and a loopback interface that is up to test for it")


def firewall_blocker(firewall: Firewall, version: int = IPV4) -> Blocker | None:
    """The rules of a firewall that act on packets of this version of IP that leave, if there are any."""
    iptables = "ip6tables" if version == IPV6 else "iptables"
    if firewall.hidden:
        return Blocker(f"nftables cannot be seen: {firewall.hidden}")
    if firewall.legacy_hidden:
        return Blocker(f"legacy {iptables} cannot be seen")
    if firewall.legacy:
        return Blocker(f"legacy {iptables} has a table {firewall.legacy[0]}")
    return next((Blocker(_describe(each)) for each in _chains_at(firewall, "output", "postrouting")), None)


def netdev_blocker(firewall: Firewall) -> Blocker | None:
    """The rules that act right at an interface: not on what a program at an ingress sends, or consumes."""
    chains = _chains_at(firewall, "egress", "ingress")
    return next((Blocker(_describe(each), of_kernel_path=True) for each in chains), None)


def _chains_at(firewall: Firewall, *hooks: str) -> Iterable[Chain]:
    """Of whatever kind they are."""
    return (each for each in firewall.chains if each.hook in hooks and each.decides)


def _describe(chain: Chain) -> str:
    return f"nftables has a chain {chain.name} at {chain.hook}, in table {chain.table}"


def _ipsec_blocker() -> Blocker | None:
    size = uapi.NLMSGHDR.size + uapi.XFRM_USERPOLICY_ID_BYTES
    flags = uapi.NLM_F_REQUEST | uapi.NLM_F_DUMP
    request = uapi.NLMSGHDR.pack(size, uapi.XFRM_MSG_GETPOLICY, flags, 1, 0).ljust(size, b"\0")
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, uapi.NETLINK_XFRM) as netlink:
            netlink.send(request)
            answer = netlink.recv(_MESSAGE_BYTES)
    except OSError as error:
        if error.errno in _NO_SUCH_FAMILY:
            return None
        return Blocker(f"IPsec cannot be seen: {describe_errno(errno_of(error))}")
    _, kind, *_ = uapi.NLMSGHDR.unpack_from(answer)
    if kind == uapi.NLMSG_DONE:
        return None
    if kind == uapi.NLMSG_ERROR:
        (code,) = struct.unpack_from("i", answer, uapi.NLMSGHDR.size)
        return Blocker(f"IPsec cannot be seen: {describe_errno(-code)}")
    return Blocker("IPsec has policies")


def _control_group_blocker() -> Blocker | None:
    try:
        programs = _count_control_group_programs()
    except OSError as error:
        if error.errno == errno.EINVAL:  # a kernel without them
            return None
        return Blocker(f"programs of the control group cannot be seen: {describe_hidden(error)}")
    if not programs:
        return None
    return Blocker(f"the control group has {counted(programs, 'eBPF program')} for what is sent")


def _count_control_group_programs() -> int:
    with ExitStack() as undo:
        group = _control_group(undo)
        return 0 if group is None else check_result(lib.mcr_bpf_count_egress(group))


def _control_group(undo: ExitStack) -> int | None:
    """Open the directory of this process's group in cgroup2; None where there is no cgroup2.

    Raises:
        FileNotFoundError: no mount shows it, as in ``ip netns exec``, and this process may not mount it.
        OSError: this process may not open it.
    """
    group = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    if not group:
        return None
    root = _cgroups()
    try:
        opened = os.open(group[1] or ".", os.O_RDONLY | os.O_CLOEXEC, dir_fd=root)
    finally:
        os.close(root)
    undo.callback(os.close, opened)
    return opened


def _cgroups() -> int:
    """Open the root of cgroup2. A mount is as good as none where another one lies over it, or if it shows a part."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()  # proc_pid_mountinfo(5)
        device, root, where = fields[2:5]
        if root != "/" or fields[fields.index("-") + 1] != "cgroup2":
            continue
        with suppress(FileNotFoundError):
            opened = os.open(where, os.O_PATH | os.O_CLOEXEC)
            if os.fstat(opened).st_dev == os.makedev(*map(int, device.split(":"))):
                return opened
            os.close(opened)
    opened = lib.mcr_cgroup_open()
    if opened in {-errno.EPERM, -errno.ENOSYS}:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return check_result(opened)
