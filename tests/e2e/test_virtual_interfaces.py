"""Interfaces on top of others as inputs and outputs, and such with an XDP program, on both paths."""

import ctypes
import os
import platform
import socket
import struct

import pytest
from pyroute2 import IPRoute

from lab import Namespace
from mcr_process import Receiver, Sender
from topology import MakeMcr, Plant, needs_root

BPF, BPF_PROG_LOAD, BPF_PROG_TYPE_XDP, XDP_PASS = {"x86_64": 321, "aarch64": 280}.get(platform.machine(), 0), 5, 6, 2
PASS_ALL = struct.pack("<BBhiBBhi", 0xB7, 0, 0, XDP_PASS, 0x95, 0, 0, 0)  # r0 = XDP_PASS; exit
COUNT = 500


def run_xdp(namespace: Namespace, interface: str) -> None:
    """A program that lets everything pass: the driver makes packets out of it again."""
    code, license_text = ctypes.create_string_buffer(PASS_ALL), ctypes.create_string_buffer(b"GPL")
    program = struct.pack("IIQQ", BPF_PROG_TYPE_XDP, 2, ctypes.addressof(code), ctypes.addressof(license_text))
    fd = ctypes.CDLL(None, use_errno=True).syscall(BPF, BPF_PROG_LOAD, program.ljust(128, b"\0"), 128)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    with namespace.entered(), IPRoute() as netlink:
        netlink.link("set", index=socket.if_nametoindex(interface), xdp_fd=fd)
    os.close(fd)
    assert "xdp" in namespace.ip(f"link show dev {interface}")


def put_on_top(plant: Plant) -> None:
    """macvlan above in0 and out0, vxlan through out1, XDP at in0 and out2."""
    plant.relay.ip(
        "link add link in0 name above-in type macvlan mode bridge",
        "address add 198.18.0.9/24 dev above-in",
        "link add link out0 name above-out type macvlan mode bridge",
        "address add 198.18.1.9/24 dev above-out",
    )
    for namespace, local, remote in ((plant.relay, 1, 2), (plant.receiver, 2, 1)):
        namespace.ip(
            f"link add vx type vxlan id 5 dstport 4789 local 198.18.2.{local} remote 198.18.2.{remote}",
            f"address add 198.18.20.{local}/24 dev vx",
        )
        namespace.set_up("vx")  # whether it is up the kernel does not know
    plant.relay.bring_up("above-in", "above-out")


@needs_root
@pytest.mark.skipif(not BPF, reason="the number of bpf(2) is not known here")
@pytest.mark.parametrize("switch", ["KERNEL_PATH=auto", "KERNEL_PATH=off"])
def test_macvlan_vxlan_and_xdp_are_like_any_interface(plant: Plant, make_mcr: MakeMcr, switch: str) -> None:
    put_on_top(plant)
    for interface in ("in0", "out2"):
        run_xdp(plant.relay, interface)
    mcr = make_mcr(plant.relay, prefix=["env", f"MCR_{switch}"]).start()
    outputs = "239.2.2.2:6000:above-out", "239.2.2.3:6000:vx", "239.2.2.4:6000:out2"
    mcr.add("above-in:239.1.1.1:5000", *outputs)
    mcr.add("in0:239.1.1.2:5000", *(each.replace(":6000", ":6001") for each in outputs))
    is_kernel = "auto" in switch and "MCR_ABSORB has no effect" not in mcr.log()
    for rule in range(2):
        mcr.wait_for_path("kernel" if is_kernel else "worker", rule)
    places = {"239.2.2.2": "rx0", "239.2.2.3": "vx", "239.2.2.4": "rx2"}
    flows = [
        f"{group}:{port}@{name}={source}:5000"
        for port, source in ((6000, "239.1.1.1"), (6001, "239.1.1.2"))
        for group, name in places.items()
    ]
    receiver = Receiver(plant.receiver, *flows, count=COUNT)
    Sender(plant.source, "src0", "239.1.1.1:5000", "239.1.1.2:5000", count=COUNT, rate=2000).finish()
    receiver.expect_everything()
    stats = mcr.check_counters()
    assert [each["matched"] for each in stats["rules"]] == [COUNT] * 2
    assert (stats["egress"]["errors"], stats["ingress"]["parse_err"]) == (0, 0)
