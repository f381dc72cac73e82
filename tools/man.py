"""Writes what is made from the tables of commands: man pages and completion scripts.

man.py DIRECTORY: DIRECTORY/man/mcrd.8, mcrctl.1, DIRECTORY/completions/{mcrd,mcrctl}.{bash,fish}, _mcrd, _mcrctl

Commands, options, defaults and variables come from the programs' own click commands, so no page can name one that isn't
there, or leave one out. What no command knows of itself stands here: files, signals, exit status, examples.
One page a program, its commands as sections: click-man would write sixteen short ones, all of section 1, without any of
these.
"""

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from mcr import __version__
from mcr.cli.mcrctl import cli
from mcr.cli.supervisor import mcrd
from mcr.config.paths import CONFIGURATION, CONTROL_SOCKET_VARIABLE, DEFAULT_CONTROL_SOCKET, METRICS_SOCKET
from mcr.config.table import METRICS, STATE_DIR, VARIABLES, Setting

Term = tuple[str, str]
"""What is explained, and the explanation."""


def _variable(each: Setting[Any]) -> Term:
    default = f"{each.default_text} {each.unit}".strip()
    return each.variable, f"{each.sentence}  [default: {default}; {each.kind.allowed}]"


@attrs.frozen
class Program:
    """A program, and what its commands don't say of it.

    Attributes:
        section: of the manual: 1 for commands of users, 8 for those of administrators.
        purpose: what it is, behind its name in the first line.
        description: paragraphs.
        sections: by title, terms.
        examples: what for, and the command.
        see_also: other pages.
    """

    command: click.Group
    name: str
    section: int
    purpose: str
    description: str
    sections: dict[str, Sequence[Term]]
    examples: Sequence[Term]
    see_also: str


FILES: Sequence[Term] = (
    (
        DEFAULT_CONTROL_SOCKET,
        "The control socket, unless another is chosen. Mode 0660, group mcr if there is such a group.",
    ),
    ("/var/lib/mcr/rules.sqlite", "The rules that were added at run time; see --state-dir of mcrd(8)."),
    (
        f"{Path(DEFAULT_CONTROL_SOCKET).with_name(METRICS_SOCKET)}",
        "The socket that a service of systemd serves metrics on, unless --metrics says something else.",
    ),
    (f"{DEFAULT_CONTROL_SOCKET}.lock", "A lock that the mcrd which serves the socket holds."),
    (CONFIGURATION[0], "Settings and rules, if it is there."),
    (f"{CONFIGURATION[1]}/*.toml", "More of them, read by name."),
    ("/usr/share/doc/mcr/", "Documents of the package; troubleshooting.md goes by symptoms."),
)

