"""Tools that are started without what MCR needs."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.mark.parametrize("tool", ["traffic_gen.py"])
def test_python_without_mcr_is_told_which_one_has_it(tool: str) -> None:
    done = subprocess.run([sys.executable, "-I", "-S", TOOLS / tool], check=False, capture_output=True, text=True)
    error, hint = done.stderr.splitlines()
    assert done.returncode == 1
    assert error.startswith("Error: No module named ")
    assert hint == f"hint: run it with the Python that has MCR: .venv/bin/python tools/{tool} (make setup makes it)"
