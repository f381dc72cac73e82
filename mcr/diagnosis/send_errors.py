"""Says what an output's newest error means, and how long ago it was: an old one is shown, and is no advice. Pure."""

import errno
from typing import Final

from mcr.errors import describe_errno
from mcr.model.flow import Address
from mcr.model.stats import OutputStats

_LATELY: Final = 600.0  # seconds after the newest error until errors count as over


def is_lately(output: OutputStats) -> bool:
    """Whether its newest error is so recent that something may be wrong still."""
    return output.last_error is not None and output.last_error.ago <= _LATELY


def newest_error(outputs: list[OutputStats]) -> str:
    """The newest error of outputs that have the same, with its time, as the end of a sentence; empty: not known."""
    errors = [each.last_error for each in outputs if each.last_error]
    if not errors:
        return ""
    newest = min(errors, key=lambda error: error.ago)
    return f"; the newest error, {newest.ago:,.0f} s ago: {describe_errno(newest.errno)}"


def last_errno(output: OutputStats) -> int | None:
    """The number of its newest error; None: no send failed."""
    return output.last_error.errno if output.last_error else None


def explain_error(number: int | None, name: str, host: Address) -> tuple[str, str] | None:
    """What an error of an output means, and where to look; None: nothing is known of it.

    Args:
        number: of the error.
        name: of the output's interface.
        host: or group that the output sends to.
    """
    found = _CAUSES.get(number or 0)
    return (found[0], found[1].format(name=name, host=host)) if found else None


_CAUSES: Final = {
    errno.ENETDOWN: ("the interface was down", "ip link show dev {name}"),
    errno.ENETUNREACH: (
        "the interface was down, or no route led there",
        "ip link show dev {name}; ip route get {host} oif {name}",
    ),
    errno.ENODEV: ("the interface was gone", "ip link show dev {name}"),
    errno.ENXIO: ("the interface was gone", "ip link show dev {name}"),
    errno.EHOSTUNREACH: (
        "no route, or nobody answered ARP or NDP",
        "ip route get {host} oif {name}; ip neigh show dev {name}",
    ),
    errno.EADDRNOTAVAIL: (
        "its source was no address to send from",
        (
            "with source=keep: what comes from 0.0.0.0 or :: has none to keep, give its sender an address; otherwise: "
            "has {name} an address that is not tentative? ip address show dev {name}"
        ),
    ),
    errno.EINVAL: (
        "its source may be no address of this machine",
        "if the output names a source: ip address show; the log of mcrd says more",
    ),
    errno.ETIME: ("the TTL of what comes ends here", "have its sender give it more, or name one in the output: ttl=N"),
    errno.EOPNOTSUPP: (
        "it has a VLAN tag, and raw frames, which alone have one, cannot leave here",
        (
            "mcrctl list says why; often a firewall at postrouting: sudo nft list ruleset; if the interface is "
            "down, it says that first: ip link show dev {name}"
        ),
    ),
    errno.EMSGSIZE: (
        "larger than the interface's MTU",
        "ip link show dev {name}; raise its MTU, or have the source send smaller datagrams",
    ),
    errno.EACCES: ("a route forbids it", "ip route get {host} oif {name}; ip route show table all type prohibit"),
    errno.EPERM: ("a firewall rule of this machine dropped them", "sudo nft list ruleset; sudo iptables-save"),
    errno.ENOBUFS: (
        "the queue of the interface was full",
        (
            "its network is the bottleneck, send less by it: ip -s link show dev {name}; for bursts give it a longer "
            "queue: tc -s qdisc show dev {name} (limit), or sudo ip link set dev {name} txqueuelen NUMBER"
        ),
    ),
    errno.EAGAIN: (
        "more waited than fits the send buffer of a worker's socket",
        (
            "its network is the bottleneck: ip -s link show dev {name}; for bursts raise MCR_SOCKET_SNDBUF in the "
            "environment of mcrd"
        ),
    ),
}
"""What an output's newest error means, and where to look. Older ones are counted, and not kept."""
