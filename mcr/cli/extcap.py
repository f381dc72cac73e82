"""`mcr-extcap`: each rule is an interface in Wireshark (extcap(4))."""

import signal
import sys
from urllib.parse import quote, unquote

import click

import mcr
from mcr.cli import terminal
from mcr.cli.capture import run_capture
from mcr.cli.failure import run
from mcr.cli.session import Session
from mcr.errors import UsageError
from mcr.text.addresses import end_text

_PREFIX = "mcr-"


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--extcap-interfaces", "lists", is_flag=True, help="List the rules.")
@click.option("--extcap-interface", "interface", metavar="NAME", help="The rule, as listed.")
@click.option("--extcap-dlts", "link_types", is_flag=True, help="Say what its packets begin with.")
@click.option("--extcap-config", "options", is_flag=True, help="Say which options it has: none.")
@click.option("--capture", is_flag=True, help="Capture it.")
@click.option("--fifo", metavar="PATH", help="Where to.")
def extcap(
    interface: str | None, fifo: str | None, *, lists: bool, link_types: bool, options: bool, capture: bool
) -> None:
    """Called by Wireshark, which finds it in its directory of external capture tools."""
    session = Session()
    if lists:
        terminal.show(f"extcap {{version={mcr.__version__}}}")
        for rule in session.call("list"):
            source = rule["input"]
            where = f"{end_text(source)} on {source['interface']}"
            words = f"MCR {rule['name'] or rule['rule_id']}: {where}"
            terminal.show(f"interface {{value={_PREFIX}{quote(rule['rule_id'], safe='')}}}{{display={_plain(words)}}}")
    elif link_types:
        terminal.show("dlt {number=1}{name=EN10MB}{display=As the interface has it}")
    elif capture and interface and fifo:
        (rule,) = session.call("list", {"rule": unquote(interface.removeprefix(_PREFIX))})
        run_capture(session, rule, file=fifo)
    elif not options:
        raise UsageError(
            "Wireshark calls this", "link it into the directory that Wireshark names under Help, About, Folders"
        )


def _plain(text: str) -> str:
    return text.replace("{", "(").replace("}", ")")


def main() -> None:
    """The entry point."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Wireshark ends a capture by closing the pipe
    sys.exit(run(extcap, "mcr-extcap"))
