"""How hosts that are outputs are reached, as far as it was asked for; asked for anew when routes have changed."""

from collections.abc import Iterable, Mapping
from functools import partial
from ipaddress import IPv4Address

import trio

from mcr.conditions import Attachment, Hop, find_oddity
from mcr.model import Address
from mcr.net.network import Network
from mcr.net.next_hop import find_next_hops

_Key = tuple[Address, str]
_FEW = 50  # asked for without a thread


class HopCache:
    """Next hops, by host and output interface. One at a time asks the kernel; the others wait for what it finds."""

    def __init__(self) -> None:
        self._routes = -1
        self._hops: dict[_Key, Hop] = {}
        self._asking = trio.Lock()

    async def find(self, hosts: Iterable[_Key], outputs: Mapping[str, Attachment], network: Network) -> dict[_Key, Hop]:
        """Find out how these hosts are reached. What can't be asked is left out.

        Args:
            hosts: addresses and names of output interfaces.
            outputs: the interfaces.
            network: as it is.
        """
        wanted = {each for each in hosts if each[1] in outputs}
        async with self._asking:
            if network.routes != self._routes:
                self._routes = network.routes
                self._hops.clear()
            unknown = [each for each in wanted if each not in self._hops]
            if unknown:
                ask = partial(_ask, unknown, outputs, network)
                self._hops |= await trio.to_thread.run_sync(ask) if len(unknown) > _FEW else ask()
            return {each: self._hops[each] for each in wanted if each in self._hops}


def _ask(hosts: list[_Key], outputs: Mapping[str, Attachment], network: Network) -> dict[_Key, Hop]:
    asked = [(IPv4Address(host), outputs[name].index) for host, name in hosts]
    try:
        found = find_next_hops(asked)
    except OSError:  # out of descriptors: it is asked again the next time
        return {}
    return {
        (host, name): Hop(neighbour, find_oddity(IPv4Address(host), name, index, network, routed=routed))
        for (host, name), (_, index), (neighbour, routed) in zip(hosts, asked, found, strict=True)
    }
