"""`mcrctl report`: one readable file for the person who helps.

Rules of the module:

1. A section that is not available says why; the report is written all the same, without a daemon, too.
2. No secrets: each section names what it shows, and nothing is taken along whole. The environment is seen only through
   the settings, and no host or user name is asked for.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import click

import mcr
from mcr.cli import completion, tables, terminal
from mcr.cli.command import Command
from mcr.cli.findings import ask_doctor, findings_view
from mcr.cli.options import common_options
from mcr.cli.session import Session
from mcr.errors import McrError, SystemFault, UsageError, errno_of
from mcr.text.visible import all_visible, visible

_HEAD: Final = """\
This report contains: versions of MCR and of the system; rules, workers, statistics, settings and log levels of mcrd;
what mcrctl doctor finds; interfaces with their IPv4 addresses; group memberships; kernel parameters; mcrd's newest
warnings.
It does not contain: names of the host and of users, hardware addresses, packets, other environment variables than
MCR_....
Addresses, paths, log lines and the names of interfaces and rules may say something about your network: read the report
before you pass it on.
"""

_PARAMETERS: Final = (
    "kernel.io_uring_disabled",
    "kernel.unprivileged_bpf_disabled",
    "net.core.bpf_jit_enable",
    "net.core.netdev_budget",
    "net.core.netdev_max_backlog",
    "net.core.optmem_max",
    "net.core.rmem_default",
    "net.core.rmem_max",
    "net.core.wmem_default",
    "net.core.wmem_max",
    "net.ipv4.igmp_max_memberships",
    "net.ipv4.igmp_max_msf",
    "net.ipv4.igmp_qrv",
    "net.ipv4.ip_forward",
)
_OF_INTERFACES: Final = ("rp_filter", "force_igmp_version", "mc_forwarding")


@click.command("report", cls=Command)
@click.option(
    "--output",
    metavar="FILE|-",
    shell_complete=completion.files,
    help="Where to write it.  [default: mcr-report-TIME.txt]",
)
@common_options
@click.pass_obj
def write_report(session: Session, output: str | None) -> None:
    """Write a report for the person who helps you.

    Its first lines say what it contains, and what it leaves out. It needs no daemon.
    """
    if output == "":
        raise UsageError("--output is empty", "give a file's name, or - for standard output")
    now = time.gmtime()
    path = output or time.strftime("mcr-report-%Y%m%dT%H%M%SZ.txt", now)
    text = _compose(session, time.strftime("MCR report, %Y-%m-%d %H:%M:%S UTC", now))
    if path == "-":
        session.show({"report": text}, lambda *_: text.rstrip("\n"))
        return
    try:
        with open(path, "x", encoding="utf-8", opener=_private) as file:
            file.write(text)
    except OSError as error:
        what = "that file stays as it is" if isinstance(error, FileExistsError) else "choose another place"
        raise SystemFault(
            f"Cannot write {path}", errno_of(error), f"{what}: --output FILE, or - for standard output"
        ) from None
    session.show({"file": path}, lambda *_: f"Wrote {path}; read it before you pass it on")


def _private(path: str, flags: int) -> int:
    """Make it for its owner alone, and only if nothing has the name yet: "x" says so."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _compose(session: Session, title: str) -> str:
    daemon = _Daemon(session)
    sections: dict[str, Callable[[], str]] = {
        "Versions": lambda: _versions(daemon),
        "System": lambda: "\n".join(_system()),
        "Findings of mcrctl doctor": lambda: findings_view(all_visible(ask_doctor(daemon.ask, session.path)), None),
        "Rules": lambda: tables.rules_view(daemon.ask("list"), None),
        "Workers": lambda: tables.workers_view(daemon.ask("list_workers"), None),
        "Statistics": lambda: _statistics(daemon.ask("stats")),
        "Settings": lambda: tables.settings_view(daemon.ask("settings"), None),
        "Log levels": lambda: tables.levels_view(daemon.ask("log_level.get"), None),
        "Interfaces that mcrctl sees": lambda: "\n".join(_interfaces()),
        "Group memberships of all programs": lambda: "\n".join(_memberships()),
        "Kernel parameters": lambda: "\n".join(_parameters()),
        "Newest warnings and errors of mcrd": lambda: _recent(daemon.ask("log.recent")),
    }
    parts = [f"{title}\n\n{_HEAD}"]
    parts += [f"== {name} ==\n\n{_section(write)}\n" for name, write in sections.items()]
    return "\n".join(map(visible, terminal.unstyle("\n".join(parts)).split("\n")))


