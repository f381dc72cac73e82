"""The guide's high-throughput settings at as high a rate as can be had, with the benchmark's generator and sink."""

import os
import subprocess
from functools import partial
from pathlib import Path

import pytest

from bench.rig import FIRST_GROUP, PORT, RELAY_CPU, Rig, Sink, Traffic, output_group, start_generator
from lab import Lab
from mcr_process import wait_until
from topology import MakeMcr, Plant, needs_root

RATE = 220_000
SLOWEST = 100_000  # what the sender gets through on a slow machine: all that is done for a packet may be done there
SECONDS = 2.0
ATTEMPTS = 5  # who else uses this machine may have its processors for longer than any buffer lasts
SETTINGS = ["MCR_BUFFER_POOL_SMALL=4000", "MCR_BUFFER_POOL_STANDARD=2000", "MCR_SOCKET_SNDBUF=8388608"]


def has_arrived(sink: Sink, packets: int) -> bool:
    return bool(sink.read()[0]["packets"] == packets)


@pytest.mark.alone
@needs_root  # the sink counts at XDP
def test_settings_of_the_guide_lose_nothing_at_high_rates(lab: Lab, make_mcr: MakeMcr, tmp_path: Path) -> None:
    """Every packet of two seconds arrives, in one of five attempts at least; in the others each loss is counted."""
    rig = Rig.build(lab, "fast", 1)
    bench = Path(__file__).parents[2] / "bench"
    programs = [f"{tmp_path}/{each}" for each in ("gen", "sink")]
    compilation = subprocess.Popen(["make", "-s", "-j", "2", "-C", bench, f"OUT={tmp_path}", *programs])
    mcr = make_mcr(rig.relay, prefix=["env", *SETTINGS, "taskset", "--cpu-list", str(RELAY_CPU)]).start()
    shown = {setting["name"]: setting for setting in mcr.call("settings")}
    for each in SETTINGS:
        name, value = each.split("=")
        assert (shown[name]["value"], shown[name]["source"]) == (value, "environment")
    mcr.add(f"in0:{FIRST_GROUP}:{PORT}", f"{output_group(0)}:{PORT}:out0")
    assert compilation.wait() == 0
    sink = Sink(rig.sink, tmp_path / "sink", str(PORT), "snk0")
    sent = 0
    for _ in range(ATTEMPTS):
        before = mcr.stats()
        generator = start_generator(rig, tmp_path / "gen", Traffic(RATE, seconds=SECONDS), burst=16, spin=False)
        generator.say()
        report = generator.answer(SECONDS + 20)
        generator.end()
        sent += report["sent"]
        now = mcr.check_counters(arrived=sent)
        lost = now["ingress"]["kernel_drops"] - before["ingress"]["kernel_drops"]
        wait_until(partial(has_arrived, sink, now["egress"]["sent"]), "the sink has what was sent")
        print(f"{report['sent']} packets in {report['seconds']:.2f} s, {lost} lost, all counted")
        if not lost and report["sent"] / report["seconds"] > SLOWEST:
            break
    else:
        raise AssertionError("no attempt without loss")


def test_workers_keep_to_the_processors_that_mcrd_was_given(plant: Plant, make_mcr: MakeMcr) -> None:
    """With taskset, as with systemd's CPUAffinity=, which does the same: one worker a processor, and on no other."""
    mcr = make_mcr(plant.relay, prefix=["taskset", "--cpu-list", "1"]).start(workers=None)
    (worker,) = mcr.workers()
    assert worker["core"] == 1
    status = Path(f"/proc/{worker['pid']}/status").read_text()
    assert "Cpus_allowed_list:\t1\n" in status


def test_mcrd_and_its_workers_go_before_ordinary_processes_where_they_may(plant: Plant, make_mcr: MakeMcr) -> None:
    """Unless they were given a priority."""
    own = os.getpriority(os.PRIO_PROCESS, 0)
    granted = own or int(plant.relay.run(["nice", "-n", "-10", "nice"]).stdout)  # 0 where it may not
    for prefix, expected in ((), granted), (("nice", "-n", "3"), own + 3):
        mcr = make_mcr(plant.relay, prefix=prefix).start()
        assert mcr.process
        pids = [mcr.process.pid, *(worker["pid"] for worker in mcr.workers())]
        assert [os.getpriority(os.PRIO_PROCESS, pid) for pid in pids] == [expected] * len(pids)
        mcr.stop()
