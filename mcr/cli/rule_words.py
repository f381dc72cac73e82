"""Rules as an operator writes them: options of `mcrctl add` and `mcrctl change`.

They become parameters of the control protocol; the daemon judges the values.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from mcr.cli.completion import interfaces
from mcr.config.output_text import parse_output
from mcr.errors import UsageError
from mcr.model.health import Health
from mcr.text.ranges import group_parts, port_parts

_EXAMPLE = "for example: --outputs 239.2.2.2:5000:eth1,239.2.2.3:5000:eth2"

_F = TypeVar("_F", bound=Callable[..., Any])


def health_option(unless_given: str) -> Callable[[_F], _F]:
    """For `add` and `change`, with what holds if it is not given."""
    return click.option(
        "--health",
        type=click.Choice([each.value for each in Health]),
        help=f"Watch how the stream comes in: gaps, losses, errors. auto finds out what it is.{unless_given}",
    )


def rule_options(command: _F) -> _F:
    """Give a command the options that make a rule."""
    options = (
        click.option(
            "--input-interface", metavar="IF", shell_complete=interfaces, help="Interface that datagrams arrive on."
        ),
        click.option("--input-vlan", metavar="VID", help="VLAN that they are tagged with.  [default: no tag]"),
        click.option(
            "--input-group",
            metavar="G|PREFIX",
            help="Multicast group they are sent to, of IPv4 or IPv6; or groups, as 239.1.0.0/24 or ff15::100/120; or "
            "an address of this machine, or a broadcast address.",
        ),
        click.option(
            "--input-port",
            metavar="P|P-P",
            help="UDP port they are sent to, or ports, as 5000-5009. A rule that names a single group and port goes "
            "before one that takes several; that takes 4096 at most, groups times ports times sources.",
        ),
        click.option(
            "--input-source",
            metavar="ADDR[,ADDR...]",
            help="Hosts they are sent from; the group is joined from these alone.  [default: any host]",
        ),
        click.option(
            "--outputs",
            metavar="G:P:IF[,G:P:IF...]",
            multiple=True,
            help="Where to send them: group, host or broadcast address, port, interface to leave by; an IPv6 address "
            "stands in brackets, "
            "as in [ff15::1]:6000:eth1. Of several groups or ports each goes to the one that has its place in an "
            "output with as many, as in 239.2.0.0/24:6000-6009:eth1, or all go to a single one. "
            "Options stand behind the interface, as in 239.2.2.2:5000:eth1:ttl=8:dscp=34: "
            "ttl=N (not given: 1 to a group, 64 to a host), ttl=keep as it comes, "
            "ttl=dec one less; dscp=N (0), dscp=keep; "
            "source=ADDR, an address of this machine (that of the interface); source-port=N (any); "
            "source=keep, the sender's address and port; source-port=keep, its port; vlan=VID (no tag); "
            "gso=N or gso=off, "
            "at most N datagrams, or one, in one system call (32).",
        ),
        click.option("--rule-id", metavar="ID", help="Id of the rule.  [default: a hash of the input]"),
        click.option("--name", help="Name of the rule, for people."),
        health_option("  [default: none]"),
    )
    for option in reversed(options):
        command = option(command)
    return command


def rule_params(options: dict[str, Any]) -> dict[str, Any]:
    """The rule, as the protocol spells it."""
    needed = ("input_interface", "input_group", "input_port", "outputs")
    if missing := [f"--{name.replace('_', '-')}" for name in needed if options[name] in (None, ())]:
        raise UsageError(f"Missing: {', '.join(missing)}", "see: mcrctl add --help")
    source: dict[str, Any] = {
        "interface": options["input_interface"],
        **group_parts(options["input_group"]),
        **_ports(options["input_port"]),
    }
    if options["input_vlan"] is not None:
        tag = options["input_vlan"]
        source["vlan"] = _number(tag, "input VLAN", "the id of a VLAN", "a number from 1 to 4094")
    if options["input_source"] is not None:
        source["sources"] = [each.strip() for each in options["input_source"].split(",")]
    return {
        "input": source,
        "outputs": outputs_params(options["outputs"]),
        "rule_id": options["rule_id"],
        "name": options["name"],
        **({} if options["health"] is None else {"health": options["health"]}),
    }


def _ports(text: str) -> dict[str, Any]:
    try:
        return port_parts(text)
    except ValueError:
        allowed = "a number from 1 to 65535, or a range such as 5000-5009"
        raise UsageError(f"Invalid input port: {text!r} is not a port", allowed) from None


def _number(text: str, what: str, noun: str, allowed: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):  # noqa: PLR2004
        raise UsageError(f"Invalid {what}: {text!r} is not {noun}", allowed)
    return int(text)


def outputs_params(texts: Iterable[str]) -> list[dict[str, Any]]:
    """Outputs G:P:IF with their options, in one text or several, as the protocol spells them."""
    return [_output(each.strip()) for text in texts for each in text.split(",")]


def _output(text: str) -> dict[str, Any]:
    if not text:
        raise UsageError("Invalid outputs: one of them is empty", "is there a comma too many?", _EXAMPLE)
    try:
        return parse_output(text)
    except UsageError as error:
        raise UsageError(error.message, *error.hints, _EXAMPLE) from None
