"""Things die; the stream goes on, and every packet is accounted for."""

import os
import re
import signal
import struct
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mcr._native import ffi
from mcr.process.accounts import unprivileged_user
from mcr_process import Mcr, Receiver, Sender, alive, children_of, wait_until
from topology import MakeMcr, Plant

pytestmark = pytest.mark.usefixtures("worker_path")

RATE = 20_000


def kill_worker_of_flow(mcr: Mcr) -> int:
    """Kill -9 the worker that forwards (one flow is on one worker); return its pid."""
    busiest = max(mcr.stats()["workers"], key=lambda worker: worker["recv"])
    pid = next(worker["pid"] for worker in mcr.workers() if worker["worker_id"] == busiest["worker_id"])
    os.kill(pid, signal.SIGKILL)
    return int(pid)


def came_in(mcr: Mcr) -> int:
    """Packets that have arrived so far, whatever became of them."""
    ingress = mcr.stats()["ingress"]
    return int(ingress["recv"] + ingress["kernel_drops"])


def check_loss_is_accounted_for(verdict: dict[str, Any], stats: dict[str, Any]) -> None:
    """What is missing died in a worker's hand or found its ring full; and nothing came twice or out of order."""
    egress = stats["egress"]
    assert verdict["duplicated"] == verdict["reordered"] == verdict["corrupted"] == 0
    assert verdict["kernel_drops"] == 0
    assert egress["errors"] == egress["in_doubt"]
    assert verdict["lost"] <= egress["in_doubt"] + stats["ingress"]["kernel_drops"]


@pytest.mark.alone
@pytest.mark.parametrize(("workers", "deaths"), [(1, 2), (2, 3)])
def test_stream_goes_on_over_the_death_of_its_worker(
    plant: Plant, make_mcr: MakeMcr, workers: int, deaths: int
) -> None:
    """kill -9 several times at 20,000 packets per second: at most a batch lost each time, and counted."""
    packets = round((1.2 * deaths + 0.8) * RATE)
    mcr = make_mcr(plant.relay).start(workers)
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", idle=0.5)
    sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=packets, rate=RATE)
    for death in range(1, deaths + 1):
        wait_until(lambda goal=death * 1.2 * RATE: came_in(mcr) >= goal, f"death {death} is due")
        kill_worker_of_flow(mcr)
    sender.finish()
    stats = mcr.check_counters(arrived=packets)
    receiver.tell(packets)  # whatever is to come has left by now
    verdict = receiver.verdict()
    print(
        f"lost {verdict['lost']}, in doubt {stats['egress']['in_doubt']}, ring full {stats['ingress']['kernel_drops']}"
    )
    check_loss_is_accounted_for(verdict, stats)
    assert stats["egress"]["in_doubt"] <= deaths * 32
    assert sum(worker["restarts"] for worker in mcr.wait_for_workers()) == deaths
    wait_until(lambda: mcr.log().count("Worker process exited unexpectedly: worker ") == deaths, "each death is logged")
    assert mcr.says("killed by signal 9 (SIGKILL)")


def test_what_waits_in_the_sockets_is_forwarded_by_the_successor(plant: Plant, make_mcr: MakeMcr) -> None:
    """Packets that arrive while there is no worker at all are not lost."""
    mcr = make_mcr(plant.relay, executes_workers=True).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    (pid,) = mcr.worker_pids()
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=2000)
    os.kill(pid, signal.SIGSTOP)  # it reads nothing from now on
    Sender(plant.source, "src0", "239.1.1.1:5000", count=2000, rate=0).finish()
    assert mcr.stats()["ingress"]["recv"] == 0
    os.kill(pid, signal.SIGKILL)
    receiver.expect_everything()
    mcr.check_counters(arrived=2000)


