"""`mcrctl why` and `mcrctl doctor`: findings, one line each, and an exit status that says how bad the worst is."""

import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from mcr.cli.session import Session, common_options
from mcr.errors import UsageError

_EXIT_STATUS: Final = {"ok": 0, "advice": 1, "fault": 2}
_COLOURS: Final = {"ok": "green", "advice": "yellow", "fault": "red"}


@click.command()
@click.argument("rule", metavar="RULE")
@common_options
@click.pass_obj
def why(session: Session, rule: str) -> None:
    """Walk RULE, an id or a name, from wire to wire, and stop at the first thing that is wrong.

    Exit status: 0 if nothing is, 1 for advice, 2 for a fault.
    """
    if not rule:
        raise UsageError("RULE is empty", "ids and names are shown by: mcrctl list")
    _show(session, session.call("why", {"rule": rule}))


@click.command()
@common_options
@click.pass_obj
def doctor(session: Session) -> None:
    """Check the machine and the daemon.

    Exit status: 0 if all is well, 1 for advice, 2 for a fault.
    """
    _show(session, session.call("doctor"))


def _show(session: Session, findings: Sequence[dict[str, Any]]) -> None:
    session.show(findings, _view)
    sys.exit(max((_EXIT_STATUS[finding["verdict"]] for finding in findings), default=0))


def _view(findings: Sequence[dict[str, Any]], _width: int | None) -> str:
    return "\n".join(_line(finding) for finding in findings)


def _line(finding: dict[str, Any]) -> str:
    verdict = click.style(f"{finding['verdict']:<6}", fg=_COLOURS[finding["verdict"]])
    remedy = f"; {finding['remedy']}" if finding["remedy"] else ""
    return f"{verdict}  {finding['what']} ({finding['evidence']}){remedy}"
