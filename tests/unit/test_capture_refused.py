"""What a source is that a rule refuses: `capture`, `trace` and `list` say it as the counter does."""

import socket
import struct
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

from api_actors import Actors, call
from fake_daemon import VIEW, Daemon, Run
from mcr._native import ffi
from mcr.cli.capture import _Refused, _tell_errors
from mcr.cli.session import Session
from mcr.config.settings import Settings
from mcr.control.methods import Api
from mcr.errors import McrError
from mcr.model.flow import Flow
from mcr.model.log import LogLevels
from mcr.net import uapi
from mcr.tap.rule_capture import Place, RuleCapture

SOURCE, OTHER, SIX, OTHER_SIX = map(ip_address, ("198.18.0.9", "198.18.0.8", "fd00::9", "fd00::8"))
UDP_PART = UDP(sport=7, dport=5000) / Raw(b"abc")
AUXILIARY = {
    uapi.PACKET_AUXDATA: uapi.TPACKET_AUXDATA.pack(0, 0, 0, 0, 0, 0, 0),
    uapi.SO_TIMESTAMPNS: struct.pack("qq", 1, 2),
}


@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        (IP(src=str(SOURCE), dst="239.1.1.1") / UDP_PART, "dropped: returned"),
        (IP(src=str(OTHER), dst="239.1.1.1") / UDP_PART, "taken"),
        (IPv6(src=str(SIX), dst="ff15::1") / UDP_PART, "dropped: returned"),
        (IPv6(src=str(OTHER_SIX), dst="ff15::1") / UDP_PART, "taken"),
        (IP(src=str(SOURCE), dst="239.1.1.1", flags="MF") / UDP_PART, "dropped: returned"),
        (IP(src=str(SOURCE), dst="239.1.1.1") / UDP(sport=7, dport=5000, chksum=1) / b"abc", "dropped: checksum"),
    ],
)
def test_what_comes_from_a_refused_source_is_returned(packet: Packet, verdict: str) -> None:
    """As the worker says it: what is wrong with the datagram itself goes before."""
    flows = frozenset({Flow(ip_address("239.1.1.1"), 5000), Flow(ip_address("ff15::1"), 5000)})
    capture = RuleCapture([Place("in0", outgoing=False, flows=flows)], ["in0"])
    capture.has_link_header, capture._own = [False], ffi.new("struct mcr_own *")
    data = uapi.VIRTIO_NET_HDR.pack(0, 0, 0, 0, 0, 0) + bytes(packet)
    address = ("in0", socket.ntohs(0x0800), 0, uapi.ARPHRD_ETHER, bytes(6))
    found = capture._packet(0, data, AUXILIARY, address, {SOURCE.packed, SIX.packed})
    assert found
    assert found.verdict == verdict


