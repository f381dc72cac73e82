"""A network to try things in: namespaces and links that belong to this process and vanish with it.

Rules of the module:

1. No namespace has a name. An open descriptor holds it, so nothing is left behind, even after ``kill -9``.
2. The host's network is never touched: what a lab makes, it makes inside its own namespaces.
3. A lab ends every process it started, in reverse order, by pid. The kernel kills them should the thread that
   started them end first; so start long-lived ones from a thread that lives as long.

An ordinary user calls `enter_user_namespace` first.
"""

import contextlib
import ctypes
import errno
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import link_state
from mcr.errors import McrError, SystemFault

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

_SYSTEM_PATH = "/usr/sbin:/sbin"  # where `ip` is; not in an ordinary user's PATH
_LINK_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 5.0

_libc = ctypes.CDLL(None, use_errno=True)


class LabError(McrError):
    """The lab could not be set up, or a command inside it failed."""


def enter_user_namespace() -> None:
    """Let an ordinary user make labs: move this process into a user and a network namespace where it is root.

    Does nothing when it may make network namespaces already. Call it before any thread is started. Of all networks
    only the loopback is left then.

    Raises:
        LabError: this user may not have user namespaces, or there is more than one thread.
    """
    with contextlib.suppress(OSError):
        os.close(_new_network())
        return
    user, group = os.geteuid(), os.getegid()
    try:
        # A network namespace comes along, as only to one of our own can Namespace.entered return.
        _check(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET))
        Path("/proc/self/setgroups").write_bytes(b"deny")
        Path("/proc/self/uid_map").write_bytes(f"0 {user} 1".encode())
        Path("/proc/self/gid_map").write_bytes(f"0 {group} 1".encode())
        os.close(_new_network())
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise LabError("A user namespace needs a process with one thread", "enter it first thing") from None
        raise LabError(
            f"This user may not make network namespaces: {error.strerror} (os error {error.errno})",
            "run it as root: sudo make demo",
            "or allow user namespaces, whichever of these exists: sysctl kernel.unprivileged_userns_clone=1, "
            "kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces=10000",
            "in a container: start it with --privileged, or --cap-add SYS_ADMIN,NET_ADMIN,NET_RAW",
        ) from None
    options = _process_options({})
    subprocess.run(_tied_to_parent(["ip", "link", "set", "dev", "lo", "up"], options["env"]), check=True, **options)


