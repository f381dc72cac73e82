"""The health of streams: what is wrong with them as they come in is told once, whichever path they take."""

import json
import socket
import struct
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from exposition import value
from mcr.text.streams import lost_packets
from mcr_process import BIN, Mcr, wait_until
from streams import PMT, VIDEO, Television, pat, pmt, rtp, ts
from successors import take_over
from test_metrics import read
from topology import MakeMcr, Plant

OUT = "239.2.2.2:6000:out0"
SOL_UDP, UDP_SEGMENT = 17, 103
SOUND = VIDEO + 1
RING_BYTES = 4 << 20  # no other map is larger; the rings of two processors are
BROADCAST = [number for number in range(400) if number not in (100, *range(150, 160), 201)]
"""An RTP stream: one and ten are lost, two come in another order, one twice."""


def health(mcr: Mcr, rule: str = "tv") -> dict[str, Any]:
    """As `mcrctl stats` tells it."""
    (stats,) = [each for each in mcr.stats()["rules"] if each["rule_id"] == rule]
    found: dict[str, Any] = stats["health"]
    return found


def send(plant: Plant, payloads: Iterable[bytes], pause: float = 0.001) -> None:
    """Evenly."""
    with plant.source.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("198.18.0.1"))
        for each in payloads:
            sock.sendto(each, ("239.1.1.1", 5000))
            time.sleep(pause)


def spoilt() -> list[bytes]:
    those = [rtp(number, kind=33, payload=bytes(200)) for number in BROADCAST]
    those[300], those[301] = those[301], those[300]
    return [*those[:250], those[248], *those[250:]]


def send_together(plant: Plant, payloads: list[bytes]) -> None:
    """In one super-frame, as a sender on this machine may."""
    options = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", len(payloads[0])))]
    with plant.source.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("198.18.0.1"))
        sock.sendmsg([b"".join(payloads)], options, 0, ("239.1.1.1", 5000))


def analysing(mcr: Mcr) -> bool:
    """Whether the rings are mapped, which a thread reads and lets go of."""
    assert mcr.process
    lines = Path(f"/proc/{mcr.process.pid}/maps").read_text().splitlines()
    ends = [each.split()[0].split("-") for each in lines if "bpf-map" in each]
    return any(int(end, 16) - int(begin, 16) > RING_BYTES for begin, end in ends)


def without_sound(count: int) -> list[bytes]:
    """A PMT names video and sound; only video comes."""
    tables = [pat(number, PMT) + pmt(number, PMT, (0x1B, VIDEO, b""), (0x03, SOUND, b"")) for number in range(16)]
    return [tables[number % 16] + ts(VIDEO, number) for number in range(count)]


def rtp_faults(mcr: Mcr) -> dict[str, int]:
    told = health(mcr)["rtp"] or {}
    return {name: count for name, count in told.items() if name != "jitter" and count}


