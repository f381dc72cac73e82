"""Local delivery of what a rule takes is suppressed, and whoever else wants it gets it all the same."""

import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab import Namespace
from mcr_process import Mcr, Receiver, Sender, descriptors_of, wait_until
from topology import MakeMcr, Plant, needs_root

CLOCK_MONOTONIC_COARSE = 6  # <linux/time.h>; counts in ticks
MRT_INIT, MRT_ADD_VIF, MRT_ADD_MFC = 200, 202, 204  # <linux/mroute.h>


def links(mcr: Mcr) -> int:
    """Programs that mcrd has at the ingress of interfaces."""
    assert mcr.process
    return descriptors_of(mcr.process.pid).count("anon_inode:bpf_link")


def wait_for_suppression(mcr: Mcr) -> None:
    """Until it is suppressed on in0."""
    refused = "MCR_ABSORB has no effect on in0: Invalid argument (os error 22)"
    wait_until(lambda: links(mcr) == 1 or refused in mcr.log(), "it is suppressed on in0")
    if not links(mcr):
        pytest.skip("this kernel has no tcx; the log says so, and packets go where they go without")


def unheard(namespace: Namespace) -> int:
    """Multicast datagrams that the IP stack found no socket for."""
    return namespace.counter("Udp", "IgnoredMulti")


def relay(mcr: Mcr, plant: Plant) -> float:
    """A thousand packets through the relay, each of them once. Gives how many ticks of the kernel's clock it took."""
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=1000)
    sender = Sender(plant.source, "src0", "239.1.1.1:5000", count=1000, rate=10_000)
    begun = time.monotonic()
    sender.finish()
    ticks = (time.monotonic() - begun) / time.clock_getres(CLOCK_MONOTONIC_COARSE)
    receiver.expect_everything()
    mcr.check_counters()
    return ticks


def is_suppressed(mcr: Mcr, plant: Plant) -> bool:
    """Whether the IP stack got no more than a packet a tick and processor; it gets some, to keep the tick going."""
    before = unheard(plant.relay)
    ticks = relay(mcr, plant)
    left = unheard(plant.relay) - before
    assert 0 < left < 1000
    return left <= (ticks + 2) * len(os.sched_getaffinity(0))


