"""Numbers and headers of the kernel's interface that Python's library does not have, by their names in <linux/*.h>."""

import struct
from typing import Final

# <asm-generic/socket.h>
SO_ATTACH_FILTER: Final = 26
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33
SO_TIMESTAMPNS: Final = 35
SO_MARK: Final = 36
SO_RXQ_OVFL: Final = 40
SO_ATTACH_BPF: Final = 50
SO_PEERGROUPS: Final = 59  # since Linux 4.13
SO_BINDTOIFINDEX: Final = 62

# <linux/in.h>, <linux/udp.h>, <linux/virtio_net.h>
IP_PKTINFO: Final = 8
IP_MTU_DISCOVER: Final = 10
IP_PMTUDISC_DONT: Final = 0
MCAST_JOIN_SOURCE_GROUP: Final = 46
MCAST_LEAVE_SOURCE_GROUP: Final = 47
SOCKADDR_IN: Final = struct.Struct("HH4s120x")  # family, port, address; as long as any (sockaddr_storage)
SOCKADDR_IN6: Final = struct.Struct("HHI16sI100x")  # family, port, flow, address, zone; likewise
GROUP_SOURCE_REQ: Final = struct.Struct("I4x128s128s")  # interface, group, source
UDP_SEGMENT: Final = 103
VIRTIO_NET_HDR_GSO_UDP_L4: Final = 5
VIRTIO_NET_HDR: Final = struct.Struct("BBHHHH")  # flags, kind, header length, segment size, checksum start and offset

# <linux/in6.h>
IPV6_RECVERR: Final = 25
IPV6_MULTICAST_ALL: Final = 29  # since Linux 4.20
IPV6_AUTOFLOWLABEL: Final = 70
IPV6_TRANSPARENT: Final = 75

# <linux/icmpv6.h>
ICMPV6_FILTER: Final = 1

# <linux/if_ether.h>, <linux/if_arp.h>
ETH_P_ALL: Final = 0x0003
ETH_P_IP: Final = 0x0800
ETH_P_ARP: Final = 0x0806
ETH_P_IPV6: Final = 0x86DD
ETH_P_8021Q: Final = 0x8100
ETH_P_8021AD: Final = 0x88A8
ARPHRD_ETHER: Final = 1
ARPHRD_LOOPBACK: Final = 772

# <linux/if_vlan.h>
VLAN_VID_MASK: Final = 0x0FFF

# <linux/if_packet.h>
SOL_PACKET: Final = 263
PACKET_ADD_MEMBERSHIP: Final = 1
PACKET_RX_RING: Final = 5
PACKET_STATISTICS: Final = 6
PACKET_COPY_THRESH: Final = 7
PACKET_AUXDATA: Final = 8
PACKET_VERSION: Final = 10
PACKET_VNET_HDR: Final = 15
PACKET_FANOUT: Final = 18
PACKET_IGNORE_OUTGOING: Final = 23
PACKET_OTHERHOST: Final = 3  # type of a packet
PACKET_OUTGOING: Final = 4
PACKET_LOOPBACK: Final = 5  # sent by this machine to itself
PACKET_MR_ALLMULTI: Final = 2
PACKET_FANOUT_DATA: Final = 22
PACKET_FANOUT_CBPF: Final = 6
PACKET_FANOUT_FLAG_UNIQUEID: Final = 0x2000
TPACKET_V2: Final = 1
TPACKET_AUXDATA: Final = struct.Struct("IIIHHHH")  # status, length, snapped, link and network header at, TCI, TPID
TP_STATUS_CSUMNOTREADY: Final = 1 << 3
TP_STATUS_VLAN_VALID: Final = 1 << 4
TP_STATUS_VLAN_TPID_VALID: Final = 1 << 6
TP_STATUS_CSUM_VALID: Final = 1 << 7

# <linux/filter.h>, <linux/bpf_common.h>
BPF_MAXINSNS: Final = 4096
SKF_NET_OFF: Final = 0xFFF00000  # an offset from the network header
SKF_AD_OFF: Final = 0xFFFFF000  # what the kernel knows of the frame

# <linux/if.h>, <linux/sockios.h>
IFF_UP: Final = 0x1
IFF_LOOPBACK: Final = 0x8
IFF_POINTOPOINT: Final = 0x10
IFF_RUNNING: Final = 0x40
IFF_NOARP: Final = 0x80
IFF_LOWER_UP: Final = 0x10000
SIOCGIFNAME: Final = 0x8910
SIOCGIFADDR: Final = 0x8915
SIOCGIFMTU: Final = 0x8921
SIOCGIFINDEX: Final = 0x8933
SIOCETHTOOL: Final = 0x8946

# <linux/ethtool.h>
ETHTOOL_GSTRINGS: Final = 0x1B
ETHTOOL_GSSET_INFO: Final = 0x37
ETHTOOL_GFEATURES: Final = 0x3A
ETH_SS_FEATURES: Final = 4
ETH_GSTRING_LEN: Final = 32

# <linux/netlink.h>
NETLINK_XFRM: Final = 6
NETLINK_NETFILTER: Final = 12
NLMSGHDR: Final = struct.Struct("IHHII")  # length, type, flags, sequence, port
NLATTR: Final = struct.Struct("HH")  # length, type
NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP: Final = 0x300
NLM_F_CREATE: Final = 0x400
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLA_TYPE_MASK: Final = 0x3FFF

