"""`mcrctl capture`: the packets of one rule, in and out, for the terminal or for Wireshark."""

import errno
import json
import os
import shlex
import signal
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO, Self

import attrs
import click

import mcr
from mcr.cli import completion, terminal
from mcr.cli.command import Command
from mcr.cli.options import common_options
from mcr.cli.session import Session
from mcr.config.paths import CONTROL_SOCKET_VARIABLE
from mcr.errors import McrError, SystemFault, UsageError, errno_of
from mcr.model.flow import Address
from mcr.model.loop import REFUSED_SECONDS
from mcr.tap.pcapng import ETHERNET, INBOUND, OUTBOUND, RAW_IP, PcapngWriter
from mcr.tap.rule_capture import Packet, RuleCapture, interfaces_of, places_of
from mcr.text.addresses import end_text
from mcr.text.plurals import counted
from mcr.text.visible import visible

_SIDES = ("in", "out")
_NEEDS_ROOT = "captured packets are anybody's: it takes root, or CAP_NET_RAW; as root: sudo mcrctl capture"
_BILLION = 1_000_000_000
_COUNTED_WITHIN = 0.1  # seconds from a packet to what `stats` says of it
_ANSWERS_WITHIN = 3  # seconds, at the end; then it is not waited for
_ASKED_APART = 0.5  # seconds between an answer and the next question who is refused

Show = Callable[[Packet], None]


@click.command(cls=Command)
@click.argument("rule", metavar="RULE", shell_complete=completion.rules)
@click.option("--side", default="in,out", show_default=True, metavar="in|out|in,out", help="Where to capture.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many packets.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), metavar="S", help="End after so long.")
@click.option("-w", "file", metavar="FILE|-", help="Write pcapng, for Wireshark; -: to standard output.")
@common_options
@click.pass_obj
def capture(
    session: Session, rule: str, *, side: str, count: int | None, seconds: float | None, file: str | None
) -> None:
    """Show the packets of RULE as they come in and leave.

    RULE is an id or a name. Ctrl-C ends it.

    Each has its time in nanoseconds, its direction, and what MCR's parser says of it: taken by the rule, or why it is
    dropped. What leaves by each output is a line of its own; errors of outputs are counted at the end.
    Whether its source is refused (dropped: returned) is known half a second late.
    What the capture can't keep up with is missing in it, and counted; the rule forwards it all the same. Datagrams that
    leave together, in one super-frame, are one line, which says how many they are. Packets that a rule with the same
    group and port sends out of the same interface are shown, too.

    Straight into Wireshark:  sudo mcrctl capture RULE -w - | wireshark -k -i -
    """
    sides = side.split(",")
    if not set(sides) <= set(_SIDES):
        raise UsageError(f"Invalid --side: {side!r}", "in, out, or in,out")
    if file == "-" and sys.stdout.isatty():
        raise UsageError("pcapng is not for a terminal", "write it to a file: -w FILE.pcapng; or into a pipe")
    with session.understand():
        (found,) = session.call("list", {"rule": rule})
        run_capture(session, found, sides, count=count, seconds=seconds, file=file)


def run_capture(
    session: Session,
    rule: dict[str, Any],
    sides: Sequence[str] = _SIDES,
    *,
    count: int | None = None,
    seconds: float | None = None,
    file: str | None,
) -> None:
    """Capture until enough has come or somebody ends it, and say how much there was.

    Args:
        session: whose daemon has the rule.
        rule: as `list` gives it.
        sides: where to capture.
        count: of packets; None: no end.
        seconds: of capturing.
        file: for pcapng; None: lines on standard output.
    """
    _check_namespace(session, rule["rule_id"])
    shown = Counter[bool]()
    rules, refused = session.call("list"), _Refused(session, rule)
    failed = _failed(session, rule["rule_id"])
    capture = RuleCapture(places_of(rule, sides, rules), interfaces_of(rules), refused)
    with refused, _captured(capture) as captured, _ending() as stopped:
        with _writer(captured, file, _titled(rule), as_json=session.json) as show:
            for packet in islice(captured.packets(seconds, stopped), count):
                show(packet)
                shown[captured.places[packet.place].outgoing] += packet.datagrams
        lost = sum(map(captured.lost, range(len(captured.places))))
    terminal.show(f"{counted(shown[False], 'packet')} in, {shown[True]:,} out, {lost:,} lost by the capture", err=True)
    _tell_errors(session, rule["rule_id"], failed)


def _failed(session: Session, rule_id: str) -> int:
    """Datagrams that outputs of a rule could not send since mcrd counts them."""
    (rule,) = session.call("stats", {"rule": rule_id})["rules"]
    return int(rule["errors"])


def _tell_errors(session: Session, rule_id: str, before: int) -> None:
    """Say what was taken meanwhile and could not be sent. A thread asks: an mcrd that hangs does not delay the end."""
    found: list[int] = []

    def ask() -> None:
        time.sleep(_COUNTED_WITHIN)
        with suppress(McrError), session.understand():
            found.append(_failed(session, rule_id) - before)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_ANSWERS_WITHIN)
    if found and found[0] > 0:
        what = f"{counted(found[0], 'error')} of its outputs meanwhile"
        terminal.show(f"{what}; which, and why: mcrctl stats {shlex.quote(rule_id)}", err=True)