def test_a_capture_knows_the_last_answer_and_workers_forget(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is refused: as the last answer says, for as long as workers go by it where mcrd is gone."""
    now = 100.0
    monkeypatch.setattr("mcr.cli.capture.time.monotonic", lambda: now)
    refused = _Refused(Session(), VIEW | {"rule_id": "tv", "refused": [str(OTHER)]})
    assert refused() == {OTHER}
    daemon.results["list"] = [VIEW | {"refused": [str(SOURCE)]}]
    assert refused._ask()
    assert daemon.calls == [("list", {"rule": "tv"})]
    assert refused() == {SOURCE}
    now += 9.9
    daemon.failure = McrError("mcrd is gone")
    assert not refused._ask()
    assert refused() == {SOURCE}
    now += 0.2
    assert refused() == frozenset()
    daemon.failure, daemon.results["list"] = None, [VIEW | {"refused": ["nonsense"]}]
    assert not refused._ask()
    assert refused() == frozenset()
    daemon.results["list"] = [VIEW]
    assert refused._ask()
    assert refused() == frozenset()


def test_it_is_asked_twice_a_second_and_left_alone_after_a_failure(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause begins when the answer has come, or has failed to."""
    answers: Iterator[McrError | None] = iter([None, McrError("No reply from mcrd within 5 s"), None])
    pauses: list[float] = []

    def wait(pause: float) -> bool:
        pauses.append(pause)
        daemon.failure = next(answers, None)
        return len(pauses) == 4

    refused = _Refused(Session(), VIEW)
    monkeypatch.setattr(refused._ended, "wait", wait)
    refused._keep_asking()
    assert pauses == [0.5, 0.5, 10, 0.5]
    assert len(daemon.calls) == 3


def test_nobody_waits_for_an_mcrd_that_hangs(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packets are judged by the last answer meanwhile, and the end of the capture comes at once."""
    asked, answered = threading.Event(), threading.Event()

    def hang(method: str, _: Any) -> Any:
        asked.set()
        assert answered.wait(60)
        raise McrError(f"no reply to {method}")

    monkeypatch.setattr(Daemon, "call", lambda _, *words: hang(*words))
    monkeypatch.setattr("mcr.cli.capture._ASKED_APART", 0)
    with _Refused(Session(), VIEW | {"refused": [str(SOURCE)]}) as refused:
        assert asked.wait(60)
        assert refused() == {SOURCE}
    assert not answered.is_set()
    answered.set()


@pytest.mark.parametrize(("errors", "said"), [(5, "3 errors of its outputs meanwhile"), (3, "1 error of"), (2, "")])
def test_the_end_says_what_was_taken_and_not_sent(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], errors: int, said: str
) -> None:
    """`taken` promises nothing of outputs: an output that is down, or the TTL of a packet, is an error of the rule."""
    daemon.results["stats"] = {"rules": [{"errors": errors}]}
    _tell_errors(Session(), "a rule", 2)
    told = capsys.readouterr().err
    assert told.startswith(said)
    assert told.endswith("which, and why: mcrctl stats 'a rule'\n" if said else "")
    assert daemon.calls == [("stats", {"rule": "a rule"})]


def test_the_end_waits_for_no_mcrd_that_hangs_or_is_gone(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.failure = McrError("mcrd is gone")
    _tell_errors(Session(), "tv", 0)
    answered = threading.Event()
    monkeypatch.setattr(Daemon, "call", lambda *_: answered.wait(60))
    monkeypatch.setattr("mcr.cli.capture._ANSWERS_WITHIN", 0)
    _tell_errors(Session(), "tv", 0)
    answered.set()
    assert capsys.readouterr().err == ""


async def test_list_names_them_of_the_rules_that_have_some() -> None:
    actors: Any = Actors()
    settings = Settings("/run/mcr/control.sock", 1, LogLevels())
    api = Api(actors, actors, actors, actors, actors, settings, actors)
    inputs = [{"interface": "eth0", "group": f"239.1.1.{number}", "port": 5000} for number in (1, 2)]
    outputs: Any = [{"group": "239.2.2.2", "port": 6000, "interface": "eth1"}]
    await call(
        api, "add", rules=[{"rule_id": f"r{n}", "input": each, "outputs": outputs} for n, each in enumerate(inputs)]
    )
    actors.refusing = {"r1": (SOURCE, SIX)}
    assert [each.get("refused") for each in await call(api, "list")] == [None, ["198.18.0.9", "fd00::9"]]


def test_trace_names_them(run: Run, daemon: Daemon) -> None:
    refused = {"group": "239.1.1.1", "port": 5000, "source": str(SOURCE), "rule_id": "tv", "vlan": None}
    daemon.results["trace"] = {"interface": "eth0", "seconds": 2.0, "flows": [], "whole": True, "refused": [refused]}
    assert run("trace", "--unmatched", "eth0")[1].splitlines()[1:] == [
        "refused by rule tv: 239.1.1.1:5000 from 198.18.0.9, as it returns what others send: mcrctl why tv"
    ]
