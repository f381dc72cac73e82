"""`mcrctl why` and `mcrctl doctor`: findings, one line each, and an exit status that says how bad the worst is."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from textwrap import wrap
from typing import Any, Final

import click

from mcr.cli import completion, terminal
from mcr.cli.command import Examination
from mcr.cli.options import common_options
from mcr.cli.session import Session
from mcr.errors import McrError, SystemFault, UsageError
from mcr.text.visible import visible

_EXIT_STATUS: Final = {"ok": 0, "advice": 1, "fault": 2}
_COLOURS: Final = {"ok": "green", "advice": "yellow", "fault": "red"}
_BESIDE: Final = " " * 8  # what a verdict takes
_COMMAND: Final = re.compile(r"(?<=[:(;] |.\()(?:sudo|mcrctl|ip|sysctl|systemctl|ethtool|df|nft|tc|bridge) [^;()]*")
_KEPT: Final = "\0"  # a space at which a line does not end
_OF_FILES: Final = frozenset({"saved_rules", "state_set_aside", "rules_give_way"})  # in any network the same
_NETWORK: Final = "/proc/self/ns/net"
_NAMED_NETWORKS: Final = "/run/netns"  # ip-netns(8)


@click.command(cls=Examination)
@click.argument("rule", metavar="RULE", shell_complete=completion.rules)
@common_options
@click.pass_obj
def why(session: Session, rule: str) -> None:
    """Say why a rule forwards nothing, or not everything.

    It walks RULE, an id or a name, from wire to wire, and stops at the first thing that is wrong: on the way in, and
    on the way to each output. So outputs can be checked before the source sends.

    Exit status: 0 if nothing is, 1 for advice, 2 for a fault, 3 if it could not find out.
    """
    if not rule:
        raise UsageError("RULE is empty", "ids and names are shown by: mcrctl list")
    _show(session, session.call("why", {"rule": rule}))


@click.command(cls=Examination)
@common_options
@click.pass_obj
def doctor(session: Session) -> None:
    """Check the machine and the daemon.

    Without a daemon it checks the machine.

    Exit status: 0 if all is well, 1 for advice, 2 for a fault, 3 if the command line is invalid.
    """
    with session.understand():
        findings = ask_doctor(session.call, session.path)
    _show(session, findings)


def ask_doctor(call: Callable[[str], Any], path: str) -> list[dict[str, Any]]:
    """The daemon's findings, the worst first. If it does not answer: a finding that says so, and those of the machine.

    Args:
        call: has the daemon carry out a method.
        path: its control socket.
    """
    try:
        findings: list[dict[str, Any]] = call("doctor")
    except McrError as error:
        findings = [_unreachable(error, path), *_examine_machine()]
    return sorted(findings, key=_badness, reverse=True)


def _badness(finding: dict[str, Any]) -> int:
    return _EXIT_STATUS[finding["verdict"]]


def _unreachable(error: McrError, path: str) -> dict[str, Any]:
    # For a refusal of the system the first hint says where; other errors have only remedies as hints.
    hints = error.hints if isinstance(error, SystemFault) else (f"the control socket is {path}", *error.hints)
    return {
        "check": "daemon",
        "verdict": "fault",
        "what": f"mcrd cannot be asked: {error.message}",
        "evidence": hints[0],
        "remedy": "; ".join(hints[1:]),
    }


def _examine_machine() -> list[dict[str, Any]]:
    import attrs  # noqa: PLC0415 - only without a daemon, and slow to import

    from mcr.diagnosis.doctor import examine_machine  # noqa: PLC0415

    return [attrs.asdict(finding) for finding in examine_machine()]


def _show(session: Session, findings: Sequence[dict[str, Any]]) -> None:
    with session.understand():
        status = max(map(_badness, findings), default=0)
        about = {finding["check"] for finding in findings if _badness(finding)} - _OF_FILES
        where = _way_to_its_network(session) if about and not session.json else ""
    session.show(findings, lambda shown, width: "\n".join([findings_view(shown, width), *([where] if where else [])]))
    sys.exit(status)


def _way_to_its_network(session: Session) -> str:
    """How to run the commands of remedies where mcrd is, if that is another network namespace than the shell's."""
    try:
        with session.connect() as daemon:
            network, process = daemon.call("version").get("network_namespace"), daemon.process
        if network in (None, os.stat(_NETWORK).st_ino):  # noqa: PTH116 - pathlib takes long to import
            return ""
    except (McrError, OSError):
        return ""
    name = _name_of(network)
    way = f"ip netns exec {visible(name)}" if name else f"nsenter --net=/proc/{process}/ns/net"
    note = f"mcrd runs in another network namespace than this shell: run these commands there: sudo {way} COMMAND"
    return f"note    {_folded(note, terminal.width())}"


def _name_of(network: int) -> str:
    try:
        with os.scandir(_NAMED_NETWORKS) as entries:
            return next((each.name for each in entries if each.stat().st_ino == network), "")
    except OSError:
        return ""


def findings_view(findings: Sequence[dict[str, Any]], width: int | None) -> str:
    """Findings, one line each; folded between words where the terminal is too narrow."""
    return "\n".join(_line(finding, width) for finding in findings)


def _line(finding: dict[str, Any], width: int | None) -> str:
    remedy = f"; {finding['remedy']}" if finding["remedy"] else ""
    text = f"{finding['what']} ({finding['evidence']}){remedy}"
    verdict = terminal.style(f"{finding['verdict']:<6}", fg=_COLOURS[finding["verdict"]])
    return f"{verdict}  {_folded(text, width)}"


def _folded(text: str, width: int | None) -> str:
    """Text beside a verdict. A command stays whole, to be copied: the terminal folds it if even a line is too short."""
    if width is None or len(text) <= width - len(_BESIDE):
        return text
    whole = _COMMAND.sub(lambda found: found[0].replace(" ", _KEPT), text)
    lines = wrap(whole, max(width - len(_BESIDE), 1), break_long_words=False, break_on_hyphens=False)
    return f"\n{_BESIDE}".join(lines).replace(_KEPT, " ")
