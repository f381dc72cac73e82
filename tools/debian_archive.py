"""Kernels in Debian's archive: where they are, fetched, checked by its keys, unpacked."""

import lzma
import os
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from mcr.errors import McrError

KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class KernelError(McrError):
    """A kernel could not be had, or not be booted."""


@attrs.frozen
class Source:
    """Where Debian keeps a kernel: the newest of its series that `suite` has."""

    archive: str
    suite: str


DEBIAN, SECURITY = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"
SOURCES = {
    "5.10": Source(SECURITY, "bullseye-security"),
    "6.1": Source(DEBIAN, "bookworm"),
    "6.12": Source(DEBIAN, "trixie"),
    "newest": Source(DEBIAN, "trixie-backports"),
}
USER_MODE_SOURCES = {
    "5.10": Source(DEBIAN, "bullseye"),
    "6.1": Source(DEBIAN, "bookworm"),  # the next one takes a newer C library than Debian 12 has
}


class Archive:
    """Debian's archive, by apt, with lists and sources that are not this machine's."""

    def __init__(self, source: Source, directory: Path) -> None:
        self._directory = directory
        for part in ("lists/partial", "cache/archives/partial"):
            (directory / part).mkdir(parents=True, exist_ok=True)
        entry = f"deb [arch=amd64 signed-by={KEYS}] {source.archive} {source.suite} main\n"
        (directory / "sources.list").write_text(entry)
        settings = {
            "Dir::Etc::SourceList": directory / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::State::Lists": directory / "lists",
            "Dir::State::Status": "/dev/null",
            "Dir::Cache": directory / "cache",
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        lines = [f'{name} "{value}";\n' for name, value in settings.items()]
        (directory / "apt.conf").write_text("".join(lines))

    def update(self) -> None:
        """Fetch the lists."""
        self._apt("apt-get", "-q", "update")

    def dependencies(self, package: str) -> list[str]:
        """What a package needs of what a kernel is made of."""
        said = self._apt("apt-cache", "depends", package)
        return re.findall(r"Depends: (linux-(?:image|base|binary|modules)-\d\S*)", said)

    def fetch(self, package: str) -> Path:
        """Fetch a package, as a file."""
        self._apt("apt-get", "-q", "download", package)
        return max(self._directory.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)

    def _apt(self, *command: str) -> str:
        environment = os.environ | {"APT_CONFIG": str(self._directory / "apt.conf"), "LC_ALL": "C"}
        try:
            done = subprocess.run(
                command, cwd=self._directory, env=environment, capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise KernelError(f"No such program: {command[0]}", "kernels are Debian's, and fetched by apt") from None
        if done.returncode:
            raise KernelError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout


def members(package: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Read a Debian package's files, one after the other."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as unpacking:
        assert unpacking.stdout is not None
        with tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive:
            for member in archive:
                yield member, archive


def unpack(packages: Iterable[Path], wanted: re.Pattern[str], tree: Path) -> None:
    """Unpack files whose names are wanted; modules uncompressed, as the simplest of loaders wants them."""
    for package in packages:
        for member, archive in members(package):
            if not member.isfile() or not wanted.fullmatch(member.name):
                continue
            file = archive.extractfile(member)
            assert file is not None
            target = tree / member.name.removeprefix("./").removeprefix("usr/")
            target.parent.mkdir(parents=True, exist_ok=True)
            content = file.read()
            if target.suffix == ".xz":
                target, content = target.with_suffix(""), lzma.decompress(content)
            target.write_bytes(content)
            target.chmod(member.mode & 0o777)
