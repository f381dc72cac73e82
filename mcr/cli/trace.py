"""`mcrctl trace`: what arrives on an interface that no rule takes."""

import shlex
from typing import Any

import click

from mcr.cli.command import Command
from mcr.cli.completion import interfaces
from mcr.cli.grid import table
from mcr.cli.options import common_options
from mcr.cli.quantities import count, megabits, rate
from mcr.cli.session import Session
from mcr.text.addresses import with_port
from mcr.text.plurals import counted

_LOOK_SECONDS = 2
_MOST_SECONDS = 10
_PROPOSED = 10  # commands, at most


@click.command(cls=Command)
@click.option(
    "--unmatched",
    "interface",
    metavar="IF",
    required=True,
    shell_complete=interfaces,
    help="Show what arrives on this interface, where mcrd runs, and no rule takes.",
)
@click.option(
    "--seconds",
    type=click.IntRange(1, _MOST_SECONDS),
    default=_LOOK_SECONDS,
    show_default=True,
    metavar="N",
    help="How long to look.",
)
@common_options
@click.pass_obj
def trace(session: Session, interface: str, seconds: int) -> None:
    """Show what arrives that no rule takes.

    By group and port, with rates, and with the commands that would add it.

    It looks for UDP to groups, without VLAN tags. Rules that forward, and what the log says, stay as they are. Sources
    that a rule refuses, as they return what others send to it, are named.
    """
    session.show(session.call("trace", {"interface": interface, "seconds": seconds}), trace_view)


def trace_view(found: dict[str, Any], width: int | None) -> str:
    """Flows, one line each, and commands for the first ones: the result of `trace`."""
    name, flows, refused = found["interface"], found["flows"], [*map(_refused, found.get("refused", ()))]
    more = "" if found["whole"] else "; there was more than one look can count"
    if not flows:
        nothing = f"Nothing arrives on {name} that no rule takes, in {found['seconds']:.1f} s{more}"
        return "\n".join([nothing, *refused])
    rows = [
        [
            f"{with_port(each['group'], each['port'])}:{name}{_from(each)}",
            rate(each["pps"]),
            megabits(each["bps"]),
            count(each["frames"]),
        ]
        for each in flows
    ]
    shown = table(["=NO RULE TAKES", "#PPS", "#MBIT/S", "#FRAMES"], rows, width)
    commands = [_command(name, each) for each in flows[:_PROPOSED]]
    left = len(flows) - len(commands)
    others = [f"and so on for {counted(left, 'more flow')}"] if left else []
    seen = f"seen in {found['seconds']:.1f} s{more}; to add one, with outputs of your own:"
    return "\n".join([shown, "", seen, *commands, *others, *refused])


def _refused(flow: dict[str, Any]) -> str:
    end, rule = with_port(flow["group"], flow["port"]), flow["rule_id"]
    why = "it returns what others send: mcrctl why"
    return f"refused by rule {rule}: {end} from {flow['source']}, as {why} {shlex.quote(rule)}"


def _from(flow: dict[str, Any]) -> str:
    return f" from {flow['source']}" if flow.get("source") else ""


def _command(interface: str, flow: dict[str, Any]) -> str:
    where = f"--input-interface {shlex.quote(interface)} --input-group {flow['group']} --input-port {flow['port']}"
    where += f" --input-source {flow['source']}" if flow.get("source") else ""
    return f"mcrctl add {where} --outputs G:P:IF"