# <linux/rtnetlink.h>: messages
RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
RTM_NEWNEIGH: Final = 28
RTM_DELNEIGH: Final = 29
RTM_GETNEIGH: Final = 30
RTM_GETNEIGHTBL: Final = 66
RTM_NEWRULE: Final = 32
RTM_DELRULE: Final = 33
RTM_GETQDISC: Final = 38
IFINFOMSG: Final = struct.Struct("BxHiII")  # family, type, index, flags, change
RTMSG: Final = struct.Struct("BBBBBBBBI")  # family, destination's and source's length, …, flags

TCMSG: Final = struct.Struct("B3xiIII")  # family, index, handle, parent, info
TC_H_INGRESS: Final = 0xFFFF_FFF1

# <linux/rtnetlink.h>: groups of who hears of changes, as bits
RTMGRP_LINK: Final = 1 << 0
RTMGRP_NEIGH: Final = 1 << 2
RTMGRP_IPV4_IFADDR: Final = 1 << 4
RTMGRP_IPV4_ROUTE: Final = 1 << 6
RTMGRP_IPV4_RULE: Final = 1 << 7
RTMGRP_IPV6_IFADDR: Final = 1 << 8
RTMGRP_IPV6_ROUTE: Final = 1 << 10
RTMGRP_IPV6_RULE: Final = 1 << 18
RTMGRP_IPV4_NETCONF: Final = 1 << 23
RTMGRP_IPV6_NETCONF: Final = 1 << 24

# <linux/rtnetlink.h>: routes
RTM_F_FIB_MATCH: Final = 0x2000  # the table's entry, or an error; no guess that the host is on the link
RTN_UNICAST: Final = 1
RTN_LOCAL: Final = 2
RTN_BROADCAST: Final = 3
RTA_DST: Final = 1
RTA_SRC: Final = 2
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RTA_MULTIPATH: Final = 9
RTA_ENCAP: Final = 22

# <linux/if_link.h>
IFLA_ADDRESS: Final = 1
IFLA_IFNAME: Final = 3
IFLA_MTU: Final = 4
IFLA_LINK: Final = 5
IFLA_MASTER: Final = 10
IFLA_LINKINFO: Final = 18
IFLA_EXT_MASK: Final = 29
IFLA_CARRIER: Final = 33
IFLA_LINK_NETNSID: Final = 37
IFLA_GSO_MAX_SEGS: Final = 40
IFLA_CARRIER_UP_COUNT: Final = 47
IFLA_PROP_LIST: Final = 52
IFLA_ALT_IFNAME: Final = 53
IFLA_INFO_KIND: Final = 1
IFLA_INFO_DATA: Final = 2
IFLA_VLAN_ID: Final = 1
RTEXT_FILTER_SKIP_STATS: Final = 1 << 3

# <linux/if_addr.h>
IFADDRMSG: Final = struct.Struct("BBBBI")  # family, prefix length, flags, scope, index
IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFA_CACHEINFO: Final = 6

# <linux/neighbour.h>
NDMSG: Final = struct.Struct("B3xiHBB")  # family, index, state, flags, type
NDTMSG: Final = struct.Struct("B3x")  # family
NDTA_THRESH3: Final = 4
NDTA_CONFIG: Final = 5
NDTA_STATS: Final = 7
NDA_DST: Final = 1
NDA_LLADDR: Final = 2
NDA_CACHEINFO: Final = 3
NDA_FLAGS_EXT: Final = 15
NTF_USE: Final = 0x01
NTF_PROXY: Final = 0x08
NTF_EXT_LEARNED: Final = 0x10
NTF_EXT_EXT_VALIDATED: Final = 1 << 1
NUD_INCOMPLETE: Final = 0x01
NUD_REACHABLE: Final = 0x02
NUD_STALE: Final = 0x04
NUD_DELAY: Final = 0x08
NUD_PROBE: Final = 0x10
NUD_FAILED: Final = 0x20
NUD_NOARP: Final = 0x40
NUD_PERMANENT: Final = 0x80
NUD_CONNECTED: Final = NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE
NUD_VALID: Final = NUD_CONNECTED | NUD_PROBE | NUD_STALE | NUD_DELAY

# <linux/xfrm.h>, <linux/netfilter/nfnetlink.h>, <linux/netfilter/nf_tables.h>
XFRM_MSG_GETPOLICY: Final = 0x15
XFRM_USERPOLICY_ID_BYTES: Final = 64
XFRMGRP_POLICY: Final = 1 << 3
NFNLGRP_NFTABLES_BIT: Final = 1 << 6
NFNL_SUBSYS_NFTABLES: Final = 10
NFT_MSG_GETCHAIN: Final = 4
NFGENMSG: Final = struct.Struct("BBH")  # family, version, …

# <linux/netfilter.h>
NFPROTO_INET: Final = 1
NFPROTO_IPV4: Final = 2
NFPROTO_NETDEV: Final = 5
NFPROTO_IPV6: Final = 10
NF_INET_PRE_ROUTING: Final = 0
NF_INET_LOCAL_IN: Final = 1
NF_INET_LOCAL_OUT: Final = 3
NF_INET_POST_ROUTING: Final = 4
NF_INET_INGRESS: Final = 5
NF_NETDEV_INGRESS: Final = 0
NF_NETDEV_EGRESS: Final = 1
NF_DROP: Final = 0

# <linux/capability.h>, <linux/seccomp.h>
CAP_NET_ADMIN: Final = 12
CAP_NET_RAW: Final = 13
CAP_BPF: Final = 39
SECCOMP_MODE_FILTER: Final = 2
