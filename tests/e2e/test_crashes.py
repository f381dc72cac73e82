"""What was acknowledged outlives mcrd, whenever it is killed. `make crashes` does the same a thousand times."""

import os
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"
ROUNDS = 5


def test_rules_outlive_kills_at_random_moments() -> None:
    paths = {"PYTHONPATH": f"{TOOLS}:{Path(__file__).parent}"}
    command = [sys.executable, str(TOOLS / "crashes.py"), "--rounds", str(ROUNDS)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | paths, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"'rounds': {ROUNDS}" in done.stdout