@attrs.define
class _Refused:
    """Sources that mcrd refuses for a rule, as it said about half a second ago.

    A thread asks, which nobody waits for: while mcrd takes its time, or hangs, packets are read all the same. They are
    judged by the newest answer, for as long as workers go by it.
    """

    _session: Session
    _rule: dict[str, Any]
    _newest: tuple[float, frozenset[Address]] = attrs.field(init=False)  # and when it was asked for
    _ended: threading.Event = attrs.field(factory=threading.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._newest = time.monotonic(), _refused_of(self._rule)

    def __enter__(self) -> Self:
        threading.Thread(target=self._keep_asking, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def __call__(self) -> frozenset[Address]:
        asked, known = self._newest
        return known if time.monotonic() < asked + REFUSED_SECONDS else frozenset()

    def _keep_asking(self) -> None:
        pause = _ASKED_APART
        while not self._ended.wait(pause):
            # An mcrd that hangs, or is not there, is left alone for as long as an answer holds.
            pause = _ASKED_APART if self._ask() else REFUSED_SECONDS

    def _ask(self) -> bool:
        """Whether an answer came."""
        asked = time.monotonic()
        try:
            with self._session.understand():
                (rule,) = self._session.call("list", {"rule": self._rule["rule_id"]})
                self._newest = asked, _refused_of(rule)
        except McrError:
            return False
        return True


def _refused_of(rule: dict[str, Any]) -> frozenset[Address]:
    """As `list` gives the rule."""
    return frozenset(map(ip_address, rule.get("refused", ())))


@contextmanager
def _captured(capture: RuleCapture) -> Iterator[RuleCapture]:
    try:
        with capture:
            yield capture
    except SystemFault as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            error.hints = (*error.hints, _NEEDS_ROOT)
        raise


def _check_namespace(session: Session, rule_id: str) -> None:
    """Interfaces have names of their own in each network namespace.

    Raises:
        McrError: mcrd is in another one.
    """
    pid = session.call("version")["pid"]
    try:
        if Path(f"/proc/{pid}/comm").read_text().strip() != "mcrd":  # in a container, numbers are others
            return
        same = os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116
    except OSError:  # it may not be looked at
        return
    if not same:
        raise McrError(
            "mcrd is in another network namespace than mcrctl",
            f"go there: sudo nsenter --target {pid} --net {_again(session, rule_id)}",
        )


def _again(session: Session, rule_id: str) -> str:
    """The command as it was typed, for a shell. sudo forgets what the environment says of the control socket."""
    words = sys.argv[1:] if "capture" in sys.argv else ["capture", rule_id]
    named = ["--control-socket", session.path] if session.origin == f"from {CONTROL_SOCKET_VARIABLE}" else []
    return shlex.join(["mcrctl", *words, *named])


@contextmanager
def _ending() -> Iterator[Callable[[], bool]]:
    """Have Ctrl-C and SIGTERM end the capture, with all that it has to say; gives whether one came."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _titled(rule: dict[str, Any]) -> str:
    source = rule["input"]
    name = f" ({rule['name']})" if rule["name"] else ""
    return f"rule {rule['rule_id']}{name}: {end_text(source)} on {source['interface']}"


@contextmanager
def _writer(capture: RuleCapture, file: str | None, title: str, *, as_json: bool) -> Iterator[Show]:
    if file is None:
        yield _json_lines(capture) if as_json else _lines(capture)
        return
    with _opened(file) as opened:
        writer = PcapngWriter(opened, f"mcrctl {mcr.__version__}", title)
        for place, has_header in zip(capture.places, capture.has_link_header, strict=True):
            writer.interface(place.interface, ETHERNET if has_header else RAW_IP)
        opened.flush()
        is_live = not stat.S_ISREG(os.fstat(opened.fileno()).st_mode)

        written = Counter[int]()

        def write(packet: Packet) -> None:
            written[packet.place] += 1
            direction = OUTBOUND if capture.places[packet.place].outgoing else INBOUND
            writer.packet(packet.place, packet.time, packet.data, direction, packet.verdict)
            if is_live:
                opened.flush()

        yield write
        for number in range(len(capture.places)):
            lost = capture.lost(number)
            writer.statistics(number, time.time_ns(), written[number] + lost, lost)


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    try:
        with nullcontext(sys.stdout.buffer) if file == "-" else Path(file).open("wb") as opened:
            yield opened
            opened.flush()
    except OSError as error:
        raise SystemFault(f"Cannot write {visible(file)}", errno_of(error)) from None


def _lines(capture: RuleCapture) -> Show:
    width = max(len(each.interface) for each in capture.places)

    def show(packet: Packet) -> None:
        place = capture.places[packet.place]
        side = "out" if place.outgoing else "in "
        several = f" in {packet.datagrams} datagrams" if packet.datagrams > 1 else ""
        end = f"{packet.source} > {packet.destination}, {packet.payload:,} bytes{several}, {packet.verdict}"
        _print(sys.stdout, f"{_clock(packet.time)} {place.interface:<{width}} {side} {end}")

    return show


def _json_lines(capture: RuleCapture) -> Show:
    def show(packet: Packet) -> None:
        place = capture.places[packet.place]
        direction = "out" if place.outgoing else "in"
        where = {"time_ns": packet.time, "interface": place.interface, "direction": direction}
        what = {"source": packet.source, "destination": packet.destination, "payload": packet.payload}
        what |= {"datagrams": packet.datagrams}
        _print(sys.stdout, json.dumps(where | what | {"verdict": packet.verdict}))

    return show


def _print(to: IO[str], line: str) -> None:
    to.write(f"{line}\n")
    to.flush()


def _clock(time_ns: int) -> str:
    seconds, nanoseconds = divmod(time_ns, _BILLION)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09}Z"
