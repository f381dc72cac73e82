"""Whether sockets still stand for the interface that they were opened on."""

from socket import socket

from mcr.net.interfaces import Interface, look_at_binding
from mcr.rules.conditions import Attachment


def attachment_of(interface: Interface, bound: socket, fault: str) -> Attachment:
    """How it stands with an interface.

    Args:
        interface: as it was when its sockets were opened.
        bound: an AF_PACKET socket of it.
        fault: why it could not be opened again, or only in part.
    """
    now = look_at_binding(bound, interface.name)
    former = interface.index if now.renamed else interface.former
    return Attachment(interface.name, interface.index, now.lost, fault, former, now.stale)
