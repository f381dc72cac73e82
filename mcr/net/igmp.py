"""Has the kernel report this machine's group memberships once more.

A switch forgets who asked for which groups when a port loses its link, and the kernel says nothing by itself when it is
back: the groups stay off until the next query, up to 125 s. So this machine asks itself, by a query with a TTL of 0. It
leaves by no wire: its copy for local members comes in on the interface as if it came from there. The kernel answers as
it answers any query: in the version of IGMP that is spoken there, IGMPv3 with all groups in few reports at once, older
versions with the reports of single groups spread over the time that the query gives.
"""

import socket
import struct
from typing import Final

from mcr.net.procfs import igmp_version

_QUERY: Final = 0x11
_ALL_HOSTS: Final = "224.0.0.1"
_MESSAGE: Final = struct.Struct("!BBH4xBBH")  # RFC 3376, 4.1
_TENTHS: Final = range(5, 101)  # of a second, for the answers
_PER_TENTH: Final = 100  # groups whose reports are to come in that time


def ask_for_reports(index: int, groups: int) -> None:
    """Have the groups that are joined on an interface reported.

    Args:
        index: of the interface.
        groups: how many they are.

    Raises:
        OSError: it can't be asked.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_IGMP) as asking:
        asking.setblocking(False)
        asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
        asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("4s4si", b"", b"", index))
        # By IGMPv3 all groups are reported at one moment: more time would only make it a later one.
        spread = 0 if igmp_version(index) == "V3" else groups
        asking.sendto(query(spread), (_ALL_HOSTS, 0))


def query(groups: int) -> bytes:
    """One about all groups, of IGMPv3: whoever speaks an older version there goes on to.

    Args:
        groups: whose reports are to be spread over the time that the query gives.
    """
    tenths = min(max(groups // _PER_TENTH, _TENTHS[0]), _TENTHS[-1])
    total = sum(struct.unpack("!6H", _MESSAGE.pack(_QUERY, tenths, 0, 0, 0, 0)))
    return _MESSAGE.pack(_QUERY, tenths, ~total & 0xFFFF, 0, 0, 0)
