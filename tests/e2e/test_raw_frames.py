"""Raw frames: groups get the same as from UDP sockets, and whoever is between IP and the interface is heard."""

import json
import os
import re
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from firewalls import ACCEPT, DROP, firewall
from lab import Namespace
from mcr.net.capture import describes_super_frames
from mcr_process import PATIENCE, SLOWNESS, Receiver, Sender, wait_until
from raw_frames import (
    OUT,
    by_sockets,
    frames,
    is_sound,
    origin,
    relay,
    wait_for_raw,
    wait_until_barred,
    without_checksum_offload,
)
from topology import MakeMcr, Plant, needs_root

pytestmark = pytest.mark.usefixtures("worker_path")

SO_TIMESTAMPNS = 35  # <asm-generic/socket.h>
DONT_FRAGMENT = 0x40  # in the first byte of flags (RFC 791)


@pytest.fixture(autouse=True)
def _needs_raw_frames(plant: Plant) -> None:
    with plant.relay.entered():
        if not describes_super_frames():
            pytest.skip("this kernel takes no trains in raw frames; everything leaves through IP")


@pytest.mark.parametrize("workers", [1, 2])
def test_groups_get_raw_frames_and_hosts_do_not(plant: Plant, make_mcr: MakeMcr, workers: int) -> None:
    mcr = make_mcr(plant.relay).start(workers)
    mcr.add("in0:239.1.1.1:5000", OUT, "198.18.2.2:6001:out1:gso=off")
    wait_for_raw(mcr)
    host = Receiver(plant.receiver, "198.18.2.2:6001=239.1.1.1:5000", count=2000)
    assert relay(plant, count=2000, rate=10_000) == 2000  # those to the host
    host.expect_everything()
    sent = mcr.check_counters(arrived=2000)["egress"]
    assert (sent["sent"], sent["bytes"]) == (4000, 4000 * 188)


def test_rules_that_come_later_get_them_at_once(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.2:5000", "239.2.2.3:6000:out0")
    wait_for_raw(mcr)
    mcr.add("in0:239.1.1.1:5000", OUT)
    assert relay(plant) == 0


def test_switched_off_everything_leaves_through_ip(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay, prefix=["env", "MCR_RAW_SEND=0"]).start()
    mcr.add("in0:239.1.1.1:5000", OUT)
    assert relay(plant) == 1000
    assert "raw frames" not in mcr.log()
    (said,) = (each for each in mcr.call("doctor") if each["check"] == "raw_send")
    assert said["what"] == "Everything leaves through the IP stack, which costs more: MCR_RAW_SEND is 0"


@needs_root
def test_who_may_not_see_the_firewall_sends_through_ip(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay, prefix=["setpriv", "--bounding-set=-net_admin"]).start()
    mcr.add("in0:239.1.1.1:5000", OUT)
    assert relay(plant) == 1000
    assert mcr.says("info [supervisor] MCR_RAW_SEND has no effect: Operation not permitted (os error 1)")
    (setting,) = (each for each in mcr.call("settings") if each["name"] == "MCR_RAW_SEND")
    assert setting["effective"].startswith("0: ")
    assert "cannot be seen" in setting["effective"]


# What is on the wire.


def test_the_same_bytes_as_from_a_udp_socket(plant: Plant, make_mcr: MakeMcr) -> None:
    """One by one and in trains: every header field but the port sent from; and the checksums are right."""
    without_checksum_offload(plant.relay, "out0")
    taken: list[list[bytes]] = []
    for raw in (0, 1):
        mcr = make_mcr(plant.relay, f"mcr{raw}", prefix=["env", f"MCR_RAW_SEND={raw}"]).start()
        mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
        if raw:
            wait_for_raw(mcr)
        before = by_sockets(plant.relay)
        sizes = {188: 5_000, 1316: 50_000, 32: 50_000, 1472: 50_000}
        taken.append([each for size, rate in sizes.items() for each in frames(plant, mcr, 100, size, rate)])
        assert (by_sockets(plant.relay) - before == 0) == bool(raw)
        mcr.stop()
    for through_ip, past_ip in zip(*taken, strict=True):
        assert past_ip[20] & DONT_FRAGMENT
        assert is_sound(through_ip)
        assert is_sound(past_ip)
        # Up to the checksum of what has a clock in it. A UDP socket's trains are counted, and without DF.
        ip, past = (each[:18] + each[22:24] + each[26:34] + each[36:40] for each in (through_ip, past_ip))
        assert ip == past
        assert len(through_ip) == len(past_ip)


@pytest.mark.alone
def test_a_receiver_can_t_tell_when_it_changes(plant: Plant, make_mcr: MakeMcr) -> None:
    """A firewall comes and goes, four times while a stream flows: each packet once, in order, from the same port."""
    mcr = make_mcr(plant.relay, executes_workers=False).start()
    mcr.add("in0:239.1.1.1:5000", OUT)
    wait_for_raw(mcr)
    with plant.receiver.entered():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    with wire:
        wire.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        wire.bind(("rx0", 0x0800))
        before = by_sockets(plant.relay)
        receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000")
        sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=1_000_000, rate=20_000)
        for turn in range(4):
            with firewall(plant.relay, "postrouting", ACCEPT, rule=True):
                wait_until(lambda: mcr.log().count("no raw frames leave") > turn, "barred")  # noqa: B023
            wait_for_raw(mcr, times=2 + turn)
        sent = sender.stop()
        receiver.expect_all_of(sent)
        assert 0 < by_sockets(plant.relay) - before < sent
        assert len({frame[34:36] for frame in waiting(wire) if frame[23] == socket.IPPROTO_UDP}) == 1


