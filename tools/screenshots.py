"""The pictures in the documents: the status page in a real browser (chromium), and `mcrctl top`; of a real mcrd.

A relay with four rules, of which one waits, lives in network namespaces of its own.
"""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from rich.console import Console
from rich.text import Text

from daemon_process import DaemonProcess
from lab import Lab, Namespace, enter_user_namespace

PROGRAMS = Path(sys.executable).parent
TRAFFIC_GEN = Path(__file__).with_name("traffic_gen.py")
PAGE = "http://127.0.0.1:9464/"
START_SECONDS = 10.0
RATE, PACKETS = 4_000, 120_000  # a second, and in all, of each stream
LINES, COLUMNS, READINGS = 14, 80, 12  # of `mcrctl top`
BROWSER = ("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")  # root has no sandbox
PICTURES = {
    "status.png": ("--window-size=1180,700",),
    "status-phone.png": ("--window-size=500,1000", "--blink-settings=preferredColorScheme=0"),
}
RULES = {
    "news": ("239.10.1.1", "239.20.1.1:6001:out0,239.20.1.2:6002:out0"),
    "sports": ("239.10.1.2", "239.20.2.1:6001:out0"),
    "radio": ("239.10.1.3", "239.20.3.1:6001:out0"),
    "backup": ("239.10.1.4", "239.20.4.1:6001:out9"),
}


@click.command(help=__doc__)
@click.argument("directory", type=click.Path(file_okay=False, exists=True, path_type=Path))
def main(directory: Path) -> None:
    """Set up, relay, take the pictures."""
    enter_user_namespace()
    with TemporaryDirectory(prefix="mcr-screenshots-") as temporary, Lab() as lab:
        relay, source = lab.namespace("relay"), lab.namespace("source")
        lab.link(source, "src0", relay, "in0", a_address="198.18.1.1/24", b_address="198.18.1.2/24")
        lab.link(relay, "out0", source, "rcv0", a_address="198.18.2.1/24", b_address="198.18.2.2/24")
        mcr = DaemonProcess(relay, PROGRAMS, Path(temporary) / "control.sock", Path(temporary) / "mcrd.log")
        mcr.launch("--metrics", "127.0.0.1:9464")
        mcr.wait_until_it_answers(START_SECONDS)
        for name, (group, outputs) in RULES.items():
            add = ("add", "--wait", "--name", name, "--input-interface", "in0", "--input-group", group)
            mcr.ctl(*add, "--input-port", "5001", "--outputs", outputs)
        sender = send(source)
        while mcr.call("stats")["ingress"]["pps"] < RATE:  # rates are there
            mcr.check()
            time.sleep(0.1)
        for name, options in PICTURES.items():
            relay.run(
                [*BROWSER, *options, f"--user-data-dir={temporary}/{name}", f"--screenshot={directory / name}", PAGE]
            )
        draw_top(relay, mcr, directory / "top.svg")
        sender.terminate()
        sender.wait()


def draw_top(relay: Namespace, mcr: DaemonProcess, target: Path) -> None:
    """What `mcrctl top` has drawn last in a terminal of its own, as a picture."""
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    command = [str(PROGRAMS / "mcrctl"), "--control-socket", str(mcr.socket), "top", "--count", str(READINGS)]
    with relay.popen(command, stdin=terminal, stdout=terminal, env=os.environ | {"TERM": "xterm-256color"}) as process:
        os.close(terminal)
        said = b""
        while part := read(reader):
            said += part
    os.close(reader)
    if process.returncode:
        raise SystemExit(f"mcrctl top failed:\n{said.decode()}")
    frame = said.decode().split("\x1b[H")[-1].split("\x1b[J")[0].replace("\x1b[K", "").replace("\r", "")
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True)
    console.print(Text.from_ansi(frame.rstrip()))
    console.save_svg(str(target), title="mcrctl top")


def read(terminal: int) -> bytes:
    """What comes next; empty at the end."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # EIO: nobody has it open any more
        return b""


def send(source: Namespace) -> subprocess.Popen[str]:
    """Streams for all rules but the last."""
    flows = [word for group, _ in [*RULES.values()][:-1] for word in ("--flow", f"{group}:5001")]
    words = ("send", "--interface", "src0", "--count", str(PACKETS), "--rate", str(RATE), "--size", "1316", *flows)
    return source.popen([sys.executable, TRAFFIC_GEN, *words])


if __name__ == "__main__":
    main()
