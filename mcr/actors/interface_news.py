"""Tells in the log how the interfaces that rules use stand, where that has changed."""

import trio

from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.net.network import Network
from mcr.relay.relay import Relay
from mcr.rules.conditions import WELL, Standing, judge
from mcr.rules.interface_log import InterfaceLog

log = get_logger(Facility.NETWORK)


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
