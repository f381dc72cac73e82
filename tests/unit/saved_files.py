"""Files of saved rules, for tests: what is in them, and disks that are in the way."""

import errno
import sqlite3
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path

from mcr.model.flow import Input
from mcr.model.rule import Output, Rule
from mcr.rules.rule_table import Drop, Put
from mcr.rules.store import RuleFile


def rule(number: int, name: str | None = None) -> Rule:
    group = IPv4Address("239.1.0.0") + number
    output = Output(IPv4Address("239.2.0.0") + number, 6000, "eth1", "4")
    host = Output(IPv4Address("192.0.2.7"), 6001, "eth2")
    return Rule(f"rule-{number}", Input("eth0", group, 5000), (output, host), name)


def written(directory: Path, *changes: Put | Drop) -> None:
    with closing(RuleFile.open(directory)) as file:
        file.write(changes)


def read(directory: Path) -> tuple[Rule, ...]:
    with closing(RuleFile.open(directory)) as file:
        assert file.notices == []
        return file.rules


def aside(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if "set-aside" in path.name)


def refuse_as_full(database: sqlite3.Connection, _change: Put | Drop) -> None:
    database.execute("PRAGMA max_page_count=1")
    database.execute("CREATE TABLE large AS SELECT zeroblob(100000)")


def refuse_as_read_only(*_arguments: object, **_named: object) -> None:
    raise OSError(errno.EROFS, "")
