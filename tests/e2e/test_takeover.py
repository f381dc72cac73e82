"""mcrd is replaced under traffic: nothing is lost, doubled or reordered, counters go on, no group is left."""

import os
import signal
import socket
import sqlite3
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self

import pytest

from lab import Namespace
from mcr.cli.client import Client
from mcr.shm.memo import Memo
from mcr_process import SLOWNESS, Mcr, Receiver, Sender, alive, wait_until
from service_manager import StoringManager
from test_joins import joined
from topology import MakeMcr, Plant

RATE = 20_000
PLENTY = 100 * RATE
TRIES = 3
FLOW = "239.1.1.1:5000"
OUTPUTS = ("239.2.2.2:6000:out0", "239.3.3.3:6000:out1")
TO = f"239.2.2.2:6000@rx0={FLOW}"

_ETH_P_IP, _IP_HEADER_WORDS, _LEAVE = 0x0800, 0x0F, 0x17
_REPORT_3, _TO_INCLUDE, _BLOCK = 0x22, 3, 6  # RFC 3376, 4.2


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[StoringManager]:
    with StoringManager(tmp_path) as made:
        yield made


class Leaves:
    """Sees which groups hosts on a cable leave. A context manager."""

    def __init__(self, namespace: Namespace, interface: str) -> None:
        with namespace.entered():
            self._tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
        self._tap.bind((interface, _ETH_P_IP))
        self._tap.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._tap.close()

    def seen(self) -> set[str]:
        """Since the last call."""
        groups: set[str] = set()
        while True:
            try:
                packet = self._tap.recv(2048)
            except BlockingIOError:
                return groups
            if packet[9] == socket.IPPROTO_IGMP:
                groups.update(self._left(packet[4 * (packet[0] & _IP_HEADER_WORDS) :]))

    @staticmethod
    def _left(message: bytes) -> Iterator[str]:
        if message[0] == _LEAVE:
            yield socket.inet_ntoa(message[4:8])
        if message[0] == _REPORT_3:
            (count,) = struct.unpack_from("!H", message, 6)
            for at in range(8, 8 + 8 * count, 8):
                if message[at] in (_TO_INCLUDE, _BLOCK):
                    yield socket.inet_ntoa(message[at + 4 : at + 8])


def end(mcr: Mcr) -> None:
    """As `systemctl restart` does, first."""
    assert mcr.process
    mcr.process.send_signal(signal.SIGTERM)
    assert mcr.process.wait(10 * SLOWNESS) == 0


def kill(mcr: Mcr) -> None:
    assert mcr.process
    mcr.process.kill()
    mcr.process.wait()


def take_over(mcr: Mcr) -> None:
    """Another takes the place of this one; both are the same object."""
    first = mcr.process
    assert first
    mcr.start(len(mcr.workers()), "--take-over")
    assert first.wait(10 * SLOWNESS) == 0


Replace = Callable[[Mcr], Mcr]


@pytest.fixture(params=["restart", "kill", "take-over"])
def ways(
    request: pytest.FixtureRequest, make_mcr: MakeMcr, plant: Plant, manager: StoringManager
) -> tuple[Callable[[int], Mcr], Replace]:
    """How to start mcrd, and how it is replaced."""
    if request.param == "take-over":

        def by_itself(mcr: Mcr) -> Mcr:
            take_over(mcr)
            return mcr

        return lambda workers: make_mcr(plant.relay).start(workers), by_itself

    def by_the_manager(mcr: Mcr) -> Mcr:
        workers = mcr.worker_pids()
        {"restart": end, "kill": kill}[request.param](mcr)
        assert all(map(alive, workers))
        return manager.start(make_mcr, plant.relay, workers=len(workers))

    return lambda workers: manager.start(make_mcr, plant.relay, workers=workers), by_the_manager


def came_in(mcr: Mcr) -> int:
    return int(mcr.stats()["ingress"]["recv"])


def wait_until_more_come_in(mcr: Mcr) -> None:
    before = came_in(mcr)
    wait_until(lambda: came_in(mcr) > before, "more come in")


def replace_under_traffic(mcr: Mcr, replace: Replace, every: int) -> Mcr:
    """Three times, each after so many packets more."""
    first = came_in(mcr)
    for turn in range(1, 4):
        before = mcr.worker_pids()
        wait_until(lambda at=mcr, goal=first + turn * every: came_in(at) >= goal, f"turn {turn} is due", 30)
        mcr = replace(mcr)
        wait_until(lambda gone=before: not any(map(alive, gone)), "the former workers have ended")
        wait_for_kernel_path(mcr)
    return mcr


