"""Rules of every kind at once, and what their outputs are to look like on the wire, stated without the relay's help."""

import re
import socket
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address

import attrs

from corpus import DF, Datagram, Datagram6

SENDER, SECOND, THIRD = "198.18.0.1", "203.0.113.9", "198.18.0.4"
SENDER6, SECOND6, THIRD6 = "2001:db8::1", "2001:db8:9::9", "2001:db8::4"
OWN = {f"out{i}": f"198.18.{i + 1}.1" for i in range(3)}
OWN6 = {f"out{i}": f"2001:db8:{i + 1}::1" for i in range(3)}
SILENT_HOST = ip_address("198.18.3.77")
MTU = {"out0": 1500, "out1": 1400, "out2": 1500}
TOO_LONG, NO_TAGS, NO_ADDRESS, EXPIRED, NO_WAY = (
    "Message too long (os error 90)",
    "Operation not supported (os error 95)",
    "Cannot assign requested address (os error 99)",
    "Timer expired (os error 62)",
    "Network is unreachable (os error 101)",
)
_PLACE = re.compile(r"\[?([0-9a-f:.]+)(/\d+)?\]?:(\d+)(-\d+)?:(\w+)")
_ALL = "255.255.255.255", "198.18.1.255"

Came = Datagram | Datagram6
Macs = dict[str, bytes]
"""Of the relay's interfaces and of the receiver's, by name."""


@attrs.frozen
class To:
    """An output, and its datagrams: what is not given is what it should be by default.

    Attributes:
        text: as an operator writes it.
        ttl: a number, keep or dec; 0: the usual one.
        tos: the whole byte, or keep.
        source: an address, or keep.
        port: it comes from; keep; 0: any.
        vlan: its tag.
        df: whether datagrams that need no fragments must not be cut by others.
        gateway: whether a group goes to a host's MAC.
        fails: why nothing leaves.
    """

    text: str
    ttl: int | str = 0
    tos: int | str = 0
    source: str = ""
    port: int | str = 0
    vlan: int | None = None
    df: bool = True
    gateway: bool = False
    fails: str = ""

    @property
    def place(self) -> tuple[IPv4Address | IPv6Address, int, str]:
        """The first group and port, and the interface."""
        return _place(self.text)[:3]

    def leaves(self, came: Came, offset: tuple[int, int], macs: Macs, *, tags: bool) -> Came | str:
        """What leaves of a datagram, or the error. `offset`: of its group and port in a range."""
        group, port, interface, has_groups, has_ports = _place(self.text)
        group, port = group + offset[0] * has_groups, port + offset[1] * has_ports
        is_keeping = self.source == "keep"
        ttl = {"keep": came.ttl, "dec": came.ttl - 1, 0: 1 if group.is_multicast else 64}.get(self.ttl, self.ttl)
        size = 28 + len(came.payload)
        errors = {
            self.fails: bool(self.fails),
            EXPIRED: not ttl,
            NO_ADDRESS: is_keeping and came.source.startswith("0."),
            TOO_LONG: self.vlan and size > MTU[interface],
            NO_TAGS: self.vlan and not tags,
        }
        if error := next((why for why, is_so in errors.items() if is_so), ""):
            return error
        source = came.source if is_keeping else self.source
        ports = {"keep": came.ports[0]}.get(str(self.port), self.port)
        assert isinstance(ttl, int)
        assert isinstance(ports, int)
        left = {
            "payload": came.payload,
            "ports": (ports, port),
            "service": came.service if self.tos == "keep" else self.tos,
            "ttl": ttl,
            "group": str(group),
            "summed": "zero",  # nobody looks at it
            "macs": self._mac(group, macs[interface.replace("out", "rx")]) + macs[interface],
        }
        if group.version == 6:
            return Datagram6(source=source or OWN6[interface], **left)  # type: ignore[arg-type]
        fragment = DF if self.df and size <= MTU[interface] else 0
        return Datagram(source=source or OWN[interface], fragment=fragment, **left)  # type: ignore[arg-type]

    def _mac(self, group: IPv4Address | IPv6Address, host: bytes) -> bytes:
        if self.gateway or (not group.is_multicast and str(group) not in _ALL):
            return host
        return mac_of_group(str(group))


@cache
def _place(text: str) -> tuple[IPv4Address | IPv6Address, int, str, bool, bool]:
    """Group, port and interface of an output, and whether it has several groups, and ports."""
    found = _PLACE.match(text)
    assert found
    group, prefix, port, last_port, interface = found.groups("")
    return ip_address(group), int(port), interface, bool(prefix), bool(last_port)


