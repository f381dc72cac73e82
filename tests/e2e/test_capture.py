"""`mcrctl capture` and `mcr-extcap`: the packets of one rule, as another program reads them; the rule loses nothing."""

import json
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.utils import RawPcapNgReader

from mcr.net.capture import describes_super_frames
from mcr_process import BIN, Mcr, Receiver, Sender, wait_until
from topology import MakeMcr, Plant
from trafficgen.interface import open_interface

GROUP, PORT = "239.1.1.1", 5000
FLOWS = ("239.2.2.2:6000@rx0=239.1.1.1:5000", "239.2.2.3:6001@rx1=239.1.1.1:5000")
OUTPUTS = ("239.2.2.2:6000:out0", "239.2.2.3:6001:out1")
COUNT = 2000
ETH_P_8021Q = b"\x81\x00"


def datagram(payload: bytes, source: str = "198.18.0.1", checksum: int | None = None, flags: str = "") -> Packet:
    header = IP(src=source, dst=GROUP, flags=flags) / UDP(sport=7, dport=PORT, chksum=checksum)
    return Ether(dst="01:00:5e:01:01:01") / header / Raw(payload)


def start(plant: Plant, make_mcr: MakeMcr) -> Mcr:
    mcr = make_mcr(plant.relay).start(2)
    mcr.add("in0:239.1.1.1:5000", *OUTPUTS, rule_id="tv")
    mcr.add("in0:239.1.1.9:5000", "239.2.2.9:6000:out0")
    return mcr


def begin(plant: Plant, mcr: Mcr, *words: str | Path, **options: Any) -> Any:
    """A capture that runs; it has written its head when it has opened its sockets."""
    return plant.relay.popen([BIN / "mcrctl", "--control-socket", mcr.socket, "capture", "tv", *words], **options)


@attrs.frozen
class Captured:
    """A frame, and what is said of it: `seconds` since 1970, `direction` 1 for in and 2 for out."""

    frame: bytes
    interface: str
    direction: int
    comment: str
    seconds: float

    @property
    def vlan(self) -> int | None:
        """Of its tag."""
        return int.from_bytes(self.frame[14:16]) & 0xFFF if self.frame[12:14] == ETH_P_8021Q else None

    @property
    def udp(self) -> bytes:
        """From its UDP header on; IP's has no options."""
        return self.frame[34 if self.vlan is None else 38 :]

    @property
    def port(self) -> int:
        """Where it goes."""
        return int.from_bytes(self.udp[2:4])


def packets_in(file: Path) -> list[Captured]:
    """As scapy reads them; the last one may be cut off."""
    found = []
    with RawPcapNgReader(str(file)) as reader:
        about: Any
        for frame, about in reader:
            seconds = ((about.tshigh << 32) + about.tslow) / about.tsresol
            comment = about.comments[0].decode()
            found.append(Captured(frame, about.ifname.decode(), about.direction, comment, seconds))
    return found