def waiting(wire: socket.socket) -> Iterator[bytes]:
    """Whatever has arrived."""
    wire.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            yield wire.recv(2048)


# Who is between IP and the interface.


def test_a_firewall_that_drops_is_obeyed(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", OUT)
    wait_for_raw(mcr)
    with firewall(plant.relay, "output", DROP):
        wait_until_barred(mcr, "nftables has a chain passed at output, in table ip filter")
        Sender(plant.source, "src0", "239.1.1.1:5000", count=100, rate=10_000).finish()
        stats = mcr.check_counters(arrived=100)
        assert stats["egress"]["errors"] == 100
        assert stats["rules"][0]["outputs"][0]["last_error"] == "Operation not permitted (os error 1)"
    wait_for_raw(mcr, times=2)
    assert relay(plant) == 0


def test_a_firewall_that_was_there_first_is_obeyed(plant: Plant, make_mcr: MakeMcr) -> None:
    with firewall(plant.relay, "postrouting", ACCEPT, rule=True):
        mcr = make_mcr(plant.relay).start()
        mcr.add("in0:239.1.1.1:5000", OUT)
        reason = (
            "not everything may leave as raw frames: nftables has a chain passed at postrouting, in table ip filter"
        )
        wait_until(lambda: reason in mcr.log(), "it is seen")
        assert relay(plant) == 1000


def test_a_chain_that_decides_nothing_is_none(plant: Plant, make_mcr: MakeMcr) -> None:
    """As distributions make them: empty, and everything is accepted."""
    with firewall(plant.relay, "output", ACCEPT):
        mcr = make_mcr(plant.relay).start()
        mcr.add("in0:239.1.1.1:5000", OUT)
        wait_for_raw(mcr)
        assert relay(plant) == 0


def test_ipsec_policies_are_obeyed(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", OUT)
    wait_for_raw(mcr)
    added = plant.relay.run(
        ["ip", "xfrm", "policy", "add", "dir", "out", "src", "0.0.0.0/0", "dst", "239.2.0.0/16", "action", "block"],
        check=False,
    )
    if added.returncode:
        pytest.skip(f"this kernel has no IPsec: {added.stderr}")
    wait_until_barred(mcr, "IPsec has policies")
    Sender(plant.source, "src0", "239.1.1.1:5000", count=100, rate=10_000).finish()
    assert mcr.check_counters(arrived=100)["egress"]["errors"] == 100


@needs_root
def test_programs_of_the_control_group_are_obeyed(plant: Plant, make_mcr: MakeMcr) -> None:
    """As systemd's IPAddressDeny= and IPAccounting= load them, also into a service that runs.

    mcrd has a /sys of its own here, as in ``ip netns exec``, where no mount shows control groups.
    """
    mounts = Path("/proc/self/mountinfo").read_text()
    where = re.search(r"^\S+ \S+ \S+ \S+ (\S+) .* - cgroup2 ", mounts, re.MULTILINE)
    if not where:
        pytest.skip("there are no control groups of version 2 here")
    group = Path(where[1]) / f"mcr-test-{os.getpid()}"
    group.mkdir()
    inside = f'echo $$ > {group}/cgroup.procs; mount -t sysfs none /sys; exec "$@"'
    mcr = make_mcr(plant.relay, prefix=["unshare", "--mount", "sh", "-ec", inside, "sh"])
    try:
        mcr.start()
        mcr.add("in0:239.1.1.1:5000", OUT)
        wait_for_raw(mcr)
        program = attach_accepting_program(group)
        wait_until_barred(mcr, "the control group has 1 eBPF program")
        assert relay(plant) == 1000
        findings = {each["check"]: each for each in json.loads(mcr.ctl("doctor", "--json", check=False).stdout)}
        assert "the control group has 1 eBPF program" in findings["raw_send"]["what"]
        os.close(program)
    finally:
        mcr.stop()
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
        group.rmdir()


def attach_accepting_program(group: Path) -> int:
    """``return 1``, for everything that the group's sockets send. Its descriptor."""
    import ctypes  # noqa: PLC0415 - for this alone

    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(struct.pack("=BBhi", 0xB7, 0, 0, 1) + struct.pack("=BBhi", 0x95, 0, 0, 0))
    license_ = ctypes.create_string_buffer(b"GPL")
    load = struct.pack(
        "=IIQQIIQII16sII", 8, 2, ctypes.addressof(code), ctypes.addressof(license_), 0, 0, 0, 0, 0, b"accept", 0, 1
    )
    loaded = ctypes.create_string_buffer(load.ljust(128, b"\0"))
    program = libc.syscall(321, 5, loaded, 128)  # BPF_PROG_LOAD of a BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_EGRESS
    assert program >= 0, os.strerror(ctypes.get_errno())
    directory = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
    attach = ctypes.create_string_buffer(struct.pack("=IIII", directory, program, 1, 0).ljust(128, b"\0"))
    assert libc.syscall(321, 8, attach, 128) == 0, os.strerror(ctypes.get_errno())  # BPF_PROG_ATTACH
    os.close(directory)
    return int(program)


# Routes and interfaces.


def test_a_route_with_an_mtu_of_its_own_is_obeyed(plant: Plant, make_mcr: MakeMcr) -> None:
    """IP cuts the datagrams; they arrive. Other groups still get raw frames."""
    mcr = make_mcr(plant.relay).start()
    plant.relay.ip("route add 239.2.2.2/32 dev out0 mtu 1280")
    mcr.add("in0:239.1.1.1:5000", OUT, "239.3.3.3:6000:out0")
    wait_for_raw(mcr)
    other = Receiver(plant.receiver, "239.3.3.3:6000@rx0=239.1.1.1:5000", count=1000)
    assert relay(plant, size=1316) == 1000
    other.expect_everything()


def address(frame: bytes) -> str:
    """It came from."""
    return origin(frame)[2]


def test_the_source_address_and_the_hardware_address_follow_the_interface(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", OUT)
    wait_for_raw(mcr)
    (frame,) = frames(plant, mcr, 1, 188, 1000)
    assert address(frame) == "198.18.1.1"
    plant.relay.ip("address flush dev out0")
    plant.relay.ip("address add 198.18.1.77/24 dev out0")
    plant.relay.ip("link set dev out0 address 02:00:00:00:00:77")

    def followed() -> bool:
        """IP has the new addresses at once: only what no UDP socket has sent tells of raw frames."""
        before = by_sockets(plant.relay)
        (frame,) = frames(plant, mcr, 1, 188, 1000)
        by_ip = by_sockets(plant.relay) - before
        return (address(frame), frame[6:12].hex(":"), by_ip) == ("198.18.1.77", "02:00:00:00:00:77", 0)

    wait_until(followed, "raw frames come from the new addresses")
    assert relay(plant) == 0


@pytest.mark.alone
def test_former_addresses_are_out_of_use_at_once(plant: Plant, make_mcr: MakeMcr) -> None:
    """Also while mcrd still looks at the changes before; meanwhile everything leaves through IP."""
    mcr = make_mcr(plant.relay, executes_workers=False).start()
    mcr.add("in0:239.1.1.1:5000", OUT)
    wait_for_raw(mcr)
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=1_500)
    with plant.receiver.entered():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    with wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        wire.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        wire.bind(("rx0", 0x0800))
        sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=1_500, rate=1_500)
        since = []
        for turn in range(1, 6):
            wait_until(lambda goal=turn * 250: mcr.stats()["ingress"]["recv"] >= goal, "the stream goes on")
            plant.relay.ip("address flush dev out0")
            plant.relay.ip(f"address add 198.18.1.{turn + 10}/24 dev out0")
            plant.relay.ip(f"link set dev out0 address 02:00:00:00:00:{turn:02}")
            since.append(time.time())
        sender.finish()
        receiver.expect_everything()
        wire.settimeout(0.0)
        taken = list(with_times(wire))
    for turn, time_of_change in enumerate(since, 1):
        waited = [(when - time_of_change, frame[6:12].hex(":")) for when, frame in taken]
        late = [each for each in waited if each[0] > 0.05 * SLOWNESS]
        former = {f"02:00:00:00:00:{each:02}" for each in range(1, turn)}
        assert [each for each in late if each[1] in former] == []
    assert address(taken[-1][1]) == "198.18.1.15"


def with_times(wire: socket.socket) -> Iterator[tuple[float, bytes]]:
    """What waits in a socket, and when it came."""
    while True:
        try:
            data, [(_, _, stamp)], _, _ = wire.recvmsg(2048, 64)
        except BlockingIOError:
            return
        seconds, nanoseconds = struct.unpack("qq", stamp)
        yield seconds + nanoseconds / 1e9, data


def test_what_no_longer_fits_the_interface_is_cut_by_ip(plant: Plant, make_mcr: MakeMcr) -> None:
    """The MTU shrinks while the relay runs."""
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", OUT)
    wait_for_raw(mcr)
    plant.relay.ip("link set dev out0 mtu 1280")
    wait_for_raw(mcr, times=2)
    assert relay(plant, size=1316) == 1000
    assert relay(plant, size=1000) == 0


@pytest.mark.alone
def test_an_mtu_that_shrinks_under_traffic_costs_nothing(plant: Plant, make_mcr: MakeMcr) -> None:
    """What no longer fits is cut by IP from the first datagram on, before the supervisor has heard of it."""
    ring = ["env", "MCR_BUFFER_POOL_SMALL=16384"]  # for 0.8 s of the stream
    mcr = make_mcr(plant.relay, prefix=ring, executes_workers=False).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    wait_for_raw(mcr)
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=40_000)
    sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=40_000, rate=20_000, size=1400)
    for turn in range(1, 7):
        wait_until(lambda goal=turn * 5000: mcr.stats()["ingress"]["recv"] >= goal, "the stream goes on")
        plant.relay.ip(f"link set dev out0 mtu {1300 if turn % 2 else 1500}")
    sender.finish()
    receiver.expect_everything()
    assert mcr.check_counters(arrived=40_000)["egress"]["errors"] == 0
    assert plant.relay.counter("Ip", "FragOKs") > 0


