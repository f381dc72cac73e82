"""What the map of the filters lets in: flows as the programs compare them, and what several of them have in common.

There may be thousands, so each is its bytes alone (`struct mcr_flow` of native/flow.h).
"""

import socket
import struct
from collections import Counter
from collections.abc import Iterable, Iterator

from mcr.model.flow import Flow
from mcr.shm.flows import flow_bytes

_HEAD = struct.Struct("=2H")  # slot of the capture, and VLAN
_NO_VLAN = b"\0\0"
_OF_VLAN = struct.Struct("=2H32x").pack(socket.AF_INET, 0)  # behind these: a flow of no group
_NO_PORT, _NO_SOURCE, _NO_SOURCE_REST = b"\0\0", bytes(4), bytes(12)


class Admitted:
    """All of it."""

    def __init__(self) -> None:
        self._flows: set[bytes] = set()
        self._shared: dict[bytes, int] = {}  # by how many flows
        self._sourced: Counter[int] = Counter()  # flows from one source, by capture

    def lacking(self, flows: Iterable[tuple[int, Flow]]) -> list[bytes]:
        """Those that are not there, each once."""
        there = self._flows
        return [*dict.fromkeys(key for capture, flow in flows if (key := flow_bytes(flow, capture)) not in there)]

    def add(self, keys: Iterable[bytes]) -> list[bytes]:
        """Let in what is not there; what of it the map has to have, too."""
        missing, flows, shared = [], self._flows, self._shared
        for key in keys:
            for each in _shared_by(key):
                users = shared.get(each, 0)
                if not users:
                    missing.append(each)
                shared[each] = users + 1
            flows.add(key)
            missing.append(key)
            if has_source(key):
                self._sourced[capture_of(key)] += 1
        return missing

    def drop(self, keys: Iterable[bytes]) -> Iterator[bytes]:
        """Let in no more; what of it the map is to have no more."""
        for key in keys:
            if key not in self._flows:
                continue
            self._flows.remove(key)
            yield key
            for each in _shared_by(key):
                self._shared[each] -= 1
                if not self._shared[each]:
                    del self._shared[each]
                    yield each
            if has_source(key):
                self._sourced[capture_of(key)] -= 1

    def of(self, capture: int) -> list[bytes]:
        """Those of a capture."""
        return [key for key in self._flows if capture_of(key) == capture]

    def vlans_of(self, capture: int) -> set[int]:
        """The VLANs that its flows have; 0: none."""
        return {_HEAD.unpack_from(key)[1] for key in self.of(capture)}

    def has_sources(self, capture: int) -> bool:
        """Whether some of its flows are from one source."""
        return self._sourced[capture] > 0

    @property
    def with_sources(self) -> set[int]:
        """The captures of which that is so."""
        return {capture for capture, count in self._sourced.items() if count}


def has_source(key: bytes) -> bool:
    """Whether a flow is from one source."""
    return key[12:16] != _NO_SOURCE or key[28:] != _NO_SOURCE_REST


def capture_of(key: bytes) -> int:
    """The slot of a flow's capture."""
    capture: int = _HEAD.unpack_from(key)[0]
    return capture


def _shared_by(key: bytes) -> tuple[bytes, ...]:
    """What the map has beside a flow, once for all that share it: its group's fragments, and its VLAN.

    The filter leaves other VLANs alone.
    """
    group = b"".join((key[:6], _NO_PORT, key[8:12], _NO_SOURCE, key[16:28], _NO_SOURCE_REST))
    return (group,) if key[2:4] == _NO_VLAN else (group, key[:4] + _OF_VLAN)
