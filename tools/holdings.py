"""What a daemon holds: to be the same, or nearly, whatever was done to it."""

import contextlib
import os
import time
from pathlib import Path

import attrs

from mcr_process import Mcr, alive, children_of, wait_until

REST_S = 3.0
PATIENCE_S = 40.0
NOTES_KIB = 64  # of shared memory: the notes for the next mcrd are as long as what they say
GROWTH_KIB = 16384  # of resident memory: Python collects garbage every 100,000 objects, and keeps what it had at most


@attrs.frozen
class Holdings:
    """What the daemon and its workers hold."""

    descriptors: int
    processes: int
    strangers: int
    """Other processes that are left in the relay's namespace."""
    shared_kib: int
    resident_kib: int

    @classmethod
    def of(cls, mcr: Mcr) -> "Holdings":
        """As it is now; of workers only their number."""
        assert mcr.process is not None
        pid = mcr.process.pid
        status = Path(f"/proc/{pid}/status").read_text()
        resident = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        own = _family(pid)
        shared = 0
        descriptors = [*Path(f"/proc/{pid}/fd").iterdir()]
        for each in descriptors:
            with contextlib.suppress(FileNotFoundError):
                if "memfd:" in os.readlink(each):  # noqa: PTH115
                    shared += each.stat().st_size // 1024
        return cls(len(descriptors), len(children_of(pid)), len(_inside(pid) - own), shared, int(resident))

    def is_like(self, other: "Holdings") -> bool:
        """Whether all that must not grow at all is the same."""
        counts = (self.descriptors, self.processes, self.strangers)
        return (
            counts == (other.descriptors, other.processes, other.strangers)
            and abs(self.shared_kib - other.shared_kib) <= NOTES_KIB
        )


def _family(pid: int) -> set[int]:
    return {pid}.union(*map(_family, children_of(pid)))


def _inside(pid: int) -> set[int]:
    """Processes in the network namespace of this one."""
    network = Path(f"/proc/{pid}/ns/net").stat()
    inside = set()
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.path.samestat((each / "ns/net").stat(), network) and alive(int(each.name)):
                inside.add(int(each.name))
    return inside


def rested(mcr: Mcr) -> Holdings:
    """What it holds once nothing has moved for some seconds: a standby process, eBPF programs come a little later."""
    last, since = Holdings.of(mcr), time.monotonic()

    def rests() -> bool:
        nonlocal last, since
        now = Holdings.of(mcr)
        if not now.is_like(last):
            since = time.monotonic()
        last = now
        return time.monotonic() - since > REST_S

    wait_until(rests, "the daemon rests", PATIENCE_S)
    return last