PROGRAMS = (
    Program(
        command=mcrd,
        name="mcrd",
        section=8,
        purpose="the multicast relay daemon",
        description="""\
mcrd takes UDP multicast off one network segment and republishes it on others: it reads frames at layer 2, before the
kernel's reverse-path check can drop them, and sends the payload again as new datagrams from its own address. Rules say
what it relays. They stand in configuration files, or mcrctl(1) adds, changes and removes them while traffic flows; both
last over restarts.

Worker processes forward the packets. A worker that dies is replaced, and every packet is counted: forwarded, or dropped
with a named cause.

mcrd needs the capability CAP_NET_RAW. With CAP_BPF, an eBPF filter in the kernel rejects packets that no rule takes.
With CAP_NET_ADMIN, socket buffers may exceed net.core.rmem_max and net.core.wmem_max, and datagrams to groups leave as
raw frames if no firewall rule, IPsec policy or cgroup program would act on them (MCR_RAW_SEND). With both, and Linux
6.6, packets that match a rule skip the local IP stack (MCR_ABSORB), and a program at the input interface forwards
where it can, without a worker (MCR_KERNEL_PATH). Workers give up every capability.""",
        sections={
            "ENVIRONMENT": (
                (CONTROL_SOCKET_VARIABLE, "The same as --control-socket, which takes precedence."),
                (STATE_DIR.variable, "The same as --state-dir, which takes precedence."),
                (METRICS.variable, "The same as --metrics, which takes precedence."),
                *map(_variable, VARIABLES),
            ),
            "SIGNALS": (
                ("SIGTERM, SIGINT", "mcrd sends the packets that have arrived, and ends within two seconds."),
                (
                    "SIGHUP",
                    "mcrd reads its configuration files again, and sets the log levels back to those of the start.",
                ),
            ),
            "EXIT STATUS": (
                ("0", "A signal stopped it."),
                ("1", "It could not start, or could not go on; standard error says why."),
                ("2", "An option or a variable has an invalid value, or a configuration file a fault."),
            ),
            "FILES": (*FILES, ("/etc/default/mcrd", "Variables of the service that the package installs.")),
        },
        examples=(
            (
                "Two workers, and capture rings that hold twice as much:",
                "sudo MCR_BUFFER_POOL_SMALL=4000 mcrd supervisor --num-workers 2",
            ),
            (
                "Without sudo, once the program has the capability:",
                (
                    "sudo setcap cap_net_raw,cap_setuid,cap_setgid=eip /path/to/mcrd\n"
                    "mcrd supervisor --control-socket ~/mcr.sock"
                ),
            ),
        ),
        see_also="mcrctl(1), capabilities(7), setcap(8), packet(7)",
    ),
    Program(
        command=cli,
        name="mcrctl",
        section=1,
        purpose="control a running mcrd, the multicast relay daemon",
        description="""\
mcrctl asks mcrd(8) over its control socket. It prints tables for people, or with --json the same for machines.

Root, the user that mcrd runs as and the members of the group mcr may read. Only root, that user and members who are in
the group mcr-admin as well may add, change or remove rules, have the configuration
files applied (config apply, confirm), or set log levels.""",
        sections={
            "ENVIRONMENT": (
                (
                    CONTROL_SOCKET_VARIABLE,
                    f"The same as --control-socket, which takes precedence.  [default: {DEFAULT_CONTROL_SOCKET}]",
                ),
                ("NO_COLOR", "If it is set and not empty, output has no colours."),
            ),
            "EXIT STATUS": (
                ("0", "It worked. why and doctor: nothing is wrong. config diff: nothing differs."),
                (
                    "1",
                    "It failed, and standard error says why. why and doctor: advice. config diff: something differs.",
                ),
                ("2", "The command line is invalid. why and doctor: there is a fault. config: a file has a fault."),
                ("3", "why, doctor and config diff: it could not be found out, and standard error says why."),
                ("130", "Ctrl-C ended it."),
            ),
            "FILES": FILES,
        },
        examples=(
            (
                "Take group 239.1.1.1, port 5000, off eth0; send it to a group on eth1 and a host on eth2:",
                (
                    "mcrctl add --input-interface eth0 --input-group 239.1.1.1 --input-port 5000 \\\n"
                    "    --outputs 239.2.2.2:6000:eth1,192.0.2.7:6000:eth2 --name news"
                ),
            ),
            ("Find out why nothing comes out:", "mcrctl why news"),
            (
                "Add the rules of a file, all of them or none. A line has the options of add, # begins a comment:",
                "mcrctl add --batch rules.txt",
            ),
            (
                "Send it to another group as well; what it sends already loses no packet:",
                "mcrctl change --name news --add-outputs 239.2.2.3:6000:eth1",
            ),
            (
                "Keep all rules in a file that mcrd can go by, such as one of /etc/mcr/rules.d:",
                "mcrctl config export > rules.toml",
            ),
            (
                "Add the rules of another mcrd that are missing here, as far as they can be:",
                "mcrctl list --json > rules.json\nmcrctl add --batch rules.json --idempotent --best-effort",
            ),
            (
                "For a script: packets that were lost because a capture ring was full:",
                "mcrctl stats --json | jq .ingress.kernel_drops",
            ),
        ),
        see_also="mcrd(8)",
    ),
)


