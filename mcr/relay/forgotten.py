"""Groups of IPv6 that the kernel has forgotten, or does not report: they are joined again.

With an MTU below 1280 an interface loses IPv6, and its groups with it, though sockets still say that they have them.
Where IPv6 was off (disable_ipv6) the kernel has kept the groups, and reports none of them when it is on again.
"""

from collections.abc import Iterable

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
        self._mute: set[str] = set()  # interfaces that were up without a link-local address, which MLD speaks from

    def follow(self, captures: Iterable[Capture], before: Network, now: Network) -> None:
        """Join them again where links or addresses of IPv6 have changed. What can't be joined is a capture's fault."""
        names = self._memberships.with_ipv6()
        self._mute &= names
        those = [each for each in captures if each.interface.name in names]
        try:
            joined = joined_groups6() if those else frozenset()
        except McrError as error:
            log.warning("groups of IPv6 may have been forgotten: %s", error.message)
            return
        speaking = {index for index, _ in joined}  # where there is IPv6 the kernel itself has groups
        for capture in those:
            name, index = capture.interface.name, capture.interface.index
            link = now.links.get(index)
            if link and link.up and _has_voice(before, index) and not _has_voice(now, index):
                self._mute.add(name)
            is_back = name in self._mute and _has_voice(now, index)
            if index in speaking:
                self._join_again(capture, frozenset() if is_back else joined)
            if is_back:
                self._mute.discard(name)

    def _join_again(self, capture: Capture, joined: frozenset[tuple[int, object]]) -> None:
        try:
            self._memberships.join_again(capture.interface, joined)
        except McrError as error:
            capture.fault = error.message


def _has_voice(network: Network, index: int) -> bool:
    return any(each.is_link_local for each in network.addresses6.get(index, ()))
