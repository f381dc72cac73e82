"""The wheel, installed elsewhere."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import mcr

ROOT = Path(__file__).parents[2]

C_LIBRARY = re.compile(r"linux-vdso|libc\.so|ld-linux|libpthread\.so|statically linked|^$")


@pytest.fixture(scope="module")
def wheel() -> Path:
    wheels = list((ROOT / "dist").glob("*.whl"))
    assert len(wheels) == 1, "make wheel makes it"
    return wheels[0]


@pytest.fixture(scope="module")
def bin_directory(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a virtual environment that the wheel was installed into, without a compiler and without a network.

    What it depends on is seen in this one. (`make deb` installs all of it, and nothing that is no wheel.)
    """
    home = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(home, symlinks=True)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", home / "bin" / "python"),
            *("install", "-q", "--no-index", "--no-deps", wheel),
        ],
        env=os.environ | {"CC": "/bin/false", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        check=True,
    )
    (site_packages,) = home.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("platlib"))
    return home / "bin"


def test_it_is_for_every_python_from_3_11_and_any_distribution(wheel: Path) -> None:
    assert re.fullmatch(rf"mcr-{re.escape(mcr.__version__)}-cp311-abi3-manylinux_\d+_\d+_\w+\.whl", wheel.name)


def test_it_is_what_runs(bin_directory: Path) -> None:
    """And not this checkout, which the environment of the dependencies knows."""
    where = "import mcr; print(mcr.__file__)"
    found = subprocess.run([bin_directory / "python", "-I", "-c", where], capture_output=True, text=True, check=True)
    assert Path(found.stdout).is_relative_to(bin_directory.parent)


@pytest.mark.parametrize("program", ["mcrd", "mcrctl"])
def test_programs_run(bin_directory: Path, program: str) -> None:
    done = subprocess.run([bin_directory / program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{program}, version {mcr.__version__}\n"


def test_nothing_but_the_c_library_is_needed(bin_directory: Path) -> None:
    (native,) = bin_directory.parent.glob("lib/python*/site-packages/mcr/_native*.so")
    for file in (native, bin_directory / "mcrd"):
        listed = subprocess.run(["ldd", file], capture_output=True, text=True, check=True).stdout
        assert [line for line in listed.splitlines() if not C_LIBRARY.search(line)] == []


def test_licence_of_what_is_linked_in_comes_along(bin_directory: Path) -> None:
    (licences,) = bin_directory.parent.glob("lib/python*/site-packages/mcr-*.dist-info/licenses")
    names = {file.name for file in licences.rglob("*") if file.is_file()}
    assert names == {"LICENSE", "liburing"}
