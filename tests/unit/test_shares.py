"""Tests that run in several processes: each runs once, in one of them, and one that fails is told."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shares import share_out

CONFTEST = """
from shares import pytest_addoption, pytest_runtestloop

def pytest_sessionfinish(session):
    with open("tidied", "a") as tidied:
        tidied.write(f"{session.config._tmp_path_factory._basetemp is not None}\\n")
"""
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


OF_ONE_FILE = """
import os, pathlib, pytest, time

def note(name):
    with open("ran", "a") as ran:
        ran.write(f"{os.getpid()} {name}\\n")

@pytest.mark.alone
@pytest.mark.parametrize("number", range(2))
def test_alone(number):
    note("alone")

@pytest.mark.parametrize("number", range(2))
def test_that_waits_for_the_other(number):
    note(number)
    until = time.monotonic() + 30
    while pathlib.Path("ran").read_text().count("\\n") < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
"""

THAT_LEAVES = """
import os, pathlib, pytest, signal, time

FIRST = os.getpid()  # which has collected this

@pytest.mark.parametrize("number", range(6))
def test_number(number):
    if os.getpid() == FIRST:  # waits, until another process has begun one
        until = time.monotonic() + 30
        while not pathlib.Path("left").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        return
    pathlib.Path("left").touch()
    HOW
"""


def run(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (directory / "conftest.py").write_text(CONFTEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:trio", "-p", "no:hypothesispytest", *options]
    return subprocess.run(
        command,
        cwd=directory,
        env={"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_files_of_all_folders_come_by_turns_the_longest_of_each_first(tmp_path: Path) -> None:
    items: list[Any] = []
    for folder, sizes in {"few": [1, 9], "many": [3, 4, 5, 6]}.items():
        (tmp_path / folder).mkdir()
        for size in sizes:
            path = tmp_path / folder / f"test_{size}.py"
            path.write_text("#" * size)
            items += [SimpleNamespace(path=path)] * 2
    order = [(file[0].path.parent.name, len(file[0].path.read_text())) for file in share_out(items, by_test=False)]
    assert order == [("many", 6), ("few", 9), ("many", 5), ("many", 4), ("few", 1), ("many", 3)]


@pytest.mark.slow
@pytest.mark.parametrize(("files", "failed"), [(9, 2), (7, 0)])
def test_each_runs_once_and_what_fails_is_told(tmp_path: Path, files: int, failed: int) -> None:
    for number in range(files):
        (tmp_path / f"test_{number if failed else 10 + number}.py").write_text(TEST)
    ran = run(tmp_path, "--processes", "3", *(() if failed else ("--by-test",)))
    assert ran.stderr == ""
    print(ran.stdout)
    assert ran.returncode == (1 if failed else 0)
    lines = [line.split() for line in (tmp_path / "ran").read_text().splitlines()]
    assert len(lines) == len({(name, number) for _, name, number in lines}) == 3 * files
    assert len({(pid, name) for pid, name, _ in lines}) == files
    assert len((tmp_path / "ended").read_text().splitlines()) == files
    counts = re.findall(r"(\d+) (passed|failed)", ran.stdout)
    assert sum(int(count) for count, what in counts if what == "failed") == failed


@pytest.mark.slow
def test_tests_of_a_file_run_beside_each_other_and_those_alone_when_nothing_else_does(tmp_path: Path) -> None:
    """By several processes; the last ones by the first process, after it has waited for the others."""
    (tmp_path / "test_one.py").write_text(OF_ONE_FILE)
    ran = run(tmp_path, "--processes", "2", "--by-test")
    print(ran.stdout)
    assert ran.returncode == 0
    pids, names = zip(*(line.split() for line in (tmp_path / "ran").read_text().splitlines()), strict=True)
    assert {*names[:2]} == {"0", "1"}
    assert names[2:] == ("alone", "alone")
    # Two that tidy up the directory of all would be in each other's way.
    assert sorted((tmp_path / "tidied").read_text().split()) == ["False", "True"]
    assert pids[0] != pids[1]
    assert pids[2] == pids[3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("os._exit(0)", "A process of tests left with status 0, in "),
        ("pytest.exit('enough', returncode=0)", "A process of tests left with status 0, in "),
        ("os.kill(os.getpid(), signal.SIGKILL)", "A process of tests was ended by SIGKILL, in "),
    ],
)
def test_a_process_that_leaves_in_the_middle_fails_the_run(tmp_path: Path, how: str, said: str) -> None:
    """Though all that has been run has passed."""
    (tmp_path / "test_one.py").write_text(THAT_LEAVES.replace("HOW", how))
    ran = run(tmp_path, "--processes", "2", "--by-test")
    print(ran.stdout)
    assert ran.returncode == 1
    assert f"{said}test_one.py::test_number[" in ran.stdout
    assert "Of 6 tests 5 were run to their end" in ran.stdout


@pytest.mark.slow
def test_what_is_not_run_any_more_is_not_missed(tmp_path: Path) -> None:
    """Another process than the first has failed, with --exitfirst."""
    (tmp_path / "test_one.py").write_text(THAT_LEAVES.replace("HOW", "assert False"))
    ran = run(tmp_path, "--processes", "2", "--by-test", "-x")
    print(ran.stdout)
    assert ran.returncode == 1
    assert "1 failed" in ran.stdout
    assert "were run to their end" not in ran.stdout
    assert "A process of tests" not in ran.stdout
