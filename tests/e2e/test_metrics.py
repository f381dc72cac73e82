"""Metrics of a real mcrd under real traffic, as a scraper gets them."""

import os
import signal
import socket
import sys
import threading
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from exposition import Samples, needs_promtool, promtool, samples, sums, total, value
from lab import Lab
from mcr.cli.client import Client
from mcr.metrics.exposition import Format
from mcr_process import SLOWNESS, Receiver, Sender, wait_until
from moments import main_thread, timed
from successors import take_over
from topology import MakeMcr, Plant

FLOW = "239.1.1.1:5000"
ODD = '50% "news" \\ ☃ {a}'


def scrape(path: Path, target: str, chosen: Format = Format.OPEN_METRICS) -> tuple[int, str]:
    """Status and body of a page, from a unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(f"GET {target} HTTP/1.0\r\nAccept: {chosen.value}\r\n\r\n".encode())
        received = b"".join(iter(lambda: client.recv(1 << 20), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


def read(path: Path) -> Samples:
    """Both pages."""
    both: Samples = {}
    for target in ("/metrics", "/metrics/rules"):
        status, body = scrape(path, target)
        assert status == 200
        both |= samples(body, Format.OPEN_METRICS)
    return both


def counters(found: Samples) -> Samples:
    return {key: each for key, each in found.items() if key[0].endswith("_total")}


def gone_back(before: Samples, now: Samples) -> set[str]:
    """Counters that are less than they were, or no longer there."""
    return {key[0] for key, each in counters(before).items() if now.get(key, -1) < each}


def check_identities(found: Samples, stats: dict[str, Any]) -> None:
    """Exactly what mcrctl stats says, and it adds up."""
    ingress, egress = stats["ingress"], stats["egress"]
    results = sums(found, "mcr_ingress_packets_total", "result")
    assert results == {(name,): ingress[name] for name in ("matched", "parse_err", "no_match", "buf_exhaust")}
    assert results.total() == ingress["recv"]
    assert total(found, "mcr_ingress_kernel_drops_total") == ingress["kernel_drops"]
    assert total(found, "mcr_ingress_parse_errors_total") == ingress["parse_err"]
    owed = value(found, "mcr_egress_submitted_total")
    assert owed == total(found, "mcr_egress_packets_total") == egress["submitted"]
    assert total(found, "mcr_egress_errors_total") == egress["errors"]
    for name, of_workers in (("mcr_worker_packets_total", "recv"), ("mcr_worker_output_packets_total", "submitted")):
        assert total(found, name) == sum(worker[of_workers] for worker in stats["workers"])
    for rule in stats["rules"]:
        matched = value(found, "mcr_rule_packets_total", rule=rule["rule_id"])
        assert matched == rule["matched"]
        for output in rule["outputs"]:
            labels = {"rule": rule["rule_id"], "output": f"{output['group']}:{output['port']}:{output['interface']}"}
            assert total(found, "mcr_output_packets_total", **labels) == output["submitted"] == matched
            assert value(found, "mcr_output_packets_total", **labels, result="error") == output["errors"]
            assert total(found, "mcr_output_errors_total", **labels) == output["errors"]
            assert value(found, "mcr_output_bytes_total", **labels) == output["bytes"]


@needs_promtool
def test_counters_are_exact_and_never_go_back(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    """Under traffic a worker dies, an output goes down, and another mcrd takes over."""
    path, rule = tmp_path / "metrics.sock", "x%d"
    options = ("--metrics", f"unix:{path}")
    mcr = make_mcr(plant.relay).start(2, *options)
    mcr.add(f"in0:{FLOW}", "239.2.2.2:6000:out0", "239.2.2.3:6000:out1", rule_id=rule)
    mcr.ctl("change", "--rule-id", rule, "--new-name", ODD)
    before = read(path)
    for step in range(3):
        receiver = Receiver(plant.receiver, f"239.2.2.2:6000@rx0={FLOW}", count=1000)
        Sender(plant.source, "src0", FLOW, "239.7.7.7:7000", count=1000, rate=5_000).finish()
        receiver.expect_everything()
        mcr.check_counters(arrived=(step + 1) * 2000)
        now = read(path)
        assert not gone_back(before, now)
        check_identities(now, mcr.stats())
        before = now
        match step:
            case 0:
                os.kill(mcr.worker_pids()[0], signal.SIGKILL)
                wait_until(lambda: sum(worker["restarts"] for worker in mcr.workers()) == 1, "it is replaced")
                mcr.wait_for_workers()
                plant.relay.run(["ip", "link", "set", "out1", "down"])
                wait_until(lambda: mcr.call("list")[0]["state"] == "degraded", "an output is down")
            case 1:
                take_over(mcr, *options)
                before = read(path)
                assert gone_back(now, before) == {"mcr_worker_restarts_total"}
    assert value(before, "mcr_ingress_packets_total", interface="in0", result="no_match") == 3000
    assert total(before, "mcr_output_errors_total", rule=rule, error="send") == 2000
    assert value(before, "mcr_rule_state", rule=rule, state="degraded") == 1
    info = {"name": ODD, "interface": "in0", "group": "239.1.1.1", "port": 5000}
    assert value(before, "mcr_rule_info", rule=rule, **info) == 1
    for target in ("/metrics", "/metrics/rules"):
        assert promtool("check", "metrics", given=scrape(path, target, Format.PROMETHEUS)[1]) == ""
    assert scrape(path, "/healthz?rules=active") == (
        503,
        f"rule {rule} ({ODD}) is degraded: 1 of 2 outputs: out1 is down\n",
    )
    assert scrape(path, "/healthz") == (200, "ok\n")
    mcr.stop()
    assert not path.exists()


REFUSED = {
    "127.0.0.1:9464": ("Address already in use (os error 98)", "ss -ltnp 'sport = :9464'"),
    "192.0.2.1:9464": ("Cannot assign requested address (os error 99)", "ip address show"),
    "unix:{directory}/none/none/x.sock": ("No such file or directory (os error 2)", "sudo mkdir -p "),
    "unix:{directory}/file": ("Address already in use (os error 98)", "is not a socket"),
    "9464": ("Invalid --metrics: '9464'", "ADDR:PORT, such as 127.0.0.1:9464"),
}
"""Where metrics can't be served: the error, and its remedy."""