def mac_of_group(group: str) -> bytes:
    """Ethernet's, of a group or a broadcast address (RFC 1112, RFC 2464)."""
    if ":" in group:
        return b"\x33\x33" + socket.inet_pton(socket.AF_INET6, group)[-4:]
    low = int(ip_address(group)) & 0x7FFFFF
    return b"\x01\x00\x5e" + low.to_bytes(3) if ip_address(group).is_multicast else b"\xff" * 6


@attrs.frozen
class Rule:
    """`why`: the workers forward by it, also where there is a kernel path; of it the relay says this."""

    name: str
    group: str
    outputs: tuple[To, ...]
    port: str = "5000"
    vlan: int | None = None
    sources: tuple[str, ...] = ()
    why: str = ""
    state: str = "active"

    def offset(self, came: Came) -> tuple[int, int]:
        """Of a datagram's group and port in the range."""
        first = ip_address(self.group.partition("/")[0])
        return int(ip_address(came.group)) - int(first), came.ports[1] - int(self.port.partition("-")[0])

    def toml(self, options: str) -> str:
        """As a configuration file has it. `options`: of outputs that have none of that kind."""
        port = self.port if self.port.isdigit() else f'"{self.port}"'
        where = f'interface = "in0", group = "{self.group}", port = {port}'
        where += f", vlan = {self.vlan}" if self.vlan else ""
        where += f", sources = {[*self.sources]}" if self.sources else ""
        outputs = [each.text + (options if "gso=" not in each.text else "") for each in self.outputs]
        return f'[[rule]]\nname = "{self.name}"\ninput = {{ {where} }}\noutputs = {outputs}\n'


