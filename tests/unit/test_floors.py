"""The rooms of mcr/ stand on floors: a module imports from its own room, and from those below."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mcr

ROOT = Path(mcr.__file__).parent

FLOORS = (
    {"errors", "text", "_native"},
    {"process", "model"},
    {"shm", "worker"},
    {"logs"},
    {"net"},
    {"config", "tap"},
    {"rules"},
    {"relay"},
    {"stats"},
    {"actors"},
    {"diagnosis"},
    {"control"},
    {"metrics"},
    {"daemon"},
    {"cli"},
)
"""From the ground up. Rooms of one floor don't know each other."""

LEVEL = {room: level for level, floor in enumerate(FLOORS) for room in floor}


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All that stand in a source, however deep."""
    for block in ("body", "handlers", "orelse", "finalbody", "cases"):
        for each in getattr(node, block, ()):
            yield each
            yield from statements(each)


_IMPORT = re.compile(r"^ *((?:from|import) mcr\b[^(\n]*(?:\([^)]*\))?)", re.MULTILINE)
"""As ruff has them, one a line. To parse all of this package takes a second of a processor."""


def imports(source: str) -> Iterator[str]:
    """Modules of this package that a source imports, wherever in it."""
    for node in ast.parse("\n".join(_IMPORT.findall(source))).body:
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module == "mcr":
                yield from (f"mcr.{name.name}" for name in names if not name.name.startswith("__"))
            case ast.ImportFrom(module=str(module)) if module.startswith("mcr."):
                yield module
            case ast.Import(names=names):
                yield from (name.name for name in names if name.name.startswith("mcr."))
            case _:
                pass


def against_the_floors(room: str, source: str) -> list[str]:
    """Those imports of a room's source that go up, or to the neighbour."""
    needed = {module.split(".")[1] for module in imports(source)} - {room}
    return sorted(other for other in needed if LEVEL[other] >= LEVEL[room])


def modules() -> list[Path]:
    return [path for path in ROOT.rglob("*.py") if path.parent != ROOT / "native" and path != ROOT / "__init__.py"]


def test_every_module_imports_only_from_the_floors_below() -> None:
    paths = {path.relative_to(ROOT): path.read_text() for path in modules()}
    found = {path: against_the_floors(path.parts[0].removesuffix(".py"), source) for path, source in paths.items()}
    assert len(found) > 200
    assert {str(path): rooms for path, rooms in found.items() if rooms} == {}


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("from mcr.model.rule import Rule", []),
        ("from mcr.net.capture import Capture", []),
        ("import mcr.actors.rule_store", ["actors"]),
        ("from mcr import daemon, __version__", ["daemon"]),
        ("def late():\n    from mcr.stats.readings import Reading", ["stats"]),
        ("from mcr.model.rule import (\n    Output,\n    Rule,\n)\nfrom mcr import (\n    daemon,\n)", ["daemon"]),
    ],
)
def test_an_import_that_goes_up_is_seen(source: str, wrong: list[str]) -> None:
    assert against_the_floors("relay", source) == wrong


# Diagnosis only judges.

WHO_LOOK = {"consultation.py", "doctor.py", "why.py", "present.py"}
"""Those that have the kernel looked at, and hand what was seen to the judges."""

WAYS_OUT = {"os", "socket", "subprocess", "time", "trio", "pathlib", "pyroute2"}


def looks(source: str) -> list[str]:
    """What a source imports to look at the kernel with: modules of I/O, and functions of `net` and `tap`."""
    found = []
    for node in statements(ast.parse(source)):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module.startswith(("mcr.net.", "mcr.tap.")):
                found += [name.name for name in names if not name.name[0].isupper() and name.name != "slot_size"]
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in WAYS_OUT:
                found.append(module)
            case ast.Import(names=names):
                found += [name.name for name in names if name.name.split(".")[0] in WAYS_OUT]
            case _:
                pass
    return found


def test_judges_do_not_look() -> None:
    found = {path.name: looks(path.read_text()) for path in (ROOT / "diagnosis").glob("*.py")}
    assert {name for name, ways in found.items() if ways} == WHO_LOOK, found
