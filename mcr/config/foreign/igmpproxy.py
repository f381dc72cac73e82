"""igmpproxy.conf(5): forwards what hosts ask for, from one interface to others. It names neither groups nor ports.

The groups that it can be held to name are those of its whitelists. Where it may forward any, a rule is printed whose
group is to be filled in.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from typing import Final

import attrs

from mcr.config.foreign.imported import Findings, Imported, read_text, without_port
from mcr.errors import UsageError

_ROLES: Final = ("upstream", "downstream", "disabled")
_OWN: Final = {"quickleave": 0, "rescanvif": 0, "hashtablesize": 1, "chroot": 1, "user": 1}
"""Keywords about igmpproxy itself, of which nothing is left to translate; and how many words follow each."""
_MEANING: Final = {
    "altnet": "MCR relays packets from any source",
    "ratelimit": "MCR limits no rate",
    "threshold": "MCR relays packets of any TTL",
}
_HARMLESS: Final = {"ratelimit": "0", "threshold": "1"}
_TO_FILL_IN: Final = "GROUP"


@attrs.frozen
class _Word:
    line: int
    text: str


@attrs.define
class _Interface:
    """A phyint."""

    name: str
    line: int
    role: str = ""
    whitelist: list[tuple[IPv4Network, int]] = attrs.field(factory=list)

    def allows(self, group: IPv4Address) -> bool:
        """Whether a group may pass."""
        return not self.whitelist or any(group in network for network, _ in self.whitelist)


def read_igmpproxy(path: str) -> Imported:
    """Read a file.

    Raises:
        UsageError: it can't be read, or is none of igmpproxy.
    """
    words = [*_words(read_text(path))]
    findings = Findings("igmpproxy")
    interfaces = _interfaces(path, words, findings)
    if words and not any(each.role for each in interfaces):
        raise UsageError(f"{path} is no igmpproxy.conf", "it has lines such as: phyint eth0 upstream")
    sources = [each for each in interfaces if each.role == "upstream"]
    receivers = [each for each in interfaces if each.role == "downstream"]
    for source in sources:
        _translate(path, source, receivers, findings)
    if interfaces and not (sources and receivers):
        lacking = "downstream" if sources else "upstream"
        findings.note(path, 0, f"no interface is {lacking}, so there is nothing to relay")
    return findings.result()


def _words(text: str) -> Iterator[_Word]:
    for number, line in enumerate(text.split("\n"), 1):
        for word in line.partition("#")[0].split():
            yield _Word(number, word)


def _interfaces(path: str, words: Sequence[_Word], findings: Findings) -> list[_Interface]:
    found: list[_Interface] = []
    remaining = iter(words)
    for word in remaining:
        if word.text == "phyint":
            if name := next(remaining, None):
                found.append(_Interface(name.text, word.line))
            else:
                findings.note(path, word.line, "phyint lacks an interface")
        elif word.text in _OWN:
            for _ in range(_OWN[word.text]):
                next(remaining, None)
        elif word.text == "defaultdown":
            findings.note(path, word.line, "defaultdown: MCR sends only to interfaces that its rules name")
        elif not (found and _take_option(path, found[-1], word, remaining, findings)):
            findings.note(path, word.line, f"Unknown keyword {word.text!r}")
    first: dict[str, _Interface] = {}
    for each in found:
        if not each.role:
            findings.note(path, each.line, f"phyint {each.name} lacks a role: {', '.join(_ROLES)}")
        counts = first.setdefault(each.name, each)
        if counts is not each:
            findings.note(path, each.line, f"phyint {each.name} stands on line {counts.line} already, which counts")
    return [*first.values()]


def _take_option(path: str, interface: _Interface, word: _Word, remaining: Iterator[_Word], findings: Findings) -> bool:
    """Take an option of an interface, and what follows it; whether it is one."""
    if word.text in _ROLES:
        interface.role = word.text
    elif word.text == "whitelist":
        _allow(path, interface, word, next(remaining, None), findings)
    elif word.text in _MEANING:
        value = next(remaining, _Word(0, "")).text
        if value != _HARMLESS.get(word.text):
            findings.note(path, word.line, f"{word.text} {value}: {_MEANING[word.text]}")
    else:
        return False
    return True


def _allow(path: str, interface: _Interface, word: _Word, value: _Word | None, findings: Findings) -> None:
    text = value.text.removesuffix(";") if value else ""
    with suppress(ValueError):
        interface.whitelist.append((IPv4Network(text, strict=False), word.line))
        return
    findings.note(path, word.line, f"whitelist {text}: not an IPv4 network", "such as 239.1.1.1/32")


def _translate(path: str, source: _Interface, receivers: Sequence[_Interface], findings: Findings) -> None:
    """Rules for what may come in on one interface."""
    lists = [source, *receivers]
    groups: dict[IPv4Address, int] = {}
    for interface in lists:
        for network, line in interface.whitelist:
            if network.prefixlen == network.max_prefixlen:
                groups.setdefault(network.network_address, line)
            else:
                what = f"whitelist {network} stands for several groups: MCR takes one"
                findings.note(path, line, f"{what}; write a rule for each that is in use")
    for group, line in groups.items():
        outputs = [each.name for each in receivers if source.allows(group) and each.allows(group)]
        if outputs:
            findings.add_without_port(path, line, source.name, str(group), outputs)
    free = [each for each in receivers if not (source.whitelist or each.whitelist)]
    if free:
        findings.add(path, source.line, without_port(source.name, _TO_FILL_IN, [each.name for each in free]))
        what = "igmpproxy forwards the groups that hosts ask for, MCR those of its rules: write one for each group"
        findings.note(path, source.line, f"{what}, in the place of {_TO_FILL_IN} and port 0")
