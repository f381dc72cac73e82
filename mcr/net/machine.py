"""Reads the state of the machine and of a process from the kernel. It only looks; `machine_findings` judges."""

import os
import platform
import resource
import socket
from pathlib import Path

import attrs

from mcr._native import lib
from mcr.net import uapi
from mcr.net.buffer import granted
from mcr.worker.policy import usable_cores

CAPABILITIES = {"CAP_NET_ADMIN": uapi.CAP_NET_ADMIN, "CAP_NET_RAW": uapi.CAP_NET_RAW, "CAP_BPF": uapi.CAP_BPF}
"""Those that mcrd has a use for."""

_FILTERED = str(uapi.SECCOMP_MODE_FILTER)


@attrs.frozen
class Machine:
    """Facts about the machine. They are the same, or nearly, for mcrctl and for mcrd.

    Attributes:
        kernel: its release, as uname(2) gives it.
        uring_errno: error of io_uring_setup(2) for this process; 0: it works.
        uring_disabled: kernel.io_uring_disabled; None before Linux 6.6.
        seccomp: a system call filter is in force for this process.
        memlock: bytes that this process may lock; None: any number.
        open_files: descriptors that this process may have, with the limit raised as far as it may be.
        wmem_max, rmem_max: bytes of a socket's buffers without CAP_NET_ADMIN; None: not to be seen here.
        memberships: net.ipv4.igmp_max_memberships, groups a socket.
        unroutable: packets that the reverse-path filter dropped, in this network namespace.
    """

    kernel: str
    uring_errno: int
    uring_disabled: int | None
    seccomp: bool
    memlock: int | None
    open_files: int
    wmem_max: int | None
    rmem_max: int | None
    memberships: int | None
    unroutable: int


@attrs.frozen
class Process:
    """A process, as its status file (proc(5)) shows it.

    Attributes:
        capabilities: the numbers of the effective ones.
        no_new_privs: no program that it executes gets more.
        seccomp: a system call filter is in force.
    """

    pid: int
    capabilities: frozenset[int]
    no_new_privs: bool
    seccomp: bool

    def has(self, name: str) -> bool:
        """Whether a capability is effective."""
        return CAPABILITIES[name] in self.capabilities


@attrs.frozen
class Self:
    """This process, when it is the daemon.

    Attributes:
        process: its status.
        cores: processors that it may use.
        descriptors: how many are open.
        ebpf: it holds a map of an eBPF program.
        suppressors: eBPF programs that it has put at interfaces' ingress.
        send_buffer: bytes that it was granted for a socket that asked for as many as outputs do.
        receive_buffer: the same of the buffer for super-frames.
    """

    process: Process
    cores: tuple[int, ...]
    descriptors: int
    ebpf: bool
    suppressors: int
    send_buffer: int
    receive_buffer: int


def look_at_machine() -> Machine:
    """Ask the kernel. In the network namespace of the calling thread."""
    memlock, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    _, open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Machine(
        kernel=platform.release(),
        uring_errno=-lib.mcr_uring_probe(),
        uring_disabled=read_number("/proc/sys/kernel/io_uring_disabled"),
        seccomp=_status_fields(_read("/proc/self/status")).get("Seccomp") == _FILTERED,
        memlock=None if memlock == resource.RLIM_INFINITY else memlock,
        open_files=open_files,
        wmem_max=read_number("/proc/sys/net/core/wmem_max"),
        rmem_max=read_number("/proc/sys/net/core/rmem_max"),
        memberships=read_number("/proc/sys/net/ipv4/igmp_max_memberships"),
        unroutable=count_unroutable(),
    )


def count_unroutable() -> int:
    """Packets that the reverse-path filter has dropped, in the network namespace of the calling thread."""
    return parse_netstat(_read("/proc/thread-self/net/netstat")).get("IPReversePathFilter", 0)


def count_backlog_drops() -> int | None:
    """Frames that found a processor's backlog full, since the boot, in all network namespaces; None: not to be seen."""
    text = _read("/proc/net/softnet_stat")
    return parse_softnet(text) if text else None


def look_at_self(send_buffer: int, receive_buffer: int) -> Self:
    """Look at this process. Of buffers, try what it gets when it asks for so many bytes."""
    process = look_at_process(os.getpid())
    assert process is not None
    held = read_descriptors()
    return Self(
        process=process,
        cores=tuple(usable_cores()),
        descriptors=len(held),
        ebpf="anon_inode:bpf-map" in held,
        suppressors=held.count("anon_inode:bpf_link"),
        send_buffer=granted(socket.SO_SNDBUF, send_buffer),
        receive_buffer=granted(socket.SO_RCVBUF, receive_buffer),
    )


def read_descriptors() -> list[str]:
    """What each descriptor of this process refers to, as proc(5) names it; empty if it is closed meanwhile."""
    return [_link(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]  # noqa: PTH208 - names suffice


def look_at_process(pid: int) -> Process | None:
    """Look at a process; None if it has gone, or is hidden from us."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return parse_status(pid, text)


def parse_status(pid: int, text: str) -> Process:
    """Read a status file."""
    fields = _status_fields(text)
    effective = int(fields["CapEff"], 16)
    capabilities = frozenset(bit for bit in range(effective.bit_length()) if effective >> bit & 1)
    return Process(pid, capabilities, fields["NoNewPrivs"] == "1", fields.get("Seccomp") == _FILTERED)


def parse_softnet(text: str) -> int:
    """Sum up the drops in /proc/net/softnet_stat: the second column, a processor a line."""
    return sum(int(line.split()[1], 16) for line in text.splitlines())


def parse_netstat(text: str) -> dict[str, int]:
    """Read /proc/net/netstat, where every second line has the values to the names above."""
    lines = [line.split()[1:] for line in text.splitlines()]
    pairs = zip(lines[::2], lines[1::2], strict=True)
    return {name: int(value) for names, values in pairs for name, value in zip(names, values, strict=True)}


def read_number(path: str) -> int | None:
    """A kernel parameter; None if there is none of this name, or it may not be read."""
    text = _read(path).strip()
    return int(text) if text else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _status_fields(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def _link(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115 - thousands of them
    except OSError:  # closed meanwhile
        return ""
