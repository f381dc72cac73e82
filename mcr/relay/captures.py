"""An input interface that is captured: its sockets, and what reads from it."""

from socket import socket

import attrs

from mcr.net.capture import CaptureGroup
from mcr.net.filter.base import Rejected
from mcr.net.interfaces import Interface
from mcr.relay.attachment import attachment_of
from mcr.rules.conditions import Attachment


@attrs.define(eq=False)
class Capture:
    """An input interface.

    Attributes:
        serial: tells it from the last capture in its slot.
        rejected: counts the packets that a filter rejected; belongs to the statistics.
        users: rules that read from it.
        fault: why it could not be opened again, or not with all of its groups.
        inherited: another mcrd has opened it, and its workers have read from it.
    """

    slot: int
    serial: int
    interface: Interface
    group: CaptureGroup
    rejected: Rejected
    users: int = 0
    fault: str = ""
    inherited: bool = False

    @property
    def all_sockets(self) -> tuple[socket, ...]:
        """Those of the workers; watched ones belong to the statistics."""
        return self.group.sockets

    @property
    def is_lost(self) -> bool:
        """Whether it does not stand for the interface that has its name."""
        return self.attachment.lost

    @property
    def attachment(self) -> Attachment:
        """Whether it still stands for its interface."""
        return attachment_of(self.interface, self.group.sockets[0], self.fault)
