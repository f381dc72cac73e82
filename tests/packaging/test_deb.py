"""The Debian package on a machine with systemd: installed, used, broken, removed."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from machine import KERNEL_PATH_IS_FOR_THE_SERVICE, Machine

import mcr
from lab import Lab, Namespace
from mcr_process import IS_ROOT, Receiver, Sender, wait_until

ROOT = Path(__file__).parents[2]
CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF = 1 << 12, 1 << 13, 1 << 39
SCRAPE = (
    *("python3", "-c"),
    (
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/mcr/metrics.sock'); "
        "s.sendall(b'GET /metrics HTTP/1.0\\r\\n\\r\\n'); print(s.makefile().read())"
    ),
)
FORWARDED, UNSEEN = ("kernel", ""), ("worker", "legacy iptables cannot be seen")
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapAmb")

pytestmark = [
    pytest.mark.skipif(not IS_ROOT, reason="takes root outside of any user namespace"),
    pytest.mark.skipif(shutil.which("dpkg") is None, reason="is for Debian: there is no dpkg"),
]


@attrs.frozen
class Site:
    """source src0 ── in0 machine out0 ── rx0 receiver."""

    machine: Machine
    source: Namespace
    receiver: Namespace

    def ctl(self, *words: str) -> Any:
        """What mcrctl answers on the machine."""
        return json.loads(self.machine.ask("mcrctl", *words, "--json"))

    def doctor(self) -> str:
        """What mcrctl doctor says, whatever it finds."""
        return self.machine.run("mcrctl", "doctor", "--json", check=False).stdout

    def main_pid(self) -> str:
        return self.machine.service("MainPID")

    def wait_for_workers(self) -> list[str]:
        """Process ids of the workers, once all run."""
        wait_until(lambda: {each["state"] for each in self.ctl("list-workers")} == {"running"}, "all workers run")
        return [str(each["pid"]) for each in self.ctl("list-workers")]

    def status(self, pid: str) -> dict[str, str]:
        """/proc/PID/status of a process of the machine."""
        lines = self.machine.ask("cat", f"/proc/{pid}/status").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def restart_after(self, *command: str) -> None:
        """Do something to the daemon, and wait until systemd has started another one that answers."""
        before = self.main_pid()
        self.machine.run(*command, before)
        wait_until(lambda: self.main_pid() not in ("0", before), "another one has started")
        wait_until(lambda: self.machine.service("ActiveState") == "active", "it is ready")
        assert self.ctl("ping")["pong"]

    def path_of(self, rule_id: str) -> tuple[str, str]:
        """Who forwards by a rule, and why not the kernel."""
        (rule,) = [each for each in self.ctl("list") if each["rule_id"] == rule_id]
        return rule["path"], rule["path_reason"]

    def relay_something(self, group: str = "239.1.1.1") -> None:
        """A rule is added, packets go through, the rule is removed."""
        (rule,) = self.ctl(
            *("add", "--input-interface", "in0", "--input-group", group, "--input-port", "5000"),
            *("--outputs", "239.2.2.2:6000:out0"),
        )
        assert rule["state"] == "active"
        receiver = Receiver(self.receiver, f"239.2.2.2:6000@rx0={group}:5000", count=2000)
        Sender(self.source, "src0", f"{group}:5000", count=2000, rate=10_000).finish()
        receiver.expect_everything()
        stats = self.ctl("stats")
        assert [each["sent"] for each in stats["rules"]] == [2000]
        self.ctl("remove", "--rule-id", rule["rule_id"])


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose machine nothing is installed on yet, but the package lies there as /mcr.deb."""
    packages = list((ROOT / "dist").glob("mcr_*.deb"))
    assert len(packages) == 1, "make deb makes the package"
    with Lab() as lab:
        source, relay, receiver = (lab.namespace(name) for name in ("source", "relay", "receiver"))
        lab.link(source, "src0", relay, "in0", a_address="198.18.0.1/24", b_address="198.18.0.2/24")
        lab.link(relay, "out0", receiver, "rx0", a_address="198.18.1.1/24", b_address="198.18.1.2/24")
        machine = Machine(relay, tmp_path_factory.mktemp("machine"))
        try:
            machine.path("/mcr.deb").write_bytes(packages[0].read_bytes())
            yield Site(machine, source, receiver)
        finally:
            machine.end()


