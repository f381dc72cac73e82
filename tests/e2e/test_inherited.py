"""What another mcrd has left is looked at before it is used: what does not fit is opened anew or closed."""

import os
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from mcr.shm.memo import Memo
from mcr_process import SLOWNESS, Receiver, Sender, alive, wait_until
from service_manager import StoringManager
from successors import (
    FLOW,
    OUTPUTS,
    TO,
    Leaves,
    check_sums,
    end,
    forward,
    kill,
    wait_for_kernel_path,
    wait_until_more_come_in,
)
from test_joins import joined
from topology import MakeMcr, Plant


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
    receiver = Receiver(plant.receiver, TO, idle=2.0)
    Sender(plant.source, "src0", FLOW, count=500, rate=5000).finish()
    receiver.tell(500)
    lost = int(receiver.verdict()["lost"])
    assert 1 <= lost <= (os.cpu_count() or 1)
    mcr = manager.start(make_mcr, plant.relay)
    wait_for_kernel_path(mcr)
    forward(plant)
    processors = send_by_each_processor(plant)
    stats = mcr.check_counters(arrived=1500 + processors)
    assert stats["ingress"]["kernel_drops"] == stats["kernel_path"]["kernel_drops"] == lost
    assert stats["kernel_path"]["matched"] == 1000 + processors


def send_by_each_processor(plant: Plant) -> int:
    """One packet each: it is counted then that the one before, on that processor, was carried out by nobody."""
    processors = os.sched_getaffinity(0)
    with plant.source.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("198.18.0.1"))
        try:
            for each in processors:
                os.sched_setaffinity(0, {each})
                sending.sendto(b"x", ("239.1.1.1", 5000))
        finally:
            os.sched_setaffinity(0, processors)
    return len(processors)


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
    receiver = Receiver(plant.receiver, TO)
    sender = Sender(plant.source, "src0", FLOW, count=100_000, rate=1000)
    for spoil, prefix in cases:
        wait_until_more_come_in(mcr)
        kill(mcr)
        spoil()
        mcr = manager.start(make_mcr, plant.relay, prefix=prefix)
        assert mcr.says("captured anew, and packets lost meanwhile")
    wait_until_more_come_in(mcr)
    sender.stop()
    stats = mcr.check_counters()
    (rule,) = stats["rules"]
    receiver.expect_all_of(rule["matched"])
    assert rule["sent"] == 2 * rule["matched"]
    in_hand = stats["kernel_path"]["kernel_drops"]  # of the kernel path, if it was there: one for each processor
    assert in_hand <= len(cases) * (os.cpu_count() or 1)
    assert [each["kernel_drops"] for each in stats["interfaces"]] == [in_hand]


def test_what_has_changed_meanwhile_is_followed(plant: Plant, make_mcr: MakeMcr, manager: StoringManager) -> None:
    """An interface was made again, a rule went, another worker is wanted."""
    mcr = manager.start(make_mcr, plant.relay)
    mcr.add(f"in0:{FLOW}", *OUTPUTS)
    mcr.add("in0:239.1.1.5:5000", "239.2.2.5:6000:out0")
    mcr.add("out2:239.1.1.2:5000", "239.2.2.3:6000:out0", rule_id="went")
    forward(plant)
    kill(mcr)
    (plant_database,) = mcr.state.glob("*.sqlite")
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
    wait_until(lambda: not alive(hung), "it has ended")  # mcrd does not wait until the kernel has closed its sockets
    assert alive(other)
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
    mcr = manager.execute(make_mcr, plant.relay)
    forward(plant)
    check_sums(mcr, 1000)
