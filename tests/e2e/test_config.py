"""Rules and settings of configuration files: at the start, read again under traffic, and with faults in them."""

import json
import signal
import subprocess
from pathlib import Path

from mcr_process import Mcr, Receiver, Sender, wait_until, words_for_group
from topology import MakeMcr, Plant

NEWS = """\
[[rule]]
name = "news"
input = { interface = "in0", group = "239.1.1.1", port = 5000 }
outputs = ["239.2.2.2:6000:out0"]
"""
SPORT = """\
[[rule]]
name = "sport"
input = { interface = "in0", group = "239.1.1.2", port = 5000 }
outputs = ["239.2.2.3:6000:out1"]
"""
LATE = """\
[[rule]]
name = "late"
input = { interface = "late0", group = "239.1.1.3", port = 5000 }
outputs = ["239.2.2.4:6000:out1"]
"""


def names(mcr: Mcr) -> dict[str, tuple[str, str]]:
    """State and origin of each rule."""
    return {rule["name"]: (rule["state"], rule["origin"]) for rule in mcr.call("list")}


def hang_up(mcr: Mcr) -> None:
    assert mcr.process
    mcr.process.send_signal(signal.SIGHUP)


def stop(mcr: Mcr) -> None:
    assert mcr.process
    mcr.process.send_signal(signal.SIGTERM)
    assert mcr.process.wait() == 0


def forwarded(plant: Plant, flow: str, output: str) -> None:
    receiver = Receiver(plant.receiver, f"{output}={flow}", count=200)
    Sender(plant.source, "src0", flow, count=200, rate=5000).finish()
    receiver.expect_everything()


