"""Numbers, times and endpoints, as tables show them."""

from typing import Any

from mcr.config.output_text import options_text
from mcr.text.addresses import end_text


def endpoint(output: dict[str, Any]) -> str:
    """An output, as `mcrctl add` takes it."""
    return f"{end_text(output)}:{output['interface']}{options_text(output.get)}"


def input_text(value: dict[str, Any]) -> str:
    """What a rule takes."""
    tag = f" in VLAN {value['vlan']}" if value.get("vlan") else ""
    sources = f" from {', '.join(value['sources'])}" if value.get("sources") else ""
    return f"{end_text(value)}:{value['interface']}{tag}{sources}"


def label(rule: dict[str, Any]) -> str:
    """A rule in a sentence: its id, with its name."""
    return f"{rule['rule_id']} ({rule['name']})" if rule.get("name") else str(rule["rule_id"])


def count(value: int) -> str:
    """A number of things."""
    return f"{value:,}"


def rate(value: float) -> str:
    """Things per second."""
    return f"{value:,.0f}"


def megabits(bits: float) -> str:
    """Bits, in millions."""
    return f"{bits / 1e6:,.2f}"


def size(value: float) -> str:
    """Bytes, in the unit that suits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1_000:  # noqa: PLR2004
            return f"{value:.4g} {unit}"
        value /= 1_000
    return f"{value:,.1f} PB"


def duration(seconds: float | None) -> str:
    """A time span, in the unit that suits; a dash for None."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"