def test_successor_was_waiting_for_its_moment(plant: Plant, make_mcr: MakeMcr) -> None:
    """One standby process for all workers, started before it is needed; and when it is taken, another."""
    mcr = make_mcr(plant.relay, executes_workers=True).start(2, "--log-level", "debug")
    assert mcr.process is not None
    for death in range(3):  # each worker that starts sees to it
        told = 2 + death
        wait_until(lambda goal=told: mcr.log().count("a standby process is ready") >= goal, "a standby")
        before = children_of(mcr.process.pid)
        assert len(before) == 2 + 1  # multiprocessing starts no tracker
        victim = mcr.worker_pids()[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda gone=victim: gone not in mcr.worker_pids() and len(mcr.worker_pids()) == 2, "a successor")
        assert set(mcr.worker_pids()) < set(before)
    mcr.wait_for_workers()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_standby_process_that_is_ended_is_not_missed(plant: Plant, make_mcr: MakeMcr, signum: signal.Signals) -> None:
    """SIGTERM it ignores: who stops a process group sends it to all. Without a standby mcrd goes on, ends in order."""
    mcr = make_mcr(plant.relay, executes_workers=True).start(1, "--log-level", "debug")
    wait_until(lambda: "a standby process is ready" in mcr.log(), "a standby")
    assert mcr.process is not None
    (standby,) = set(children_of(mcr.process.pid)) - set(mcr.worker_pids())
    os.kill(standby, signum)
    if signum == signal.SIGKILL:
        wait_until(lambda: not alive(standby), "it is gone")
    os.kill(mcr.worker_pids()[0], signal.SIGKILL)
    wait_until(lambda: mcr.workers()[0]["restarts"] == 1 and mcr.worker_pids(), "another worker")
    mcr.wait_for_workers()
    assert (mcr.worker_pids() == [standby]) == (signum == signal.SIGTERM)
    mcr.stop()


def test_deaths_in_a_row_are_backed_off(plant: Plant, make_mcr: MakeMcr) -> None:
    """On a slow machine a worker may live for a second before it is killed, and all begins anew."""
    in_a_row = ["0.0", "0.1", "0.2", "0.4"]
    mcr = make_mcr(plant.relay).start()

    def delays() -> list[str]:
        return re.findall(r"; restart \d+ in ([\d.]+) s", mcr.log())

    for death in range(1, 40):
        (pid,) = wait_until(mcr.worker_pids, "a worker")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda goal=death: len(delays()) == goal, f"death {death} is logged")
        assert mcr.workers()[0]["restarts"] == death
        if delays()[-4:] == in_a_row:
            break
    assert delays()[-4:] == in_a_row
    assert all(one == "0.0" or former != one for former, one in pairwise(delays()))
    mcr.wait_for_workers()


@pytest.mark.parametrize(
    ("settings", "slots"),
    [
        ([], 2048),
        (["MCR_BUFFER_POOL_SMALL=100", "MCR_NUM_RECV_BUFFERS=256"], 128),
        (["MCR_BUFFER_POOL_SMALL=4097"], 8192),
    ],
    ids=["default", "few", "many"],
)
def test_worker_that_hangs_is_replaced(plant: Plant, make_mcr: MakeMcr, settings: list[str], slots: int) -> None:
    """Seconds later another has what waited: as much as the ring was made for; the rest is counted and told."""
    mcr = make_mcr(plant.relay, prefix=["env", *settings]).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    (pid,) = mcr.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    Sender(plant.source, "src0", "239.1.1.1:5000", count=10_000, rate=0).finish()
    wait_until(lambda: f"worker 0 (pid {pid}) takes no packets" in mcr.log(), "the hang is noticed")
    stats = mcr.check_counters(arrived=10_000)
    assert stats["egress"]["sent"] == slots
    assert stats["ingress"]["kernel_drops"] == 10_000 - slots
    assert mcr.says("capture ring of in0 was full")
    (worker,) = mcr.wait_for_workers()
    assert worker["restarts"] == 1
    assert worker["last_exit"].endswith("Z hung and was killed by signal 9 (SIGKILL) from mcrd")


def test_worker_has_no_privileges(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay, executes_workers=True).start(2)
    for pid in mcr.worker_pids():
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
        assert status["NoNewPrivs"] == "1"
        # Another user, too; but in a user namespace that maps root alone, as tests without root have, there is none.
        alone = Path("/proc/self/uid_map").read_text().split()[2] == "1"
        assert set(status["Uid"].split()) == {"0" if alone else str(unprivileged_user()[0])}


