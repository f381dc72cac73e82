"""docs/plant.md, followed to the letter, on a machine of its own: see test_troubleshooting.py."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from guided_machine import Machine
from lab import Lab
from topology import needs_root
from transcript import Step, read_block

TEXT = (Path(__file__).parents[2] / "docs" / "plant.md").read_text()
INSTALLS = ("make deb", "sudo apt-get install", "sudo usermod")
"""Commands of the first step, which tests/packaging carries out."""

_BLOCK = re.compile(r"```(console|toml)\n(.*?)```", re.DOTALL)
_FILE = re.compile(r"`(/etc/mcr/[\w./]+\.toml)`")


@pytest.fixture
def machine(lab: Lab, tmp_path: Path) -> Iterator[Machine]:
    made = Machine(lab, tmp_path)
    yield made
    if made.service is not None:
        made.stop_service()


def write(machine: Machine, path: str, text: str) -> None:
    file = machine.etc / path.removeprefix("/etc/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text.replace("192.0.2.", "198.18.2."))


@needs_root
def test_the_worked_example_works(machine: Machine) -> None:
    machine.start_service()
    machine.send()
    behind = 0
    for block in _BLOCK.finditer(TEXT):
        kind, content = block.groups()
        if kind == "toml":
            write(machine, _FILE.findall(TEXT[behind : block.start()])[-1], content)
        else:
            machine.follow(tuple(step for step in read_block(content.splitlines()) if not _installs(step)))
        behind = block.end()


def _installs(step: Step) -> bool:
    return step.command.startswith(INSTALLS)


def test_every_command_of_the_installation_is_in_the_document() -> None:
    assert all(f"$ {command}" in TEXT for command in INSTALLS)