@pytest.mark.parametrize("path", ["kernel", "worker"])
def test_each_fault_is_told_once(
    plant: Plant, make_mcr: MakeMcr, path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In stats, metrics and events. The rule forwards what came, as it came, and it is watched or not as it flows."""
    if path == "worker":
        monkeypatch.setenv("MCR_KERNEL_PATH", "off")
    page = tmp_path / "metrics.sock"
    mcr = make_mcr(plant.relay).start(2, "--metrics", f"unix:{page}")
    mcr.add("in0:239.1.1.1:5000", OUT, rule_id="tv")
    mcr.wait_for_path(path)
    send(plant, [rtp(number) for number in range(0, 100, 2)])
    assert mcr.stats()["rules"][0]["health"] is None
    mcr.ctl("change", "tv", "--health", "auto")
    words = [str(BIN / "mcrctl"), "--control-socket", str(mcr.socket), "events", "--follow", "--json"]
    follow = plant.relay.popen(words, stdout=subprocess.PIPE)
    send(plant, spoilt())
    wait_until(lambda: health(mcr)["packets"] == len(BROADCAST) + 1, "all was looked at")
    wait_until(lambda: rtp_faults(mcr).get("lost") == 12, "all that was lost is told")
    assert rtp_faults(mcr) == {"lost": 12, "reordered": 1, "duplicates": 1}
    told, stats = health(mcr), mcr.stats()["rules"][0]
    assert (told["kind"], told["packets"], told["unseen"], told["other"]) == ("rtp", len(BROADCAST) + 1, 0, 0)
    assert stats["matched"] == stats["sent"] == 50 + told["packets"]
    assert follow.stdout
    event = json.loads(follow.stdout.readline())
    follow.terminate()
    follow.wait(10)
    assert (event["event"], event["rule_id"]) == ("loss_begins", "tv")
    assert 0 < event["lost"] <= 12
    assert mcr.says(
        f"loss begins: the stream of rule tv comes in with packets lost ({lost_packets(event['lost'], 'rtp')} so far)"
    )
    found = read(page)
    assert value(found, "mcr_rule_stream_lost_packets_total", rule="tv") == 12
    assert value(found, "mcr_rule_rtp_packets_total", rule="tv", result="duplicate") == 1
    assert "          12  RTP packets that did not come, the last " in mcr.ctl("stats", "tv").stdout
    send_together(plant, [rtp(number, kind=33, payload=bytes(200)) for number in range(400, 420) if number != 410])
    wait_until(lambda: rtp_faults(mcr).get("lost") == 13, "what a super-frame lacks is told")
    assert health(mcr)["packets"] == told["packets"] + 19
    assert analysing(mcr)
    mcr.ctl("change", "tv", "--health", "none")
    assert mcr.stats()["rules"][0]["health"] is None
    wait_until(lambda: not analysing(mcr), "the thread and its ring are gone")
    mcr.wait_for_path(path)


def test_a_transport_stream_is_judged_as_it_comes_in(plant: Plant, make_mcr: MakeMcr) -> None:
    """A datagram is missing, tables for 0.7 s, all for 0.2 s, then sound for five: one fault of its kind each."""
    mcr = make_mcr(plant.relay).start(1)
    mcr.add("in0:239.1.1.1:5000", OUT, rule_id="tv")
    mcr.ctl("change", "tv", "--health", "ts")
    television = Television()
    those = [television.datagram(number, tables=not 300 <= number < 1_000) for number in range(1_200)]
    del those[101]
    send(plant, those[:1_100])
    time.sleep(0.2)
    send(plant, those[1_100:])
    wait_until(lambda: health(mcr)["packets"] == 1_199, "all was seen")
    told = health(mcr)
    faults = {name: count for name, count in told["ts"].items() if not name.endswith("_age") and name != "away"}
    assert faults == {"continuity": 1, "sync_losses": 0, "sync_bytes": 0, "pat": 1, "pmt": 1, "pid": 0, "transport": 0}
    assert (told["kind"], told["lost"], told["unseen"]) == ("ts", 7, 0)
    assert told["gaps"]["longest"] > 0.2
    send(plant, without_sound(290), pause=0.02)
    wait_until(lambda: health(mcr)["ts"]["away"] == [SOUND], "sound stays away")
    assert health(mcr)["ts"]["pid"] == 1
    wait_until(lambda: mcr.says(f"PIDs away: in the stream of rule tv: PID {SOUND}"), "the log says so")
    assert f"PID {SOUND} of its transport stream stays away" in mcr.ctl("doctor", check=False).stdout
    take_over(mcr)
    send(plant, (television.datagram(number) for number in range(1_200, 1_250)))
    wait_until(lambda: health(mcr)["packets"] == 50, "the next mcrd watches it, from zero")
    assert health(mcr)["ts"]["continuity"] == 0


def test_without_ebpf_it_says_why_nothing_is_known(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay, prefix=["setpriv", "--bounding-set=-bpf,-sys_admin"]).start(1)
    words = ["--input-interface", "in0", "--input-group", "239.1.1.1", "--input-port", "5000", "--rule-id", "tv"]
    mcr.ctl("add", *words, "--outputs", OUT, "--health", "auto")
    assert health(mcr)["reason"].startswith("it takes eBPF")
    assert "not watched: it takes eBPF" in mcr.ctl("stats", "tv").stdout
