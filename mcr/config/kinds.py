"""Types of settings: which values are allowed, how they are written, and the error for others."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import attrs

from mcr.errors import InvalidParams, UsageError
from mcr.model.endpoint import NOWHERE, Endpoint, parse_endpoint
from mcr.model.log import Level

_T = TypeVar("_T")


class Kind(ABC, Generic[_T]):
    """A type of values."""

    @property
    @abstractmethod
    def allowed(self) -> str:
        """The values that are allowed, in words."""

    @abstractmethod
    def parse(self, text: str) -> _T:
        """Turn what somebody has written into a value.

        Raises:
            ValueError: it is not allowed.
        """

    def text(self, value: _T) -> str:
        """A value as it is written."""
        return str(value)

    def refusal(self, text: str, called: str, meaning: str) -> UsageError:
        """What to say of a value that is not allowed.

        Args:
            text: as it was written.
            called: the setting's name, where that was.
            meaning: of the setting.
        """
        return UsageError(f"Invalid {called}: {text!r}", f"{self.allowed} ({meaning})")


@attrs.frozen
class Whole(Kind[int]):
    """A whole number."""

    values: range

    @property
    def form(self) -> str:
        """The same in short."""
        return f"{self.values[0]}-{self.values[-1]}"

    @property
    def allowed(self) -> str:
        """From which number to which."""
        return f"a whole number from {self.values[0]} to {self.values[-1]}"

    def parse(self, text: str) -> int:
        """Digits, and nothing else."""
        if not (text.isascii() and text.isdecimal()) or int(text) not in self.values:
            raise ValueError(text)
        return int(text)


class Switch(Kind[bool]):
    """On or off."""

    allowed = "0 or 1"

    def parse(self, text: str) -> bool:
        """One digit; not ``true`` or ``yes``: there is one way to say it."""
        if text not in {"0", "1"}:
            raise ValueError(text)
        return text == "1"

    def text(self, value: bool) -> str:  # noqa: FBT001 - it is the value
        """As a digit."""
        return str(int(value))


@attrs.frozen
class Word(Kind[str]):
    """One of some words."""

    words: Sequence[str]

    @property
    def allowed(self) -> str:
        """All of them."""
        return " or ".join(self.words)

    def parse(self, text: str) -> str:
        """As it is written."""
        if text not in self.words:
            raise ValueError(text)
        return text


class LogLevel(Kind[Level]):
    """A level of the log."""

    allowed = ", ".join(level.label for level in Level)

    def parse(self, text: str) -> Level:
        """By its label, in upper or lower case."""
        try:
            return Level.parse(text)
        except InvalidParams:
            raise ValueError(text) from None

    def text(self, value: Level) -> str:
        """By its label."""
        return value.label

    def refusal(self, text: str, called: str, meaning: str) -> UsageError:  # noqa: ARG002 - the levels say enough
        """With the nearest level."""
        nearest = difflib.get_close_matches(text, [level.label for level in Level], n=1)
        hints = [f"did you mean {nearest[0]}?"] if nearest else []
        return UsageError(f"Invalid {called}: {text!r}", *hints, f"levels: {self.allowed}")


@attrs.frozen
class FilePath(Kind[str]):
    """A path. `of` says what of, with an article."""

    of: str
    allowed = "a path that is not empty"

    def parse(self, text: str) -> str:
        """Whatever is not empty."""
        if not text:
            raise ValueError(text)
        return text

    def refusal(self, text: str, called: str, meaning: str) -> UsageError:  # noqa: ARG002 - it is empty
        """It can only be empty."""
        return UsageError(f"{self.of}'s path is empty", f"give one: {called} PATH, or leave it out")


class Listening(Kind[Endpoint | None]):
    """Where a server listens; None: it does not."""

    form = "ADDR:PORT|unix:PATH"
    allowed = "ADDR:PORT, such as 127.0.0.1:9464 or [::1]:9464, or unix:PATH, or none"

    def refusal(self, text: str, called: str, meaning: str) -> UsageError:  # noqa: ARG002 - it says the same
        """With why a name such as localhost is none."""
        return UsageError(f"Invalid {called}: {text!r}", f"{self.allowed}; names are not looked up")

    def parse(self, text: str) -> Endpoint | None:
        """Addresses are numbers: names would have to be looked up, and may mean something else tomorrow."""
        return None if text == NOWHERE else parse_endpoint(text)

    def text(self, value: Endpoint | None) -> str:
        """As it is written."""
        return str(value) if value else NOWHERE
