"""Inputs that are no groups: addresses of this machine, and broadcast addresses.

What is sent to an address that this machine does not have is another machine's, which this one may route. So nothing of
such an input is let in until the machine has it. Belongs to the relay.
"""

from collections import Counter
from collections.abc import Callable, Iterable

from mcr.errors import SystemFault
from mcr.logs.logger import get_logger
from mcr.model.flow import IPV6, LIMITED_BROADCAST, Flow, Input
from mcr.model.log import Facility
from mcr.net.filter.base import CaptureFilters
from mcr.net.network import Network
from mcr.net.port_guard import GuardedPort, PortGuards
from mcr.process.descriptor_store import DescriptorStore
from mcr.relay.captures import Capture

log = get_logger(Facility.NETWORK)


class LocalInputs:
    """All of them."""

    def __init__(self, store: DescriptorStore, capture_of: Callable[[str], Capture], filters: CaptureFilters) -> None:
        """Start without any.

        Args:
            store: of descriptors.
            capture_of: gives that of an input interface, by its name.
            filters: of the captures.
        """
        self._guards = PortGuards(store)
        self._capture_of = capture_of
        self._filters = filters
        self._network = Network()
        self._users: Counter[Input] = Counter()

    def serves(self, source: Input, index: int | None = None) -> bool:
        """Whether what an input takes is to be let in: a group's always is.

        Args:
            source: the input.
            index: of its interface; None: rules use that already.
        """
        if source.group.is_multicast:
            return True
        index = self._index_of(source) if index is None else index
        return self._network.listens_to(source.group, index, source.vlan)

    def change(self, added: Iterable[Input], removed: Iterable[Input]) -> None:
        """Rules have more of them, and fewer. Groups among these are left out."""
        more, fewer = ([each for each in those if not each.group.is_multicast] for those in (added, removed))
        self._users.update(more)
        self._users.subtract(fewer)
        self._users = +self._users
        if more or fewer:
            self._guard()

    def follow(self, network: Network) -> tuple[Input, ...]:
        """Let in what is sent to addresses that this machine has now, and nothing for those that it has no more.

        Returns:
            Those that are let in now and were not, and the other way round.
        """
        former, self._network = self._network, network
        if network.addresses is former.addresses and network.addresses6 is former.addresses6:
            return ()  # there may be thousands, and neighbours change all the time
        now = {each: self.serves(each) for each in self._users}
        before = {each: former.listens_to(each.group, self._index_of(each), each.vlan) for each in now}
        changed = tuple(each for each in now if now[each] != before[each])
        keys: dict[bool, list[tuple[int, Flow]]] = {True: [], False: []}
        for source in changed:
            slot = self._capture_of(source.interface).slot
            keys[now[source]] += [(slot, flow) for flow in source.flows]
        try:
            if changed:
                self._filters.change(keys[True], keys[False])
        except SystemFault as error:
            log.warning("%s: it is tried again with the next change of addresses", error.message)
            self._network = former
            return ()
        if now:
            self._guard()
        return changed

    def renew(self) -> None:
        """Hold ports on interfaces that have been opened again: they may have another index."""
        if self._users:
            self._guard()

    def look_again(self) -> None:
        """Hold ports that could not be held so far: to be called once per second."""
        self._guards.look_again()

    def leave_former(self) -> None:
        """Let go of ports that the mcrd before this one has held, and no rule of this one needs."""
        self._guards.leave_former()

    def close(self) -> None:
        """Let go of all ports."""
        self._guards.close()

    def _guard(self) -> None:
        """Hold the ports of unicast inputs. What is sent to a broadcast address IP never answers by ICMP."""
        served = (each for each in self._users if self.serves(each))
        unicast = (each for each in served if not self._is_broadcast(each))
        self._guards.hold({self._port(each, flow.port) for each in unicast for flow in each.flows})

    def _is_broadcast(self, source: Input) -> bool:
        to_all = self._network.broadcast_network(source.group, self._index_of(source), source.vlan)
        return source.group == LIMITED_BROADCAST or to_all is not None

    def _index_of(self, source: Input) -> int:
        return self._capture_of(source.interface).interface.index

    def _port(self, source: Input, port: int) -> GuardedPort:
        index = self._index_of(source)
        if source.group.version == IPV6 and source.group.is_link_local:
            return GuardedPort(source.group, port, scope=index)
        return GuardedPort(source.group, port, interface=0 if source.vlan else index)  # IP has it from another
