"""Datagrams that leave together (UDP segmentation) arrive one by one, the same bytes in the same order."""

import ctypes
import fcntl
import os
import platform
import re
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab import Lab, Namespace
from mcr.net.capture import describes_super_frames
from mcr_process import PATIENCE, Mcr, Receiver, Sender, wait_until
from topology import MakeMcr, Plant

pytestmark = pytest.mark.usefixtures("worker_path")

SOL_UDP = 17
UDP_SEGMENT = 103
SIOCETHTOOL = 0x8946
ETHTOOL_STXCSUM = 0x17
TRAINS = 20


def test_every_setting_delivers_the_same(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    for number, gso in enumerate(("auto", "off", "2", "64"), 1):
        flow, output = f"239.1.1.{number}:5000", f"239.2.2.{number}:6000"
        mcr.add(f"in0:{flow}", f"{output}:out0:gso={gso}")
        receiver = Receiver(plant.receiver, f"{output}@rx0={flow}", count=2000)
        with waiting_together(mcr):
            Sender(plant.source, "src0", flow, count=2000, rate=20_000, size=1316).finish()
        receiver.expect_everything()
        assert mcr.check_counters(arrived=number * 2000)["egress"]["sent"] == number * 2000


@contextmanager
def waiting_together(mcr: Mcr) -> Iterator[None]:
    """Packets wait in the ring, and leave in trains. On an idle machine each packet would leave alone."""
    pids = mcr.worker_pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def frames_on(namespace: Namespace, interface: str) -> Iterator[socket.socket]:
    """Whatever arrives from now on."""
    with namespace.entered():
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    with raw:
        raw.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        raw.bind((interface, 0x0800))
        raw.settimeout(PATIENCE)
        yield raw


@pytest.mark.parametrize(
    ("gso", "buffers", "uncut"), [("auto", 32, True), ("off", 32, False), ("auto", 1, False)], ids=str
)
def test_off_means_one_frame_a_datagram(
    plant: Plant,
    make_mcr: MakeMcr,
    gso: str,
    buffers: int,
    uncut: bool,
) -> None:
    """A virtual link shows what left together: super-frames or none; none, too, if a worker takes one at a time."""
    mcr = make_mcr(plant.relay, prefix=["env", f"MCR_NUM_RECV_BUFFERS={buffers}"]).start()
    mcr.add("in0:239.1.1.1:5000", f"198.18.1.2:6000:out0:gso={gso}")
    with frames_on(plant.receiver, "rx0") as wire:
        with waiting_together(mcr):
            Sender(plant.source, "src0", "239.1.1.1:5000", count=2000, rate=40_000, size=1000).finish()
        lengths: list[int] = []
        while sum(lengths) < 2000 * 1000:
            lengths.append(len(wire.recv(65536)))
    longer = sum(length > 1500 for length in lengths)
    assert (longer > 0) == uncut


def test_datagrams_beyond_the_outputs_mtu_are_fragmented_not_lost(lab: Lab, make_mcr: MakeMcr) -> None:
    """source ── relay ─(MTU 1280)─ receiver: 1316 bytes don't fit, and arrive all the same, fitting ones in trains."""
    source, relay, receiver = (lab.namespace(name) for name in ("source", "relay", "receiver"))
    lab.link(source, "src0", relay, "in0", a_address="198.18.0.1/24", b_address="198.18.0.2/24")
    lab.link(relay, "out0", receiver, "rx0", a_address="198.18.1.1/24", b_address="198.18.1.2/24", mtu=1280)
    mcr = make_mcr(relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    for size in (1316, 1252, 1253):
        judge = Receiver(receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=2000)
        with waiting_together(mcr):
            Sender(source, "src0", "239.1.1.1:5000", count=2000, rate=20_000, size=size).finish()
        judge.expect_everything()
    assert mcr.check_counters(arrived=6000)["egress"]["errors"] == 0


def test_network_that_refuses_trains_gets_single_datagrams(lab: Lab, make_mcr: MakeMcr) -> None:
    """The interface carries 1500 bytes, the route to the host only 1280: refused, sent again in order, tried anew."""
    source, relay, receiver = (lab.namespace(name) for name in ("source", "relay", "receiver"))
    lab.link(source, "src0", relay, "in0", a_address="198.18.0.1/24", b_address="198.18.0.2/24")
    lab.link(relay, "out0", receiver, "rx0", a_address="198.18.1.1/24", b_address="198.18.1.2/24")
    relay.ip("route add 198.18.1.2/32 dev out0 mtu 1280")
    mcr = make_mcr(relay).start()
    mcr.add("in0:239.1.1.1:5000", "198.18.1.2:6000:out0")
    judge = Receiver(receiver, "198.18.1.2:6000=239.1.1.1:5000", count=1000)
    with waiting_together(mcr):
        Sender(source, "src0", "239.1.1.1:5000", count=1000, rate=10_000, size=1316).finish()
    judge.expect_everything()
    assert mcr.check_counters(arrived=1000)["egress"]["errors"] == 0
    refused = r"198\.18\.1\.2:6000:out0 does not take UDP segmentation \((Message too long|Invalid argument) \(os error"
    wait_until(lambda: re.search(refused, mcr.log()), "the log says so")  # older kernels say the second


def without_checksum_offload(namespace: Namespace, interface: str) -> None:
    """As `ethtool -K INTERFACE tx off`."""
    value = ctypes.create_string_buffer(struct.pack("=II", ETHTOOL_STXCSUM, 0))
    request = struct.pack("@16sP16x", interface.encode(), ctypes.addressof(value))
    with namespace.entered():
        probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with probe:
        fcntl.ioctl(probe, SIOCETHTOOL, request)


def test_device_without_checksum_offload_gets_the_same(plant: Plant, make_mcr: MakeMcr) -> None:
    """Kernels before 6.11 refuse trains to it, later ones do the sums themselves."""
    without_checksum_offload(plant.relay, "out0")
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0", "239.2.2.3:6000:out1")
    judges = [Receiver(plant.receiver, f"239.2.2.{2 + i}:6000@rx{i}=239.1.1.1:5000", count=2000) for i in range(2)]
    with waiting_together(mcr):
        Sender(plant.source, "src0", "239.1.1.1:5000", count=2000, rate=10_000, size=1316).finish()
    for judge in judges:
        judge.expect_everything()
    assert mcr.check_counters(arrived=2000)["egress"]["errors"] == 0


@contextmanager
def train_sender(namespace: Namespace, segment: int) -> Iterator[socket.socket]:
    """A socket whose datagrams are cut into segments; over a virtual link they travel whole."""
    with namespace.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("198.18.0.1"))
        sender.setsockopt(SOL_UDP, UDP_SEGMENT, segment)
        yield sender


def test_the_trial_finds_that_the_kernel_describes_super_frames_from_6_2_on(plant: Plant) -> None:
    """Else the tests that need it would be skipped for want of it."""
    major, minor = (int(part) for part in re.findall(r"\d+", platform.release())[:2])
    with plant.relay.entered():
        assert describes_super_frames() == ((major, minor) >= (6, 2))
        plant.relay.ip("link set dev lo down")
        assert not describes_super_frames()


def needs_described_super_frames(namespace: Namespace) -> None:
    with namespace.entered():
        if not describes_super_frames():
            pytest.skip("this kernel has no way to tell a capture how super-frames are to be cut")


def test_super_frames_that_the_kernel_does_not_describe_are_counted_and_end_nothing(
    plant: Plant, make_mcr: MakeMcr
) -> None:
    """Kernels before 6.2 do not. One that can't be asked, for want of a loopback interface, counts as one of them."""
    plant.relay.ip("link set dev lo down")
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    if "no eBPF" in mcr.log():
        pytest.skip("eBPF is forbidden here: classic filters can't tell what is in a super-frame")
    lost = 0
    for segment, count in ((100, 13), (1400, 46), (700, 2), (20, 3), (1, 10)):
        with train_sender(plant.source, segment) as sender:
            for _ in range(TRAINS):
                sender.sendto(bytes(segment * count), ("239.1.1.1", 5000))
        lost += TRAINS * count
        ingress = mcr.check_counters(arrived=lost)["ingress"]
        if ingress["matched"]:
            pytest.skip("this kernel has no super-frames on virtual links")
        assert ingress["buf_exhaust"] == lost, (segment, count)
    assert mcr.says("does not tell how to cut them apart")
    doctor = mcr.ctl("doctor", check=False).stdout
    assert f"{lost:,} packets are lost, as this kernel does not tell" in doctor
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=1000)
    Sender(plant.source, "src0", "239.1.1.1:5000", count=1000, rate=10_000).finish()
    receiver.expect_everything()