def test_unit_by_hand_as_the_guide_says(bare: Site) -> None:
    """Without the package's user: cp, daemon-reload, start; systemd makes the user for as long as the service runs."""
    machine = bare.machine
    machine.run("dpkg", "--extract", "/mcr.deb", "/unpacked")
    machine.run("cp", "-a", "/unpacked/usr/lib/mcr", "/usr/lib/")
    machine.run("cp", "-a", "/unpacked/usr/bin/.", "/usr/bin/")
    try:
        assert machine.run("id", "mcr", check=False).returncode != 0
        machine.run("cp", "/unpacked/usr/lib/systemd/system/mcrd.service", "/etc/systemd/system/")
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "start", "mcrd")
        assert bare.ctl("ping")["pong"]
        assert machine.ask("ps", "-o", "user=", "-p", bare.main_pid()) == "mcr"
        bare.relay_something()
        machine.run("systemctl", "stop", "mcrd")
    finally:
        machine.run("rm", "-r", "/unpacked", "/usr/lib/mcr", "/etc/systemd/system/mcrd.service")
        machine.run("rm", "/usr/bin/mcrd", "/usr/bin/mcrctl")
        machine.run("systemctl", "daemon-reload")


@pytest.fixture(scope="module")
def site(bare: Site) -> Site:
    """The package is installed."""
    bare.machine.run("dpkg", "--install", "/mcr.deb")
    return bare


def test_installing_enables_and_starts_the_service(site: Site) -> None:
    machine = site.machine
    assert machine.ask("systemctl", "is-active", "mcrd") == "active"
    assert machine.ask("systemctl", "is-enabled", "mcrd") == "enabled"
    assert machine.ask("stat", "-c", "%U:%G %a", "/run/mcr", "/run/mcr/control.sock") == "mcr:mcr 750\nmcr:mcr 660"
    assert machine.ask("mcrctl", "--version") == f"mcrctl, version {mcr.__version__}"
    assert machine.ask("dpkg", "--verify", "mcr") == ""
    for limit in ("rmem_max", "wmem_max"):
        assert machine.ask("cat", f"/proc/sys/net/core/{limit}") == "16777216"


def test_documents_are_there_with_all_that_they_link_to(site: Site) -> None:
    folder = site.machine.path("/usr/share/doc/mcr")
    links = {
        document.parent / link
        for document in folder.rglob("*.md")
        for link in re.findall(r"\]\(([^)#:\s]+)", document.read_text())
    }
    assert folder / "configuration.md" in links
    assert [str(each) for each in links if not each.exists()] == []


def test_manual_and_completion_are_where_programs_look_for_them(site: Site) -> None:
    listed = site.machine.ask("dpkg-deb", "--contents", "/mcr.deb")
    for path in (
        *("man/man8/mcrd.8.gz", "man/man1/mcrctl.1.gz", "doc/mcr/troubleshooting.md"),
        *(f"bash-completion/completions/{name}" for name in ("mcrd", "mcrctl")),
        *(f"zsh/vendor-completions/_{name}" for name in ("mcrd", "mcrctl")),
        *(f"fish/vendor_completions.d/{name}.fish" for name in ("mcrd", "mcrctl")),
    ):
        assert f" ./usr/share/{path}\n" in listed
    site.ctl("add", "--input-interface", "in0", "--input-group", "239.9.9.9", "--input-port", "5", "--rule-id", "tab",
             "--outputs", "239.9.9.8:5:out0")  # fmt: skip
    ask = "COMP_WORDS=(mcrctl why t) COMP_CWORD=2; _mcrctl_completion mcrctl t why; echo $COMPREPLY"
    script = f"source /usr/share/bash-completion/completions/mcrctl; {ask}"
    assert site.machine.ask("bash", "-c", script) == "tab"
    site.ctl("remove", "--rule-id", "tab")


def test_packets_are_relayed_by_the_service(site: Site) -> None:
    workers = site.wait_for_workers()
    site.relay_something()
    assert site.wait_for_workers() == workers
    assert {each["io"] for each in site.ctl("list-workers")} == {"io_uring"}


def test_daemon_has_three_capabilities_and_workers_have_none(site: Site) -> None:
    main = site.status(site.main_pid())
    assert {int(main[name], 16) for name in (*CAPABILITIES, "CapBnd")} == {CAP_NET_ADMIN | CAP_NET_RAW | CAP_BPF}
    assert (main["NoNewPrivs"], main["Seccomp"]) == ("1", "2")
    for pid in site.wait_for_workers():
        worker = site.status(pid)
        assert {int(worker[name], 16) for name in CAPABILITIES} == {0}
        assert worker["Uid"] == main["Uid"]
        assert (worker["NoNewPrivs"], worker["Seccomp"]) == ("1", "2")