def test_order_is_kept_between_what_fits_and_what_does_not(plant: Plant, make_mcr: MakeMcr) -> None:
    """Long and short datagrams of a flow leave by two sockets, and arrive as they came."""
    for namespace, interface in ((plant.source, "src0"), (plant.relay, "in0")):
        namespace.ip(f"link set dev {interface} mtu 9000")
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    wait_for_raw(mcr)
    with plant.source.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with plant.receiver.entered():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender, receiver:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("198.18.0.1"))
        receiver.bind(("239.2.2.2", 6000))
        receiver.settimeout(PATIENCE)
        where = socket.inet_aton("239.2.2.2") + socket.inet_aton("198.18.1.2")
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, where)
        sizes = (100, 100, 4000, 1000, 4000, 4000, 1472, 1473, 8)
        (pid,) = mcr.worker_pids()
        for turn in range(20):
            os.kill(pid, signal.SIGSTOP)  # so that they wait together
            sent = [struct.pack("!II", turn, i).ljust(size, b"x") for i, size in enumerate(sizes)]
            for payload in sent:
                sender.sendto(payload, ("239.1.1.1", 5000))
            os.kill(pid, signal.SIGCONT)
            assert [receiver.recv(9000) for _ in sizes] == sent
    mcr.check_counters(arrived=20 * len(sizes))


