"""What configuration files say is taken back unless somebody confirms it, whatever becomes of mcrd meanwhile."""

import random
import re
import threading
import time
from contextlib import suppress
from pathlib import Path

from mcr.errors import McrError
from mcr_process import Mcr, Receiver, Sender, wait_until
from test_config import LATE, NEWS, SPORT, hang_up, names
from test_state import crash
from topology import MakeMcr, Plant

RULES = 200
TAKEN_BACK = "nobody confirmed what the configuration files say"


def trial(mcr: Mcr) -> str | None:
    """State of the one that there is."""
    found = mcr.call("config.diff")["trial"]
    return found and str(found["state"])


def doctor_says(mcr: Mcr) -> list[tuple[str, str]]:
    return [(each["verdict"], each["what"]) for each in mcr.call("doctor") if each["check"] == "config_trial"]


def warnings(mcr: Mcr) -> dict[str, list[str]]:
    return {rule["name"]: rule["warnings"] for rule in mcr.call("list")}


def test_what_nobody_confirms_is_taken_back_under_traffic(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    """A stream on a rule that stays loses nothing; files stay as they are; what is confirmed stays."""
    path = tmp_path / "mcr.toml"
    path.write_text(NEWS)
    mcr = make_mcr(plant.relay).start(1, "--config", str(path))
    wait_until(lambda: names(mcr)["news"][0] == "active", "the workers have it")
    assert mcr.ctl("confirm", check=False).stderr == "Error: No apply waits for confirmation\n"

    path.write_text(SPORT + NEWS)
    applied = mcr.ctl("config", "apply", "--confirm", "3600").stdout.splitlines()
    assert applied[0].startswith("+ ")
    assert re.fullmatch(r"What the files say is taken back in 3\d\d\d s, at 20.*Z. Keep it: mcrctl confirm", applied[1])
    assert names(mcr).keys() == {"news", "sport"}
    assert not warnings(mcr)["news"]
    assert "unless it is confirmed: mcrctl confirm" in warnings(mcr)["sport"][0]
    ((verdict, what),) = doctor_says(mcr)
    assert (verdict, what.split(" in ")[0]) == ("advice", "What the configuration files say is taken back")
    refused = mcr.ctl("config", "apply", check=False)
    assert (refused.returncode, "hint: keep it: mcrctl confirm\n" in refused.stderr) == (1, True)
    hang_up(mcr)
    assert mcr.says("the configuration files are not used: An apply waits for confirmation")

    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=2000)
    sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=2000, rate=500)
    wait_until(lambda: mcr.stats()["ingress"]["matched"], "it flows")
    mcr.ctl("config", "apply", "--confirm", "1")
    wait_until(lambda: names(mcr).keys() == {"news"}, "it is taken back")
    sender.finish()
    receiver.expect_everything()
    assert mcr.says(TAKEN_BACK)
    assert path.read_text() == SPORT + NEWS
    differs = mcr.ctl("config", "diff", check=False)
    assert (differs.returncode, differs.stdout.splitlines()[0][:2]) == (1, "+ ")
    assert "Nobody confirmed what the files say, so it was taken back at 20" in differs.stdout
    ((verdict, what),) = doctor_says(mcr)
    assert (verdict, what.split(":")[0]) == ("fault", "mcrd does not go by its configuration files")
    hang_up(mcr)
    assert mcr.says("the configuration files are not used: Nobody has confirmed what the configuration files say")
    reload = mcr.ctl("config", "apply", "--reload", check=False)
    assert (reload.returncode, reload.stderr.split(",")[0]) == (
        1,
        "Error: Nobody has confirmed what the configuration files say",
    )
    assert ({*names(mcr)}, trial(mcr)) == ({"news"}, "taken_back")

    mcr.ctl("config", "apply", "--confirm", "3600")
    assert mcr.ctl("confirm").stdout == "Confirmed: it is no longer taken back\n"
    assert ({*names(mcr)}, trial(mcr)) == ({"news", "sport"}, None)