def test_daemon_and_workers_go_before_ordinary_processes(site: Site) -> None:
    expect_priority(site)
    if Path("/proc/self/autogroup").exists():  # the kernel weighs sessions
        for pid in (site.main_pid(), *site.wait_for_workers()):
            assert site.machine.ask("cat", f"/proc/{pid}/autogroup").endswith(" nice -10")


def expect_priority(site: Site) -> None:
    for pid in (site.main_pid(), *site.wait_for_workers()):
        assert site.machine.ask("ps", "-o", "ni=", "-p", pid).strip() == "-10"


def test_kernel_filters_by_ebpf(site: Site) -> None:
    """CAP_BPF is enough for it."""
    words = ("--input-interface", "in0", "--input-group", "239.1.1.9", "--input-port", "5000")
    (rule,) = site.ctl("add", *words, "--outputs", "239.2.2.2:6000:out0")
    assert "bpf-map" in site.machine.descriptors()
    site.ctl("remove", "--rule-id", rule["rule_id"])


def test_who_may_look_and_who_may_change(site: Site) -> None:
    machine = site.machine
    for name, groups in (("alice", ""), ("bob", "mcr"), ("carol", "mcr,mcr-admin")):
        machine.run("useradd", "--no-create-home", "--groups", groups, name)

    def status(user: str, *words: str) -> int:
        return machine.run("runuser", "-u", user, "--", "mcrctl", *words, check=False).returncode

    change = ("log-level", "set", "--global", "info")
    assert [status(user, "list") for user in ("alice", "bob", "carol")] == [1, 0, 0]
    assert [status(user, *change) for user in ("alice", "bob", "carol")] == [1, 1, 0]
    scraped = [machine.run("runuser", "-u", user, "--", *SCRAPE, check=False).stdout for user in ("alice", "bob")]
    assert [page[:12] for page in scraped] == ["", "HTTP/1.1 200"]
    assert 'mcr_worker_state{worker="0",state="running"} 1' in scraped[1]


def test_what_is_for_prometheus_and_grafana_is_there(site: Site) -> None:
    shipped = [path for path in site.machine.path("/usr/share/mcr").rglob("*.*") if path.is_file()]
    assert {path.name for path in shipped} == {"mcr.rules.yml", "scrape.yml", "mcr.json"}
    assert all((ROOT / "packaging" / path.parent.name / path.name).read_text() == path.read_text() for path in shipped)


def test_reload_keeps_the_daemon_and_sets_log_levels_back(site: Site) -> None:
    before = site.main_pid(), site.wait_for_workers()
    site.ctl("log-level", "set", "--global", "debug")
    site.machine.run("systemctl", "reload", "mcrd")
    wait_until(lambda: set(site.ctl("log-level", "get").values()) == {"info"}, "levels are those of the start")
    assert site.machine.service("ActiveState") == "active"
    assert (site.main_pid(), site.wait_for_workers()) == before


def test_journal_has_priorities(site: Site) -> None:
    lines = site.machine.ask("journalctl", "-u", "mcrd", "-o", "json", f"_PID={site.main_pid()}").splitlines()
    ready = [each for each in map(json.loads, lines) if " is ready: " in each["MESSAGE"]]
    assert [each["PRIORITY"] for each in ready] == ["5"]  # notice
    assert not any(each["MESSAGE"].startswith("<") for each in ready)


def test_default_file_sets_variables(site: Site) -> None:
    file = site.machine.path("/etc/default/mcrd")
    shipped = file.read_text()
    try:
        file.write_text(shipped.replace("#MCR_MAX_HOLD_US=50", "MCR_MAX_HOLD_US=20"))
        site.machine.run("systemctl", "restart", "mcrd")
        (hold,) = [each for each in site.ctl("settings") if each["name"] == "MCR_MAX_HOLD_US"]
        assert (hold["value"], hold["source"]) == ("20", "environment")
    finally:
        file.write_text(shipped)


def test_setting_that_cannot_be_used_is_no_endless_restart(site: Site) -> None:
    file = site.machine.path("/etc/default/mcrd")
    shipped = file.read_text()
    try:
        file.write_text("MCR_MAX_HOLD_US=never\n")
        assert site.machine.run("systemctl", "restart", "mcrd", check=False).returncode != 0
        assert site.machine.service("ActiveState") == "failed"
        assert "Invalid MCR_MAX_HOLD_US: 'never'" in site.machine.ask("journalctl", "-u", "mcrd", "-n", "20")
    finally:
        file.write_text(shipped)
    site.machine.run("systemctl", "restart", "mcrd")