class Namespace:
    """A network namespace. `Lab.namespace` makes one; it is gone when the lab and its processes are."""

    def __init__(self, name: str, lab: "Lab") -> None:
        self.name = name
        self._lab = lab
        self.fd = _new_network()
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6 is as quiet as we want it
            self.sysctl("net.ipv6.conf.all.disable_ipv6", "1")
            self.sysctl("net.ipv6.conf.default.disable_ipv6", "1")
        self.set_up("lo")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have the calling thread inside: sockets it opens, and processes it starts, stay here for good.

        The thread is outside again afterwards. Nothing else may run on the thread meanwhile (no ``await``).
        """
        home = _current_network()
        try:
            _setns(self.fd)
            yield
        finally:
            _setns(home)
            os.close(home)

    def cut_super_frames(self, interface: str) -> None:
        """Have the kernel cut what leaves by an interface."""
        self.set_feature(interface, "tx-udp-segmentation", enable=False)

    def set_feature(self, interface: str, name: str, *, enable: bool) -> None:
        """Switch a feature of an interface, as ``ethtool -K INTERFACE NAME on``."""
        from pyroute2 import Ethtool  # noqa: PLC0415 - slow to import, seldom needed

        with self.entered(), Ethtool() as ethtool:
            features = ethtool.get_features(interface)
            features.features[name].enable = enable
            ethtool.set_features(interface, features)

    def counter(self, protocol: str, name: str) -> int:
        """One of the IP stack's (proc(5), /proc/net/snmp): ``counter("Udp", "IgnoredMulti")``."""
        with self.entered():
            lines = Path("/proc/thread-self/net/snmp").read_text(encoding="ascii").splitlines()
        names, values = (line.split() for line in lines if line.startswith(f"{protocol}:"))
        return int(dict(zip(names, values, strict=True))[name])

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        check: bool = True,
        timeout: float = 60.0,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command here and return what it printed.

        Args:
            command: the program and its arguments.
            check: raise if it does not exit with 0.
            timeout: seconds it may take.
            options: more for `subprocess.run`, such as `env` or `input`.

        Raises:
            LabError: the program is missing, took too long, or failed and `check` is set.
        """
        words = [os.fspath(word) for word in command]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | _process_options(options)
        try:
            with self.entered():
                done: subprocess.CompletedProcess[str] = subprocess.run(
                    _tied_to_parent(words, options["env"]), timeout=timeout, check=False, text=True, **options
                )
        except subprocess.TimeoutExpired:
            raise LabError(f"In {self.name}: {' '.join(words)}: no end after {timeout:g} s") from None
        if check:
            self.check(words, done)
        return done

    def check(self, words: Sequence[str], done: subprocess.CompletedProcess[str]) -> None:
        """See that a command that was run here has not failed.

        Raises:
            LabError: it has.
        """
        if done.returncode != 0:
            said = (done.stderr or done.stdout or "").strip() or "it printed nothing"
            raise LabError(f"In {self.name}: {' '.join(words)}: exit status {done.returncode}: {said}")

    def popen(self, command: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[str]:
        """Start a command here; its pid is the command's own, and the lab ends it.

        A Ctrl-C on the terminal does not reach it: it reaches us, and we end our processes in order.

        Args:
            command: the program and its arguments.
            options: more for `subprocess.Popen`, such as `stdout`, `stderr` or `env`.

        Raises:
            LabError: the program is missing.
        """
        words = [os.fspath(word) for word in command]
        options = {"process_group": 0} | _process_options(options)
        with self.entered():
            process: subprocess.Popen[str] = subprocess.Popen(
                _tied_to_parent(words, options["env"]), text=True, **options
            )
        self.adopt(process)
        return process

    def adopt(self, process: "Process") -> None:
        """Have the lab end a process of yours with its own."""
        self._lab.adopt(process)

    def ip(self, *commands: str, **options: Any) -> str:
        """Run ``ip COMMAND`` here and return its output: ``relay.ip("-json -stats link show dev in0")``.

        Several commands are one process, which ends at the first that fails; frequent ones alone are none.

        Args:
            commands: one, or several without options of `ip` itself.
            options: more for `subprocess.run`.

        Raises:
            LabError: `ip` is missing, or refused; or the kernel.
        """
        if len(commands) == 1 and not options:
            try:
                with self.entered():
                    if link_state.act(commands[0]):
                        return ""
            except OSError as error:
                raise LabError(f"In {self.name}: ip {commands[0]}: {error.strerror}") from None
        if len(commands) == 1:
            return str(self.run(["ip", *commands[0].split()], **options).stdout)
        return str(self.run(["ip", "-batch", "-"], input="\n".join(commands), **options).stdout)

    def sysctl(self, name: str, value: str) -> None:
        """Set a kernel parameter of this namespace: ``relay.sysctl("net.ipv4.conf.all.rp_filter", "1")``.

        Raises:
            FileNotFoundError: this kernel has no such parameter.
        """
        # /proc/sys/net shows the namespace of whoever looks, unlike /sys/class/net.
        with self.entered():
            Path("/proc/sys", *name.split(".")).write_bytes(value.encode())

    def bring_up(self, *interfaces: str) -> None:
        """Set interfaces up, and return when they carry traffic (a cable does when both ends are up).

        Raises:
            LabError: one is missing, or stayed down.
        """
        for interface in interfaces:
            self.set_up(interface)
        with self.entered():
            down = link_state.wait_until_up(interfaces, _LINK_TIMEOUT_S)
        if down:
            raise LabError(f"In {self.name}: {', '.join(down)} stayed down for {_LINK_TIMEOUT_S:g} s")

    def set_up(self, interface: str) -> None:
        """Set an interface up, and wait for nothing.

        Raises:
            LabError: it is missing.
        """
        try:
            with self.entered():
                link_state.set_up(interface)
        except OSError as error:
            raise LabError(f"In {self.name}: cannot set {interface} up: {error.strerror}") from None


class Lab:
    """Namespaces, the links between them and the processes in them, all gone when the ``with`` block ends."""

    def __init__(self) -> None:
        self._indices = itertools.count(10)
        self._ending = contextlib.ExitStack()  # goes on with the rest if one step fails, or at a second Ctrl-C

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.close()

    def namespace(self, name: str) -> Namespace:
        """Make a namespace with its loopback up and IPv6 off, so that nothing in it sends on its own.

        Args:
            name: what error messages call it.

        Raises:
            SystemFault: this process may not; see `enter_user_namespace`.
        """
        try:
            namespace = Namespace(name, self)
        except PermissionError as error:
            raise SystemFault(f"Cannot make network namespace {name}", error.errno or 0, "run as root") from None
        self._ending.callback(os.close, namespace.fd)
        return namespace

    def link(
        self,
        a: Namespace,
        a_name: str,
        b: Namespace,
        b_name: str,
        *,
        a_address: str | None = None,
        b_address: str | None = None,
        mtu: int = 1500,
        gso: bool = True,
    ) -> None:
        """Connect two namespaces with a cable (a veth pair), and return when it carries traffic.

        Args:
            a: the namespace at one end.
            a_name: the interface there.
            b: the namespace at the other end.
            b_name: the interface there.
            a_address: its address and prefix length, ``198.18.1.1/24``; none for a bridge port.
            b_address: the same at the other end.
            mtu: of both ends, in bytes.
            gso: whether super-frames may cross whole. Off, the kernel cuts them before it sends them, as it
                has to for most network cards, and every frame arrives as it would on a wire.

        Raises:
            LabError: the kernel refused.
        """
        # The kernel takes its time, a second, to tell a pair up whose ends have the same index.
        one, other = (link_state.End(name, next(self._indices)) for name in (a_name, b_name))
        try:
            with a.entered():
                link_state.make_cable(one, other, b.fd, mtu)
            for namespace, name, address in ((a, a_name, a_address), (b, b_name, b_address)):
                if address:
                    with namespace.entered():
                        link_state.add_address(name, address)
        except OSError as error:
            raise LabError(f"Cannot connect {a_name} in {a.name} to {b_name} in {b.name}: {error.strerror}") from None
        if not gso:
            a.cut_super_frames(a_name)
            b.cut_super_frames(b_name)
        a.set_up(a_name)
        b.bring_up(b_name)
        a.bring_up(a_name)

    def bridge(
        self,
        namespace: Namespace,
        name: str,
        *,
        ports: Sequence[str],
        mcast_snooping: bool = True,
        mcast_querier: bool = True,
    ) -> None:
        """Make a switch of interfaces that are up already, and return when it carries traffic.

        Args:
            namespace: where.
            name: the bridge's interface.
            ports: interfaces there that become its ports.
            mcast_snooping: whether it forwards a group only to ports that asked for it (IGMP).
            mcast_querier: whether it asks who wants what. It gives them 0.1 s to answer, as it forwards
                everything until that time has passed.

        Raises:
            LabError: `ip` refused, or the kernel has no bridges.
        """
        namespace.ip(f"link add {name} type bridge mcast_snooping {mcast_snooping:d} mcast_query_response_interval 10")
        # A step of its own: it starts to wait, and for what the interval is then.
        namespace.ip(f"link set dev {name} type bridge mcast_querier {mcast_querier:d}")
        for port in ports:
            namespace.ip(f"link set dev {port} master {name}")
        namespace.bring_up(name)

    def adopt(self, process: "Process") -> None:
        """Have the lab end a process of yours with its own."""
        self._ending.callback(end, process)


class Process(Protocol):
    """What can be ended: a `subprocess.Popen`, or what looks like one."""

    @property
    def stdin(self) -> IO[str] | None: ...  # noqa: D102
    @property
    def stdout(self) -> IO[str] | None: ...  # noqa: D102
    @property
    def stderr(self) -> IO[str] | None: ...  # noqa: D102
    def terminate(self) -> None: ...  # noqa: D102
    def kill(self) -> None: ...  # noqa: D102
    def wait(self, timeout: float | None = None) -> int: ...  # noqa: D102


class Running(Process, Protocol):
    """What can be asked how it is, and sent signals, beside that."""

    @property
    def pid(self) -> int: ...  # noqa: D102
    @property
    def returncode(self) -> int | None: ...  # noqa: D102
    def poll(self) -> int | None: ...  # noqa: D102
    def send_signal(self, sig: signal.Signals, /) -> None: ...  # noqa: D102


def end(process: Process) -> None:
    """Ask a process to end, kill it if it does not within 5 s, reap it, and close our ends of its pipes."""
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # what was still to be written has no reader
                pipe.close()


def environment_of(given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process, which finds `ip`."""
    return {**given, "PATH": f"{given.get('PATH', os.defpath)}:{_SYSTEM_PATH}"}


def _process_options(options: dict[str, Any]) -> dict[str, Any]:
    silent = {} if "input" in options else {"stdin": subprocess.DEVNULL}
    return silent | options | {"env": environment_of(options.get("env", os.environ))}


def _tied_to_parent(words: list[str], environment: dict[str, str]) -> list[str]:
    """Have the kernel kill the command when we die. `setpriv` becomes the command: same pid."""
    if shutil.which(words[0], path=environment["PATH"]) is None:
        raise LabError(f"No such program: {words[0]}", "it is neither in PATH nor in /usr/sbin or /sbin")
    return ["setpriv", "--pdeathsig", "KILL", "--", *words]


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _setns(fd: int) -> None:
    _check(_libc.setns(fd, _CLONE_NEWNET))


def _current_network() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _new_network() -> int:
    """Make a network namespace and return the descriptor that holds it; the thread stays where it was."""
    home = _current_network()
    try:
        _check(_libc.unshare(_CLONE_NEWNET))
        try:
            return _current_network()
        finally:
            _setns(home)
    finally:
        os.close(home)