def test_rules_of_files_are_in_force_from_the_start(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    """A missing interface keeps no other rule off the air; settings of the file count; nothing of it is saved."""
    (tmp_path / "mcr.toml").write_text('[settings]\nlog_level = "debug"\nmax_hold_us = 7\n' + NEWS)
    (tmp_path / "rules.d").mkdir()
    (tmp_path / "rules.d" / "late.toml").write_text(LATE)
    files = ("--config", str(tmp_path / "mcr.toml"), "--config", str(tmp_path / "rules.d"))
    mcr = make_mcr(plant.relay).start(1, *files)
    wait_until(lambda: names(mcr)["news"][0] == "active", "the workers have it")
    assert names(mcr) == {"news": ("active", "file"), "late": ("waiting", "file")}
    forwarded(plant, "239.1.1.1:5000", "239.2.2.2:6000@rx0")
    shown = {each["name"]: (each["value"], each["source"]) for each in mcr.call("settings")}
    assert shown["MCR_MAX_HOLD_US"] == ("7", "file")
    assert shown["--log-level"] == ("debug", "file")
    assert shown["--num-workers"] == ("1", "command line")
    refused = mcr.ctl("remove", "--name", "news", check=False)
    assert f"stands in {tmp_path}/mcr.toml:4" in refused.stderr
    assert refused.returncode == 1
    mcr.add("in0:239.1.1.9:5000", "239.2.2.9:6000:out0", rule_id="mine")
    exported = mcr.ctl("config", "export").stdout
    stop(mcr)
    mcr.start()
    assert [(rule["rule_id"], rule["origin"]) for rule in mcr.call("list")] == [("mine", "runtime")]
    stop(mcr)
    (tmp_path / "exported.toml").write_text(exported)
    mcr.start(1, "--config", str(tmp_path / "exported.toml"))
    assert mcr.ctl("config", "export").stdout == exported
    assert {origin for _, origin in names(mcr).values()} == {"file"}
    assert "rule mine is saved in" in mcr.log()


def test_a_fault_in_a_file_keeps_mcrd_from_starting(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    path = tmp_path / "mcr.toml"
    path.write_text("[settings]\nnum_worker = 1\n" + NEWS.replace("5000", "70000"))
    mcr = make_mcr(plant.relay)
    assert mcr.launch("--config", str(path)).wait() == 2
    log = mcr.log()
    assert f"{path}:2: Unknown key 'num_worker' in settings\nhint: did you mean num_workers?\n" in log
    assert f"{path}:5: Invalid input port: 70000 is not a port\n" in log
    assert "Error: 2 faults in the configuration" in log
    path.unlink()
    assert mcr.launch("--config", str(path)).wait() == 2
    assert f"{path}: No such file or directory (os error 2)\n" in mcr.log()


def test_files_are_read_again_under_traffic(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    """A stream on a rule that stays loses nothing, and its counters go on, whatever becomes of the others."""
    path = tmp_path / "mcr.toml"
    path.write_text(NEWS + LATE)
    mcr = make_mcr(plant.relay).start(1, "--config", str(path))
    wait_until(lambda: names(mcr)["news"][0] == "active", "the workers have it")
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=10_000)
    sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=10_000, rate=5000)
    wait_until(lambda: mcr.stats()["ingress"]["matched"], "it flows")
    for round_ in range(10):
        path.write_text(SPORT + NEWS if round_ % 2 == 0 else LATE + NEWS)
        expected = {"news", "sport" if round_ % 2 == 0 else "late"}
        hang_up(mcr)
        wait_until(lambda: names(mcr).keys() == expected, "the rules are those of the file")  # noqa: B023 - at once
    path.write_text(NEWS + SPORT)
    mcr.ctl("config", "apply")
    path.write_text(NEWS + SPORT.replace('out1"]', 'out1", "239.2.2.5:6000:out1"]'))
    assert "    + 239.2.2.5:6000:out1\n" in mcr.ctl("config", "apply").stdout
    sender.finish()
    receiver.expect_everything()
    forwarded(plant, "239.1.1.2:5000", "239.2.2.5:6000@rx1")
    assert sorted(rule["matched"] for rule in mcr.stats()["rules"]) == [200, 10_000]


def test_a_fault_that_is_read_again_changes_nothing(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    path = tmp_path / "mcr.toml"
    path.write_text(NEWS)
    mcr = make_mcr(plant.relay).start(1, "--config", str(path))
    path.write_text(SPORT + "output = 5\n")
    hang_up(mcr)
    wait_until(lambda: "1 fault in the configuration: nothing is changed" in mcr.log(), "it is logged")
    assert f"{path}:5: Unknown key 'output' in a rule" in mcr.log()
    assert names(mcr).keys() == {"news"}
    (finding,) = (each for each in mcr.call("doctor") if each["check"] == "config_files")
    assert (finding["verdict"], finding["evidence"]) == ("fault", f"{path}:5: Unknown key 'output' in a rule")
    applied = mcr.ctl("config", "apply", check=False)
    assert (applied.returncode, applied.stderr) == (2, "Error: 1 fault in the configuration\n")
    assert f"{path}:5: Unknown key 'output'" in applied.stdout
    path.write_text(SPORT)
    mcr.ctl("config", "apply")
    assert names(mcr).keys() == {"sport"}
    (finding,) = (each for each in mcr.call("doctor") if each["check"] == "config_files")
    assert (finding["verdict"], finding["evidence"]) == ("ok", f"mcrctl settings: --config: {path}")


def test_differences_are_told_by_exit_status(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    path, other = tmp_path / "mcr.toml", tmp_path / "other.toml"
    path.write_text(NEWS)
    mcr = make_mcr(plant.relay).start(1, "--config", str(path))

    def diff(*words: str) -> subprocess.CompletedProcess[str]:
        return mcr.ctl("config", *words, check=False)

    assert diff("diff").returncode == diff("apply", "--dry-run").returncode == diff("diff", str(path)).returncode == 0
    other.write_text(NEWS.replace("6000", "6001") + SPORT)
    told = diff("diff", str(other))
    assert (told.returncode, told.stdout.splitlines()[1:3]) == (
        1,
        ["    - 239.2.2.2:6000:out0", "    + 239.2.2.2:6001:out0"],
    )
    path.write_text(other.read_text())
    assert diff("apply", "--dry-run").stdout == diff("diff").stdout == told.stdout
    changes = json.loads(diff("diff", "--json").stdout)["differences"]
    assert [each["change"] for each in changes] == ["changed", "added"]
    assert names(mcr).keys() == {"news"}
    other.write_text("[[rule]")
    assert diff("diff", str(other)).returncode == 2


def test_a_saved_rule_gives_way_to_a_files_and_comes_back(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    path = tmp_path / "mcr.toml"
    path.write_text("")
    mcr = make_mcr(plant.relay).start(1, "--config", str(path))
    mcr.add("in0:239.1.1.1:5000", "239.2.2.7:6000:out0", rule_id="mine")
    path.write_text(NEWS)
    mcr.ctl("config", "apply")
    assert names(mcr) == {"news": ("active", "file")}
    unused, where = "rule mine was added at run time, but is not used: rule ", f"stands in {path}:1"
    wait_until(lambda: unused in mcr.log() and where in mcr.log(), "it is logged")
    refused = mcr.ctl("add", *words_for_group("239.1.1.1"), check=False)
    assert f"stands in {path}:1" in refused.stderr
    path.write_text("")
    mcr.ctl("config", "apply")
    assert [rule["rule_id"] for rule in mcr.call("list")] == ["mine"]
    forwarded(plant, "239.1.1.1:5000", "239.2.2.7:6000@rx0")
