"""Rules of configuration files, and whoever uses them, played by a test."""

import pytest
import trio

from mcr.config.difference import RunTimeDifference
from mcr.config.file import FileRule
from mcr.errors import McrError

RULE = """\
[[rule]]
name = "{name}"
input = {{ interface = "eth0", group = "239.1.1.1", port = {port} }}
outputs = ["239.2.2.2:6000:eth1"]
"""


class Rules:
    """Uses what it is told to, or fails."""

    def __init__(self) -> None:
        self.used: list[list[str | None]] = []
        self.error: McrError | None = None
        self.kept = ""

    async def use(self, rules: tuple[FileRule, ...], kept: str | None = "") -> None:
        await trio.lowlevel.checkpoint()
        if self.error:
            raise self.error
        self.used.append([each.rule.name for each in rules])
        self.kept = self.kept if kept is None else kept

    async def foresee(self, rules: tuple[FileRule, ...]) -> tuple[RunTimeDifference, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(RunTimeDifference(each.rule, "moved", each.rule.rule_id) for each in rules[:1])


@pytest.fixture
def rules() -> Rules:
    return Rules()
