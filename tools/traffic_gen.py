"""Send numbered multicast packets, and judge what arrives: the test and benchmark traffic of MCR.

A packet carries its flow's name (as a number), its own number, and the time it was due. So a receiver can
tell what became of every single one, whatever groups and ports the relays on the way gave it.

The report is on stdout, text or JSON; lines for whoever started the program ("ready", "progress") on stderr.
"""

import json
import signal
import sys
from ipaddress import IPv4Address
from threading import Event

try:
    import attrs
    import click

    from mcr.cli.failure import run
    from mcr.errors import UsageError
    from mcr.model.flow import check_port, parse_address
    from trafficgen.payload import DEFAULT_SIZE
    from trafficgen.receive import DEFAULT_RCVBUF, ReceiveProgress, receive
    from trafficgen.subscription import Subscription
except ModuleNotFoundError as error:
    hint = "run it with the Python that has MCR: .venv/bin/python tools/traffic_gen.py (make setup makes it)"
    sys.exit(f"Error: {error}\nhint: {hint}")


def parse_ipv4(text: str) -> IPv4Address:
    """Read an address.

    Raises:
        InvalidParams: it is none.
    """
    address = parse_address(text, "address")
    assert isinstance(address, IPv4Address)  # parse_address takes no other yet
    return address


@attrs.frozen
class Destination:
    """``G:P`` of a command line."""

    address: IPv4Address
    port: int

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "Destination":
        """Read ``239.1.1.1:5001``.

        Raises:
            UsageError, InvalidParams: it is not an address and a port.
        """
        address_text, colon, port_text = text.rpartition(":")
        if not colon or not port_text.isdecimal():
            raise UsageError(f"Invalid flow: {text!r}", "an address and a port, such as 239.1.1.1:5001")
        return cls(parse_ipv4(address_text), check_port(int(port_text), "port"))


def parse_sent_flow(text: str) -> tuple[Destination, str]:
    """Read ``G:P[=NAME]``: where a flow goes, and its name."""
    where, _, name = text.partition("=")
    destination = Destination.parse(where)
    if not destination.address.is_multicast:
        raise UsageError(
            f"Invalid flow: {destination.address} is not a multicast group", "224.0.0.0 to 239.255.255.255"
        )
    return destination, name or str(destination)


def parse_subscription(text: str, count: int) -> Subscription:
    """Read ``G:P[@IF][=NAME[/COUNT],…]``: a socket, and the flows that belong there.

    Args:
        text: as on the command line.
        count: packets of every flow that has no count of its own.
    """
    where, _, names = text.partition("=")
    destination_text, _, interface = where.partition("@")
    destination = Destination.parse(destination_text)
    expected: dict[str, int] = {}
    for item in names.split(",") if names else []:
        name, slash, own_count = item.partition("/")
        if not name or (slash and not own_count.isdecimal()):
            raise UsageError(f"Invalid flow: {item!r} in {text!r}", "NAME or NAME/COUNT, such as 239.1.1.1:5001/1000")
        expected[name] = int(own_count) if slash else count
    return Subscription(
        destination.address, destination.port, interface or None, expected, any_flow=0 if expected else count
    )


EXAMPLES = """\b
Examples:
  traffic_gen.py receive --flow 239.2.2.2:6001@rcv0=239.1.1.1:5001 --count 10000
  traffic_gen.py send --interface src0 --flow 239.1.1.1:5001 --count 10000 --rate 1000
"""


@click.group(help=__doc__, epilog=EXAMPLES, no_args_is_help=False)
def main() -> None:
    """Group the two modes."""


