"""Who is between IP and the output interfaces, and would be passed by raw frames: nobody may be.

Looked for: rules of nftables, legacy iptables, IPsec policies, eBPF programs of mcrd's control group (as systemd's
``IPAddressDeny=`` and ``IPAccounting=`` make them). To see them takes CAP_NET_ADMIN; what can't be seen may be there.
Routes and addresses are asked for output by output (`mcr.net.raw.find_sources`).
"""

import errno
import os
import re
import select
import socket
import struct
from contextlib import ExitStack, suppress
from pathlib import Path

from mcr._native import lib
from mcr.errors import check_result, describe_errno
from mcr.net.capture import describes_super_frames
from mcr.net.firewall import Firewall, legacy_tables, look_at_firewall

_MESSAGE_BYTES = 65_536

# <linux/netlink.h>, <linux/xfrm.h>
_NETLINK_XFRM, _NETLINK_NETFILTER = 6, 12
_HEADER = struct.Struct("IHHII")  # length, type, flags, sequence, port
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_XFRM_MSG_GETPOLICY = 0x15
_POLICY_ID_BYTES = 64  # struct xfrm_userpolicy_id
_NO_SUCH_FAMILY = (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ESOCKTNOSUPPORT)

# Groups of what changes are told of, as bits: <linux/rtnetlink.h>, <linux/netfilter/nfnetlink.h>, <linux/xfrm.h>.
_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV4_ROUTE, _RTMGRP_IPV4_RULE = 1 << 0, 1 << 4, 1 << 6, 1 << 7
_HEARD = (
    (socket.NETLINK_ROUTE, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV4_ROUTE | _RTMGRP_IPV4_RULE),
    (_NETLINK_NETFILTER, 1 << 6),  # NFNLGRP_NFTABLES
    (_NETLINK_XFRM, 1 << 3),  # XFRMNLGRP_POLICY
)


class EgressChanges:
    """Hears of changes of interfaces, addresses, routes, nftables and IPsec in this network namespace.

    Raises:
        OSError: this process may not (CAP_NET_ADMIN), or has no descriptors.
    """

    def __init__(self) -> None:
        with ExitStack() as undo:
            self._poll = undo.enter_context(select.epoll())
            self._sockets = []
            for family, groups in _HEARD:
                try:
                    heard = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
                except OSError as error:
                    if error.errno in _NO_SUCH_FAMILY:  # not in this kernel, and so never changed
                        continue
                    raise
                self._sockets.append(undo.enter_context(heard))
                heard.setblocking(False)
                heard.bind((0, groups))
                self._poll.register(heard, select.EPOLLIN)
            self._undo = undo.pop_all()
        self._legacy = legacy_tables()

    def hear(self) -> None:
        """Take note of all there were so far."""
        self._legacy = legacy_tables()
        for heard in self._sockets:
            with suppress(OSError):  # none more; or, ENOBUFS, more than it could hold
                while True:
                    heard.recv(_MESSAGE_BYTES)

    def legacy_changed(self) -> bool:
        """Whether legacy iptables, which tells nobody, has been loaded or unloaded since `hear`."""
        return self._legacy != legacy_tables()

    def fileno(self) -> int:
        """Readable when there are some."""
        return self._poll.fileno()

    def close(self) -> None:
        """Hear no more."""
        self._undo.close()


def find_bar() -> str:
    """Why no raw frames may leave, in words; empty: they may, as far as can be seen. It waits for the kernel."""
    return firewall_bar(look_at_firewall()) or _ipsec_bar() or _control_group_bar() or _kernel_bar()


def _kernel_bar() -> str:
    able = describes_super_frames()
    return "" if able else "raw frames take Linux 6.2, and a loopback interface that is up to find out"


def firewall_bar(firewall: Firewall) -> str:
    """Who of a firewall is between; empty: nobody."""
    if firewall.hidden:
        return f"nftables cannot be seen: {firewall.hidden}"
    if firewall.legacy_hidden:
        return "legacy iptables cannot be seen"
    if firewall.legacy:
        return f"legacy iptables has a table {firewall.legacy[0]}"
    passed = (chain for chain in firewall.chains if chain.hook in {"output", "postrouting"} and chain.decides)
    return next((f"nftables has a chain {chain.name} at {chain.hook}, in table {chain.table}" for chain in passed), "")


def _ipsec_bar() -> str:
    size = _HEADER.size + _POLICY_ID_BYTES
    request = _HEADER.pack(size, _XFRM_MSG_GETPOLICY, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0).ljust(size, b"\0")
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_XFRM) as netlink:
            netlink.send(request)
            answer = netlink.recv(_MESSAGE_BYTES)
    except OSError as error:
        return "" if error.errno in _NO_SUCH_FAMILY else f"IPsec cannot be seen: {describe_errno(error.errno or 0)}"
    _, kind, *_ = _HEADER.unpack_from(answer)
    if kind == _NLMSG_DONE:
        return ""
    if kind == _NLMSG_ERROR:
        (code,) = struct.unpack_from("i", answer, _HEADER.size)
        return f"IPsec cannot be seen: {describe_errno(-code)}"
    return "IPsec has policies"


def _control_group_bar() -> str:
    directory = _control_group()
    if directory is None:
        return ""
    try:
        group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            programs = check_result(lib.mcr_bpf_count_egress(group))
        finally:
            os.close(group)
    except OSError as error:
        if error.errno == errno.EINVAL:  # a kernel without them
            return ""
        return f"programs of the control group cannot be seen: {describe_errno(error.errno or 0)}"
    return f"the control group has {programs} eBPF program(s) for what is sent" if programs else ""


def _control_group() -> Path | None:
    """Directory of this process's group in cgroup2; None where that is not mounted."""
    group = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    mounts = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    where = next((fields[4] for fields in mounts if fields[fields.index("-") + 1] == "cgroup2"), None)
    return Path(where) / group[1] if group and where else None
