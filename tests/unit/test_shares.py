"""Tests that run in several processes: each runs once, in one of them, and one that fails is told."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = "from shares import pytest_addoption, pytest_runtestloop"
TEST = """
import os, pytest

@pytest.fixture(scope="module", autouse=True)
def around():
    yield
    with open("ended", "a") as ended:
        ended.write(f"{__name__}\\n")

@pytest.mark.parametrize("number", range(3))
def test_number(number):
    with open("ran", "a") as ran:
        ran.write(f"{os.getpid()} {__name__} {number}\\n")
    print(f"printed by {__name__}")
    assert (__name__, number) != ("test_1", 1)
    assert __name__ != "test_2" or number
"""


@pytest.mark.slow
@pytest.mark.parametrize(("files", "failed"), [(9, 2), (7, 0)])
def test_each_runs_once_and_what_fails_is_told(tmp_path: Path, files: int, failed: int) -> None:
    for number in range(files):
        (tmp_path / f"test_{number if failed else 10 + number}.py").write_text(TEST)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:trio", "-p", "no:hypothesispytest", "--processes", "3"]
    ran = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stderr == ""
    print(ran.stdout)
    assert ran.returncode == (1 if failed else 0)
    lines = [line.split() for line in (tmp_path / "ran").read_text().splitlines()]
    assert len(lines) == len({(name, number) for _, name, number in lines}) == 3 * files
    assert len({(pid, name) for pid, name, _ in lines}) == files
    assert len((tmp_path / "ended").read_text().splitlines()) == files
    counts = re.findall(r"(\d+) (passed|failed)", ran.stdout)
    assert sum(int(count) for count, what in counts if what == "failed") == failed
