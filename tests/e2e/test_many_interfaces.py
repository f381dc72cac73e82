"""As many input interfaces as a relay takes."""

import time
from pathlib import Path
from typing import Any

import pytest

from lab import Lab, Namespace
from mcr.model.limits import MAX_INTERFACES
from mcr_process import SLOWNESS, Receiver, Sender, wait_until
from topology import MakeMcr

pytestmark = pytest.mark.alone


class Wide:
    """source src0… ══ in0… relay out0 ── rx0 receiver: 128 cables in, one out."""

    def __init__(self, lab: Lab) -> None:
        self.source, self.relay, self.receiver = (lab.namespace(name) for name in ("source", "relay", "receiver"))
        lab.link(self.relay, "out0", self.receiver, "rx0", a_address="198.18.1.1/24", b_address="198.18.1.2/24")
        numbers = range(MAX_INTERFACES)
        self.connect(*numbers)
        # While carriers come up the kernel holds its lock of the network's configuration most of the time.
        wait_until(lambda: self.relay.ip("link show").count("state UP") == MAX_INTERFACES + 1, "all carry traffic")

    def connect(self, *numbers: int) -> None:
        peer = f"netns /proc/self/fd/{self.source.fd}"
        # Indices of their own, as in `Lab.link`.
        cables = [
            f"link add in{n} index {1_000 + n} up type veth peer name src{n} index {2_000 + n} {peer}" for n in numbers
        ]
        batch(self.relay, cables, pass_fds=[self.source.fd])
        batch(self.source, [f"link set dev src{n} up" for n in numbers])


def words(interface: str, number: int = 0) -> list[str]:
    """Of `mcrctl add` for a rule that takes a group from an interface."""
    rule = f"--input-interface {interface} --input-group 239.1.1.1 --input-port 5000"
    return f"add {rule} --outputs 239.2.2.2:{6_000 + number}:out0".split()


def batch(namespace: Namespace, commands: list[str], **options: Any) -> None:
    namespace.run(["ip", "-batch", "-"], input="\n".join(commands), **options)


@pytest.fixture
def wide(lab: Lab) -> Wide:
    return Wide(lab)


def test_a_batch_that_opens_all_of_them_is_added_at_once(wide: Wide, make_mcr: MakeMcr, tmp_path: Path) -> None:
    """For two workers, in a part of mcrctl's patience; a flow of the last one passes, after it was made again.

    mcrd stops as it should.
    """
    rules = tmp_path / "rules"
    rules.write_text("".join(f"{' '.join(words(f'in{n}', n)[1:])}\n" for n in range(MAX_INTERFACES)))
    mcr = make_mcr(wide.relay).start(2)
    before = time.monotonic()
    added = mcr.ctl("add", "--batch", str(rules))
    took = time.monotonic() - before
    print(f"added in {took:.2f} s")
    assert added.stdout == f"Added {MAX_INTERFACES} rules\n"
    assert took < 7 * SLOWNESS  # half a second, more where 1 GiB has to be found first; one by one it took nine
    refused = mcr.ctl(*words("out0"), check=False)
    assert refused.stderr.splitlines()[0] == "Error: No room for more input interfaces"
    last = MAX_INTERFACES - 1
    wide.relay.ip(f"link del in{last}")
    wait_until(lambda: {rule["state"] for rule in mcr.call("list")} == {"active", "waiting"}, "it is missed")
    wide.connect(last)
    wait_until(lambda: {rule["state"] for rule in mcr.call("list")} == {"active"}, "it is used again")
    wide.source.ip(f"address add 198.18.0.1/24 dev src{last}")
    receiver = Receiver(wide.receiver, f"239.2.2.2:{6_000 + last}@rx0=239.1.1.1:5000", count=100)
    Sender(wide.source, f"src{last}", "239.1.1.1:5000", count=100, rate=1_000).finish()
    receiver.expect_everything()
    mcr.stop()  # although the kernel takes two seconds to let go of what suppresses local delivery