def man_page(program: Program, day: str) -> str:
    """The page of a program, in the macros of man(7).

    Args:
        program: what it is about.
        day: of the page, such as ``2026-01-31``.
    """
    root = click.Context(program.command, info_name=program.name, **program.command.context_settings)
    commands = list(_commands(root))
    everywhere = program.command.get_params(root)
    lines = [
        f'.TH {program.name.upper()} {program.section} {day} "MCR {__version__}"',
        *(".nh", ".ad l"),  # names are neither hyphenated nor spread
        *(".SH NAME", rf"{program.name} \- {_text(program.purpose)}"),
        *(".SH SYNOPSIS", *(f"{_usage(each)}\n.br" for each in commands)),
        *(".SH DESCRIPTION", *_paragraphs(program.description)),
        *(".SH OPTIONS", *_options(root, everywhere)),
        ".SH COMMANDS",
    ]
    named = {option.name for option in everywhere}
    for each in commands:
        lines += [f".SS {_usage(each)}", *_paragraphs(each.command.help or "")]
        lines += _options(each, [option for option in each.command.params if option.name not in named])
    for title, terms in program.sections.items():
        lines += [f".SH {title}"]
        for term, meaning in terms:
            lines += [".TP", rf"\fB{_escape(term)}\fR", _text(meaning)]
    lines += [".SH EXAMPLES"]
    for purpose, command in program.examples:
        lines += [".PP", _text(purpose), ".PP", ".RS 4", ".nf", _escape(command), ".fi", ".RE"]
    lines += [".SH SEE ALSO", _text(program.see_also)]
    return "\n".join(lines) + "\n"


def _commands(context: click.Context) -> Iterator[click.Context]:
    """Those that can be run, in the order of their definition."""
    if not isinstance(context.command, click.Group):
        yield context
        return
    for name, command in context.command.commands.items():
        yield from _commands(click.Context(command, parent=context, info_name=name))


def _usage(context: click.Context) -> str:
    pieces = " ".join(context.command.collect_usage_pieces(context))
    return rf"\fB{_escape(context.command_path)}\fR {_escape(pieces)}"


def _options(context: click.Context, options: Sequence[click.Parameter]) -> Iterator[str]:
    for option in options:
        term, meaning = option.get_help_record(context) or ("", "")
        if meaning:
            words = (
                rf"\fB{_escape(word)}\fR" if word[0] == "-" else rf"\fI{_escape(word)}\fR" for word in term.split()
            )
            yield from (".TP", " ".join(words), _text(meaning))


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield from (".PP", _text(" ".join(paragraph.split())))


_HIGHLIGHTED = re.compile(r"(?<!\S)--[a-z][-a-z]*|\b(?:MCR|CAP)_[A-Z_]+|\b[a-z]+(?=\(\d\))")


def _text(text: str) -> str:
    """Running text, with options, variables and other pages' names in bold."""
    escaped = _HIGHLIGHTED.sub(lambda match: f"\0{match[0]}\1", text)
    return _escape(escaped).replace("\0", r"\fB").replace("\1", r"\fR")


def _escape(text: str) -> str:
    """Take away what troff would understand: escapes, and control lines; a hyphen stays one that can be copied."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"^(?=[.'])", r"\\&", escaped, flags=re.MULTILINE)


def completion_scripts(program: Program) -> dict[str, str]:
    """File name to script, for bash, zsh and fish; where the shells look, files are called so."""
    made: tuple[click.Command, dict[str, Any], str, str] = (
        program.command,
        {},
        program.name,
        f"_{program.name.upper()}_COMPLETE",
    )
    return {
        f"{program.name}.bash": BashComplete(*made).source(),
        f"{program.name}.fish": FishComplete(*made).source(),
        f"_{program.name}": _autoloadable(ZshComplete(*made).source(), program.name),
    }


def _autoloadable(script: str, name: str) -> str:
    """Have a file of zsh's fpath complete each time.

    As click writes it, it asks whether it is just being loaded. That is so at the first Tab only, and the second finds
    nothing.
    """
    asks = "$zsh_eval_context[-1] == loadautofunc"
    assert asks in script
    return script.replace(asks, f"$funcstack[1] == _{name}")


def main(directory: Path) -> None:
    """Write all of it below a directory."""
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    day = time.strftime("%Y-%m-%d", time.gmtime(seconds))
    for program in PROGRAMS:
        files = {f"man/{program.name}.{program.section}": man_page(program, day)}
        files |= {f"completions/{name}": script for name, script in completion_scripts(program).items()}
        for name, text in files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