@contextmanager
def drop_in(machine: Machine) -> Iterator[Callable[..., None]]:
    """Yield what gives the service these lines, too, as systemctl edit does, in place of others; and restarts it."""
    folder = machine.path("/etc/systemd/system/mcrd.service.d")
    folder.mkdir()

    def edit(*lines: str) -> None:
        (folder / "override.conf").write_text("\n".join(("[Service]", *lines, "")))
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "restart", "mcrd")

    try:
        yield edit
    finally:
        machine.run("rm", "-r", "/etc/systemd/system/mcrd.service.d")
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "restart", "mcrd")


def test_the_service_forwards_in_the_kernel_and_a_drop_in_takes_the_right_away(site: Site) -> None:
    """As the unit's comment says it."""
    rule = ("--input-interface", "in0", "--input-group", "239.1.1.4", "--input-port", "5000", "--rule-id", "in-kernel")
    site.ctl("add", *rule, "--outputs", "239.2.2.2:6000:out0")
    wait_until(lambda: "bpf_link" in site.machine.descriptors(), "a program runs at in0")
    if KERNEL_PATH_IS_FOR_THE_SERVICE:
        wait_until(lambda: site.path_of("in-kernel") in (FORWARDED, UNSEEN), "the programs are loaded")
    with drop_in(site.machine) as edit:
        if site.path_of("in-kernel") == UNSEEN:  # as docs/installation.md has it
            edit("SupplementaryGroups=root")
            wait_until(lambda: site.path_of("in-kernel") == FORWARDED, "the kernel forwards")
        edit("AmbientCapabilities=~CAP_NET_ADMIN", "CapabilityBoundingSet=~CAP_NET_ADMIN")
        assert int(site.status(site.main_pid())["CapEff"], 16) == CAP_NET_RAW | CAP_BPF
        site.wait_for_workers()
        assert site.path_of("in-kernel")[0] == "worker"
        site.ctl("remove", "--rule-id", "in-kernel")
        site.relay_something("239.1.1.3")


def test_drop_in_sets_variables_and_processors(site: Site) -> None:
    """As the guide has it; also a slice, and another place for saved rules, as docs/installation.md has them."""
    machine = site.machine
    machine.run("install", "-d", "-o", "mcr", "-g", "mcr", "-m", "0700", "/srv/mcr")
    machine.run("systemctl", "set-property", "mcr.slice", "CPUWeight=1000")
    variables = ('Environment="MCR_BUFFER_POOL_SMALL=2000"', 'Environment="MCR_BUFFER_POOL_STANDARD=1000"')
    elsewhere = ("Environment=MCR_STATE_DIR=/srv/mcr", "ReadWritePaths=/srv/mcr")
    with drop_in(machine) as edit:
        edit(*variables, "CPUAffinity=1", "Slice=mcr.slice", *elsewhere)
        settings = {each["name"]: each for each in site.ctl("settings")}
        assert settings["MCR_BUFFER_POOL_SMALL"]["source"] == "environment"
        assert settings["MCR_BUFFER_POOL_STANDARD"]["value"] == "1000"
        expect_priority(site)
        assert [each["core"] for each in site.ctl("list-workers")] == [1]
        assert machine.ask("systemctl", "show", "mcr.slice", "--property=CPUWeight").strip() == "CPUWeight=1000"
        assert machine.service("Slice") == "mcr.slice"
        site.relay_something()
        (finding,) = [each for each in json.loads(site.doctor()) if each["check"] == "saved_rules"]
        assert (finding["verdict"], finding["evidence"]) == ("ok", "/srv/mcr/rules.sqlite")


def test_rules_of_files_and_those_that_were_added_are_there_at_every_start(site: Site) -> None:
    rules = site.machine.path("/etc/mcr/rules.d")
    rules.mkdir(parents=True)
    rule = """
        [[rule]]
        rule_id = "tv"
        input = { interface = "in0", group = "239.1.1.7", port = 5000 }
        outputs = ["239.2.2.2:6000:out0"]
    """
    (rules / "feeds.toml").write_text(rule)
    add = "add --rule-id added --input-interface in0 --input-group 239.1.1.8 --input-port 5000"
    site.ctl(*add.split(), "--outputs", "239.2.2.3:6000:out0")
    site.machine.run("systemctl", "reload", "mcrd")

    def origins() -> dict[str, str]:
        return {each["rule_id"]: each["origin"] for each in site.ctl("list")}

    wait_until(lambda: origins() == {"tv": "file", "added": "runtime"}, "the file is in force")
    (rules / "fault.toml").write_text("[[rule]]\n")
    assert site.machine.run("systemctl", "reload", "mcrd", check=False).returncode == 1
    assert site.machine.service("ActiveState") == "active"
    assert origins() == {"tv": "file", "added": "runtime"}
    assert "fault.toml:1: a rule lacks input and outputs" in site.machine.ask("journalctl", "-u", "mcrd")
    (rules / "fault.toml").unlink()
    site.restart_after("kill", "-KILL")
    wait_until(lambda: origins() == {"tv": "file", "added": "runtime"}, "the rules are there again")
    site.ctl("remove", "--rule-id", "added")
    site.machine.run("rm", "-r", "/etc/mcr")
    site.machine.run("systemctl", "restart", "mcrd")
    assert origins() == {}


