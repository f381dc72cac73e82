"""Which interfaces make super-frames of what arrives. It only looks; `link_findings` judges."""

import fcntl
import os
import socket
import struct
from collections.abc import Collection
from typing import Any, Final

from mcr._native import ffi
from mcr.net import uapi

MERGING = ("rx-gro", "rx-lro", "rx-gro-hw", "rx-gro-list", "rx-udp-gro-forwarding")
"""Features that make super-frames of what arrives, as ethtool names them in the kernel."""

_REQUEST: Final = struct.Struct("16sP16x")  # struct ifreq: an interface's name, and where its request is
_WORD: Final = struct.Struct("I")
_WORD_BITS: Final = 32
_FEATURES: Final = struct.Struct("IIII")  # 32 of them: available, requested, active, never changed


def read_merging(names: Collection[str]) -> dict[str, tuple[str, ...] | None]:
    """For each interface those of `MERGING` that are on; None if it can't be asked.

    Raises:
        OSError: no netlink socket could be opened.
        NetlinkError: (of pyroute2) the kernel refuses to tell of any.
    """
    from pyroute2 import Ethtool  # noqa: PLC0415 - slow to import, seldom needed

    with Ethtool() as ethtool:
        return {name: _merging(name, ethtool) for name in names}


def has_chains(name: str) -> bool:
    """Whether the interface chains datagrams that arrive, with their headers, instead of making super-frames of them.

    True if that can't be seen. It is asked while workers forward in the kernel's place.
    """
    try:
        on = features_on(name)
    except OSError:
        return True
    return {"rx-gro", "rx-gro-list"} <= on


def features_on(name: str) -> set[str]:
    """Features of an interface that are on. By hand: every start of mcrd asks, and pyroute2 takes 0.2 s to import.

    Raises:
        OSError: its driver, or this kernel, does not tell.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:

        def ask(request: bytes, answer_bytes: int) -> bytes:
            """An ioctl that writes its answer behind the request."""
            memory = ffi.new("char[]", request.ljust(len(request) + answer_bytes, b"\0"))
            fcntl.ioctl(
                any_socket, uapi.SIOCETHTOOL, _REQUEST.pack(os.fsencode(name), int(ffi.cast("uintptr_t", memory)))
            )
            return bytes(ffi.buffer(memory, len(request) + answer_bytes)[len(request) :])

        set_info = struct.pack("IIQ", uapi.ETHTOOL_GSSET_INFO, 0, 1 << uapi.ETH_SS_FEATURES)
        (count,) = _WORD.unpack(ask(set_info, _WORD.size))
        get_names = struct.pack("III", uapi.ETHTOOL_GSTRINGS, uapi.ETH_SS_FEATURES, count)
        names = ask(get_names, count * uapi.ETH_GSTRING_LEN)
        words = (count + _WORD_BITS - 1) // _WORD_BITS
        features = ask(struct.pack("II", uapi.ETHTOOL_GFEATURES, words), words * _FEATURES.size)
    active = [each for _, _, each, _ in _FEATURES.iter_unpack(features)]
    on = (at for at in range(count) if active[at // _WORD_BITS] >> at % _WORD_BITS & 1)
    begins = (at * uapi.ETH_GSTRING_LEN for at in on)
    return {names[at : at + uapi.ETH_GSTRING_LEN].rstrip(b"\0").decode() for at in begins}


def _merging(name: str, ethtool: Any) -> tuple[str, ...] | None:
    # Slow to import, seldom needed.
    from pyroute2 import NetlinkError  # noqa: PLC0415
    from pyroute2.ethtool.ioctl import EthtoolError  # noqa: PLC0415

    try:
        features = ethtool.get_features(name).features
    except (OSError, NetlinkError, EthtoolError):  # a driver or a kernel that has no such thing, or the interface went
        return None
    return tuple(each for each in MERGING if each in features and features[each].enable)
