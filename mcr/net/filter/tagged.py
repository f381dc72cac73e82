"""A filter for frames that this machine sends with a VLAN's tag in the frame itself, as its workers do.

The kernel has the tags of all others beside the frame, where `mcr.net.filter.cbpf` looks for them.
"""

from collections.abc import Iterable, Sequence

from mcr.model.flow import IPV4, Flow
from mcr.net import uapi
from mcr.net.filter.cbpf import Instruction

_TAG_AT, _IP_AT = 12, 18  # bytes of a frame
_UDP = 17
_WHOLE = 0x40000
_MOST = 100  # VLANs or groups that are looked at: jumps are short
_REJECT = Instruction(0x06, 0, 0, 0)
_ACCEPT = Instruction(0x06, 0, 0, _WHOLE)


def with_sent_tagged(program: Sequence[Instruction], wanted: Iterable[Flow]) -> tuple[Instruction, ...]:
    """Make a filter of one for an Ethernet interface: it lets in tagged UDP to the groups of these flows, too.

    Of more than a hundred VLANs or groups it lets in all.
    """
    tagged = [each for each in wanted if each.vlan]
    if not tagged:
        return tuple(program)
    groups = {int(each.group) for each in tagged if each.group.version == IPV4}
    block = (
        Instruction(0x28, 0, 0, uapi.SKF_AD_OFF + 4),  # packet type
        *_one_of({uapi.PACKET_OUTGOING}),
        Instruction(0x28, 0, 0, _TAG_AT + 2),
        Instruction(0x54, 0, 0, uapi.VLAN_VID_MASK),
        *_one_of({each.vlan for each in tagged}),
        Instruction(0x28, 0, 0, _TAG_AT + 4),  # protocol
        Instruction(0x15, 1, 0, uapi.ETH_P_IP),
        Instruction(0x06, 0, 0, _WHOLE if len(groups) < len({each.group for each in tagged}) else 0),  # IPv6
        Instruction(0x30, 0, 0, _IP_AT + 9),
        *_one_of({_UDP}),
        Instruction(0x20, 0, 0, _IP_AT + 16),
        *_one_of(groups),
        _ACCEPT,
    )
    is_tagged = Instruction(0x28, 0, 0, _TAG_AT), Instruction(0x15, 1, 0, uapi.ETH_P_8021Q)
    return (*is_tagged, Instruction(0x05, 0, 0, len(block)), *block, *program)


def _one_of(values: set[int]) -> tuple[Instruction, ...]:
    """Go on if it is one of these."""
    if len(values) > _MOST:
        return ()
    far = zip(reversed(range(1, len(values) + 1)), sorted(values), strict=True)
    return (*(Instruction(0x15, left, 0, value) for left, value in far), _REJECT)