def test_worker_that_gives_up_is_replaced_by_one_that_works(plant: Plant, make_mcr: MakeMcr) -> None:
    """Not only deaths: a worker that returns with an error has no privileges left to start over in its process."""
    mcr = make_mcr(plant.relay, prefix=["env", "MCR_RAW_SEND=0"]).start()  # so that nothing else is told meanwhile
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    (pid,) = mcr.worker_pids()
    # Scribble over its rule ring, and let a packet wake it to that.
    memory = next(path for path in Path(f"/proc/{pid}/fd").iterdir() if "memfd:mcr-worker-0" in str(path.readlink()))
    with memory.open("r+b") as file:
        file.seek(ffi.offsetof("struct mcr_segment", "rule_ring"))
        file.write(struct.pack("=Q", 1 << 20))
    Sender(plant.source, "src0", "239.1.1.1:5000", count=1, rate=1).finish()
    wait_until(lambda: "gave up: run: Bad message (os error 74)" in mcr.log(), "it gives up")
    mcr.wait_for_workers()
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=1000)
    Sender(plant.source, "src0", "239.1.1.1:5000", count=1000, rate=5000).finish()
    receiver.expect_everything()


def test_capture_slot_that_a_dead_worker_left_in_hand_is_clean_for_the_next(plant: Plant, make_mcr: MakeMcr) -> None:
    """Killed in the middle of a batch, its rule gone before a successor comes: the next capture starts afresh."""
    mcr = make_mcr(plant.relay).start()
    for _ in range(5):
        mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0", rule_id="first")
        before = mcr.stats()["ingress"]["recv"]
        sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=20_000, rate=0)
        wait_until(lambda seen=before: mcr.stats()["ingress"]["recv"] > seen + 1000, "traffic flows")
        (pid,) = mcr.worker_pids()
        os.kill(pid, signal.SIGKILL)
        mcr.call("remove", {"rule_id": "first"})
        sender.finish()
        place = {"interface": "out2", "group": "239.1.1.2", "port": 5000}
        outputs = [{"group": "239.2.2.2", "port": 6000, "interface": "out0"}]
        mcr.call("add", {"rules": [{"rule_id": "next", "input": place, "outputs": outputs}]})
        receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.2:5000", count=2000)
        Sender(plant.receiver, "rx2", "239.1.1.2:5000", count=2000, rate=10_000).finish()
        receiver.expect_everything()
        mcr.check_counters()
        mcr.call("remove", {"rule_id": "next"})


def shared_memory_names() -> set[str]:
    """But for directories: those of tests that run beside this one."""
    return {path.name for path in Path("/dev/shm").iterdir() if not path.is_dir()}


@pytest.mark.alone
def test_nothing_is_left_of_a_killed_daemon(plant: Plant, make_mcr: MakeMcr) -> None:
    """kill -9 of mcrd under load: workers gone within a second, no shared memory; the next start has its rule."""
    before = shared_memory_names()
    mcr = make_mcr(plant.relay).start(2)
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=100 * RATE, rate=RATE)
    wait_until(lambda: mcr.stats()["ingress"]["recv"] > RATE, "traffic flows")
    assert mcr.process is not None
    # Everything it started, and everything those started: also helpers that are no workers.
    family = {*mcr.worker_pids(), *children_of(mcr.process.pid)}
    for pid in tuple(family):
        family.update(children_of(pid))
    mcr.process.kill()
    killed = time.monotonic()
    mcr.process.wait()
    wait_until(lambda: not any(map(alive, family)), "workers are gone", seconds=1.0)
    print(f"workers gone after {time.monotonic() - killed:.3f} s")
    assert shared_memory_names() == before
    assert mcr.socket.exists()  # stale
    mcr.start(2)
    wait_until(lambda: [rule["state"] for rule in mcr.call("list")] == ["active"], "its rule is in use again")
    sender.stop()
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=1000)
    Sender(plant.source, "src0", "239.1.1.1:5000", count=1000, rate=5000).finish()
    receiver.expect_everything()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_stop_sends_what_has_arrived(plant: Plant, make_mcr: MakeMcr, signum: signal.Signals) -> None:
    """Packets that wait in the ring when the signal comes are forwarded before the end."""
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    (pid,) = mcr.worker_pids()
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=2000)
    os.kill(pid, signal.SIGSTOP)
    Sender(plant.source, "src0", "239.1.1.1:5000", count=2000, rate=0).finish()
    assert mcr.process is not None
    mcr.process.send_signal(signum)
    wait_until(lambda: f"{signum.name}: stopping" in mcr.log(), "mcrd has begun to stop")
    os.kill(pid, signal.SIGCONT)
    assert mcr.process.wait(5) == 0
    receiver.expect_everything()
    assert mcr.says("[STATS:Ingress] recv=2000 matched=2000 parse_err=0 no_match=0 buf_exhaust=0 kernel_drops=0")
    assert mcr.says("[STATS:Egress] sent=2000 submitted=2000 errors=0")


