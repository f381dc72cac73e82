"""An output as an operator writes it: `G:P:IF`, with options behind it. Import-light: mcrctl reads thousands of them.

An IPv6 address stands in brackets. Taken apart only. Whether a group, port or interface is any good is for others to
say.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import zip_longest
from typing import Any

from mcr.errors import UsageError
from mcr.text.addresses import bracketed
from mcr.text.ranges import PORTS, group_parts, port_parts

OPTIONS: Mapping[str, str] = {
    "gso": "gso",
    "ttl": "ttl",
    "dscp": "dscp",
    "source": "source",
    "source-port": "source_port",
    "vlan": "vlan",
}
"""What may follow an output's interface, as `:gso=off`; with its name in JSON."""

_NUMBERS = frozenset({"ttl", "dscp", "source-port", "vlan"})
_WORDS = frozenset({"ttl", "dscp", "source-port"})  # that may be one as well
_UNSAID = frozenset({None, "auto"})
# What stands between colons. Those of an address in brackets, alone or as an option's value, are a part of it.
_PART = re.compile(r"(?:^|:)((?:[^:=\[\]]*=)?\[[^\[\]]*\][^:]*|[^:]*)")
_SOURCE = re.compile(r":source=([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)")
_NAMES = ("group", "port", "interface")


def parse_output(text: str) -> dict[str, Any]:
    """The parts of an output by their names in JSON.

    Raises:
        UsageError: it is not written as an output is.
    """
    try:
        return _parts(text)
    except UsageError:
        if "[" not in text and _looks_like_ipv6(text):
            raise UsageError(
                f"Invalid output {text!r}: an IPv6 address stands in brackets", "for example: [ff15::1]:6000:eth1"
            ) from None
        if source := _bare_source(text):
            raise UsageError(
                f"Invalid output {text!r}: an IPv6 address stands in brackets", f"for example: :source=[{source}]"
            ) from None
        raise


def _parts(text: str) -> dict[str, Any]:
    parts = _PART.findall(text)
    missing = [name for name, part in zip_longest(_NAMES, parts) if name and not part]
    if missing:
        raise UsageError(f"Invalid output {text!r}: {' and '.join(missing)} missing in G:P:IF")
    group, port, interface, *options = parts
    try:
        ports = port_parts(port)
    except ValueError:
        raise UsageError(f"Invalid output {text!r}: {port!r} is not a port", PORTS) from None
    return {**group_parts(group), **ports, "interface": interface, **_options(text, options)}


def _bare(address: str) -> str:
    return address[1:-1] if address.startswith("[") and address.endswith("]") else address


def options_text(value: Callable[[str], Any]) -> str:
    """The options of an output, as they stand behind its interface.

    Args:
        value: of an option, by its name in JSON.
    """
    given = [(option, each) for option, name in OPTIONS.items() if (each := value(name)) not in _UNSAID]
    return "".join([f":{option}={bracketed(each)}" for option, each in given])


def _nearest(name: str, value: str) -> list[str]:
    """The option that was probably meant, as a hint."""
    from difflib import get_close_matches  # noqa: PLC0415 - slow to import, seldom needed

    spelt = name.replace("_", "-").lower()
    return [f"did you mean {each}={value or '…'}?" for each in get_close_matches(spelt, OPTIONS, n=1)]


def _looks_like_ipv6(text: str) -> bool:
    """Whether what is not an output G:P:IF is one with an IPv6 address, without brackets."""
    from ipaddress import IPv6Address  # noqa: PLC0415 - slow to import, seldom needed

    for behind in range(4):  # nothing, an interface, a port and an interface, these and an option
        with suppress(ValueError):
            IPv6Address(text.rsplit(":", behind)[0])
            return True
    return False


def _bare_source(text: str) -> str:
    """The IPv6 address that an output names as its source without brackets; empty: it names none like that."""
    from ipaddress import IPv6Address  # noqa: PLC0415 - slow to import, seldom needed

    for found in _SOURCE.findall(text):
        for address in (found, found.removesuffix(":"), found.rpartition(":")[0]):
            with suppress(ValueError):
                return str(IPv6Address(address))
    return ""


def _options(text: str, options: list[str]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for option in options:
        name, given, value = option.partition("=")
        if OPTIONS.get(name) in chosen:
            raise UsageError(f"Invalid output {text!r}: {name!r} is given twice", "each option once")
        if name not in OPTIONS or not given:
            raise UsageError(
                f"Invalid output {text!r}: {option!r} is not an option of an output",
                *_nearest(name, value),
                f"after G:P:IF, each once: {', '.join(f':{known}=…' for known in OPTIONS)}",
            )
        is_number = value.isascii() and value.isdecimal() and len(value) < 10  # noqa: PLR2004
        if name in _NUMBERS - _WORDS and not is_number:
            raise UsageError(f"Invalid output {text!r}: {option!r} has no number")
        chosen[OPTIONS[name]] = int(value) if name in _NUMBERS and is_number else _bare(value)
    return chosen
