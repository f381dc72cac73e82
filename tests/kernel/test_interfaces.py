"""Sockets are bound to an interface by its index; rules name one, and the name may be another's by now."""

import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import pytest
from pyroute2.ethtool.ioctl import IoctlEthtool

from lab import Lab, Namespace
from mcr.errors import SystemFault
from mcr.net.capture import BufferPools, open_captures
from mcr.net.egress import open_egress
from mcr.net.filter.classic import ClassicFilters
from mcr.net.interfaces import (
    Binding,
    Interface,
    find_anew,
    find_interface,
    look_at_binding,
    name_in_rules,
    open_witness,
    wait_for_interface,
)
from mcr.net.offloads import read_merging
from mcr.process.descriptor_store import DescriptorStore


@pytest.fixture
def inside() -> Iterator[Namespace]:
    """Where a0 and a1 are."""
    with Lab() as lab:
        made = lab.namespace("inside")
        made.ip("link add a0 type veth peer name a1")
        with made.entered():
            yield made


def swap_names(namespace: Namespace) -> None:
    for old, new in (("a0", "spare"), ("a1", "a0"), ("spare", "a1")):
        namespace.ip(f"link set dev {old} name {new}")


def sending(interface: Interface) -> str:
    with open_egress(interface, 1 << 16, to=IPv4Address("198.18.0.9")) as opened:
        return opened.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0").decode()


def witnessing(interface: Interface) -> str:
    with open_witness(interface) as opened:
        return str(opened.getsockname()[0])


def capturing(interface: Interface) -> str:
    group = open_captures([interface], 1, BufferPools())[interface.name]
    (opened,), (watched,) = group.sockets, group.watched
    with opened, watched:
        return str(opened.getsockname()[0])


def counting(interface: Interface) -> str:
    filters = ClassicFilters(DescriptorStore())
    rejected = filters.open(0, interface, ())
    try:
        return str(filters._captures[0].counter.getsockname()[0])
    finally:
        rejected.close()
        filters.close()


@pytest.mark.parametrize("opening", [sending, witnessing, capturing, counting])
def test_sockets_are_of_the_interface_whatever_it_is_called(
    inside: Namespace, opening: Callable[[Interface], str]
) -> None:
    known = find_interface("a0")
    assert opening(known) == "a0"
    swap_names(inside)
    assert opening(known) == "a1"
    inside.ip("link delete dev a1")
    with pytest.raises(SystemFault, match="a0"):
        opening(known)


@pytest.mark.parametrize("opening", [witnessing, capturing, counting])
def test_sockets_of_an_interface_that_is_waited_for_are_bound_to_nothing(
    inside: Namespace, opening: Callable[[Interface], str]
) -> None:
    assert opening(wait_for_interface("late0")) == ""


def test_a_socket_is_compared_with_the_interface_that_has_the_name_now(inside: Namespace) -> None:
    """Renamed, named by an altname, replaced under its name, deleted, and made again with the index that it had."""
    known = find_interface("a0")
    with open_witness(known) as bound:
        assert look_at_binding(bound, "a0") == Binding()
        inside.ip("link property add dev a0 altname b0")
        assert look_at_binding(bound, "b0") == Binding()
        inside.ip("link set dev a0 name a9")
        assert look_at_binding(bound, "a0") == Binding(lost=True, renamed=True, stale=True)
        assert look_at_binding(bound, "b0") == Binding()
        assert find_anew(known).former == known.index
        inside.ip("link set dev a1 name a0")
        assert look_at_binding(bound, "a0") == Binding(lost=True, renamed=True, stale=True)
        assert find_anew(known) == find_interface("a0") != known
        inside.ip("link delete dev a9")
        assert look_at_binding(bound, "a0") == Binding(lost=True)
        inside.ip(f"link add a0 index {known.index} type veth peer name a1")
        assert look_at_binding(bound, "a0") == Binding(lost=True, stale=True)


def test_rules_have_one_name_for_an_interface_and_none_of_another(inside: Namespace) -> None:
    """An altname stands for the name that rules have; a name that was swapped meanwhile for the one that has it now."""
    inside.ip("link property add dev a0 altname b0")
    used = {find_interface(name).index: name for name in ("a0", "a1")}
    assert [name_in_rules(name, used) for name in ("a0", "b0", "a1", "c0")] == ["a0", "a0", "a1", "c0"]
    assert name_in_rules("a0", {find_interface("a0").index: "b0"}) == "b0"
    swap_names(inside)
    assert [name_in_rules(name, used) for name in ("a0", "a1")] == ["a0", "a1"]


def test_an_interface_that_goes_while_it_is_asked_for_its_offloads_has_none(
    inside: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = IoctlEthtool.get_features

    def ask_and_delete(ethtool: IoctlEthtool) -> object:
        features = ask(ethtool)
        inside.ip("link delete a0")
        return features

    monkeypatch.setattr(IoctlEthtool, "get_features", ask_and_delete)
    assert read_merging(["a0"]) == {"a0": None}
