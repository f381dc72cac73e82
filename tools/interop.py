"""Other programs across a relay, as people use them, on either path, by IPv4 and IPv6: what one sends the other gets.

MPEG-TS by ffmpeg, SSDP by upnpc (miniupnpc), mDNS by avahi. `make interop`; a program that is missing is an error.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from daemon_process import DaemonProcess
from lab import Lab, Namespace, enter_user_namespace
from mcr.model.flow import IPV4, IPV6

BIN = Path(sys.executable).parent
PROGRAMS = "ffmpeg", "upnpc", "avahi-daemon", "avahi-browse", "avahi-publish-service", "dbus-daemon", "unshare"
PATHS = {"kernel": (), "worker": ("env", "MCR_KERNEL_PATH=off")}
NORTH, SOUTH = ("198.18.0.1", "2001:db8::1"), ("198.18.1.2", "2001:db8:1::2")
PATIENCE_S = 20.0
BROWSING_S = 8.0
SECONDS = 4  # of a clip that is half as long again

DEVICE = r"""
import re, socket, struct, sys
version, address, index = int(sys.argv[1]), sys.argv[2], socket.if_nametoindex("s0")
family, group = (socket.AF_INET, "239.255.255.250") if version == 4 else (socket.AF_INET6, "ff05::c")
with socket.socket(family, socket.SOCK_DGRAM) as opened:
    opened.bind(("", 1900))
    joined = socket.inet_pton(family, group)
    if version == 4:
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined + struct.pack("4si", b"", index))
    else:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, joined + struct.pack("I", index))
    print("ready", flush=True)
    while True:
        asked, sender = opened.recvfrom(2000)
        if kind := re.search(rb"(?im)^ST: *(\S+)", asked):
            lines = b"HTTP/1.1 200 OK", b"ST: " + kind[1], b"USN: uuid:1::" + kind[1], b"EXT:"
            more = b"CACHE-CONTROL: max-age=60", f"LOCATION: http://{address}:8000/desc.xml".encode()
            opened.sendto(b"\r\n".join([*lines, *more, b"", b""]), sender)
"""
"""Answers as SSDP has it: whoever asked, from the address that it is at (UPnP Device Architecture, 1.3.3)."""

BUS = """<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context="default">
<allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>"""
AVAHI = "[server]\nhost-name={0}\nuse-ipv4={1}\nuse-ipv6={2}\nallow-interfaces={3}\nenable-dbus=yes\n"


@attrs.frozen
class World:
    """north n0 ── a0 relay a1 ── s0 south: two networks, which the relay's machine routes to each other."""

    north: Namespace
    relay: Namespace
    south: Namespace
    mcr: DaemonProcess
    directory: Path
    path: str

    def relays(self, *rules: tuple[str, str, str]) -> None:
        """Replace all rules: input group and port, outputs, the interface of the input. Each takes this path."""
        for each in self.mcr.call("list"):
            self.mcr.ctl("remove", "--rule-id", each["rule_id"])
        for taken, outputs, interface in rules:
            group, port = taken.rsplit(":", 1)
            where = "--input-interface", interface, "--input-group", group, "--input-port", port
            self.mcr.ctl("add", *where, "--outputs", outputs)
        wait_until(lambda: {each["path"] for each in self.mcr.call("list")} == {self.path}, f"the {self.path} path")


