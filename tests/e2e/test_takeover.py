"""mcrd is replaced under traffic: nothing is lost, doubled or reordered, counters go on, no group is left."""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from mcr.cli.client import Client
from mcr_process import SLOWNESS, Mcr, Receiver, Sender, alive, wait_until
from service_manager import StoringManager
from successors import (
    FLOW,
    OUTPUTS,
    TO,
    Leaves,
    came_in,
    check_sums,
    end,
    forward,
    kill,
    take_over,
    wait_for_kernel_path,
    wait_until_more_come_in,
)
from test_joins import joined
from topology import MakeMcr, Plant

RATE = 20_000
EVERY = RATE // 4  # packets from one replacement to the next
PLENTY = 100 * RATE
TRIES = 3

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


def replace_under_traffic(mcr: Mcr, replace: Replace, every: int, turns: int) -> Mcr:
    """So many times, each after so many packets more. From the second on it is a successor that is replaced."""
    first = came_in(mcr)
    for turn in range(1, turns + 1):
        before = mcr.worker_pids()
        wait_until(lambda at=mcr, goal=first + turn * every: came_in(at) >= goal, f"turn {turn} is due", 30)
        mcr = replace(mcr)
        wait_until(lambda gone=before: not any(map(alive, gone)), "the former workers have ended")
        wait_for_kernel_path(mcr)
    return mcr


@pytest.mark.alone
@pytest.mark.parametrize(("workers", "path"), [(1, "auto"), (2, "off")])
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
        receiver = Receiver(plant.receiver, TO)
        sender = Sender(plant.source, "src0", FLOW, count=PLENTY, rate=RATE)
        mcr = replace_under_traffic(mcr, replace, EVERY, turns=2)
        wait_until_more_come_in(mcr)
        more = sender.stop()
        sent += more
        before, lost = lost, int(mcr.check_counters(arrived=sent)["ingress"]["kernel_drops"])
        receiver.expect_all_of(more - (lost - before))
        check_sums(mcr, sent, lost)
        if lost == before:
            break
    assert lost == before, f"each of {TRIES} times a ring was full"
    assert (mcr.stats()["kernel_path"]["matched"] > EVERY) == is_there


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
        mcr = replace_under_traffic(mcr, replace, 2000 // 4, turns=3)
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