def test_stream_goes_on_over_restart_upgrade_and_kill(site: Site) -> None:
    """Nothing is lost, the counters go on. A capture ring bridges 20 s at this rate: on a busy machine, too.

    An upgrade restarts the service, and leaves a disabled one disabled; a kill leaves no worker behind.
    """
    machine = site.machine
    rule = ("--input-interface", "in0", "--input-group", "239.1.1.6", "--input-port", "5000", "--rule-id", "tv")
    site.ctl("add", *rule, "--outputs", "239.2.2.6:6000:out0")
    receiver = Receiver(site.receiver, "239.2.2.6:6000@rx0=239.1.1.6:5000", count=30_000)
    sender = Sender(site.source, "src0", "239.1.1.6:5000", count=30_000, rate=100)
    machine.run("systemctl", "restart", "mcrd")
    machine.run("systemctl", "disable", "mcrd")
    before = site.main_pid()
    machine.run("dpkg", "--install", "/mcr.deb")
    assert site.main_pid() not in ("0", before)
    assert machine.run("systemctl", "is-enabled", "mcrd", check=False).stdout == "disabled\n"
    workers = site.wait_for_workers()
    site.restart_after("kill", "-KILL")
    for pid in workers:
        wait_until(lambda gone=pid: machine.run("test", "-e", f"/proc/{gone}", check=False).returncode, "its end")
    sent = sender.stop()
    receiver.expect_all_of(sent)
    stats = site.ctl("stats")
    assert [(each["matched"], each["sent"]) for each in stats["rules"]] == [(sent, sent)]
    assert stats["ingress"]["kernel_drops"] == stats["egress"]["errors"] == 0
    site.ctl("remove", "--rule-id", "tv")


def test_daemon_that_hangs_is_restarted_by_the_watchdog(site: Site) -> None:
    machine = site.machine
    folder = machine.path("/run/systemd/system/mcrd.service.d")
    folder.mkdir(parents=True)
    (folder / "quick.conf").write_text("[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n")
    try:
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "restart", "mcrd")
        site.wait_for_workers()
        site.restart_after("kill", "-STOP")
        assert "Watchdog timeout (limit 2s)" in machine.ask("journalctl", "-u", "mcrd")
    finally:
        machine.run("rm", "-r", "/run/systemd/system/mcrd.service.d")
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "restart", "mcrd")


def test_stop_leaves_no_process(site: Site) -> None:
    machine = site.machine
    site.wait_for_workers()
    machine.run("systemctl", "stop", "mcrd")
    assert machine.service("Result") == "success"
    assert machine.service("ExecMainStatus") == "0"
    wait_until(lambda: machine.run("pgrep", "-u", "mcr", check=False).stdout == "", "the workers have ended")
    assert machine.run("test", "-e", "/run/mcr", check=False).returncode != 0
    machine.run("systemd-tmpfiles", "--create")  # for a mcrd that systemd does not start
    assert machine.ask("stat", "-c", "%U:%G %a", "/run/mcr") == "mcr:mcr 750"
    machine.run("systemctl", "start", "mcrd")


def test_purge_leaves_nothing_but_the_user(site: Site) -> None:
    machine = site.machine
    machine.run("dpkg", "--remove", "mcr")
    wait_until(lambda: machine.run("pgrep", "-u", "mcr", check=False).stdout == "", "the workers have ended")
    assert machine.ask("find", "/etc/default/mcrd")  # a configuration file stays until purged
    assert machine.run("systemctl", "status", "mcrd", check=False).returncode != 0
    machine.run("dpkg", "--purge", "mcr")
    names = ("-name", "*mcrd*", "-o", "-name", "mcrctl*", "-o", "-name", "50-mcr*", "-o", "-path", "/usr/*/mcr")
    assert machine.ask("find", "/etc", "/usr", "/lib", "/run", "/var/lib/systemd", "-xdev", *names) == ""
    assert machine.run("test", "-e", "/run/mcr", check=False).returncode != 0
    assert machine.run("dpkg", "--status", "mcr", check=False).returncode != 0
