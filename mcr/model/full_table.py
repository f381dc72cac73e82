"""Words about a table of neighbours that is full; see `mcr.net.neighbour_tables`."""

from typing import Final

from mcr.model.flow import IPV4, IPV6, Address

MAKE_ROOM: Final = "raise that setting above the number of hosts: sysctl, in the machine's own network namespace"

TABLE_SIZES: Final = {IPV4: "net.ipv4.neigh.default.gc_thresh3", IPV6: "net.ipv6.neigh.default.gc_thresh3"}


def describe_full(host: Address, name: str, neighbour: Address, limit: int) -> str:
    """What is lost, and why.

    Args:
        host: that is sent to.
        name: of the interface.
        neighbour: who would have to answer: the host, or the gateway to it.
        limit: how many entries the table may have.
    """
    setting = TABLE_SIZES[neighbour.version]
    full = f"the kernel's table of neighbours is full ({setting}={limit}) and has no entry for {neighbour} on {name}"
    return f"{full}: while that lasts, IP drops what is sent to {host}, though it counts as sent"