def _section(write: Callable[[], str]) -> str:
    try:
        return write().rstrip("\n")
    except McrError as error:
        return f"mcrd cannot be asked: {visible(error.message)}"
    except Exception as error:  # noqa: BLE001 - a report is for when things are not as expected
        return f"Not available: {type(error).__name__}: {error}"


class _Daemon:
    """The daemon. Once it could not be reached it is not asked again, as that may take seconds each time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.version: Any = None
        self.absence: McrError | None = None
        try:
            with session.understand():
                self.version = all_visible(session.call("version"))
        except McrError as error:
            self.absence = McrError(error.message)  # its hints may say who asks

    def ask(self, method: str) -> Any:
        """Let it carry out one method."""
        if self.absence:
            raise self.absence
        return all_visible(self._session.call(method))


def _versions(daemon: _Daemon) -> str:
    lines = [f"mcrctl {mcr.__version__}", f"Python {'.'.join(map(str, sys.version_info[:3]))}"]
    if daemon.absence:
        return "\n".join([*lines, f"mcrd cannot be asked: {visible(daemon.absence.message)}"])
    version = daemon.version
    lines.append(f"mcrd {version['version']}, protocol {version['protocol']}, process {version['pid']}")
    if _network(version["pid"]) not in {_network("self"), None}:
        lines.append("mcrctl runs in another network namespace than mcrd: the interfaces below are not those of mcrd")
    return "\n".join(lines)


def _network(process: int | str) -> str | None:
    try:
        return os.readlink(f"/proc/{process}/ns/net")  # noqa: PTH115 - pathlib is slow to import
    except OSError:  # another user's
        return None


def _system() -> Iterator[str]:
    from mcr.worker.policy import usable_cores  # noqa: PLC0415 - slow to import

    system = os.uname()
    yield f"kernel        {system.sysname} {system.release} {system.machine}"
    release = dict(line.split("=", 1) for line in _read("/etc/os-release").splitlines() if "=" in line)
    yield f"distribution  {release.get('PRETTY_NAME', 'unknown').strip(chr(34))}"
    yield f"processors    {os.cpu_count()}, of which mcrctl may use {len(usable_cores())}"
    memory = dict(line.split(":", 1) for line in _read("/proc/meminfo").splitlines())
    yield f"memory        {memory['MemTotal'].strip()}, available {memory['MemAvailable'].strip()}"
    yield f"load          {_read('/proc/loadavg').strip()}"


def _statistics(stats: dict[str, Any]) -> str:
    exact = {name: stats[name] for name in ("ingress", "egress", "interfaces", "workers", "kernel_path")}
    return "\n".join([tables.stats_view(stats, None), "", *(f"{name} {json.dumps(exact[name])}" for name in exact)])


def _interfaces() -> Iterator[str]:
    from mcr.net.links import read_links  # noqa: PLC0415 - slow to import
    from mcr.net.offloads import read_merging  # noqa: PLC0415

    links = read_links()
    merging = read_merging(links)
    for name, link in links.items():
        state = "down" if not link.up else "up" if link.running else "up, no carrier"
        yield f"{name}: {state}, mtu {link.mtu}, {', '.join(map(str, link.addresses)) or 'no IPv4 address'}"
        yield f"    in  {link.rx_packets:,} packets, {link.rx_dropped:,} dropped, {link.rx_missed:,} missed"
        yield f"    out {link.tx_packets:,} packets, {link.tx_dropped:,} dropped"
        features = merging[name]
        yield f"    merging: {'cannot be read' if features is None else ', '.join(features) or 'none'}"


def _memberships() -> Iterator[str]:
    from mcr.net.procfs import parse_igmp  # noqa: PLC0415 - slow to import

    for each in parse_igmp(_read("/proc/thread-self/net/igmp")):
        yield f"{each.interface}, {each.version} of IGMP: {', '.join(map(str, each.groups))}"


def _parameters() -> Iterator[str]:
    for name in _PARAMETERS:
        yield f"{name} = {_parameter(name.replace('.', '/'))}"
    for interface in sorted(os.listdir("/proc/sys/net/ipv4/conf")):  # noqa: PTH208 - pathlib is slow to import
        values = ", ".join(f"{name} = {_parameter(f'net/ipv4/conf/{interface}/{name}')}" for name in _OF_INTERFACES)
        yield f"net.ipv4.conf.{interface}: {values}"


def _parameter(path: str) -> str:
    try:
        return _read(f"/proc/sys/{path}").strip()
    except OSError as error:
        return f"({error.strerror})"


def _recent(lines: list[dict[str, str]]) -> str:
    if not lines:
        return "None since its start."
    return "\n".join(f"{line['time']} {line['level']} [{line['facility']}] {line['message']}" for line in lines)


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib is slow to import
        return file.read()