@contextmanager
def world(path: str) -> Iterator[World]:
    """One of its own, with an mcrd that forwards by this path."""
    with Lab() as lab, tempfile.TemporaryDirectory() as made:
        north, relay, south = (lab.namespace(name) for name in ("north", "relay", "south"))
        lab.link(north, "n0", relay, "a0", a_address=f"{NORTH[0]}/24", b_address="198.18.0.2/24")
        lab.link(relay, "a1", south, "s0", a_address="198.18.1.1/24", b_address=f"{SOUTH[0]}/24")
        for each, name, address in (
            (north, "n0", NORTH[1]),
            (relay, "a0", "2001:db8::2"),
            (relay, "a1", "2001:db8:1::1"),
            (south, "s0", SOUTH[1]),
        ):
            each.sysctl(f"net.ipv6.conf.{name}.accept_dad", "0")
            each.sysctl(f"net.ipv6.conf.{name}.disable_ipv6", "0")
            each.ip(f"address add {address}/64 dev {name} nodad")
        relay.sysctl("net.ipv4.ip_forward", "1")
        relay.sysctl("net.ipv6.conf.all.forwarding", "1")
        north.ip("route add default via 198.18.0.2", "route add default via 2001:db8::2")
        south.ip("route add default via 198.18.1.1", "route add default via 2001:db8:1::1")
        directory = Path(made)
        mcr = DaemonProcess(relay, BIN, directory / "mcr.sock", directory / "mcr.log")
        mcr.launch("--no-state", "--num-workers", "1", prefix=PATHS[path])
        mcr.wait_until_it_answers(PATIENCE_S)
        yield World(north, relay, south, mcr, directory, path)


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """What is true at last."""
    end = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        if time.monotonic() > end:
            sys.exit(f"interop: after {PATIENCE_S:g} s still not: {what}")
        time.sleep(0.05)
    return found


# MPEG-TS.


def ffmpeg(*words: str | Path) -> list[str]:
    """Its command."""
    return ["ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin", *map(str, words)]


def frames(text: str) -> list[str]:
    """Sums of a stream's frames, in order."""
    return [line.rpartition(",")[2].strip() for line in text.splitlines() if not line.startswith("#")]


def plays(this: World, version: int) -> str:
    """Each frame of the picture that comes out is one that went in, in order, from the first on."""
    clip, sums = this.directory / "clip.ts", this.directory / "came"
    picture = "-f", "lavfi", "-i", "testsrc=size=352x288:rate=25", "-f", "lavfi", "-i", "sine"
    length = str(SECONDS * 1.5)
    this.north.run(ffmpeg(*picture, "-t", length, "-c:v", "mpeg2video", "-b:v", "2M", "-c:a", "mp2", "-y", clip))
    only = "-map", "0:v", "-c", "copy", "-f", "framemd5"
    sent = frames(this.north.run(ffmpeg("-i", clip, *only, "-")).stdout)
    here, there = ("239.1.1.1", "239.2.2.2") if version == IPV4 else ("ff15::1", "ff15::2")
    shown = [each if version == IPV4 else f"[{each}]" for each in (here, there)]
    this.relays((f"{here}:5000", f"{shown[1]}:6000:a1", "a0"))
    player = this.south.popen(
        ffmpeg("-i", f"udp://{shown[1]}:6000?timeout=9000000", "-t", str(SECONDS), *only, "-y", sums)
    )
    wait_until(lambda: there in this.south.ip("maddress show dev s0"), "the player joins")
    this.north.run(ffmpeg("-re", "-i", clip, "-c", "copy", "-f", "mpegts", f"udp://{shown[0]}:5000?pkt_size=1316"))
    player.wait(PATIENCE_S)
    came = frames(sums.read_text())
    return "" if len(came) >= SECONDS * 25 and came == sent[: len(came)] else f"{len(came)} of {len(sent)} frames"


# SSDP.


def is_found(this: World, version: int, options: str) -> bool:
    """Whether a control point finds a device of the other network, with outputs that have these options."""
    group, address = ("239.255.255.250", SOUTH[0]) if version == IPV4 else ("[ff05::c]", f"[{SOUTH[1]}]")
    both = ("a0", "a1"), ("a1", "a0")
    this.relays(*((f"{group.strip('[]')}:1900", f"{group}:1900:{out}{options}", name) for name, out in both))
    device = this.south.popen([sys.executable, "-c", DEVICE, str(version), address], stdout=subprocess.PIPE)
    assert device.stdout
    device.stdout.readline()
    words = ["upnpc", *(["-6"] if version == IPV6 else []), "-m", "n0", "-s"]
    said = this.north.run(words, check=False).stdout
    device.terminate()
    device.wait(PATIENCE_S)
    return f"desc: http://{address}:8000/desc.xml" in said