def test_super_frames_are_taken_apart(plant: Plant, make_mcr: MakeMcr) -> None:
    """Trains of another sender, shorter and longer than a ring slot, the last datagram a short one."""
    needs_described_super_frames(plant.relay)
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "198.18.1.2:6000:out0:gso=off")
    with plant.receiver.entered():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver:
        receiver.bind(("198.18.1.2", 6000))
        receiver.settimeout(PATIENCE)
        arrived = 0
        for segment, count in ((100, 13), (1316, 40), (1400, 46), (700, 2)):
            send_trains_and_compare(plant.source, receiver, segment, count)
            arrived += TRAINS * count
            assert mcr.check_counters(arrived=arrived)["ingress"]["matched"] == arrived


def send_trains_and_compare(source: Namespace, receiver: socket.socket, segment: int, count: int) -> None:
    """So many datagrams a train, the last of half the length."""
    expected = [
        struct.pack("!HH", train, i) + bytes([i]) * ((segment if i < count - 1 else segment // 2) - 4)
        for train in range(TRAINS)
        for i in range(count)
    ]
    got = []
    with train_sender(source, segment) as sender:
        for train in range(TRAINS):
            sender.sendto(b"".join(expected[train * count : (train + 1) * count]), ("239.1.1.1", 5000))
            got += [receiver.recv(65536) for _ in range(count)]
    assert got == expected


def test_super_frames_that_find_no_buffer_are_counted_and_disturb_nothing_else(plant: Plant, make_mcr: MakeMcr) -> None:
    """More than wait whole for a worker that is kept from running: `buf_exhaust`; what comes next is forwarded."""
    needs_described_super_frames(plant.relay)
    mcr = make_mcr(plant.relay).start()
    rule = mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    (pid,) = mcr.worker_pids()
    segment, count, trains = 1400, 46, 300
    with train_sender(plant.source, segment) as sender:
        os.kill(pid, signal.SIGSTOP)
        for _ in range(trains):
            sender.sendto(bytes(segment * count), ("239.1.1.1", 5000))
        os.kill(pid, signal.SIGCONT)
    stats = mcr.check_counters(arrived=trains * count)
    ingress = stats["ingress"]
    print(f"{ingress['matched']} forwarded, {ingress['buf_exhaust']} without a buffer")
    assert ingress["buf_exhaust"] > 0
    assert ingress["matched"] > 0
    assert ingress["kernel_drops"] == 0
    assert mcr.says("dropped: no buffer was free for a super-frame")
    mcr.ctl("remove", "--rule-id", rule)
    mcr.add("in0:239.1.1.1:5001", "239.2.2.2:6000:out0")
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5001", count=1000)
    Sender(plant.source, "src0", "239.1.1.1:5001", count=1000, rate=10_000).finish()
    receiver.expect_everything()


@pytest.mark.parametrize("level", ["info", "debug"])
def test_headers_that_lie_in_page_fragments_are_found(plant: Plant, make_mcr: MakeMcr, level: str) -> None:
    """Of a frame longer than a page, as the generator sends it, only the Ethernet header lies in the linear part."""
    plant.source.ip("link set src0 mtu 9000")
    plant.relay.ip("link set in0 mtu 9000")
    mcr = make_mcr(plant.relay).start(1, "--log-level", level)
    if "no eBPF" in mcr.log():
        pytest.skip("eBPF is forbidden here: classic filters of many kernels do not look into fragments")
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=100)
    Sender(plant.source, "src0", "239.1.1.1:5000", count=100, rate=5_000, size=8972).finish()
    receiver.expect_everything()
    assert mcr.check_counters(arrived=100)["ingress"]["matched"] == 100


def test_the_pool_of_an_interface_goes_by_its_mtu(plant: Plant, make_mcr: MakeMcr) -> None:
    """And frames of that size pass whole, as many as the smallest of these rings holds."""
    pools = ("MCR_BUFFER_POOL_SMALL=500", "MCR_BUFFER_POOL_STANDARD=100", "MCR_BUFFER_POOL_JUMBO=60")
    # As fragments they would be 840 frames, nearly as many as may wait for one processor (netdev_max_backlog).
    plant.relay.ip("link set out0 mtu 20000")
    plant.receiver.ip("link set rx0 mtu 20000")
    mcr = make_mcr(plant.relay, prefix=["env", *pools]).start(1, "--log-level", "debug")
    rings = {1500: "512 slots of 2048", 9000: "128 slots of 16384", 20_000: "64 slots of 32768"}
    for mtu, ring in rings.items():
        plant.source.ip(f"link set src0 mtu {mtu}")
        plant.relay.ip(f"link set in0 mtu {mtu}")
        rule = mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
        wait_until(lambda ring=ring: f"capturing on in0, ring of {ring} bytes" in mcr.log(), "the worker says so")
        receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=60)
        Sender(plant.source, "src0", "239.1.1.1:5000", count=60, rate=5_000, size=mtu - 28).finish()
        receiver.expect_everything()
        mcr.ctl("remove", "--rule-id", rule)
