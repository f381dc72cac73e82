"""Text for standard output and standard error: coloured on a terminal, plain elsewhere.

Import-light: click has the same, and importing it takes longer than everything else that `mcrctl ping` does.
"""

import os
import re
import sys
from typing import Final

_COLOURS: Final = {"red": 31, "green": 32, "yellow": 33}  # ECMA-48, 8.3.117 (SGR)
_SEQUENCE: Final = re.compile(r"\033\[[0-?]*[ -/]*[@-~]")  # ECMA-48, 5.4: what begins with CSI


def style(text: str, *, fg: str | None = None, bold: bool = False, dim: bool = False, reverse: bool = False) -> str:
    """The text with the sequences that make a terminal show it so."""
    colour = [_COLOURS[fg]] if fg else []
    codes = [*colour, *(code for code, chosen in ((1, bold), (2, dim), (7, reverse)) if chosen)]
    return "".join(f"\033[{code}m" for code in codes) + f"{text}\033[0m"


def unstyle(text: str) -> str:
    """The text without such sequences."""
    return _SEQUENCE.sub("", text)


def show(text: str, *, err: bool = False) -> None:
    """Write a line, or several, to standard output, or to standard error. A closed one gets nothing."""
    stream = sys.stderr if err else sys.stdout
    if stream is None:
        return
    if os.environ.get("NO_COLOR") or not stream.isatty():
        text = unstyle(text)
    stream.write(f"{text}\n")
    stream.flush()


def width() -> int | None:
    """Columns of the terminal, None if standard output is not one."""
    return _size()[0] or None


def height() -> int | None:
    """Lines of the terminal, None if standard output is not one."""
    return _size()[1] or None


def _size() -> tuple[int, int]:
    try:
        return os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return 0, 0
