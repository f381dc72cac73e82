"""The pictures of the status page in the documents, taken by a real browser (chromium) of a real mcrd under traffic.

A relay with four rules, of which one waits, lives in network namespaces of its own.
"""

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from daemon_process import DaemonProcess
from lab import Lab, Namespace, enter_user_namespace

PROGRAMS = Path(sys.executable).parent
TRAFFIC_GEN = Path(__file__).with_name("traffic_gen.py")
PAGE = "http://127.0.0.1:9464/"
START_SECONDS = 10.0
RATE, PACKETS = 4_000, 60_000  # a second, and in all, of each stream
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
        sender.terminate()
        sender.wait()


def send(source: Namespace) -> subprocess.Popen[str]:
    """Streams for all rules but the last."""
    flows = [word for group, _ in [*RULES.values()][:-1] for word in ("--flow", f"{group}:5001")]
    words = ("send", "--interface", "src0", "--count", str(PACKETS), "--rate", str(RATE), "--size", "1316", *flows)
    return source.popen([sys.executable, TRAFFIC_GEN, *words])


if __name__ == "__main__":
    main()
