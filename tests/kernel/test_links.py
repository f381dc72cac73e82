"""What is asked of the kernel about interfaces; every network namespace has the loopback interface."""

from collections.abc import Iterator

import pyroute2
import pytest

from mcr.net.links import read_links


class Asked(pyroute2.IPRoute):  # type: ignore[misc]
    """Refuses to list all interfaces."""

    def get_links(self) -> Iterator[object]:
        raise AssertionError("all interfaces are listed")


def test_interfaces_that_are_named_are_asked_for_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may have thousands."""
    everything = read_links()
    monkeypatch.setattr(pyroute2, "IPRoute", Asked)
    named = read_links(["lo", "no-such-link", "lo"])
    assert list(named) == ["lo"]
    assert (named["lo"].name, named["lo"].index) == ("lo", everything["lo"].index)
    assert named["lo"].addresses == everything["lo"].addresses
    assert named["lo"].loopback
    assert read_links([]) == {}
