"""What is forked has the rights that it would have if setpriv(1) had started it."""

import os
from pathlib import Path
from typing import Any

from forked import Forked
from lab import Lab, Namespace
from topology import needs_root
from users import ADMIN, ALICE, MCR, Stage

pytestmark = needs_root

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
RIGHTS = ("net_raw", "bpf")
AMBIENT = tuple(f"{option}=-all,+{',+'.join(RIGHTS)}" for option in ("--inh-caps", "--ambient-caps"))
BOUNDS = ("-bpf,-sys_admin", "-all,+net_raw,+setuid,+setgid", "-net_bind_service")
WORDS = ("traffic_gen.py", "receive", "--flow", "127.0.0.1:6000", "--count", "1", "--idle-timeout", "60")


def rights(status: str) -> dict[str, list[str]]:
    """Of a process, by what /proc/PID/status says of it."""
    said = {name: value.split() for name, _, value in (line.partition(":") for line in status.splitlines())}
    return {name: said[name] for name in (*SETS, "NoNewPrivs", "Uid", "Gid", "Groups")}


def of_started(namespace: Namespace, *prefix: str) -> dict[str, list[str]]:
    return rights(namespace.run([*prefix, "cat", "/proc/self/status"]).stdout)


def of_forked(namespace: Namespace, **options: Any) -> dict[str, list[str]]:
    reader, errors = os.pipe()
    with open(reader) as said, Path(os.devnull).open() as nothing:  # noqa: PTH123 - a descriptor, not a path
        process = Forked("traffic_gen", WORDS, namespace, (nothing.fileno(), 1, errors), **options)
        os.close(errors)
        assert said.readline() == "ready\n"
        found = rights(Path(f"/proc/{process.pid}/status").read_text())
        process.kill()
        process.wait(10)
    return found


def test_it_has_the_rights_that_setpriv_leaves(lab: Lab, stage: Stage) -> None:
    here = lab.namespace("here")
    for bounds in BOUNDS:
        assert of_forked(here, bounding=bounds) == of_started(here, "setpriv", f"--bounding-set={bounds}"), bounds
    for user in ((ALICE, ADMIN), (MCR,), (0,)):
        assert of_forked(here, user=stage.user(*user)) == of_started(here, *stage.run_as(*user)), user
    service = of_forked(here, user=stage.user(MCR, ambient=RIGHTS))
    assert service == of_started(here, *stage.run_as(MCR, options=AMBIENT))
    assert service["CapAmb"] != ["0" * 16]