def test_every_packet_is_captured_in_and_out_with_its_verdict(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    """Of a stream with strangers, corrupt datagrams and tagged ones between: the rule's, and nothing else."""
    for name in ("out0", "out1"):
        plant.relay.cut_super_frames(name)
    mcr = start(plant, make_mcr)
    file = tmp_path / "tv.pcapng"
    capture = begin(plant, mcr, "-w", file)
    wait_until(lambda: file.exists() and file.stat().st_size, "the sockets are open")
    receiver = Receiver(plant.receiver, *FLOWS, count=COUNT)
    strangers = Sender(plant.source, "src0", "239.1.1.9:5000", count=COUNT, rate=2000)
    Sender(plant.source, "src0", "239.1.1.1:5000", count=COUNT, rate=2000).finish()
    strangers.finish()
    frames = [
        datagram(b"corrupt", checksum=0x1234),
        datagram(b"from nobody", source="127.0.0.1"),
        datagram(b"a fragment", flags="MF"),
        Ether(dst="01:00:5e:01:01:01") / Dot1Q(vlan=7) / datagram(b"tagged")[IP],
    ]
    with plant.source.entered(), open_interface("src0") as sock:
        for each in frames:
            sock.send(bytes(each))
    receiver.expect_everything()
    mcr.check_counters()
    capture.send_signal(signal.SIGINT)
    assert capture.wait(10) == 0
    packets = packets_in(file)
    kinds = Counter((each.interface, each.direction, each.comment) for each in packets)
    assert kinds == {
        ("in0", 1, "taken"): COUNT,
        ("in0", 1, "dropped: checksum"): 1,
        ("in0", 1, "dropped: source"): 1,
        ("in0", 1, "fragment"): 1,
        ("out0", 2, "sent"): COUNT,
        ("out1", 2, "sent"): COUNT,
    }
    sound = [each for each in packets if each.comment in ("taken", "sent")]
    assert len({each.udp[8:] for each in sound}) == COUNT
    times = [each.seconds for each in packets]
    assert times == sorted(times)
    assert all(abs(each - time.time()) < 60 for each in times)


def test_what_another_rule_s_interface_has_sent_is_a_loop(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    """As a worker takes it, which knows the MACs of all interfaces that rules use."""
    mcr = make_mcr(plant.relay).start(1)
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0", rule_id="tv")
    mcr.add("in0:239.1.1.9:5000", "239.2.2.9:6000:out1")
    (link,) = json.loads(plant.relay.run(["ip", "-j", "link", "show", "dev", "out1"]).stdout)
    file = tmp_path / "tv.pcapng"
    capture = begin(plant, mcr, "--count", "1", "-w", file)
    wait_until(lambda: file.exists() and file.stat().st_size, "the sockets are open")
    with plant.source.entered(), open_interface("src0") as sock:
        sock.send(bytes(Ether(src=link["address"]) / datagram(b"back again")[IP]))
    assert capture.wait(10) == 0
    assert [each.comment for each in packets_in(file)] == ["dropped: loop"]
    wait_until(lambda: mcr.stats()["ingress"]["parse_errors"]["loop"] == 1, "a worker says so, too")


def test_a_terminal_gets_lines_and_a_program_json(plant: Plant, make_mcr: MakeMcr) -> None:
    """They end after so many packets."""
    mcr = start(plant, make_mcr)
    sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=100_000, rate=1000, size=1316)
    lines = mcr.ctl("capture", "tv", "--count", "6").stdout.splitlines()
    assert len(lines) == 6
    assert {line.split(maxsplit=1)[1].split(":")[0][:10] for line in lines} <= {
        "in0  in  1",
        "out0 out 1",
        "out1 out 1",
    }
    done = mcr.ctl("capture", "tv", "--side", "in", "--count", "3", "--json")
    packets = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(each["interface"], each["direction"], each["destination"]) for each in packets] == [
        ("in0", "in", "239.1.1.1:5000")
    ] * 3
    assert {(each["payload"], each["verdict"]) for each in packets} == {(1316, "taken")}
    assert done.stderr == "3 packets in, 0 out, 0 lost by the capture\n"
    plant.relay.run(["ip", "link", "set", "out1", "down"])
    done = mcr.ctl("capture", "tv", "--side", "in", "--count", "3")
    assert {line.rpartition(", ")[2] for line in done.stdout.splitlines()} == {"taken"}
    counts = r"3 packets in, .*\n[\d,]+ errors? of its outputs meanwhile; which, and why: mcrctl stats tv\n"
    assert re.fullmatch(counts, done.stderr)
    sender.stop()


def test_wireshark_sees_each_rule_as_an_interface(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    """It reads the packets from the pipe that it has named, and ends the capture by closing it."""
    mcr = start(plant, make_mcr)
    environment = {"MCR_CONTROL_SOCKET": str(mcr.socket), "PATH": "/usr/bin:/bin"}
    listed = plant.relay.run(
        [BIN / "mcr-extcap", "--extcap-interfaces", "--extcap-version=4.0"], env=environment
    ).stdout
    assert "interface {value=mcr-tv}{display=MCR tv: 239.1.1.1:5000 on in0}" in listed.splitlines()
    about = plant.relay.run([BIN / "mcr-extcap", "--extcap-interface", "mcr-tv", "--extcap-dlts"], env=environment)
    assert about.stdout.startswith("dlt {number=1}{name=EN10MB}")
    fifo, file = tmp_path / "fifo", tmp_path / "read.pcapng"
    reader = plant.relay.popen(["sh", "-c", f"mkfifo {fifo} && head -c 20000 {fifo} >{file}"])
    wait_until(fifo.exists, "the pipe is there")
    words = ("--capture", "--extcap-interface", "mcr-tv", "--fifo", fifo)
    capture = plant.relay.popen([BIN / "mcr-extcap", *words], env=environment)
    sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=100_000, rate=1000, size=1316)
    reader.wait(20)
    assert capture.wait(20) == -signal.SIGPIPE
    sender.stop()
    assert {each.interface for each in packets_in(file)} == {"in0", "out0", "out1"}