def test_an_interface_that_takes_no_long_trains_gets_none(plant: Plant, make_mcr: MakeMcr) -> None:
    """The kernel would not cut those of raw frames for it."""
    plant.relay.ip("link set dev out0 gso_max_segs 4")
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", OUT, "239.3.3.3:6000:out1")
    wait_for_raw(mcr, "out1")
    assert relay(plant) == 1000
    assert "out0: datagrams to groups leave as raw" not in mcr.log()


def test_a_successor_sends_them_too(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", OUT)
    wait_for_raw(mcr)
    (pid,) = mcr.worker_pids()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: mcr.workers()[0]["restarts"] == 1 and mcr.workers()[0]["state"] == "running", "it is back")
    assert relay(plant) == 0


def test_an_interface_that_goes_down_and_up_again_gets_them_again(plant: Plant, make_mcr: MakeMcr) -> None:
    """While it is down each datagram is an error, with its name."""
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", OUT)
    wait_for_raw(mcr)
    plant.relay.ip("link set dev out0 down")
    Sender(plant.source, "src0", "239.1.1.1:5000", count=100, rate=10_000).finish()
    stats = mcr.check_counters(arrived=100)
    assert stats["egress"]["errors"] == 100
    assert re.search("down|unreachable", stats["rules"][0]["outputs"][0]["last_error"])
    plant.relay.bring_up("out0")
    wait_until(lambda: relay(plant) == 0, "raw frames leave again")


def test_an_interface_that_leaves_and_returns_gets_them_again(plant: Plant, make_mcr: MakeMcr) -> None:
    """Its sockets lose their binding with it."""
    elsewhere = plant.lab.namespace("elsewhere")
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", OUT)
    wait_for_raw(mcr)
    index = index_of(plant.relay, "out0")
    plant.relay.ip(f"link set dev out0 netns /proc/{os.getpid()}/fd/{elsewhere.fd}")
    elsewhere.ip(f"link set dev out0 netns /proc/{os.getpid()}/fd/{plant.relay.fd}")
    if index_of(plant.relay, "out0") != index:
        pytest.skip("it has got another index: its rules have to be removed and added again")
    plant.relay.ip("address add 198.18.1.1/24 dev out0")
    plant.relay.bring_up("out0")
    wait_until(lambda: relay(plant) == 0, "raw frames leave again")


def index_of(namespace: Namespace, interface: str) -> int:
    """Index of an interface."""
    with namespace.entered():
        return socket.if_nametoindex(interface)