def wait_for_kernel_path(mcr: Mcr) -> bool:
    """Unless it is off, or this kernel has none, until the rule takes it. Whether it does."""
    if any(f"{name} has no effect" in mcr.log() for name in ("MCR_ABSORB", "MCR_RAW_SEND", "MCR_KERNEL_PATH")):
        return False
    if mcr.call("list")[0]["path_reason"] == "MCR_KERNEL_PATH=off":
        return False
    mcr.wait_for_path("kernel")
    return True


def check_sums(mcr: Mcr, packets: int, lost: int = 0) -> None:
    stats = mcr.check_counters(arrived=packets)
    assert (stats["ingress"]["kernel_drops"], stats["egress"]["errors"]) == (lost, 0)
    taken = packets - lost
    assert [(each["matched"], each["sent"]) for each in stats["rules"]] == [(taken, 2 * taken)]


@pytest.mark.alone
@pytest.mark.parametrize(("workers", "path"), [(1, "auto"), (2, "auto"), (2, "off")])
def test_nothing_is_lost_at_20_000_packets_a_second(
    plant: Plant,
    ways: tuple[Callable[[int], Mcr], Replace],
    workers: int,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With "auto" it is on the kernel path whenever mcrd ends, with "off" on that of the workers.

    Others may take the processors for longer than a ring lasts. What that costs has to be counted exactly, and one try
    of a few has to lose nothing.
    """
    monkeypatch.setenv("MCR_KERNEL_PATH", path)
    start, replace = ways
    mcr = start(workers)
    mcr.add(f"in0:{FLOW}", *OUTPUTS)
    is_there = wait_for_kernel_path(mcr)
    sent = lost = 0
    for _ in range(TRIES):
        receiver = Receiver(plant.receiver, TO, count=PLENTY, idle=1.0)
        sender = Sender(plant.source, "src0", FLOW, count=PLENTY, rate=RATE)
        mcr = replace_under_traffic(mcr, replace, RATE)
        wait_until_more_come_in(mcr)
        more = sender.stop()
        sent += more
        before, lost = lost, int(mcr.check_counters(arrived=sent)["ingress"]["kernel_drops"])
        receiver.expect_all_of(more - (lost - before))
        check_sums(mcr, sent, lost)
        if lost == before:
            break
    assert lost == before, f"each of {TRIES} times a ring was full"
    assert (mcr.stats()["kernel_path"]["matched"] > RATE) == is_there


def test_counters_go_on_and_no_group_is_left(plant: Plant, ways: tuple[Callable[[int], Mcr], Replace]) -> None:
    """On a busy machine, too: as many packets as a ring holds. Others, that no rule takes, are counted all the time."""
    start, replace = ways
    mcr = start(2)
    mcr.add("in0:239.1.1.9:5000", "239.2.2.9:6000:out0", rule_id="went")
    mcr.ctl("remove", "--rule-id", "went")
    mcr.add(f"in0:{FLOW}", *OUTPUTS)
    with Leaves(plant.source, "src0") as leaves:
        others = Sender(plant.source, "src0", "239.1.1.1:5001", count=2000, rate=500)
        receiver = Receiver(plant.receiver, TO, count=2000)
        sender = Sender(plant.source, "src0", FLOW, count=2000, rate=500)
        mcr = replace_under_traffic(mcr, replace, 2000 // 4)
        sender.finish()
        receiver.expect_everything()
        others.finish()
        stats = mcr.check_counters(arrived=4000)
        assert (stats["ingress"]["matched"], stats["ingress"]["no_match"]) == (2000, 2000)
        assert [(each["matched"], each["sent"]) for each in stats["rules"]] == [(2000, 4000)]
        assert joined(plant.relay, "in0") == {"239.1.1.1"}
        assert leaves.seen() <= {"239.1.1.9"}  # the kernel may say once more that this one was left
        mcr.ctl("remove", "--all")
        wait_until(lambda: "239.1.1.1" in leaves.seen(), "it is left when nobody wants it")


# What another mcrd has left is looked at before it is used.


def memory(fd: int) -> dict[str, Any]:
    """What a note says."""
    note: dict[str, Any] = Memo(fd).read()
    return note


def write(fd: int, note: dict[str, Any]) -> None:
    memo = Memo(fd)
    memo.read()
    memo.write(note)


def junk(manager: StoringManager, *names: str) -> None:
    """In the place of what is kept by these names, or beside it."""
    for name in names:
        if name in manager.kept:
            manager.forget(name)
        manager.kept[name] = os.memfd_create("junk")


FOREIGN = ("foreign", "groups.7", "capture.5.0", "channel.9")


def forward(plant: Plant, flow: str = FLOW) -> None:
    receiver = Receiver(plant.receiver, f"239.2.2.2:6000@rx0={flow}", count=500)
    Sender(plant.source, "src0", flow, count=500, rate=5000).finish()
    receiver.expect_everything()


def older_layout(manager: StoringManager) -> None:
    note = memory(manager.kept["captures"])
    write(manager.kept["captures"], note | {"layout": [1, 1]})


def other_segment(manager: StoringManager) -> None:
    os.pwrite(manager.kept["segment.0"], (99).to_bytes(4, sys.byteorder), 0)


def test_starts_clean_where_memory_does_not_fit(plant: Plant, make_mcr: MakeMcr, manager: StoringManager) -> None:
    """And says so. The rules are there, packets are forwarded once, and no group is left."""
    cases = (
        (older_layout, "shared memory has layout [1, 1]"),
        (other_segment, "shared memory has layout 99"),
        (lambda manager: junk(manager, "segment.0"), "shared memory has another size"),
        (lambda manager: manager.forget("captures"), "captures is missing"),
    )
    mcr = manager.start(make_mcr, plant.relay)
    mcr.add(f"in0:{FLOW}", *OUTPUTS)
    with Leaves(plant.source, "src0") as leaves:
        for spoil, told in cases:
            forward(plant)
            end(mcr)
            spoil(manager)
            mcr = manager.start(make_mcr, plant.relay)
            assert mcr.says(f"what the last mcrd has left cannot be used: {told}")
        forward(plant)
        assert leaves.seen() == set()
    check_sums(mcr, 500)


def test_what_is_missing_or_foreign_is_opened_anew_or_closed(
    plant: Plant, make_mcr: MakeMcr, manager: StoringManager
) -> None:
    """And costs no count."""
    cases: tuple[Callable[[], None], ...] = (
        lambda: manager.forget("capture.0.0"),
        lambda: junk(manager, *[each for each in manager.kept if each.startswith("capture.")]),
        lambda: manager.forget("channel.0"),
        lambda: junk(manager, "channel.0"),
        lambda: junk(manager, *FOREIGN),
    )
    mcr = manager.start(make_mcr, plant.relay)
    mcr.add(f"in0:{FLOW}", *OUTPUTS)
    for spoil in cases:
        forward(plant)
        end(mcr)
        spoil()
        mcr = manager.start(make_mcr, plant.relay)
    forward(plant)
    check_sums(mcr, 500 * (len(cases) + 1))
    assert [each["restarts"] for each in mcr.workers()] == [0]
    wait_until(lambda: not {*FOREIGN} & manager.kept.keys(), "junk is closed")


def test_what_nobody_would_carry_out_is_a_worker_s(plant: Plant, make_mcr: MakeMcr, manager: StoringManager) -> None:
    """The program of the kernel path is lost while no mcrd runs: one packet for each processor is, too, and counted."""
    mcr = manager.start(make_mcr, plant.relay)
    mcr.add(f"in0:{FLOW}", *OUTPUTS)
    if not wait_for_kernel_path(mcr):
        pytest.skip("this kernel has no kernel path; `path_reason` says why")
    forward(plant)
    end(mcr)
    for name in [each for each in manager.kept if each.startswith("link.")]:
        manager.forget(name)
    receiver = Receiver(plant.receiver, TO, count=500, idle=1.0)
    Sender(plant.source, "src0", FLOW, count=500, rate=5000).finish()
    lost = int(receiver.verdict()["lost"])
    assert 1 <= lost <= (os.cpu_count() or 1)
    mcr = manager.start(make_mcr, plant.relay)
    wait_for_kernel_path(mcr)
    forward(plant)
    stats = mcr.check_counters(arrived=1500)
    assert stats["ingress"]["kernel_drops"] == stats["kernel_path"]["kernel_drops"] == lost
    assert stats["kernel_path"]["matched"] == 1000


def test_what_cannot_be_gone_on_with_is_never_captured_beside_what_takes_its_place(
    plant: Plant, make_mcr: MakeMcr, manager: StoringManager
) -> None:
    """Traffic flows: workers of the last mcrd would forward it a second time, and count in the same place."""
    without_ebpf = ("setpriv", "--bounding-set=-bpf,-sys_admin")
    cases: tuple[tuple[Callable[[], None], tuple[str, ...]], ...] = (
        (lambda: None, without_ebpf),
        (lambda: manager.forget("counter.0"), without_ebpf),
        (lambda: None, ()),
        (lambda: manager.forget("capture.0.0"), ()),
    )
    mcr = manager.start(make_mcr, plant.relay)
    mcr.add(f"in0:{FLOW}", *OUTPUTS)
    receiver = Receiver(plant.receiver, TO, count=100_000, idle=1.0)
    sender = Sender(plant.source, "src0", FLOW, count=100_000, rate=3000)
    for spoil, prefix in cases:
        wait_until_more_come_in(mcr)
        kill(mcr)
        spoil()
        mcr = manager.start(make_mcr, plant.relay, prefix=prefix)
        assert mcr.says("captured anew, and packets lost meanwhile")
    wait_until_more_come_in(mcr)
    sender.stop()
    report = receiver.verdict()
    (rule,) = mcr.check_counters()["rules"]
    assert (report["duplicated"], report["reordered"], report["unique"]) == (0, 0, rule["matched"])
    assert rule["sent"] == 2 * rule["matched"]
    assert [each["kernel_drops"] for each in mcr.stats()["interfaces"]] == [0]


def test_what_has_changed_meanwhile_is_followed(plant: Plant, make_mcr: MakeMcr, manager: StoringManager) -> None:
    """An interface was made again, a rule went, another worker is wanted."""
    mcr = manager.start(make_mcr, plant.relay)
    mcr.add(f"in0:{FLOW}", *OUTPUTS)
    mcr.add("in0:239.1.1.5:5000", "239.2.2.5:6000:out0")
    mcr.add("out2:239.1.1.2:5000", "239.2.2.3:6000:out0", rule_id="went")
    forward(plant)
    kill(mcr)
    (plant_database,) = mcr.log_file.with_suffix(".state").glob("*.sqlite")
    with closing(sqlite3.connect(plant_database)) as database, database:
        database.execute("DELETE FROM rules WHERE rule_id = 'went'")
    plant.relay.ip("link del in0")
    plant.lab.link(plant.source, "src0", plant.relay, "in0", a_address="198.18.0.1/24", b_address="198.18.0.2/24")
    mcr = manager.start(make_mcr, plant.relay)
    forward(plant)
    stats = mcr.check_counters(arrived=1000)
    assert [each["matched"] for each in stats["rules"]] == [1000, 0]
    assert joined(plant.relay, "out2") == set()
    wait_until(lambda: {"capture.2.0"} == {each for each in manager.kept if each.startswith("capture.")}, "one is left")
    end(mcr)
    mcr = manager.start(make_mcr, plant.relay, workers=2)
    assert mcr.says("cannot be used: it ran 1 workers, this one runs 2")
    forward(plant)
    assert [each["matched"] for each in mcr.check_counters(arrived=500)["rules"]] == [500, 0]


def test_workers_send_what_has_arrived_and_end_when_nobody_keeps_them(
    plant: Plant, make_mcr: MakeMcr, manager: StoringManager
) -> None:
    """As after `systemctl stop`."""
    mcr = manager.start(make_mcr, plant.relay)
    mcr.add(f"in0:{FLOW}", *OUTPUTS)
    (worker,) = mcr.worker_pids()
    receiver = Receiver(plant.receiver, TO, count=2000)
    end(mcr)
    os.kill(worker, signal.SIGSTOP)
    Sender(plant.source, "src0", FLOW, count=2000, rate=0).finish()
    manager.forget_all()
    os.kill(worker, signal.SIGCONT)
    receiver.expect_everything()
    wait_until(lambda: not alive(worker), "it has ended")
    assert joined(plant.relay, "in0") == set()


def test_worker_that_hangs_is_not_left_behind(plant: Plant, make_mcr: MakeMcr, manager: StoringManager) -> None:
    """Nobody would find it until the next mcrd starts; the one beside it goes on."""
    mcr = manager.start(make_mcr, plant.relay, workers=2)
    mcr.add(f"in0:{FLOW}", *OUTPUTS)
    hung, other = mcr.worker_pids()
    os.kill(hung, signal.SIGSTOP)
    end(mcr)
    assert (alive(hung), alive(other)) == (False, True)
    assert mcr.says(f"worker 0 (pid {hung}) does not answer, and mcrd is about to leave it to the next one")
    mcr = manager.start(make_mcr, plant.relay, workers=2)
    forward(plant)
    mcr.check_counters(arrived=500)


def test_mcrd_that_cannot_serve_ends_no_worker(plant: Plant, make_mcr: MakeMcr, manager: StoringManager) -> None:
    """A service manager tries again and again: meanwhile the workers forward, and the one that succeeds goes on."""
    mcr = manager.start(make_mcr, plant.relay)
    mcr.add(f"in0:{FLOW}", *OUTPUTS)
    workers = mcr.worker_pids()
    end(mcr)
    mcr.socket.mkdir()
    failed = manager.begin(make_mcr, plant.relay).process
    assert failed
    assert failed.wait(20 * SLOWNESS) == 1
    assert "is not a socket" in mcr.log()
    forward(plant)
    assert all(map(alive, workers))
    mcr.socket.rmdir()
    mcr = manager.start(make_mcr, plant.relay)
    forward(plant)
    check_sums(mcr, 1000)


# Who may take over, and from whom.


def add_until_it_ends(mcr: Mcr, added: list[str]) -> None:
    """Rules, one after the other; those that are acknowledged are noted."""
    with suppress(Exception), Client(str(mcr.socket), "the test") as client:
        for number in range(10_000):
            source = {"interface": "in0", "group": f"239.7.{number >> 8}.{number & 255}", "port": 5000}
            outputs = [{"group": "239.2.2.2", "port": 6000, "interface": "out0"}]
            client.call("add", {"rules": [{"rule_id": f"r{number}", "input": source, "outputs": outputs}]})
            added.append(f"r{number}")


def test_rules_that_are_saved_nowhere_go_on(plant: Plant, make_mcr: MakeMcr) -> None:
    """All that were acknowledged; and the next mcrd saves them, if it saves any."""
    mcr = make_mcr(plant.relay).start(1, "--no-state")
    mcr.add(f"in0:{FLOW}", *OUTPUTS, rule_id="first")
    forward(plant)
    added = ["first"]
    client = threading.Thread(target=add_until_it_ends, args=(mcr, added))
    client.start()
    wait_until(lambda: len(added) > 1, "rules are added")
    take_over(mcr)
    client.join()
    mcr.wait_until_it_answers(10 * SLOWNESS)
    there = [each["rule_id"] for each in mcr.call("list")]
    assert there[: len(added)] == added
    forward(plant)
    stats = mcr.check_counters()
    assert [each["matched"] for each in stats["rules"]][:1] == [1000]
    assert mcr.says(f"{len(there)} rules of the mcrd before this one saved in {mcr.state}/rules.sqlite")
    kill(mcr)
    mcr.start()
    assert [each["rule_id"] for each in mcr.call("list")] == there


def test_nobody_to_take_over_from(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay)
    assert mcr.begin(1, "--take-over").wait(20 * SLOWNESS) == 1
    assert f"Error: Cannot take over from the mcrd at {mcr.socket}: No such file or directory" in mcr.log()


def test_a_service_is_restarted_instead(plant: Plant, make_mcr: MakeMcr, manager: StoringManager) -> None:
    mcr = manager.start(make_mcr, plant.relay)
    first, workers = mcr.process, mcr.worker_pids()
    assert mcr.begin(1, "--take-over").wait(20 * SLOWNESS) == 1
    assert "hint: systemctl restart mcrd" in mcr.log()
    mcr.process = first
    assert mcr.worker_pids() == workers


def test_successor_that_dies_changes_nothing(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    mcr.add(f"in0:{FLOW}", *OUTPUTS)
    workers = mcr.worker_pids()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.connect(str(mcr.socket))
        successor.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "hand_over"}\n')
        _, descriptors, _, _ = socket.recv_fds(successor, 10, 253)
        for each in descriptors:
            os.close(each)
    forward(plant)
    assert mcr.worker_pids() == workers