@main.command("send")
@click.option("--interface", required=True, metavar="IF", help="Send out of this interface.")
@click.option(
    "--flow", "flows", required=True, multiple=True, metavar="G:P[=NAME]", help="Repeat for several, in turn."
)
@click.option("--count", required=True, type=click.IntRange(1), help="Packets of each flow.")
@click.option("--rate", required=True, type=click.FloatRange(0), help="Packets per second of all flows; 0: no limit.")
@click.option("--size", default=DEFAULT_SIZE, show_default=True, help="Bytes of payload.")
@click.option("--source", metavar="ADDR", help="Source address; the interface's, if not given.")
@click.option("--vlan", type=click.IntRange(0, 4095), help="Tag the frames with this VLAN.")
@click.option("--ttl", type=click.IntRange(0, 255), default=16, show_default=True)
@click.option("--ip-id", type=click.IntRange(0, 65535), default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Report as one JSON object.")
@click.option("--progress", is_flag=True, help="Say on stderr, 4 times per second: progress sent=N")
def send_command(
    *,
    interface: str,
    flows: tuple[str, ...],
    count: int,
    rate: float,
    size: int,
    source: str | None,
    vlan: int | None,
    ttl: int,
    ip_id: int,
    as_json: bool,
    progress: bool,
) -> int:
    """Send packets 0 to COUNT-1 of each flow. Exit status 0: all were sent."""
    stop = _stopped_by_signals()
    # scapy takes half a second to import; a receiver does without.
    from trafficgen.frame import multicast_template  # noqa: PLC0415
    from trafficgen.interface import interface_address  # noqa: PLC0415
    from trafficgen.send import Flow, send  # noqa: PLC0415

    mine = interface_address(interface)
    address = parse_ipv4(source) if source else mine.address
    if address is None:
        raise UsageError(f"Interface {interface} has no address to send from", "name one: --source ADDR")
    report = send(
        interface,
        [
            Flow(
                name,
                multicast_template(
                    to.address, to.port, source=address, source_mac=mine.mac, vlan=vlan, ttl=ttl, ip_id=ip_id
                ),
            )
            for to, name in map(parse_sent_flow, flows)
        ],
        count=count,
        rate=rate,
        size=size,
        stop=stop,
        on_progress=_say_sent if progress else None,
    )
    print(json.dumps(report.as_json()) if as_json else report)
    return 0 if report.ok else 1


@main.command("receive")
@click.option(
    "--flow",
    "flows",
    required=True,
    multiple=True,
    metavar="G:P[@IF][=NAME[/COUNT],...]",
    help="Receive a group, or a port of this host; after the = the flows that belong there and no others, "
    "by their senders' G:P or NAME. Repeat for several.",
)
@click.option("--count", required=True, type=click.IntRange(1), help="Packets of each flow.")
@click.option(
    "--read-total", is_flag=True, help="Read from stdin, once it is known, how many of COUNT there are to be."
)
@click.option(
    "--idle-timeout",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Give up after SECONDS of nothing new.",
    metavar="SECONDS",
)
@click.option("--rcvbuf", default=DEFAULT_RCVBUF, show_default=True, help="Bytes of receive buffer of each socket.")
@click.option("--json", "as_json", is_flag=True, help="Report as one JSON object.")
@click.option("--progress", is_flag=True, help="Say on stderr, 4 times per second: progress received=N missing=N")
def receive_command(
    *,
    flows: tuple[str, ...],
    count: int,
    read_total: bool,
    idle_timeout: float,
    rcvbuf: int,
    as_json: bool,
    progress: bool,
) -> int:
    """Receive, and judge. Exit status 0: exactly what was expected came, once each and in order.

    Says "ready" on stderr when it has joined. Ends when all has come and 0.1 s more brought nothing else.
    """
    report = receive(
        [parse_subscription(flow, count) for flow in flows],
        idle_timeout_s=idle_timeout,
        rcvbuf=rcvbuf,
        stop=_stopped_by_signals(),
        total=sys.stdin if read_total else None,
        on_ready=_say_ready,
        on_progress=_say_received if progress else None,
    )
    print(json.dumps(report.as_json()) if as_json else report)
    return 0 if report.ok else 1


def _stopped_by_signals() -> Event:
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    return stop


def _say_ready() -> None:
    print("ready", file=sys.stderr, flush=True)


def _say_sent(sent: int) -> None:
    print(f"progress sent={sent}", file=sys.stderr, flush=True)


def _say_received(progress: ReceiveProgress) -> None:
    print(f"progress received={progress.received} missing={progress.missing}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run(main, "traffic_gen.py"))