def finds_devices(this: World, version: int) -> str:
    """It does with the sender's address, and not without: then the device answers the relay."""
    kept, plain = (is_found(this, version, options) for options in (":source=keep:ttl=dec", ""))
    return "" if (kept, plain) == (True, False) else f"found with source=keep: {kept}, without: {plain}"


# mDNS.


def responder(this: World, side: Namespace, interface: str, version: int) -> dict[str, str]:
    """An avahi there, with a bus of its own; the environment of its clients."""
    name = f"{side.name}{version}{this.path}{time.monotonic_ns()}"
    bus, settings, daemon = (this.directory / f"{name}.{kind}" for kind in ("bus", "xml", "conf"))
    settings.write_text(BUS.format(bus))
    daemon.write_text(AVAHI.format(side.name, *("no", "yes")[:: -1 if version == IPV4 else 1], interface))
    side.popen(["dbus-daemon", f"--config-file={settings}", "--nofork"])
    environment = dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS=f"unix:path={bus}")
    wait_until(bus.exists, "the bus is there")
    run = f"mount -t tmpfs none /run && exec avahi-daemon --no-drop-root --no-chroot --no-rlimits -f {daemon}"
    side.popen(["unshare", "--mount", "sh", "-c", run], env=environment, stderr=subprocess.DEVNULL)
    return environment


def is_resolved(this: World, version: int, options: str) -> bool:
    """Whether a service of the other network is found and resolved, with outputs that have these options."""
    group = "224.0.0.251" if version == IPV4 else "[ff02::fb]"
    both = ("a0", "a1"), ("a1", "a0")
    this.relays(*((f"{group.strip('[]')}:5353", f"{group}:5353:{out}{options}", name) for name, out in both))
    there, here = responder(this, this.south, "s0", version), responder(this, this.north, "n0", version)
    service = f"studio {options}"
    this.south.popen(
        ["avahi-publish-service", service, "_mcr._tcp", "8000"],
        env=there,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def is_seen(side: Namespace, environment: dict[str, str]) -> bool:
        asked = ["timeout", "5", "avahi-browse", "--resolve", "--parsable", "--terminate", "_mcr._tcp"]
        said = side.run(asked, env=environment, check=False).stdout
        return bool(re.search(rf"(?m)^=.*;{re.escape(SOUTH[version == IPV6])};8000;", said))

    wait_until(lambda: is_seen(this.south, there), "the service is offered")
    end = time.monotonic() + BROWSING_S
    while time.monotonic() < end:
        if is_seen(this.north, here):
            return True
    return False


def resolves(this: World, version: int) -> str:
    """It does with the sender's address and port, and not without."""
    kept, plain = (is_resolved(this, version, options) for options in (":source=keep:ttl=255", ""))
    return "" if (kept, plain) == (True, False) else f"found with source=keep: {kept}, without: {plain}"


TRIALS = {"MPEG-TS, ffmpeg": plays, "SSDP, upnpc": finds_devices, "mDNS, avahi": resolves}


def main() -> int:
    """Try all of them on each path."""
    if missing := [each for each in PROGRAMS if not shutil.which(each)]:
        print(f"interop: not installed: {', '.join(missing)}", file=sys.stderr)
        return 2
    enter_user_namespace()
    failures = 0
    for path in PATHS:
        for what, trial in TRIALS.items():
            for version in (IPV4, IPV6):
                with world(path) as this:
                    wrong = trial(this, version)
                    stats = this.mcr.call("stats")
                    counts = {name: stats["egress"][name] for name in ("sent", "errors")}
                    print(f"{what}, IPv{version}, {path} path: {wrong or 'ok'} {json.dumps(counts)}", flush=True)
                    failures += bool(wrong)
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
