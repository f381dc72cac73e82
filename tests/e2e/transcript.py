"""Shell sessions in a Markdown document: what is typed, and what it prints.

A session is a block of ``console``: a line that begins with ``$ `` is typed (and goes on behind a backslash), what
follows is printed; if nothing follows, it is not shown. ``...`` stands for anything within a line, and alone on one
for any number of lines.
"""

import re

import attrs

_HEADING = re.compile(r"#+ (.*)")

# What is never the same twice. In the document it looks like itself.
_VARYING = (
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "TIME"),
    (re.compile(r"\b(pid|process) \d+"), r"\1 PID"),
    (re.compile(r"^\d+ (?=/)", re.MULTILINE), "PID "),
    (re.compile(r"\b\d+(\.\d+)? (ms|µs|s)\b"), r"N \2"),
)

_COUNT = re.compile(r"(?<![\w.:/-])(?<!error )(?:[1-9][\d,]*(?:\.\d+)?|0\.\d+)(?![\w:/]|\.\d)")


@attrs.frozen
class Step:
    """One command, and what it prints; empty if that is not shown."""

    command: str
    output: str


Block = tuple[Step, ...]


def read_sections(document: str) -> dict[str, list[Block]]:
    """The blocks below each heading that has any."""
    sections: dict[str, list[Block]] = {}
    heading = ""
    block: list[str] | None = None
    for line in document.splitlines():
        if line == "```console":
            block = []
        elif line == "```" and block is not None:
            sections.setdefault(heading, []).append(read_block(block))
            block = None
        elif block is not None:
            block.append(line)
        elif found := _HEADING.fullmatch(line):
            heading = found[1]
    return sections


def read_block(lines: list[str]) -> Block:
    """The commands of one."""
    commands: list[str] = []
    outputs: list[list[str]] = []
    goes_on = False
    for line in lines:
        if goes_on:
            commands[-1] += line.strip().removesuffix("\\")
        elif line.startswith("$ "):
            commands.append(line.removeprefix("$ ").removesuffix("\\"))
            outputs.append([])
        else:
            outputs[-1].append(line)
        goes_on = line.endswith("\\") and (goes_on or line.startswith("$ "))
    return tuple(Step(command, "\n".join(output)) for command, output in zip(commands, outputs, strict=True))


def matches(shown: str, printed: str, *, counts: bool = False) -> bool:
    """Whether what was printed is what the document shows; columns may be of other widths.

    Args:
        shown: by the document.
        printed: by the command.
        counts: whether a number may be another, as long as both are zero or neither.
    """
    shown, printed = _plain(shown), _plain(printed)
    if counts:
        shown, printed = _COUNT.sub("COUNT", shown), _COUNT.sub("COUNT", printed)
    pattern = "".join(_ANYTHING if line == "..." else _line(line) for line in shown.splitlines())
    return re.fullmatch(pattern, f"{printed}\n") is not None


_ANYTHING = r"(?:.*\n)*"


def _line(shown: str) -> str:
    return ".*".join(re.escape(part) for part in shown.split("...")) + r"\n"


def _plain(text: str) -> str:
    for varying, name in _VARYING:
        text = varying.sub(name, text)
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def table_rows(document: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its header."""
    _, _, below = document.partition(f"# {heading}\n")
    lines = iter(below.splitlines())
    while not next(lines).startswith("|--"):
        pass
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows
