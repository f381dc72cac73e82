"""Runs a command on other kernels: Debian's, in a machine that sees this one's files and changes none of them.

Three kinds of machine:

kvm     QEMU with this processor's help, where that runs an ordinary kernel
tcg     QEMU with a processor that it emulates: any kernel, some fifteen times slower
uml     user-mode Linux: the same source built as a program, for one processor. Nearly as fast as this machine but for
        system calls, and so the choice where there is no KVM

The command finds the files that it would find here, with memory in the place of what it may write to, and a network of
its own that leads nowhere. Kernels are fetched from Debian, checked by its keys, unpacked and kept in
``build/kernels``; nothing is installed but QEMU. Takes root: files are seen as their owners see them.
"""

import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import click

from debian_archive import (
    SOURCES,
    USER_MODE_SOURCES,
    Archive,
    KernelError,
    unpack,
)
from mcr.cli.failure import run

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "build" / "kernels"
QEMU = "qemu-system-x86_64"

TESTS = (
    ".venv/bin/pytest",
    "-p",
    "no:cacheprovider",
    *(f"tests/{each}" for each in ("unit", "actors", "kernel", "native", "e2e")),
)

SLOWNESS = {"kvm": 1, "uml": 8, "tcg": 15}
"""How many times longer the end-to-end tests may take (tests/e2e/mcr_process.py)."""

# Modules that a machine needs to see its disk, and the command to reach us: these are loaded before anything else.
BOOT_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
# Of several thousand modules those that a program without devices can ask for; they load when it does.
WANTED = re.compile(
    r"\./(usr/)?lib/(uml/)?modules/[^/]+/"
    r"(vmlinuz|modules\.(builtin|order|builtin\.modinfo)"
    r"|kernel/(arch|crypto|lib|net|fs/(9p|netfs|fscache|overlayfs|nls)|drivers/(virtio|char|net/[^/]+\.ko.*))\b.*)"
)
KERNEL_IMAGE = re.compile(r"\./boot/vmlinuz-.+|\./usr/bin/linux\.uml")
MEMORY_MIB = 6144
KVM_TRIAL_MINUTES = 0.5

# The first program: mounts what the command is to see, and becomes the second one.
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /dev /proc /lower /layer /root
$b mount -t proc proc /proc
for module in /modules/*.ko; do [ ! -e $module ] || $b insmod $module; done
{root}
$b mount -t proc proc /root/proc
$b mount -t sysfs sysfs /root/sys
$b mount -t devtmpfs dev /root/dev
$b mkdir -p /root/dev/pts /root/dev/shm
$b mount -t devpts devpts /root/dev/pts
$b mount -t tmpfs -o mode=1777 shm /root/dev/shm
$b mount -t tmpfs -o mode=755 run /root/run
$b mkdir -p /root/run/kernels/bin /root/run/kernels/proc /root/run/kernels/lib/modules/{release}
$b mount -t proc proc /root/run/kernels/proc
$b mount --bind /lower{modules} /root/run/kernels/lib/modules/{release}
$b cp /bin/busybox /root/run/kernels/bin
$b cp /second /modprobe /root/run/kernels
echo /run/kernels/modprobe >/proc/sys/kernel/modprobe
exec $b switch_root /root /run/kernels/bin/busybox sh /run/kernels/second
"""

# The kernel calls it for modules. In a root of its own, as the loader looks for them in /lib alone.
MODPROBE = """#!/run/kernels/bin/busybox sh
exec /run/kernels/bin/busybox chroot /run/kernels /bin/busybox modprobe "$@"
"""

QEMU_ROOT = """
$b mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 root /lower
$b mount -t tmpfs layer /layer
$b mkdir /layer/upper /layer/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work root /root
"""

# No overlay: files of the host's can't be opened through one by kernels before 5.15 or so. So what tests write to is in
# memory, and a copy of the checkout.
UML_ROOT = """
$b mount -t hostfs -o / root /lower
$b mount --bind /lower /root
$b mount -o remount,ro,bind /root
for name in /tmp /var/tmp; do $b mount -t tmpfs -o mode=1777 tmp /root$name; done
$b mkdir -p /root{directory}
$b mount -t tmpfs checkout /root{directory}
cd /lower{directory}
$b tar -c $($b ls -A | $b grep -vxE "build|\\.git|\\..*_cache") | $b tar -x -C /root{directory}
cd /
"""

# Reaps what the command leaves behind. Limits are those of a session under systemd, not the kernel's own for its first
# process.
SECOND = """b=/run/kernels/bin/busybox
{begin}
$b ip link set lo up
ulimit -Sn 1024
ulimit -Hn 524288
ulimit -l 65536
cd {directory}
{command} </dev/null
echo $? >{status}
$b poweroff -f
"""
QEMU_BEGIN = "exec >$(echo /dev/vport*p1) 2>&1"
QEMU_STATUS = "$(echo /dev/vport*p2)"
UML_BEGIN = "$b mkdir /run/kernels/ended; $b mount -t hostfs -o {directory} ended /run/kernels/ended"
UML_STATUS = "/run/kernels/ended/status"


@attrs.frozen
class Kernel:
    """A kernel, unpacked: an image to boot or, of user-mode Linux, to run, and its modules."""

    release: str
    image: Path
    modules: Path


def provide_busybox() -> Path:
    """The program that brings the machine up: statically linked, of the same Debian release as its source here."""
    directory = CACHE / "busybox"
    program = directory / "bin" / "busybox"
    if not program.exists():
        archive = Archive(SOURCES["6.1"], directory)
        archive.update()
        unpack([archive.fetch("busybox-static")], re.compile(r"\./(usr/)?bin/busybox"), directory)
    return program


def provide_kernel(name: str, busybox: Path, *, user_mode: bool) -> Kernel:
    """Fetch and unpack a kernel, if that has not been done."""
    directory = CACHE / (f"{name}-uml" if user_mode else name)
    tree = directory / "tree"
    if not (tree / "complete").exists():
        shutil.rmtree(directory, ignore_errors=True)
        source = (USER_MODE_SOURCES if user_mode else SOURCES)[name]
        print(f"Fetching a kernel of Debian {source.suite}", flush=True)
        archive = Archive(source, directory)
        archive.update()
        packages = ["user-mode-linux"] if user_mode else find_parts(archive)
        files = [archive.fetch(package) for package in packages]
        unpack(files, re.compile(f"{WANTED.pattern}|{KERNEL_IMAGE.pattern}"), tree)
        for file in files:
            file.unlink()
        modules = tree / "lib" / "uml" / "modules"
        if user_mode:
            modules.rename(tree / "lib" / "modules")
        (release,) = (path.name for path in (tree / "lib" / "modules").iterdir())
        subprocess.run([busybox, "depmod", "-b", tree, release], check=True)
        (tree / "complete").touch()
    (modules,) = (tree / "lib" / "modules").iterdir()
    # Where user-mode Linux is, where Debian had its kernels up to 2025, and where it has them since.
    places = (tree / "bin" / "linux.uml", tree / "boot" / f"vmlinuz-{modules.name}", modules / "vmlinuz")
    return Kernel(modules.name, next(place for place in places if place.exists()), modules)


def find_parts(archive: Archive) -> list[str]:
    """The packages that make up the newest kernel there."""
    packages, parts = ["linux-image-amd64"], set[str]()
    while packages:
        new = set(archive.dependencies(packages.pop())) - parts
        packages += new
        parts |= new
    return sorted(parts)


def load_order(kernel: Kernel, names: Sequence[str]) -> list[Path]:
    """The files of modules and of what they need, in an order in which they can be loaded."""
    needs = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        file, _, others = line.partition(":")
        needs[Path(file).stem.replace("-", "_")] = (file, others.split())
    order: list[str] = []

    def add(name: str) -> None:
        file, others = needs.get(name, ("", []))  # what is not there is built in
        for other in others:
            add(Path(other).stem.replace("-", "_"))
        if file and file not in order:
            order.append(file)

    for name in names:
        add(name)
    return [kernel.modules / file.removeprefix(f"/lib/modules/{kernel.release}/") for file in order]


def cpio(files: Iterable[tuple[str, int, bytes]]) -> bytes:
    """An initial file system of names, modes and contents, in the format that Linux reads (buffer-format.rst)."""
    archive = io.BytesIO()
    for inode, (name, mode, content) in enumerate([*files, ("TRAILER!!!", 0, b"")]):
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        archive.write(b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0")
        archive.write(b"\0" * (-archive.tell() % 4) + content)
        archive.write(b"\0" * (-archive.tell() % 4))
    return archive.getvalue()


def initial_files(kernel: Kernel, busybox: Path, command: Sequence[str], machine: str, ended: Path) -> bytes:
    """What the kernel finds at its start: a program that makes its way to the command."""
    here = shlex.quote(str(Path.cwd()))
    variables = {"MCR_RUN_ALL": "1", "MCR_SLOWNESS": str(SLOWNESS[machine]), "PYTHONDONTWRITEBYTECODE": "1"}
    variables |= {name: value for name, value in os.environ.items() if name in ("HOME", "PATH") or name[:4] == "MCR_"}
    words = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in variables.items()), *command]
    if machine == "uml":
        root, begin, status = UML_ROOT.format(directory=here), UML_BEGIN.format(directory=ended), UML_STATUS
    else:
        root, begin, status = QEMU_ROOT, QEMU_BEGIN, QEMU_STATUS
    init = INIT.format(release=kernel.release, modules=shlex.quote(str(kernel.modules)), root=root)
    second = SECOND.format(begin=begin, directory=here, command=shlex.join(words), status=status)
    files = [
        *((directory, 0o40755, b"") for directory in ("bin", "dev", "modules")),
        ("bin/busybox", 0o100755, busybox.read_bytes()),
        ("init", 0o100755, init.encode()),
        ("modprobe", 0o100755, MODPROBE.encode()),
        ("second", 0o100644, second.encode()),
    ]
    needed = () if machine == "uml" else BOOT_MODULES
    for number, module in enumerate(load_order(kernel, needed)):
        files.append((f"modules/{number:02}-{module.name}", 0o100644, module.read_bytes()))
    return cpio(files)


def machine_command(kernel: Kernel, machine: str, directory: Path) -> list[str | Path]:
    """The program that is the machine; how its command ended is written to `directory`."""
    initrd = directory / "initrd"
    if machine == "uml":
        return [
            *(kernel.image, f"mem={MEMORY_MIB}M", f"initrd={initrd}", f"uml_dir={directory}/", "quiet", "panic=-1"),
            *("con=null", "con0=null,fd:1", "ssl=null"),
        ]
    return [
        *(QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", f"q35,accel={machine}", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MIB)),
        *("-kernel", kernel.image, "-initrd", initrd, "-append", "console=ttyS0 panic=-1"),
        *("-serial", f"file:{kernel.modules.parents[2] / 'console'}"),
        *("-device", "virtio-serial-pci"),
        *("-chardev", "stdio,id=said,signal=off", "-device", "virtserialport,chardev=said,nr=1"),
        *("-chardev", f"file,id=ended,path={directory / 'status'}", "-device", "virtserialport,chardev=ended,nr=2"),
        *("-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"),
    ]


def boot(kernel: Kernel, busybox: Path, command: Sequence[str], machine: str, minutes: float) -> int:
    """Run a command on a kernel, with its output on ours; return its exit status.

    Args:
        kernel: which.
        busybox: what brings it up.
        command: what then runs, in this directory.
        machine: ``kvm``, ``tcg`` or ``uml``.
        minutes: from its start to its end.

    Raises:
        KernelError: the machine ended before the command did, or had to be ended.
    """
    with TemporaryDirectory(prefix="mcr-kernel-") as name:
        directory, status = Path(name), Path(name, "status")
        (directory / "initrd").write_bytes(initial_files(kernel, busybox, command, machine, directory))
        # QEMU closes the machine's port at the end of its input, so that must not come.
        with subprocess.Popen(
            machine_command(kernel, machine, directory),
            env=os.environ | {"TMPDIR": "/dev/shm"},  # noqa: S108 - memory of a user-mode machine: memory, not a disk
            stdin=subprocess.PIPE,
            process_group=0,
        ) as running:
            try:
                running.wait(minutes * 60)
            except subprocess.TimeoutExpired:
                raise KernelError(f"Linux {kernel.release}: no end after {minutes:g} minutes") from None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)  # a user-mode machine is several processes
        said = status.read_text() if status.exists() else ""
        if not said:
            raise KernelError(f"Linux {kernel.release} ended before the command did", f"see {CACHE}/*/console")
        return int(said)


def choose_machine(busybox: Path) -> str:
    """KVM if it runs an ordinary kernel (inside a virtual machine not every KVM does); otherwise user-mode Linux."""
    if Path("/dev/kvm").exists():
        provide_qemu()
        try:
            kernel = provide_kernel("6.1", busybox, user_mode=False)
            if boot(kernel, busybox, ["true"], "kvm", KVM_TRIAL_MINUTES) == 0:
                return "kvm"
        except KernelError as error:
            print(f"KVM is of no use here ({error.message})", flush=True)
    return "uml"


def provide_qemu() -> None:
    """Install QEMU where it is missing, as `make setup` does with what it needs."""
    if shutil.which(QEMU):
        return
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "qemu-system-x86"]
    if not shutil.which("apt-get"):
        raise KernelError(f"No such program: {QEMU}", "install QEMU")
    print("Installing system packages: qemu-system-x86", flush=True)
    for attempt in (["apt-get", "-q", "update"], install):
        done = subprocess.run(
            attempt, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, capture_output=True, check=False
        )
    if done.returncode:
        raise KernelError(f"{' '.join(install)} failed", done.stderr.decode().strip())


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--kernel", "names", multiple=True, type=click.Choice([*SOURCES]), help="Which; default: all of them.")
@click.option("--machine", type=click.Choice([*SLOWNESS]), help="How; default: kvm if it works, else uml.")
@click.option("--minutes", default=90.0, show_default=True, help="What the command may take on each of them.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def main(names: tuple[str, ...], machine: str | None, minutes: float, command: tuple[str, ...]) -> int:
    """Run COMMAND on other kernels; default: the unit, actor, native and end-to-end tests.

    The exit status is the command's; where there are several kernels, the first that is not 0.
    """
    if os.geteuid():
        raise KernelError("This takes root: the machine shows files as their owners see them", "sudo make kernels")
    busybox = provide_busybox()
    machine = machine or choose_machine(busybox)
    available = USER_MODE_SOURCES if machine == "uml" else SOURCES
    if machine != "uml":
        provide_qemu()
    failed = 0
    for name in names or available:
        if name not in available:
            raise KernelError(
                f"Debian has no user-mode Linux of {name}", f"try --machine tcg; there are {[*available]}"
            )
        kernel = provide_kernel(name, busybox, user_mode=machine == "uml")
        print(f"Linux {kernel.release} ({machine})", flush=True)
        status = boot(kernel, busybox, command or TESTS, machine, minutes)
        print(f"Linux {kernel.release} ({machine}): exit status {status}", flush=True)
        failed = failed or status
    return failed


if __name__ == "__main__":
    sys.exit(run(main, "kernels.py"))
