"""What programs import before they do anything: that is most of what a start costs."""

import subprocess
import sys

import pytest


def imported(what: str) -> set[str]:
    """Modules of a Python that has imported this, and nothing else."""
    command = [sys.executable, "-I", "-c", f"import sys, {what}; print(*sys.modules)"]
    return {*subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split()}


@pytest.mark.slow
def test_the_start_of_mcrd_waits_neither_for_netlink_nor_for_what_serves_metrics() -> None:
    """pyroute2, and asyncio with it, takes as long to import as everything else. Not every mcrd serves metrics."""
    modules = imported("mcr.cli.supervisor")
    assert "mcr.net.links" in modules
    assert not {"pyroute2", "asyncio"} & modules
    assert {each for each in modules if each.startswith("mcr.metrics.")} == {"mcr.metrics.service"}
    assert "h11" not in modules


def test_a_worker_imports_what_it_runs() -> None:
    """Each of them, and the standby process, is another Python. What trio-parallel adds is its own business."""
    modules = imported("mcr.cli.mcrd, mcr.worker.main")
    ours = {"mcr", "mcr.cli", "mcr.errors", "mcr.process", "mcr.worker"}
    ours |= {"mcr.cli.mcrd", "mcr.process.signals", "mcr.process.streams", "mcr.worker.main"}
    assert {each for each in modules if each.startswith("mcr") and "_native" not in each} == ours
    assert not {"trio", "attr", "multiprocessing", "logging", "pathlib", "json", "subprocess", "asyncio"} & modules


def test_a_plain_request_imports_no_more_than_it_takes_to_ask() -> None:
    """`mcrctl ping` of somebody whose machine is in trouble. click alone takes longer than all that is left."""
    modules = imported("socket, json; from mcr.cli import requests; requests.chosen(['ping'])")
    ours = {"mcr.config.paths", "mcr.errors", "mcr.process.accounts", "mcr.process.streams", "mcr.text.visible"}
    ours |= {f"mcr.cli.{each}" for each in ("client", "failure", "requests", "session", "terminal")}
    packages = {"mcr", "mcr.cli", "mcr.config", "mcr.process", "mcr.text"}
    assert {each for each in modules if each.startswith("mcr")} == ours | packages
    assert not {"click", "attr", "cattrs", "rich", "trio", "inspect", "copy", "shlex", "pathlib", "ipaddress"} & modules


def test_what_click_reads_imports_neither_attrs_nor_rich() -> None:
    """Of the other commands only the one that is called."""
    modules = imported("mcr.cli.mcrctl")
    assert "click" in modules
    others = {f"mcr.cli.{each}" for each in ("batch", "config", "findings", "report", "rule_changes", "rule_words")}
    slow = {"trio", "attr", "cattrs", "rich", "mcr.model", "mcr.control.wire", "logging", "asyncio"}
    assert not (others | slow | {"ipaddress", "pathlib"}) & modules
