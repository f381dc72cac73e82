"""Groups of IPv6 that the kernel has forgotten, or does not report: they are joined again.

With an MTU below 1280 an interface loses IPv6, and its groups with it, though sockets still say that they have them.
Where IPv6 was off (disable_ipv6) the kernel has kept the groups, and reports none of them when it is on again.
"""

from collections.abc import Collection, Iterable

import trio

from mcr.errors import McrError
from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.net.membership import Memberships
from mcr.net.network import Network
from mcr.net.procfs import joined_groups6
from mcr.relay.captures import Capture

log = get_logger(Facility.NETWORK)


class ForgottenGroups:
    """Sees to it that groups of IPv6 stay joined."""

    def __init__(self, memberships: Memberships) -> None:
        self._memberships = memberships
        self._due: set[str] = set()  # interfaces whose groups are all to be joined again, once they have IPv6
        self._is_unread = False  # what the kernel has could not be read

    async def follow(self, captures: Iterable[Capture], before: Network, now: Network) -> None:
        """Join them again where IPv6 was away. What can't be joined is a capture's fault."""
        if concerned := self.concerned(captures, before, now):
            await trio.to_thread.run_sync(self.join_again, concerned, before, now)  # there may be thousands

    def concerned(self, captures: Iterable[Capture], before: Network, now: Network) -> list[Capture]:
        """Those whose groups may have been forgotten: what IPv6 makes of their interfaces has changed."""
        return [
            each
            for each in captures
            if self._is_unread or _of_ipv6(before, each.interface.index) != _of_ipv6(now, each.interface.index)
        ]

    def join_again(self, concerned: Collection[Capture], before: Network, now: Network) -> None:
        """Join their groups again, if need be; other threads leave them alone meanwhile."""
        names = self._memberships.with_ipv6()
        those = [each for each in concerned if each.interface.name in names and each.interface.index in now.links]
        self._due &= names
        self._due |= {each.interface.name for each in those if _speaks_again(before, now, each.interface.index)}
        try:
            joined = joined_groups6() if those else frozenset()
        except McrError as error:
            log.warning("groups of IPv6 may have been forgotten: %s", error.message)
            self._is_unread = True
            self._due |= {each.interface.name for each in those}
            return
        self._is_unread = False
        speaking = {index for index, _ in joined}  # where there is IPv6 the kernel itself has groups
        self._due |= {each.interface.name for each in those if each.interface.index not in speaking}
        back = [each for each in those if each.interface.index in speaking]
        forgotten = self._memberships.forgotten(joined, self._due)
        for capture in back:
            if keys := forgotten.get(capture.interface.name):
                try:
                    self._memberships.join_again(capture.interface, keys)
                except McrError as error:
                    capture.fault = error.message
            self._due.discard(capture.interface.name)


def _of_ipv6(network: Network, index: int) -> object:
    """All that its groups of IPv6 depend on."""
    link = network.links.get(index)
    return link and (link.up, link.mtu), network.addresses6.get(index), network.lost6.get(index)


def _speaks_again(before: Network, now: Network, index: int) -> bool:
    """Whether MLD, which speaks from a link-local address, has got one on an interface that was up without."""
    was, link = before.links.get(index), now.links.get(index)
    if not (was and was.up and link and link.up and _has_voice(now, index)):
        return False
    return not _has_voice(before, index) or before.lost6.get(index) != now.lost6.get(index)


def _has_voice(network: Network, index: int) -> bool:
    return any(each.is_link_local for each in network.addresses6.get(index, ()))
