"""What people expect of a project calls what the project itself calls."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def without_paths(script: str) -> str:
    """A script, with programs of the virtual environment by their names alone."""
    return script.replace('"$venv/bin/', "").replace(".venv/bin/", "").replace('"', "")


def test_pre_commit_checks_nothing_that_make_check_does_not() -> None:
    hooks = re.findall(r"^ +entry: (.+)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    commands = [" ".join(word for word in without_paths(hook).split() if word[0] != "-") for hook in hooks]
    checked = without_paths("".join((ROOT / f"tools/{each}.sh").read_text() for each in ("check", "spelling")))
    assert len(commands) == 6
    assert [command for command in commands if command not in checked] == []


INSTALLED = "venv/lib/python3/site-packages/clang_format-18.dist-info"


def test_c_is_as_it_was_by_its_contents_and_its_compilers(tmp_path: Path) -> None:
    for name in "mcr/native/bpf", "mcr/cli", "tests/native", "bench", "tools", "bin", INSTALLED:
        (tmp_path / name).mkdir(parents=True)
    for name in "tools/check.sh", "tools/c_state.sh", "tools/build_bpf.py", ".clang-format", "pyproject.toml":
        (tmp_path / name).write_text(name)
    source = tmp_path / "mcr/native/bpf/ring.h"
    source.write_text("int a;")

    def state(version: str = "1") -> str:
        for each in "cc", "clang-14":
            (tmp_path / "bin" / each).write_text(f"#!/bin/sh\necho {each} {version if each == 'cc' else 14}\n")
            (tmp_path / "bin" / each).chmod(0o755)
        path = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        ran = subprocess.run(
            [ROOT / "tools/c_state.sh", "venv"], cwd=tmp_path, env=path, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    before = state()
    os.utime(source, (2**31, 2**31))
    assert state() == before
    assert state("2") != before
    source.write_text("int b;")
    os.utime(source, (0, 0))
    assert state() != before
    source.write_text("int a;")
    assert state() == before
    (tmp_path / "bench/new.c").touch()
    assert state() != before


def test_words_are_looked_at_where_a_file_has_changed_since_none_was_wrong(tmp_path: Path) -> None:
    installed = tmp_path / ".venv/lib/python3/site-packages/codespell-2.dist-info"
    for each in installed, tmp_path / ".venv/bin", tmp_path / "tools":
        each.mkdir(parents=True)
    for name in "pyproject.toml", "tools/spelling.sh", "new words.md", "mcr.so":
        (tmp_path / name).write_text(name)
    (installed / "RECORD").write_text("2")
    codespell = tmp_path / ".venv/bin/codespell"
    codespell.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n! grep -q wrong "$@"\n')
    codespell.chmod(0o755)

    def look(**environment: str) -> tuple[bool, set[str]]:
        """Whether nothing is wrong, and where that was looked for."""
        command, given = [str(ROOT / "tools/spelling.sh"), ".venv"], os.environ | {"MCR_RUN_ALL": ""} | environment
        ran = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, check=False)
        return not ran.returncode, {*ran.stdout.splitlines()}

    every = {"./pyproject.toml", "./tools/spelling.sh", "./new words.md"}
    assert look() == (True, every)
    assert look() == (True, set())
    assert look(MCR_RUN_ALL="1") == (True, every)
    (tmp_path / "new words.md").write_text("wrong")
    os.utime(tmp_path / "new words.md", (0, 0))
    assert [look(), look()] == [(False, {"./new words.md"})] * 2
    (tmp_path / "new words.md").write_text("right")
    assert look() == (True, {"./new words.md"})
    (installed / "RECORD").write_text("3")
    assert look() == (True, every)


def test_the_forge_s_workflow_calls_what_ci_calls() -> None:
    steps = re.findall(r"^ +run: (.+)$", (ROOT / ".github/workflows/ci.yml").read_text(), re.MULTILINE)
    assert steps == ["sudo bash .ci/run", "sudo make fuzz"]


def test_the_form_for_bugs_asks_for_a_report() -> None:
    form = (ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text()
    report = form[form.index("id: report") :]
    assert "mcrctl report" in report
    assert "required: true" in report


def test_mcr_is_installed_in_one_way_only() -> None:
    """Another editable mode brings an import finder of its own, which costs each start of mcrctl imports."""
    scripts = "".join((ROOT / each).read_text() for each in ("Makefile", "tools/setup.sh")).replace("\\\n", "")
    installs = re.findall(r"^.*pip install .*", scripts, re.MULTILINE)
    ours = [each for each in installs if "-e '.[" in each or each.startswith("EXTRA")]
    assert len(ours) == 2
    assert [each for each in ours if "--config-settings editable_mode=compat" not in each] == []
    assert scripts.count("-e '.[") == scripts.count("@$(EXTRA) -e '.[") + 1
