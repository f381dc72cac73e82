"""A number and its noun, for lines that people read."""


def counted(number: int, noun: str) -> str:
    """``1 rule``, ``1,200 rules``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def were(number: int) -> str:
    """The verb behind it."""
    return "was" if number == 1 else "were"