@needs_root
def test_without_being_asked_to(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    wait_for_suppression(mcr)
    assert any(is_suppressed(mcr, plant) for _ in range(3))  # on a link that changes nothing is suppressed for a moment
    findings = json.loads(mcr.ctl("doctor", "--json", check=False).stdout)
    (finding,) = (each for each in findings if each["check"] == "absorb")
    assert finding["verdict"] == "ok"
    assert "on 1 of 1" in finding["what"]
    mcr.ctl("remove", "--rule-id", mcr.call("list")[0]["rule_id"])
    wait_until(lambda: links(mcr) == 0, "suppression ends with the last rule")


def test_switched_off_the_ip_stack_throws_each_packet_away(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay, prefix=["env", "MCR_ABSORB=0"]).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    relay(mcr, plant)
    assert unheard(plant.relay) == 1000
    assert links(mcr) == 0


@needs_root
def test_where_it_cannot_be_done_the_log_and_doctor_say_so(plant: Plant, make_mcr: MakeMcr) -> None:
    without = ["env", "MCR_ABSORB=1", "setpriv", "--bounding-set=-bpf,-sys_admin"]
    mcr = make_mcr(plant.relay, prefix=without).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    relay(mcr, plant)
    assert mcr.says("info [network] MCR_ABSORB has no effect: no eBPF (Operation not permitted (os error 1))")
    findings = {each["check"]: each for each in json.loads(mcr.ctl("doctor", "--json", check=False).stdout)}
    assert "on 0 of 1" in findings["absorb"]["what"]
    assert findings["cap_bpf"]["verdict"] == "advice"
    assert "MCR_ABSORB has no effect" in findings["cap_bpf"]["what"]


@needs_root
def test_local_listener_gets_every_packet_too(plant: Plant, make_mcr: MakeMcr) -> None:
    """From the moment that it listens, and without the relay being told."""
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    wait_for_suppression(mcr)
    relay(mcr, plant)
    local = Receiver(plant.relay, "239.1.1.1:5000@in0", count=1000)
    relay(mcr, plant)
    local.expect_everything()


@needs_root
def test_a_killed_mcrd_leaves_nothing_behind(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    wait_for_suppression(mcr)
    with plant.relay.entered():
        member = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with member:
        where = socket.inet_aton("239.1.1.1") + socket.inet_aton("198.18.0.2")
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, where)
        assert mcr.process
        mcr.process.kill()
        mcr.process.wait(5)
        Sender(plant.source, "src0", "239.1.1.1:5000", count=100, rate=10_000).finish()
        wait_until(lambda: unheard(plant.relay) == 100, "the IP stack has seen all of it")


@contextmanager
def multicast_routing(namespace: Namespace, source: str, group: str, *addresses: str) -> Iterator[None]:
    """The kernel routes a group from the first of these addresses' interfaces to the others'."""
    with namespace.entered():
        routing = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
    with routing:
        routing.setsockopt(socket.IPPROTO_IP, MRT_INIT, 1)
        for index, address in enumerate(addresses):
            vif = struct.pack("HBBI4s4s", index, 0, 1, 0, socket.inet_aton(address), bytes(4))
            routing.setsockopt(socket.IPPROTO_IP, MRT_ADD_VIF, vif)
        ttls = bytes([0, *[1] * (len(addresses) - 1)]).ljust(32, b"\0")
        route = struct.pack("4s4sH32sxxIIIi", socket.inet_aton(source), socket.inet_aton(group), 0, ttls, 0, 0, 0, 0)
        routing.setsockopt(socket.IPPROTO_IP, MRT_ADD_MFC, route)
        yield


@needs_root
def test_multicast_routing_of_the_same_group_goes_on(plant: Plant, make_mcr: MakeMcr) -> None:
    """Suppression ends at its start, and begins again after its end."""
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    wait_for_suppression(mcr)
    with multicast_routing(plant.relay, "198.18.0.1", "239.1.1.1", "198.18.0.2", "198.18.2.1"):
        wait_until(lambda: links(mcr) == 0, "suppression ends")
        routed = Receiver(plant.receiver, "239.1.1.1:5000@rx1", count=1000)
        relay(mcr, plant)
        routed.expect_everything()
    wait_until(lambda: links(mcr) == 1, "suppression begins again")


@needs_root
@pytest.mark.parametrize("kind", ["bridge", "macvlan"])
def test_who_is_behind_a_bridge_or_a_macvlan_gets_every_packet_too(plant: Plant, make_mcr: MakeMcr, kind: str) -> None:
    """A rule that names a port of the bridge, and a listener that is bound to the bridge itself; or a container."""
    container = plant.lab.namespace("container")
    if kind == "bridge":
        plant.relay.ip("address flush dev in0")
        plant.relay.ip("link add br0 up type bridge mcast_snooping 0")
        plant.relay.ip("link set in0 master br0")
        plant.lab.link(plant.relay, "port1", container, "eth0", b_address="198.18.0.3/24")
        plant.relay.ip("link set port1 master br0")
    else:
        inside = f"/proc/{os.getpid()}/fd/{container.fd}"
        plant.relay.ip(f"link add link in0 name eth0 netns {inside} type macvlan mode bridge")
        container.ip("address add 198.18.0.3/24 dev eth0")
        container.bring_up("eth0")
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0", state="degraded" if kind == "bridge" else "active")
    if kind == "macvlan":
        wait_for_suppression(mcr)
    behind = Receiver(container, "239.1.1.1:5000@eth0", count=1000)
    relay(mcr, plant)
    behind.expect_everything()