def test_where_metrics_cannot_be_served_mcrd_says_why(lab: Lab, make_mcr: MakeMcr, tmp_path: Path) -> None:
    """And what to do; it does not start, and leaves nothing behind."""
    (tmp_path / "file").touch()
    relay = lab.namespace("relay")
    relay.run(["ip", "link", "set", "lo", "up"])
    with relay.entered():
        holder = socket.create_server(("127.0.0.1", 9464))
    with holder:
        for number, (endpoint, (error, remedy)) in enumerate(REFUSED.items()):
            mcr = make_mcr(relay, f"mcr-{number}")
            assert mcr.launch("--no-state", "--metrics", endpoint.format(directory=tmp_path)).wait(60) != 0
            (said,) = (line for line in mcr.log().splitlines() if line.startswith("Error: "))
            assert error in said
            assert remedy in mcr.log()
            assert not mcr.socket.exists()


def test_a_port_is_served_and_taken_over(plant: Plant, make_mcr: MakeMcr) -> None:
    """On an address that others reach mcrd warns; a scraper beside the relay reads it, before and after.

    Who could not serve them does not take over.
    """
    options = ("--metrics", "198.18.1.1:9464")
    mcr = make_mcr(plant.relay).start(1, *options)
    assert mcr.says("warning [control] whoever reaches 198.18.1.1:9464 can read rules, addresses and counters")
    fetch = "import urllib.request as r; print(r.urlopen('http://198.18.1.1:9464/healthz', timeout=20).read())"
    for _ in range(2):
        assert plant.receiver.run([sys.executable, "-c", fetch]).stdout == "b'ok\\n'\n"
        take_over(mcr, *options)
    other = make_mcr(plant.relay, "other")
    other.socket, other.state = mcr.socket, mcr.state
    assert other.launch("--take-over", "--metrics", "192.0.2.1:9464").wait(60) == 1
    assert "Error: Failed to bind to 192.0.2.1:9464: " in other.log()
    assert mcr.running


# What it costs

RULES, SCRAPES = 4_000, 6
SAMPLES = 15  # of a rule with three outputs


def a_line_each() -> float:
    """Seconds of processor that this machine takes to write as many lines as a page has samples."""
    before = time.process_time()
    "".join(
        f'mcr_output_packets_total{{rule="{number:012x}",result="sent"}} {number}\n'
        for number in range(RULES * SAMPLES)
    )
    return time.process_time() - before


@pytest.mark.alone
def test_many_rules_are_cheap_to_scrape_and_hold_nobody_up(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    """4,000 rules with three outputs each: at most four times what writing so many lines takes, and nobody else waits.

    A ratio, as the same build takes 81 to 160 ms on one machine within minutes.
    """
    path = tmp_path / "metrics.sock"
    mcr = make_mcr(plant.relay, executes_workers=False).start(1, "--metrics", f"unix:{path}")
    assert mcr.process is not None
    input_group, output_group = (int(ip_address(first)) for first in ("239.1.0.0", "239.101.0.0"))
    rules = [
        {
            "input": {"interface": "in0", "group": str(ip_address(input_group + number)), "port": 5000},
            "outputs": [
                {"group": str(ip_address(output_group + number)), "port": 6000, "interface": f"out{i}"}
                for i in range(3)
            ],
        }
        for number in range(RULES)
    ]
    mcr.call("add", {"rules": rules})
    wait_until(lambda: scrape(path, "/healthz?rules=active")[0] == 200, "all rules are active", 60)
    assert scrape(path, "/metrics/rules")[1].count("\nmcr_output_packets_total{") == 2 * 3 * RULES  # makes the text
    answered: list[float] = []
    done = threading.Event()

    def ask() -> None:
        with Client(str(mcr.socket), "the caller") as client:
            while not done.wait(0.01):
                answered.append(timed(lambda: client.call("ping"), main_thread(mcr)))

    def spent() -> float:
        assert mcr.process is not None
        ticks = Path(f"/proc/{mcr.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    asker = threading.Thread(target=ask)
    asker.start()
    before = spent()
    lines = 0.0  # by turns, as the machine is faster at one moment than at another
    for _ in range(SCRAPES):
        assert scrape(path, "/metrics/rules")[0] == 200
        lines += a_line_each() / SCRAPES
    cost = (spent() - before) / SCRAPES
    done.set()
    asker.join()
    print(
        f"{1000 * cost:.0f} ms a scrape, {cost / lines:.1f} times {1000 * lines:.0f} ms for its lines, "
        f"slowest answer {1000 * max(answered):.0f} ms of {len(answered)}"
    )
    assert cost < 4 * lines
    assert max(answered) < 0.05 * SLOWNESS
