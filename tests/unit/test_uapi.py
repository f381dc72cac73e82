"""The kernel's numbers are those of its headers, and stand in one module."""

import re
import subprocess
from pathlib import Path

import mcr
from mcr.net import uapi

HEADERS = """\
asm/socket.h linux/in.h linux/udp.h linux/virtio_net.h linux/if_ether.h linux/if_arp.h linux/if_packet.h
linux/filter.h linux/if.h linux/sockios.h linux/netlink.h linux/rtnetlink.h linux/if_link.h linux/if_addr.h
linux/neighbour.h linux/pkt_sched.h linux/xfrm.h linux/netfilter.h linux/netfilter/nfnetlink.h linux/capability.h
linux/seccomp.h linux/icmpv6.h linux/netfilter/nf_tables.h linux/ethtool.h
"""

INSIDE = """\
#define SOL_PACKET 263
#define VLAN_VID_MASK 0x0fff
#define NUD_CONNECTED (NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE)
#define NUD_VALID (NUD_CONNECTED | NUD_PROBE | NUD_STALE | NUD_DELAY)
"""
"""What the kernel keeps to itself: <linux/socket.h>, <linux/if_vlan.h>, <net/neighbour.h>."""

OTHERWISE = """\
#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif
#define XFRM_USERPOLICY_ID_BYTES sizeof(struct xfrm_userpolicy_id)
#define NFNLGRP_NFTABLES_BIT (1 << (NFNLGRP_NFTABLES - 1))
#define RTMGRP_IPV6_RULE (1 << (RTNLGRP_IPV6_RULE - 1))
#define RTMGRP_IPV4_NETCONF (1 << (RTNLGRP_IPV4_NETCONF - 1))
#define RTMGRP_IPV6_NETCONF (1 << (RTNLGRP_IPV6_NETCONF - 1))
#ifndef NTF_EXT_EXT_VALIDATED
#define NTF_EXT_EXT_VALIDATED (1 << 1)
#endif
#undef NLA_TYPE_MASK
#define NLA_TYPE_MASK (~(NLA_F_NESTED | NLA_F_NET_BYTEORDER) & 0xffff)
"""
"""What headers before 6.2 or 6.18 lack, and what no header has a name for, or for 16 bits of it."""

STRUCTS = {
    "NLMSGHDR": "nlmsghdr",
    "NLATTR": "nlattr",
    "IFINFOMSG": "ifinfomsg",
    "RTMSG": "rtmsg",
    "IFADDRMSG": "ifaddrmsg",
    "NDMSG": "ndmsg",
    "NDTMSG": "ndtmsg",
    "TCMSG": "tcmsg",
    "NFGENMSG": "nfgenmsg",
}


def test_numbers_and_sizes_are_those_of_the_headers() -> None:
    values = {name: value for name, value in vars(uapi).items() if name.isupper() and isinstance(value, int)}
    sizes = {f"sizeof(struct {STRUCTS[name]})": getattr(uapi, name).size for name in STRUCTS}
    assert len(values) > 100
    program = "".join(f"#include <{header}>\n" for header in HEADERS.split()) + INSIDE + OTHERWISE
    program += "".join(f'_Static_assert({name} == {value}u, "{name}");\n' for name, value in (values | sizes).items())
    done = subprocess.run(
        ["cc", "-fsyntax-only", "-xc", "-"], input=program, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_no_other_module_has_numbers_of_the_kernel() -> None:
    """None has a name of one, with or without an underscore before it."""
    known = {name for name in vars(uapi) if name.isupper()}
    for path in Path(mcr.__file__).parent.rglob("*.py"):
        if path.name != "uapi.py":
            for names in re.findall(r"^([A-Z0-9_, ]+)(?:: Final)? = \d", path.read_text(), re.MULTILINE):
                assert not known & {name.strip("_ ") for name in names.split(",")}, f"{path}: {names}"