RULES = (
    Rule(
        "plain",
        "239.1.1.1",
        (
            To("239.2.2.2:6000:out0"),
            To("239.2.2.3:6001:out1"),
            To("198.18.1.2:6002:out0"),
            To("203.0.113.7:6003:out0"),  # by a gateway
        ),
    ),
    Rule("tagged", "239.1.1.1", (To("239.2.2.2:6004:out0"),), vlan=7),
    Rule(
        "into VLANs",
        "239.1.1.2",
        (
            To("239.2.2.2:6010:out0:vlan=7", vlan=7),
            To("239.2.2.2:6011:out0:vlan=8:ttl=9:source-port=4000", vlan=8, ttl=9, port=4000),
            To("255.255.255.255:6012:out0:vlan=9", vlan=9),
            To("239.2.2.3:6013:out1:vlan=7", vlan=7),
            To("239.2.2.3:6014:out1"),
        ),
    ),
    Rule(
        "TTL",
        "239.1.1.3",
        (
            To("239.2.2.2:6020:out0:ttl=8", ttl=8),
            To("239.2.2.2:6021:out0:ttl=keep", ttl="keep"),
            To("239.2.2.2:6022:out0:ttl=dec", ttl="dec"),
            To("198.18.1.2:6023:out0:ttl=dec", ttl="dec"),
            To("239.2.2.2:6024:out0:ttl=255", ttl=255),
        ),
    ),
    Rule(
        "DSCP",
        "239.1.1.4",
        (
            To("239.2.2.2:6030:out0:dscp=46", tos=46 << 2),
            To("239.2.2.2:6031:out0:dscp=keep", tos="keep"),
            To("198.18.1.2:6032:out0:dscp=keep:ttl=keep", tos="keep", ttl="keep"),
            To("198.18.1.2:6033:out0:dscp=63:ttl=9", tos=63 << 2, ttl=9),
        ),
    ),
    Rule(
        "origin",
        "239.1.1.5",
        (
            To("239.2.2.2:6040:out0:source=198.18.2.1", source="198.18.2.1"),
            To("239.2.2.2:6041:out0:source-port=4001", port=4001),
            To("198.18.1.2:6042:out0:source=198.18.2.1:source-port=4002", source="198.18.2.1", port=4002, df=False),
            To("239.2.2.2:6043:out0:source=198.18.2.1:source-port=keep", source="198.18.2.1", port="keep"),
        ),
    ),
    Rule(
        "absent source",
        "239.1.1.6",
        (To("239.2.2.2:6050:out0"), To("239.2.2.2:6051:out0:source=198.18.1.9", fails=NO_WAY)),
        why="see the routes to 239.2.2.2",
        state="degraded",
    ),
    Rule(
        "kept source",
        "239.1.1.7",
        (
            To("239.2.2.2:6060:out0:source=keep", source="keep", port="keep"),
            To("239.2.2.2:6061:out0:source=keep:source-port=4003:ttl=9", source="keep", port=4003, ttl=9),
            To("198.18.1.2:6062:out0:source=keep:dscp=46", source="keep", port="keep", tos=46 << 2, df=False),
            To("239.3.3.3:6063:out0:source=keep", source="keep", port="keep", gateway=True),
            To("239.2.2.2:6064:out0:source=keep:vlan=7", source="keep", port="keep", vlan=7),
            To("239.2.2.3:6065:out1:source=keep", source="keep", port="keep"),
        ),
    ),
    Rule(
        "kept on the link",
        "224.0.0.251",
        (To("224.0.0.251:6066:out0:source=keep:ttl=255", source="keep", port="keep", ttl=255),),
    ),
    Rule("to all", "239.1.1.8", (To("255.255.255.255:6070:out0:ttl=3", ttl=3), To("198.18.1.255:6071:out0"))),
    Rule("from all", "255.255.255.255", (To("239.2.2.2:6080:out0"),)),
    Rule("from its network", "198.18.0.255", (To("239.2.2.2:6081:out0"),)),
    Rule("own address", "198.18.0.2", (To("239.2.2.2:6082:out0"), To("198.18.1.2:6083:out0"))),
    Rule("named sources", "232.1.1.1", (To("239.2.2.2:6090:out0"),), sources=(SENDER, SECOND)),
    Rule("any source", "232.1.1.1", (To("239.2.2.2:6091:out0"),)),
    Rule(
        "range",
        "239.1.4.0/30",
        (
            To("239.4.0.0/30:7000-7002:out0"),
            To("239.5.5.5:7100:out1"),
            To("239.4.4.0/30:7200:out2:ttl=dec", ttl="dec"),
            To("198.18.1.2:7300-7302:out0"),
            To("239.7.0.0/30:7500-7502:out0:source=keep", source="keep", port="keep"),
        ),
        port="5000-5002",
    ),
    Rule("one of the range", "239.1.4.1", (To("239.6.6.6:7400:out0"),), port="5001"),
    Rule(
        "trains",
        "239.1.1.9",
        tuple(To(f"239.2.2.2:610{i}:out0:gso={gso}") for i, gso in enumerate(("off", "2", "64"))),
        why="gso=off",
    ),
    Rule("silent host", "239.1.1.10", (To("198.18.3.77:6110:out2"), To("239.2.2.2:6111:out0")), why="ARP on out2"),
    Rule(
        "to IPv6",
        "239.1.1.11",
        (To("[ff15::2]:6200:out0"), To("[2001:db8:1::2]:6201:out0"), To("239.2.2.2:6202:out0")),
        why="the kernel path sends by what came in, IPv4",
    ),
    Rule(
        "IPv6",
        "ff15::1",
        (
            To("[ff15::2]:6300:out0"),
            To("[ff15::3]:6301:out1"),
            To("[2001:db8:1::2]:6302:out0"),
            To("[2001:db8:77::7]:6303:out0"),  # by a gateway
            To("[ff15::2]:6304:out0:ttl=8:dscp=46", ttl=8, tos=46 << 2),
            To("[ff15::2]:6305:out0:ttl=dec:dscp=keep", ttl="dec", tos="keep"),
            To("[ff15::2]:6306:out0:source=[2001:db8:2::1]:source-port=4004", source="2001:db8:2::1", port=4004),
        ),
    ),
    Rule("IPv6 tagged", "ff15::1", (To("[ff15::2]:6307:out0"),), vlan=7),
    Rule(
        "IPv6 kept source",
        "ff15::5",
        (
            To("[ff15::2]:6310:out0:source=keep", source="keep", port="keep"),
            To("[2001:db8:1::2]:6311:out0:source=keep:source-port=4005", source="keep", port=4005),
        ),
    ),
    Rule(
        "to IPv4",
        "ff15::4",
        (To("239.2.2.2:6320:out0"), To("198.18.1.2:6321:out0:dscp=keep", tos="keep"), To("[ff15::2]:6322:out1")),
        why="the kernel path sends by what came in, IPv6",
    ),
    Rule("IPv6 own address", "2001:db8::2", (To("[ff15::2]:6330:out0"),)),
    Rule("IPv6 named source", "ff35::1", (To("[ff15::2]:6340:out0"),), sources=(SENDER6,)),
    Rule("IPv6 any source", "ff35::1", (To("[ff15::2]:6341:out0"),)),
    Rule(
        "IPv6 range",
        "ff15::100/126",
        (To("[ff15::200/126]:7600-7601:out0"), To("[ff15::300]:7700:out1")),
        port="5000-5001",
    ),
)
BY_NAME = {each.name: each for each in RULES}
_MOST = 3  # ports of a range
FREE_PORTS = frozenset(
    to.place[1] + at
    for each in RULES
    for to in each.outputs
    if not to.port
    for at in range(_MOST if "-" in each.port else 1)
)
"""That datagrams go to whose own port may be any."""
