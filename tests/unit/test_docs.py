"""What the documents name is there: paths, modules, rooms, and what they link to."""

import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *(ROOT / "tests").glob("*.md"),
        *(ROOT / "bench").glob("*.md"),
        *(ROOT / ".github").rglob("*.yml"),
    )
    if path.name != "CHANGELOG.md"  # it speaks of what was
)

MADE = ("mcr/_native.c", "packaging/man", "packaging/completions")
"""Not in a clean checkout: written by make."""

_PATH = re.compile(r"(?<![\w/.])(?:mcr|tests|tools|bench|packaging|docs)/(?:[\w.-]+/)*[\w.-]*\w/?")
_MODULE = re.compile(r"`([\w/]+\.(?:py|c|h))`")
_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)")


def missing_paths(text: str) -> list[str]:
    """Paths from the project's root, or within tests/, that a text names, and that are not there."""
    named = {name for name in _PATH.findall(text) if not name.startswith(MADE)}
    return sorted(name for name in named if not ((ROOT / name).exists() or (ROOT / "tests" / name).exists()))


@functools.cache
def files() -> frozenset[str]:
    rooms = ("mcr", "tests", "tools", "bench", "packaging")
    return frozenset(f"/{path.relative_to(ROOT).as_posix()}" for room in rooms for path in (ROOT / room).rglob("*.*"))


def missing_modules(text: str) -> list[str]:
    """Modules that a text names by the end of their path alone, `actors/mailbox.py`, and that are not there."""
    named = set(_MODULE.findall(text))
    return sorted(name for name in named if not any(path.endswith(f"/{name}") for path in files()))


def missing_links(document: Path, text: str) -> list[str]:
    return sorted(link for link in _LINK.findall(text) if not (ROOT / document.parent / link).exists())


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_what_a_document_names_is_there(document: Path) -> None:
    text = (ROOT / document).read_text()
    assert missing_paths(text) + missing_links(document, text) == []


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if each.parts[0] == "docs"], ids=str)
def test_what_the_package_brings_is_whole(document: Path) -> None:
    """It has docs/, and nothing else that these link to."""
    text = (ROOT / document).read_text()
    targets = [(ROOT / document.parent / link).resolve() for link in _LINK.findall(text)]
    assert [str(each) for each in targets if not each.is_relative_to(ROOT / "docs")] == []


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if each.parent.name != "decisions"], ids=str)
def test_a_module_that_a_document_names_is_there(document: Path) -> None:
    """Decisions speak of what was, too."""
    assert missing_modules((ROOT / document).read_text()) == []


def test_what_is_missing_is_seen() -> None:
    assert missing_paths("see `mcr/net/past.py`, mcr/net/capture.py and mcr/nowhere/") == [
        "mcr/net/past.py",
        "mcr/nowhere/",
    ]
    assert missing_modules("`past.py`, `net/capture.py`, `relay/capture.py`, `loop.c`") == [
        "past.py",
        "relay/capture.py",
    ]
    assert missing_links(Path("docs/architecture.md"), "[a](gone.md#x), [b](glossary.md), [c](https://d)") == [
        "gone.md"
    ]


def test_the_architecture_names_every_room() -> None:
    rooms = {f"mcr/{path.parent.name}/" for path in (ROOT / "mcr").glob("*/__init__.py")}
    rooms |= {f"mcr/{path.name}" for path in (ROOT / "mcr").glob("*.py") if path.name != "__init__.py"}
    text = (ROOT / "docs/architecture.md").read_text()
    assert sorted(room for room in rooms if f"`{room}`" not in text) == []
