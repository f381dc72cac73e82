"""Prefixes and ranges of ports, as operators write them. Import-light: mcrctl reads thousands of them."""

from contextlib import suppress
from typing import Any, Final

PORTS: Final = 'a number from 1 to 65535, or a range such as "5000-5009"'
"""What a port may be where it is a text: the hint of an error."""


def split_group(text: str) -> tuple[str, int | None]:
    """``239.1.0.0/24`` as address and length of the prefix; without brackets, and None where there is none.

    A length that is the address's own says nothing. What is no number stays with the address, which is then none.
    """
    whole = text
    if text.startswith("["):
        inside, closed, behind = text[1:].partition("]")
        text = inside + behind if closed else text
    address, slash, length = text.partition("/")
    if not slash:
        return text, None
    if not (length.isascii() and length.isdecimal() and len(length) <= 3):  # noqa: PLR2004
        return whole, None
    return address, None if int(length) == (128 if ":" in address else 32) else int(length)


def split_port(text: str) -> tuple[int, int | None]:
    """``5000-5009`` as first and last port; None where it is one.

    Raises:
        ValueError: it is neither a number nor two.
    """
    first, dash, last = text.partition("-")
    numbers = [_number(each.strip()) for each in ([first, last] if dash else [first])]
    if not dash or numbers[0] == numbers[1]:
        return numbers[0], None
    return numbers[0], numbers[1]


def group_parts(text: str) -> dict[str, Any]:
    """As `split_group`, by their names in JSON."""
    group, prefix = split_group(text)
    return {"group": group} if prefix is None else {"group": group, "prefix": prefix}


def port_parts(text: str) -> dict[str, Any]:
    """As `split_port`, by their names in JSON."""
    port, last_port = split_port(text)
    return {"port": port} if last_port is None else {"port": port, "last_port": last_port}


def taken_apart(endpoint: object) -> Any:
    """An input or output, as a table has it, with a prefix and a range of ports, which are texts, as members."""
    if not isinstance(endpoint, dict):
        return endpoint
    group, port = endpoint.get("group"), endpoint.get("port")
    parts = group_parts(group) if isinstance(group, str) and "/" in group and "prefix" not in endpoint else {}
    if isinstance(port, str) and "last_port" not in endpoint:
        with suppress(ValueError):
            parts |= port_parts(port)
    return endpoint | parts if parts else endpoint


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):  # noqa: PLR2004
        raise ValueError(text)
    return int(text)
