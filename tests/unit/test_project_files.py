"""What people expect of a project calls what the project itself calls."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def without_paths(script: str) -> str:
    """A script, with programs of the virtual environment by their names alone."""
    return script.replace('"$venv/bin/', "").replace(".venv/bin/", "").replace('"', "")


def test_pre_commit_checks_nothing_that_make_check_does_not() -> None:
    hooks = re.findall(r"^ +entry: (.+)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    commands = [" ".join(word for word in without_paths(hook).split() if word[0] != "-") for hook in hooks]
    checked = without_paths((ROOT / "tools/check.sh").read_text())
    assert len(commands) == 6
    assert [command for command in commands if command not in checked] == []


def test_the_forge_s_workflow_calls_what_ci_calls() -> None:
    steps = re.findall(r"^ +run: (.+)$", (ROOT / ".github/workflows/ci.yml").read_text(), re.MULTILINE)
    assert steps == ["sudo bash .ci/run"]


def test_the_form_for_bugs_asks_for_a_report() -> None:
    form = (ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text()
    report = form[form.index("id: report") :]
    assert "mcrctl report" in report
    assert "required: true" in report
