"""The man pages and completion scripts that are made from the commands."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import man
from mcr.cli.mcrctl import cli
from mcr.cli.supervisor import mcrd
from mcr.config.table import VARIABLES

BIN = Path(sys.executable).parent
PAGES = {"mcrd.8": mcrd, "mcrctl.1": cli}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("packaging")
    man.main(directory)
    return directory


def read(page: Path) -> str:
    """A page as a reader sees it, in one line; what troff warns of fails."""
    command: list[str | Path] = ["groff", "-man", "-Tutf8", "-ww", "-P-cbou", page]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    assert shown.stderr == ""
    return " ".join(shown.stdout.replace("\N{HYPHEN}", "-").split())


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from commands(child, f"{path} {name}")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_every_command_and_option_with_its_meaning(made: Path, name: str) -> None:
    text = read(made / "man" / name)
    named = 0
    for path, command in commands(PAGES[name], name.split(".", maxsplit=1)[0]):
        if not isinstance(command, click.Group):
            assert f"{path} [OPTIONS]" in text
            assert " ".join((command.help or "?").split()) in text
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.opts[0] in text
                assert " ".join((option.help or "?").split()) in text
                named += 1
    assert named >= 5


def test_the_daemons_page_names_every_variable_with_its_default(made: Path) -> None:
    text = read(made / "man" / "mcrd.8")
    for variable in VARIABLES:
        default = f"[default: {variable.default_text} {variable.unit}".strip()
        assert f" {variable.variable} {variable.sentence} {default}; {variable.kind.allowed}]" in text


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_the_sections_that_a_reader_looks_for(made: Path, name: str) -> None:
    source = (made / "man" / name).read_text()
    sections = re.findall(r"^\.SH (.*)$", source, re.MULTILINE)
    assert sections[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"]
    assert {"OPTIONS", "COMMANDS", "ENVIRONMENT", "EXIT STATUS", "FILES", "EXAMPLES", "SEE ALSO"} <= set(sections)


@pytest.mark.parametrize("word", [".TP of old", "'tis", "C:\\n", "a-b", "--json"])
def test_text_is_not_understood_as_troff(word: str, tmp_path: Path) -> None:
    (tmp_path / "page").write_text(f".TH X 1\n.SH NAME\n{man._text(word)}\n")
    assert word in read(tmp_path / "page")


def test_examples_are_command_lines_that_exist(made: Path) -> None:
    for program in man.PROGRAMS:
        for _, example in program.examples:
            for word in re.findall(r"(?<=\s)--[a-z-]+", example):
                assert any(word in option.opts for _, each in commands(program.command, "") for option in each.params)


def test_the_day_can_be_set_so_that_builds_are_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    man.main(tmp_path)
    assert ".TH MCRD 8 1970-01-02 " in (tmp_path / "man" / "mcrd.8").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "word", "answers"), [("mcrctl", "list-", "list-workers"), ("mcrd", "s", "supervisor")]
)
def test_bash_completes_by_the_script(made: Path, program: str, word: str, answers: str) -> None:
    """The function that the script registers leaves in COMPREPLY, bash(1), what the program itself answers."""
    script = made / "completions" / f"{program}.bash"
    ask = f"COMP_WORDS=({program} {word}) COMP_CWORD=1; _{program}_completion {BIN / program} {word} {program}"
    asked = f'source {script}; complete -p {program}; {ask}; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "--norc", "-c", asked], check=True, capture_output=True, text=True)
    assert done.stdout.split("\n") == [f"complete -o nosort -F _{program}_completion {program}", answers, ""]
    assert done.stderr == ""


@pytest.mark.parametrize("program", ["mcrd", "mcrctl"])
def test_scripts_are_named_as_the_shells_look_for_them(made: Path, program: str) -> None:
    completions = made / "completions"
    zsh = (completions / f"_{program}").read_text()
    assert zsh.startswith(f"#compdef {program}\n")
    assert f"if [[ $funcstack[1] == _{program} ]]; then" in zsh
    assert f"complete --no-files --command {program} " in (completions / f"{program}.fish").read_text()
