"""The service unit and what goes with it, as files."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mcr.config.table import TABLE
from mcr_process import IS_ROOT

PACKAGING = Path(__file__).parents[2] / "packaging"
UNIT = PACKAGING / "systemd" / "mcrd.service"
WORST_EXPOSURE = 2.0

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None and not IS_ROOT,  # tools/setup.sh installs it if it is root
    reason="there is no systemd-analyze: sudo apt-get install systemd",
)


def analyze(*words: str) -> str:
    """What systemd-analyze prints, if it finds nothing wrong."""
    done = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


@needs_systemd
def test_unit_is_free_of_faults(tmp_path: Path) -> None:
    """With the mcrd of this checkout, for the unit's own need not be installed."""
    unit = tmp_path / UNIT.name
    text = UNIT.read_text()
    for program in ("mcrd", "mcrctl"):
        assert text.count(f"=/usr/bin/{program} ") == 1
        text = text.replace(f"=/usr/bin/{program} ", f"={Path(sys.executable).with_name(program)} ")
    unit.write_text(text)
    analyze("verify", "--man=no", str(unit))


def test_a_reload_fails_on_what_nobody_confirmed() -> None:
    """The command first: if it fails, systemd does not send the signal."""
    first, second = re.findall(r"^ExecReload=(.*)", UNIT.read_text(), re.MULTILINE)
    assert first == "/usr/bin/mcrctl config apply --reload"
    assert second.startswith("/bin/kill -HUP ")


@needs_systemd
def test_unit_leaves_little_exposed() -> None:
    report = analyze("security", "--offline=true", "--no-pager", str(UNIT))
    (level,) = re.findall(r"Overall exposure level for mcrd\.service: ([0-9.]+)", report)
    assert float(level) <= WORST_EXPOSURE, report


def test_default_file_shows_every_variable_with_its_default() -> None:
    """And sets none: each line is a comment."""
    lines = (PACKAGING / "default" / "mcrd").read_text().splitlines()
    shown = dict(line.removeprefix("#").split("=") for line in lines if re.fullmatch(r"#MCR_[A-Z_]+=.*", line))
    assert shown == {setting.variable: setting.default_text for setting in TABLE if setting.variable}
    assert all(not line or line.startswith("#") for line in lines)


def test_unit_and_tmpfiles_agree_on_the_runtime_directory() -> None:
    unit = UNIT.read_text()
    owner = re.findall(r"^(?:User|Group)=(.*)", unit, re.MULTILINE)
    (mode,) = re.findall(r"^RuntimeDirectoryMode=(.*)", unit, re.MULTILINE)
    (name,) = re.findall(r"^RuntimeDirectory=(.*)", unit, re.MULTILINE)
    assert f"\nd /run/{name} {mode} {' '.join(owner)}\n" in (PACKAGING / "systemd" / "mcrd.tmpfiles").read_text()
