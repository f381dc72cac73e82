"""A cache of the next hops to hosts that are outputs. They are asked for anew when routes have changed."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice

import trio

from mcr.model.flow import Address
from mcr.model.limits import MAX_OUTPUTS
from mcr.net import uapi
from mcr.net.network import Neighbour, Network
from mcr.net.next_hop import find_next_hops, find_unanswered
from mcr.rules.conditions import Attachment, Hop, find_oddity, find_refusal

_Key = tuple[Address, str]
_FEW = 50  # asked for without a thread
_MOST = 2 * MAX_OUTPUTS  # that are remembered
_UNHEARD = 100  # neighbours that are looked at each time


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
            if len(self._hops) > _MOST:  # of rules that are gone
                self._hops = {each: self._hops[each] for each in wanted if each in self._hops}
            return {each: self._hops[each] for each in wanted if each in self._hops}


def find_silent(
    hops: Mapping[_Key, Hop], outputs: Mapping[str, Attachment], network: Network
) -> frozenset[tuple[int, Address]]:
    """Who of these next hops does not answer, by interface and address."""
    silent = {key for key, neighbour in network.neighbours.items() if neighbour.silent}
    asked = {(hop.neighbour, outputs[name].index) for (_, name), hop in hops.items() if name in outputs}
    # Of whom it waits for an answer the kernel says nothing.
    unheard = ((host, index) for host, index in asked if _is_unheard(network.neighbours.get((index, host))))
    with suppress(OSError):
        silent |= find_unanswered(islice(unheard, _UNHEARD))
    return frozenset(silent)


def _is_unheard(neighbour: Neighbour | None) -> bool:
    return neighbour is None or (neighbour.state <= uapi.NUD_INCOMPLETE and not neighbour.silent)


def _ask(hosts: list[_Key], outputs: Mapping[str, Attachment], network: Network) -> dict[_Key, Hop]:
    asked = [(host, outputs[name].index) for host, name in hosts]
    try:
        found = find_next_hops(asked)
    except OSError:  # out of descriptors: it is asked again the next time
        return {}
    hops = {}
    for (host, name), (address, index), (neighbour, routed) in zip(hosts, asked, found, strict=True):
        refusal = find_refusal(address, index, network, routed=routed)
        oddity = "" if refusal else find_oddity(address, name, network, routed=routed)
        hops[host, name] = Hop(neighbour, oddity, refusal)
    return hops
