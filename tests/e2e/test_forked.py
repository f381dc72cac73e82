"""What is forked has the rights and limits that it would have if a program had started it that sets them."""

import os
from pathlib import Path
from typing import Any

from forked import Forked, Limits
from lab import Lab, Namespace
from seccomp import DENIES_IO_URING, WITHOUT_IO_URING
from topology import needs_root
from users import ADMIN, ALICE, MCR, Stage

pytestmark = needs_root

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
RIGHTS = ("net_raw", "bpf")
AMBIENT = tuple(f"{option}=-all,+{',+'.join(RIGHTS)}" for option in ("--inh-caps", "--ambient-caps"))
BOUNDS = ("-bpf,-sys_admin", "-all,+net_raw,+setuid,+setgid", "-net_bind_service")
WORDS = ("traffic_gen.py", "receive", "--flow", "127.0.0.1:6000", "--count", "1", "--idle-timeout", "60")


def rights(status: str, limits: str) -> dict[str, list[str]]:
    """Of a process, by what its files in /proc say of it."""
    said = {name: value.split() for name, _, value in (line.partition(":") for line in status.splitlines())}
    return {
        name: said[name] for name in (*SETS, "NoNewPrivs", "Seccomp", "Seccomp_filters", "Uid", "Gid", "Groups")
    } | {line[:25].rstrip(): line[25:].split() for line in limits.splitlines()}


def of_started(namespace: Namespace, *prefix: str | Path) -> dict[str, list[str]]:
    status, limits = (namespace.run([*prefix, "cat", f"/proc/self/{each}"]).stdout for each in ("status", "limits"))
    return rights(status, limits)


def of_forked(namespace: Namespace, **options: Any) -> dict[str, list[str]]:
    reader, errors = os.pipe()
    with open(reader) as said, Path(os.devnull).open() as nothing:  # noqa: PTH123 - a descriptor, not a path
        process = Forked("traffic_gen", WORDS, namespace, (nothing.fileno(), 1, errors), **options)
        os.close(errors)
        assert said.readline() == "ready\n"
        status, limits = (Path(f"/proc/{process.pid}/{each}").read_text() for each in ("status", "limits"))
        found = rights(status, limits)
        process.kill()
        process.wait(10)
    return found


def test_it_has_the_rights_that_setpriv_leaves(lab: Lab, stage: Stage) -> None:
    here = lab.namespace("here")
    for bounds in BOUNDS:
        assert of_forked(here, limits=Limits(bounding=bounds)) == of_started(
            here, "setpriv", f"--bounding-set={bounds}"
        ), bounds
    for user in ((ALICE, ADMIN), (MCR,), (0,)):
        assert of_forked(here, user=stage.user(*user)) == of_started(here, *stage.run_as(*user)), user
    without = Limits(descriptors=100, denied=DENIES_IO_URING)
    assert of_forked(here, limits=without) == of_started(here, "prlimit", "--nofile=100:100", *WITHOUT_IO_URING)
    service = of_forked(here, user=stage.user(MCR, ambient=RIGHTS))
    assert service == of_started(here, *stage.run_as(MCR, options=AMBIENT))
    assert service["CapAmb"] != ["0" * 16]
