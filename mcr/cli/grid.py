"""Rows of cells under a header, for a terminal.

A header that begins with "#" is that of a column of numbers, which stand at the right; "=", of words that one wants to
copy. Neither is folded if there is room for the others. Nothing is cut off: where even folding does not help, and in a
pipe, a row is as wide as it must be.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import zip_longest

_GAP = "  "
_LEAST_TEXT = 8  # columns that a cell can be folded into; with less, the terminal itself had better wrap the line
_BELOW = "    "


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None, below: Sequence[Sequence[str]] = ()
) -> str:
    """A table with its header, nothing if it has no rows.

    Args:
        header: a title for each column.
        rows: of cells.
        width: columns of the terminal; None: there is no limit.
        below: lines under the header, and under each row.
    """
    if not rows:
        return ""
    right = [title.startswith("#") for title in header]
    lines = [[title.lstrip("#=") for title in header], *rows]
    by_column = [*zip(*lines, strict=True)]
    natural = [*map(_widest, by_column)]
    widths = _widths(header, natural, width)
    if widths == natural:  # column by column: there may be thousands of rows
        padded = map(_pad, by_column, widths, right)
        blocks = ([_GAP.join(cells).rstrip()] for cells in zip(*padded, strict=True))
    else:
        blocks = ([*_draw(cells, widths, right)] for cells in lines)
    drawn: list[str] = []
    for block, more in zip_longest(blocks, below, fillvalue=()):
        drawn += block
        drawn += [_BELOW + each for each in more]
    return "\n".join(drawn)


def fits(rows: Sequence[Sequence[str]], width: int) -> bool:
    """Whether a table of these cells, headers among them, has room without folding."""
    return _total([*map(_widest, zip(*rows, strict=True))]) <= width


def _widest(cells: Sequence[str]) -> int:
    """Columns that the widest cell takes."""
    return max(map(len if _are_ascii(cells) else columns, cells))


def _are_ascii(cells: Sequence[str]) -> bool:
    return "".join(cells).isascii()


def _pad(cells: Sequence[str], width: int, right: bool) -> list[str]:  # noqa: FBT001
    """Cells of one column, of one width."""
    if not _are_ascii(cells):
        return [_align(cell, width, right) for cell in cells]
    return [cell.rjust(width) for cell in cells] if right else [cell.ljust(width) for cell in cells]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _widths(header: Sequence[str], natural: list[int], width: int | None) -> list[int]:
    """The columns' widths: less than natural where they are folded."""
    if width is None or _total(natural) <= width:
        return natural
    for whole in ("#=", "#"):
        foldable = [at for at, title in enumerate(header) if title[0] not in whole]
        others = [columns for at, columns in enumerate(natural) if at not in foldable]
        room = width - sum(others) - len(_GAP) * (len(natural) - 1)
        if foldable and room >= _LEAST_TEXT * len(foldable):
            widths = list(natural)
            while sum(widths[at] for at in foldable) > room:
                widths[max(foldable, key=widths.__getitem__)] -= 1
            return widths
    return natural


def _draw(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> Iterator[str]:
    """A row's lines."""
    folded = [_fold(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for parts in zip_longest(*folded, fillvalue=""):
        yield _GAP.join(map(_align, parts, widths, right)).rstrip()


def _align(cell: str, width: int, right: bool) -> str:  # noqa: FBT001
    padding = " " * (width - columns(cell))
    return padding + cell if right else cell + padding


def columns(text: str) -> int:
    """Columns of a terminal that the text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_columns_of, text))


def _columns_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _fold(text: str, width: int) -> list[str]:
    """The text in lines of that width, broken between words where that can be."""
    if columns(text) <= width:
        return [text]
    lines, line = [], ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if columns(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        line = word
        while columns(line) > width:
            head = clip(line, width)
            lines.append(head)
            line = line[len(head) :]
    return [*lines, line]


def clip(text: str, width: int) -> str:
    """As much of the text as has room."""
    if text.isascii():
        return text[:width]
    taken = 0
    for at, character in enumerate(text):
        taken += _columns_of(character)
        if taken > width:
            return text[:at]
    return text