@pytest.mark.alone
def test_stop_under_load_takes_less_than_two_seconds(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start(2)
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0", "239.2.2.3:6000:out1")
    sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=200_000, rate=0)
    wait_until(lambda: mcr.stats()["ingress"]["recv"] > 10_000, "traffic flows")
    mcr.stop()
    sender.process.terminate()


def test_interface_that_goes_down_and_up_is_read_again(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    plant.relay.ip("link set dev in0 down")
    wait_until(lambda: "in0 is down: 1 rule waits" in mcr.log(), "it is logged")
    plant.relay.bring_up("in0")
    plant.source.bring_up("src0")
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=1000)
    Sender(plant.source, "src0", "239.1.1.1:5000", count=1000, rate=5000).finish()
    receiver.expect_everything()


def test_outputs_that_are_down_cost_the_other_output_nothing(plant: Plant, make_mcr: MakeMcr) -> None:
    """Their errors are counted, with their cause, in a few lines of the log; and the neighbour gets every packet."""
    mcr = make_mcr(plant.relay).start()
    dead = [f"239.2.2.1:{port}:out0" for port in range(6001, 6041)]
    mcr.add("in0:239.1.1.1:5000", *dead, "239.2.2.2:6002:out1")
    plant.relay.ip("link set dev out0 down")
    receiver = Receiver(plant.receiver, "239.2.2.2:6002@rx1=239.1.1.1:5000", count=2_000)
    Sender(plant.source, "src0", "239.1.1.1:5000", count=2_000, rate=2_000).finish()
    receiver.expect_everything()
    (rule,) = mcr.check_counters(arrived=2_000)["rules"]
    *down, up = rule["outputs"]
    for output in down:
        assert (output["sent"], output["errors"]) == (0, 2_000)
        assert output["last_error"] in {"Network is unreachable (os error 101)", "Network is down (os error 100)"}
    assert (up["sent"], up["errors"]) == (2_000, 0)
    wait_until(lambda: "for 37 outputs)" in mcr.log(), "the log says for how many outputs a line stands")
    assert mcr.log().count("send to 239.2.2.1:60") <= 20  # 3 at once, then 4 after 1, 3, 7, 15 s


def processor_seconds(pid: int) -> float:
    """Processor time that a process has had (proc(5), stat, fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_input_interface_that_is_deleted_disturbs_no_other(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    mcr.add("out2:239.1.1.1:5000", "239.2.2.3:6000:out1", rule_id="doomed")
    plant.relay.ip("link delete dev out2")
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=2000)
    Sender(plant.source, "src0", "239.1.1.1:5000", count=2000, rate=10_000).finish()
    receiver.expect_everything()
    mcr.ctl("remove", "--rule-id", "doomed")
    (worker,) = mcr.workers()
    assert (worker["restarts"], worker["interfaces"]) == (0, ["in0"])
    assert processor_seconds(worker["pid"]) < 5  # no spinning on the dead socket
