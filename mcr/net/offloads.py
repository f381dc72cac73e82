"""Which interfaces make super-frames of what arrives. It only looks; `link_findings` judges."""

from collections.abc import Collection
from contextlib import closing
from typing import Any

MERGING = ("rx-gro", "rx-lro", "rx-gro-hw", "rx-gro-list", "rx-udp-gro-forwarding")
"""Features that make super-frames of what arrives, as ethtool names them in the kernel."""


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

    True if that can't be seen. It takes half a millisecond, and is asked while workers forward in the kernel's place.
    """
    from pyroute2.ethtool.ioctl import IoctlEthtool  # noqa: PLC0415 - slow to import, seldom needed

    try:
        with closing(IoctlEthtool(name)) as interface:
            features = interface.get_features()
    except Exception:  # noqa: BLE001 - pyroute2's are many
        return True
    return all(each in features and features[each] for each in ("rx-gro", "rx-gro-list"))


def _merging(name: str, ethtool: Any) -> tuple[str, ...] | None:
    # Slow to import, seldom needed.
    from pyroute2 import NetlinkError  # noqa: PLC0415
    from pyroute2.ethtool.ioctl import EthtoolError  # noqa: PLC0415

    try:
        features = ethtool.get_features(name).features
    except (OSError, NetlinkError, EthtoolError):  # a driver or a kernel that has no such thing, or the interface went
        return None
    return tuple(each for each in MERGING if each in features and features[each].enable)