def test_a_rule_with_more_outputs_than_a_filter_takes_is_captured_all_the_same(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", *(f"239.2.2.2:{6000 + number}:out0" for number in range(200)), rule_id="tv")
    sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=100_000, rate=100)
    done = mcr.ctl("capture", "tv", "--side", "out", "--count", "400", "--json")
    assert {json.loads(line)["destination"] for line in done.stdout.splitlines()} == {
        f"239.2.2.2:{6000 + number}" for number in range(200)
    }
    sender.stop()


def test_what_cannot_be_captured_is_told_with_the_remedy(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    mcr = start(plant, make_mcr)
    for words, says in (
        (["nope"], "No rule has the id or name 'nope'"),
        (["tv", "--side", "up"], "Invalid --side: 'up'"),
        (["tv", "-w", str(tmp_path / "no" / "file")], "Cannot write"),
    ):
        done = mcr.ctl("capture", *words, check=False)
        assert done.returncode != 0
        assert done.stderr.startswith(f"Error: {says}"), done.stderr
    elsewhere = plant.source.run([BIN / "mcrctl", "--control-socket", mcr.socket, "capture", "tv"], check=False)
    assert elsewhere.stderr.startswith(
        "Error: mcrd is in another network namespace than mcrctl\nhint: go there: sudo nsenter"
    )
    assert elsewhere.stderr.endswith(f" --net mcrctl --control-socket {mcr.socket} capture tv\n")
    told = plant.source.run(
        [BIN / "mcrctl", "capture", "tv", "-w", "a file"],
        env={**os.environ, "MCR_CONTROL_SOCKET": str(mcr.socket)},
        check=False,
    )
    assert told.stderr.endswith(f" --net mcrctl capture tv -w 'a file' --control-socket {mcr.socket}\n")


@pytest.mark.usefixtures("worker_path")
def test_what_workers_send_together_is_counted_one_by_one_and_with_tags(
    plant: Plant, make_mcr: MakeMcr, tmp_path: Path
) -> None:
    """The summary counts datagrams, however many leave in one super-frame; a tag that a worker writes hides none."""
    with plant.relay.entered():
        describes = describes_super_frames()
    if not describes:
        plant.relay.cut_super_frames("out0")
    mcr = make_mcr(plant.relay).start(1)
    outputs = "239.2.2.2:6000:out0", "239.2.2.3:6001:out1:gso=off:vlan=7"
    added = ("add", "--input-interface", "in0", "--input-group", "239.1.1.1", "--input-port", "5000", "--rule-id", "tv")
    mcr.ctl(*added, "--outputs", ",".join(outputs))
    wait_until(lambda: mcr.call("list")[0]["state"] == "active", "raw frames leave")
    file = tmp_path / "tv.pcapng"
    with (tmp_path / "said").open("w+") as said:
        capture = begin(plant, mcr, "-w", file, stderr=said)
        wait_until(lambda: file.exists() and file.stat().st_size, "the sockets are open")
        Sender(plant.source, "src0", "239.1.1.1:5000", count=COUNT, rate=20_000).finish()
        wait_until(lambda: mcr.stats()["egress"]["sent"] == 2 * COUNT, "all is sent")
        capture.send_signal(signal.SIGINT)
        assert capture.wait(10) == 0
        said.seek(0)
        assert said.read() == f"{COUNT:,} packets in, {2 * COUNT:,} out, 0 lost by the capture\n"
    packets = packets_in(file)
    assert {each.port for each in packets if each.interface == "out0"} == {6000}
    tagged = [each for each in packets if each.interface == "out1"]
    assert ({each.vlan for each in tagged}, len(tagged)) == ({7}, COUNT)
    assert {each.port for each in tagged} == {6001}
