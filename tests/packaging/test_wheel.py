"""The wheel, installed elsewhere."""

import os
import re
import subprocess
import sys
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
    """Of a virtual environment with nothing but the wheel and what it depends on, made without a compiler."""
    home = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(home, symlinks=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install", "-q", "--no-cache-dir", wheel],
        env=os.environ | {"CC": "/bin/false", "CXX": "/bin/false", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        check=True,
    )
    return home / "bin"


def test_it_is_for_every_python_from_3_11_and_any_distribution(wheel: Path) -> None:
    assert re.fullmatch(rf"mcr-{re.escape(mcr.__version__)}-cp311-abi3-manylinux_\d+_\d+_\w+\.whl", wheel.name)


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
