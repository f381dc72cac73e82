"""Commands of `mcrctl` that ask mcrd one thing and show the answer, and plain command lines of them.

Programs call them again and again, and operators while a machine is in trouble. Importing click takes more time than
all the rest that they do, so a command line of nothing but a name of theirs, a rule and the options that every command
has is read here. Whatever else a command line has, click reads it, which knows the same commands (`mcr.cli.mcrctl`).

Import-light: no click, and tables only for who wants one.
"""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import Any, Final

import mcr
from mcr.cli.failure import attempt, report, run
from mcr.cli.session import Session
from mcr.errors import McrError, SystemFault
from mcr.process import streams
from mcr.text.visible import visible


def list_rules(session: Session, rule: str | None = None) -> None:
    """Show the rules, or one by its id or name."""
    session.show(session.call("list", about(rule)), lambda *given: _tables().rules_view(*given))


def stats(session: Session, rule: str | None = None) -> None:
    """Show statistics of all, or of one rule."""
    result = read_stats(session, session.call, about(rule))
    if rule:
        session.show(result, lambda *given: _tables().rule_stats_view(*given))
    else:
        session.show(result, lambda *given: _tables().stats_view(*given))


def read_stats(session: Session, ask: Callable[..., Any], which: dict[str, str] | None) -> Any:
    """Statistics; for people with the states of outputs: what is sent to a host that does not answer counts as sent.

    Args:
        session: says for whom.
        ask: calls a method of the daemon.
        which: the rule; None: all.
    """
    result = ask("stats", which)
    if session.json:
        return result
    with session.understand():
        hosts = _tables().with_hosts(result)
        one_by_one = len(hosts) * _FEW <= len(result["rules"])
    if not hosts:
        return result
    with suppress(McrError), session.understand():  # a rule is gone since, or mcrd: the rest is shown all the same
        rules = [rule for each in hosts for rule in ask("list", about(each))] if one_by_one else ask("list", which)
        return _tables().with_states(result, rules)
    return result


def list_workers(session: Session) -> None:
    """Show the worker processes."""
    session.show(session.call("list_workers"), lambda *given: _tables().workers_view(*given))


def settings(session: Session) -> None:
    """Show mcrd's settings."""
    session.show(session.call("settings"), lambda *given: _tables().settings_view(*given))


def ping(session: Session) -> None:
    """Ask whether mcrd answers, and show how long that took."""
    with session.connect() as daemon:
        started = time.perf_counter()
        pong = daemon.call("ping")
        milliseconds = (time.perf_counter() - started) * 1_000
    session.show(pong, lambda *_: f"mcrd answered on {session.path} in {milliseconds:.1f} ms")


def version(session: Session) -> None:
    """Show the versions of mcrctl and of mcrd, which need not be there."""
    try:
        daemon, state = session.call("version"), ""
    except McrError as error:
        daemon, state = None, f"mcrd cannot be asked: {visible(error.message)}"
    session.show(
        {"mcrctl": mcr.__version__, "mcrd": daemon},
        lambda versions, _width: (
            f"mcrctl {mcr.__version__}\n{_daemon_version(versions['mcrd']) if versions['mcrd'] else state}"
        ),
    )


_FEW: Final = 100
"""Where so many rules come to one with hosts, those with hosts are listed one by one, and not all."""

ABOUT_A_RULE: Final[dict[str, Callable[..., None]]] = {"list": list_rules, "stats": stats}
"""Commands that a rule may follow."""

ABOUT_ALL: Final[dict[str, Callable[[Session], None]]] = {
    "list-workers": list_workers,
    "ping": ping,
    "settings": settings,
    "version": version,
}


def about(rule: str | None) -> dict[str, str] | None:
    """Parameters of a request about one rule, or about all."""
    return None if rule is None else {"rule": rule}


def main(command: Callable[[], int]) -> None:
    """Carry out a command, and end with its exit status."""
    streams.open_standard_descriptors()
    streams.report_errors()
    if sys.stdout is None:
        sys.exit(report(SystemFault("Cannot write to standard output", errno.EBADF)))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `mcrctl list | head` ends quietly, as other tools do
    sys.exit(command())


def chosen(arguments: Sequence[str]) -> Callable[[], int]:
    """What the command line asks for: it is done by a call, which returns the exit status."""
    if request := plain(arguments):
        return partial(attempt, request)
    from mcr.cli import mcrctl  # noqa: PLC0415 - and click with it

    return partial(run, mcrctl.cli, "mcrctl")


def plain(arguments: Sequence[str]) -> Callable[[], None] | None:
    """What a plain command line asks for; None if it is none."""
    if "_MCRCTL_COMPLETE" in os.environ:  # the shell asks, and click answers
        return None
    session, words, path = Session(), [], None
    rest = iter(arguments)
    for each in rest:
        if each == "--json":
            session.json = True
        elif each == "--control-socket" and path is None:
            path = next(rest, "-")
            session.choose(path)
        else:
            words.append(each)
    if any(each.startswith("-") for each in (*words, path or "")):
        return None
    match words:
        case [name] if name in ABOUT_ALL:
            return partial(ABOUT_ALL[name], session)
        case [name, *rule] if name in ABOUT_A_RULE and len(rule) <= 1:
            return partial(ABOUT_A_RULE[name], session, *rule)
    return None


def _tables() -> ModuleType:
    from mcr.cli import tables  # noqa: PLC0415 - which JSON does not need

    return tables


def _daemon_version(daemon: dict[str, Any]) -> str:
    since = f", since {daemon['started']}" if "started" in daemon else ""
    return f"mcrd {daemon['version']}, process {daemon['pid']}, protocol {daemon['protocol']}{since}"
