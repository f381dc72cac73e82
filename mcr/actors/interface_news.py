"""Tells in the log how the interfaces that rules use stand, where that has changed."""

from functools import partial

import attrs
import trio

from mcr.actors.mailbox import Reply, ask
from mcr.actors.network_watch import NetworkWatch
from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.net.network import Network
from mcr.relay.relay import Relay
from mcr.rules.conditions import WELL, Standing, judge
from mcr.rules.interface_log import InterfaceLog

log = get_logger(Facility.NETWORK)


@attrs.frozen
class Heed:
    """Follow the network as it is now."""

    network: Network
    reply: Reply[None]


async def follow(network: NetworkWatch, inbox: "trio.MemorySendChannel[Heed]") -> None:
    """Have the owner of the relay react to each change of what is known of the network."""
    now = Network()
    while True:
        now = await network.changed(now.version)
        await ask(inbox, partial(Heed, now))


class InterfaceNews:
    """What the log was told of them."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._told = InterfaceLog()
        self._changed = False

    @property
    def is_due(self) -> bool:
        """Whether they may stand in another way than when they were looked at last, or a line was held back."""
        return self._changed or self._told.holds_back

    @is_due.setter
    def is_due(self, changed: bool) -> None:
        self._changed = changed

    def tell(self, standing: Standing, network: Network) -> None:
        """Log what is new."""
        self._changed = False
        conditions = judge(standing, network)
        well = dict.fromkeys((each.name for each in standing.all()), WELL)
        self._told.note(well | {**conditions.outputs, **conditions.inputs})
        for level, line in self._told.lines(self._relay.users(), trio.current_time()):
            log.log(level, "%s", line)
