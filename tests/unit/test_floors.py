"""The rooms of mcr/ stand on floors: a module imports from its own room, and from those below."""

import ast
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


def imports(source: str) -> Iterator[str]:
    """Modules of this package that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
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


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_the_floors_below(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert against_the_floors(room, path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("from mcr.model.rule import Rule", []),
        ("from mcr.net.capture import Capture", []),
        ("import mcr.actors.rule_store", ["actors"]),
        ("from mcr import daemon, __version__", ["daemon"]),
        ("def late():\n    from mcr.stats.readings import Reading", ["stats"]),
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
    for node in ast.walk(ast.parse(source)):
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


@pytest.mark.parametrize("path", sorted((ROOT / "diagnosis").glob("*.py")), ids=lambda path: path.name)
def test_judges_do_not_look(path: Path) -> None:
    assert (looks(path.read_text()) == []) == (path.name not in WHO_LOOK or path.name == "__init__.py")
