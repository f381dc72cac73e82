"""Keys of a terminal, as they are pressed, and its screen, as a program draws on all of it.

What a terminal sends for a key, and how it is drawn on: ECMA-48 and xterm's control sequences, which every terminal of
today knows.
"""

import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, NoReturn

_STDIN = 0
_MOST_BYTES = 256  # of keys that are read at once
_KEYS: Final = {
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[H": "home",
    "\x1bOH": "home",
    "\x1b[1~": "home",
    "\x1b[F": "end",
    "\x1bOF": "end",
    "\x1b[4~": "end",
    "\x1b": "escape",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\b": "backspace",
}
_SEQUENCE = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|\x1bO[A-Za-z]|.", re.DOTALL)
CLOSED: Final = "closed"
"""Stands for a key if there is no terminal any more."""

_OPEN_SCREEN, _CLOSE_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # another screen, without a cursor


@contextmanager
def keys_as_pressed() -> Iterator[None]:
    """Get each key at once, and do not show it. Ctrl-C still ends the program."""
    if not os.isatty(_STDIN):
        yield
        return
    before = termios.tcgetattr(_STDIN)
    tty.setcbreak(_STDIN)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(_STDIN, termios.TCSADRAIN, before)


def read_keys(seconds: float) -> list[str]:
    """Keys that are pressed by now, or the first within so many seconds: names, or characters."""
    sources = [_STDIN] if os.isatty(_STDIN) else []
    ready, _, _ = select.select(sources, [], [], max(seconds, 0))
    if not ready:
        return []
    try:
        pressed = os.read(_STDIN, _MOST_BYTES)
    except OSError:
        pressed = b""
    return keys_of(pressed.decode(errors="ignore")) if pressed else [CLOSED]


def keys_of(text: str) -> list[str]:
    """The keys in what a terminal has sent; those that nobody asks for are left out."""
    found = (_KEYS.get(each, each) for each in _SEQUENCE.findall(text))
    return [key for key in found if key in _KEYS.values() or (len(key) == 1 and key.isprintable())]


@contextmanager
def whole_screen() -> Iterator[None]:
    """Draw on a screen of one's own; the terminal is as before at the end, whatever ends the program."""
    handlers = {signum: signal.signal(signum, _end) for signum in (signal.SIGTERM, signal.SIGHUP)}
    handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # it would leave this screen to the shell
    _write(_OPEN_SCREEN)
    try:
        yield
    finally:
        _write(_CLOSE_SCREEN)
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def draw(lines: Sequence[str]) -> None:
    """Draw the whole screen: no more lines than it has, none longer than it is wide."""
    _write("\x1b[H" + "\r\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _end(signum: int, _frame: object) -> NoReturn:
    sys.exit(128 + signum)
