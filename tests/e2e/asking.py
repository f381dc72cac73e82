"""`mcrctl why` as the tests ask it, and what a source sends meanwhile."""

import json
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from mcr_process import STATUS, Mcr

AS_UNDER_SYSTEMD = ("setpriv", "--bounding-set=-all,+net_raw,+setuid,+setgid")
"""Before mcrd: it may do no more."""
WAY_OUT = {"output_up", "source_address", "route", "neighbour", "mtu", "sent"}
"""What is looked at also where nothing comes in."""
TV = ("in0:239.1.1.1:5000", "239.2.2.2:6000:out0", "198.18.2.2:6000:out1")
"""The rule that is asked for: to a group and a host."""


def why(mcr: Mcr, rule: str = "tv") -> list[dict[str, str]]:
    """Ask as an operator does; the exit status is that of the worst finding."""
    done = mcr.ctl("why", rule, "--json", check=False)
    assert done.stdout, done.stderr
    findings: list[dict[str, str]] = json.loads(done.stdout)
    print(*findings, "", sep="\n")
    assert done.returncode == max(STATUS[finding["verdict"]] for finding in findings)
    return findings


def troubles(mcr: Mcr, rule: str = "tv") -> list[str]:
    """Verdict and check of all that is not well, but for the state of the rule, which sums that up."""
    unwell = (each for each in why(mcr, rule) if each["verdict"] != "ok" and each["check"] != "rule_active")
    return [f"{each['verdict']} {each['check']}" for each in unwell]


def fault(mcr: Mcr, check: str) -> str:
    """The one fault, with which the way in has ended, or the last output: in words, with its remedy."""
    findings = why(mcr)
    checks = [each["check"] for each in findings]
    (found,) = (each for each in findings if each["verdict"] == "fault")
    assert found["check"] == check
    assert WAY_OUT.issuperset(checks[checks.index(check) + 1 :])
    return f"{found['what']}; {found['remedy']}"


def frame(group: str = "239.1.1.1", port: int = 5000, *tags: Packet, size: int = 188, **ip: Any) -> Packet:
    """A datagram, behind tags."""
    link = Ether(dst="01:00:5e:01:01:01")
    for tag in tags:
        link /= tag
    return link / IP(src="198.18.0.1", dst=group, ttl=16, **ip) / UDP(sport=5000, dport=port) / Raw(b"x" * size)


def query(source: str = "198.18.0.254") -> Packet:
    """An IGMP general query."""
    message = Raw(bytes.fromhex("1164ee9b00000000"))  # of version 2, answers within 10 s
    return Ether(dst="01:00:5e:00:00:01") / IP(src=source, dst="224.0.0.1", ttl=1, proto=2) / message
