"""Puts the results between the marks of docs/performance.md."""

from collections.abc import Sequence
from pathlib import Path

BEGIN = "<!-- written by make bench: from here -->"
END = "<!-- to here -->"


def write(document: Path, tables: str, pictures: Sequence[Path]) -> None:
    """Replace what stands between the marks; a document without them gets them at its end."""
    text = document.read_text(encoding="utf-8") if document.exists() else "# Performance\n"
    document.write_text(replaced(text, generated(document, tables, pictures)), encoding="utf-8")


def generated(document: Path, tables: str, pictures: Sequence[Path]) -> str:
    """Compose pictures, then tables."""
    shown = [f"![{each.stem}]({each.relative_to(document.parent).as_posix()})" for each in pictures]
    return "\n\n".join([*shown, tables.strip()])


def replaced(text: str, part: str) -> str:
    """Put a part between the marks of a text."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        before, after = text.rstrip("\n") + "\n\n", "\n"
    return f"{before}{BEGIN}\n\n{part}\n\n{END}{after}"