def test_it_is_taken_back_after_a_crash_also(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    """And what was taken back does not come back by a restart, until the files are changed."""
    path = tmp_path / "mcr.toml"
    path.write_text(NEWS)
    options = (1, "--config", str(path))
    mcr = make_mcr(plant.relay).start(*options)
    path.write_text(SPORT)
    mcr.ctl("config", "apply", "--confirm", "3600")
    mcr.add("in0:239.1.1.1:5000", "239.2.2.7:6000:out0", rule_id="mine")  # as the rule of before
    crash(mcr)
    mcr.start(*options)
    assert {rule["name"] or rule["rule_id"] for rule in mcr.call("list")} == {"sport", "mine"}
    assert trial(mcr) == "waiting"
    mcr.ctl("config", "apply", "--confirm", "1")
    wait_until(lambda: names(mcr).keys() == {"news"}, "it is taken back")
    assert mcr.says("rule mine was added at run time, but is not used: rule")
    refused = mcr.ctl("remove", "--name", "news", check=False)
    assert "stands in the configuration files as they were before 20" in refused.stderr
    crash(mcr)
    mcr.start(*options)
    assert ({*names(mcr)}, trial(mcr)) == ({"news"}, "taken_back")

    mcr.ctl("config", "apply", "--confirm", "1")
    crash(mcr)
    time.sleep(1.0)  # what is waited for is the end of that second, with nobody to ask
    mcr.start(*options)
    assert ({*names(mcr)}, mcr.says(TAKEN_BACK)) == ({"news"}, True)
    crash(mcr)
    path.write_text(LATE)
    mcr.start(*options)
    assert {rule["name"] or rule["rule_id"] for rule in mcr.call("list")} == {"late", "mine"}
    assert trial(mcr) is None


def test_without_state_nothing_can_be_taken_back(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    path = tmp_path / "mcr.toml"
    path.write_text(NEWS)
    mcr = make_mcr(plant.relay).start(1, "--no-state", "--config", str(path))
    path.write_text(SPORT)
    refused = mcr.ctl("config", "apply", "--confirm", "100", check=False)
    assert (refused.returncode, refused.stderr.splitlines()[0]) == (
        1,
        "Error: mcrd keeps no state, so nothing could be taken back after a restart",
    )
    assert names(mcr).keys() == {"news"}


def many(base: int) -> str:
    """Rules for twenty ports of each of ten groups."""
    return "".join(
        f'[[rule]]\nname = "{base}-{number}"\n'
        f'input = {{ interface = "in0", group = "239.{base}.1.{number % 10}", port = {5000 + number // 10} }}\n'
        f'outputs = ["239.2.2.2:{6000 + number}:out0"]\n'
        for number in range(RULES)
    )


def try_to_apply(mcr: Mcr) -> None:
    with suppress(McrError):  # mcrd is killed
        mcr.call("config.apply", {"confirm": 3600})


def test_an_apply_that_is_interrupted_is_whole_or_not_there(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    """Eight times mcrd is killed while it exchanges hundreds of rules."""
    path = tmp_path / "mcr.toml"
    path.write_text(many(3))
    options = (1, "--config", str(path))
    mcr = make_mcr(plant.relay, on_disk=True).start(*options)
    dice = random.Random(14)
    path.write_text(many(4))
    begun = time.monotonic()
    try_to_apply(mcr)
    takes = time.monotonic() - begun
    for round_ in range(8):
        wanted = 3 + round_ % 2
        path.write_text(many(wanted))
        apply = threading.Thread(target=try_to_apply, args=(mcr,))
        apply.start()
        time.sleep(dice.uniform(0.0, 1.2 * takes))  # the moment is what is random
        crash(mcr)
        apply.join()
        mcr.start(*options)
        assert in_force(mcr) == (RULES, {str(wanted)})
    path.write_text(many(5))
    said = mcr.log().count(TAKEN_BACK)
    mcr.ctl("config", "apply", "--confirm", "1")
    wait_until(lambda: mcr.log().count(TAKEN_BACK) > said, "it is taken back")
    assert in_force(mcr) in ((RULES, {"3"}), (RULES, {"4"}))


def in_force(mcr: Mcr) -> tuple[int, set[str]]:
    """How many rules there are, and of which files."""
    found = [*names(mcr)]
    return len(found), {name.split("-")[0] for name in found}
