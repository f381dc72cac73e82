"""Configuration files: settings and rules, and every fault at its line."""

import os
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.config import file
from mcr.config.file import Configuration, ConfigurationPaths, read_configuration
from mcr.model.flow import Input
from mcr.model.rule import Output, Rule, automatic_rule_id

SOUND = """\
[settings]
num_workers = 2
absorb = false
raw_send = 1
log_level = "debug"

[[rule]]
name = "news"
input = { interface = "eth0", group = "239.1.1.1", port = 5000 }
outputs = [
  "239.2.2.2:6000:eth1:gso=8",   # a comment
  { group = "192.0.2.7", port = 6000, interface = "eth2", gso = 4 },
]

[[rule]]
rule_id = "sport"
outputs = ["239.2.2.3:6000:eth1"]
[rule.input]
interface = "eth0"
group = "239.1.1.2"
port = 5000
"""


def read(tmp_path: Path, *texts: str) -> Configuration:
    """What files say, named a.toml, b.toml and so on."""
    names = [tmp_path / f"{name}.toml" for name, _ in zip("abc", texts, strict=False)]
    for name, text in zip(names, texts, strict=True):
        name.write_text(text)
    return read_configuration([*map(str, names)])


def faults(tmp_path: Path, *texts: str) -> list[str]:
    """Each, as NAME:LINE: message."""
    return [str(fault).removeprefix(f"{tmp_path}/") for fault in read(tmp_path, *texts).faults]


def rule(text: str = "", *, input: str = 'interface = "eth0", group = "239.1.1.1", port = 5000') -> str:  # noqa: A002
    outputs = "" if "outputs" in text else 'outputs = ["239.2.2.2:6000:eth1"]\n'
    return f"[[rule]]\ninput = {{ {input} }}\n{outputs}{text}"


def test_what_a_sound_file_says(tmp_path: Path) -> None:
    configuration = read(tmp_path, SOUND)
    assert configuration.faults == ()
    assert configuration.settings == {"num_workers": "2", "absorb": "0", "raw_send": "1", "log_level": "debug"}
    news, sport = configuration.rules
    source = Input("eth0", IPv4Address("239.1.1.1"), 5000)
    outputs = (
        Output(IPv4Address("239.2.2.2"), 6000, "eth1", "8"),
        Output(IPv4Address("192.0.2.7"), 6000, "eth2", "4"),
    )
    assert news.rule == Rule(automatic_rule_id(source), source, outputs, "news")
    assert sport.rule.rule_id == "sport"
    assert sport.rule.name is None
    assert [str(each.place) for each in configuration.rules] == [f"{tmp_path}/a.toml:7", f"{tmp_path}/a.toml:15"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\n[settings]", ["1: Unknown key 'x' in the file"]),
        ("[settings]\nnum_worker = 1", ["2: Unknown key 'num_worker' in settings"]),
        ("[settings]\nnum_workers = '1'", ["2: num_workers must be a whole number, not a string"]),
        ("[settings]\nnum_workers = 1000", ["2: Invalid num_workers: '1000'"]),
        ("[settings]\nabsorb = 'yes'", ["2: absorb must be true or false or a whole number, not a string"]),
        ("[settings]\nlog_level = 'loud'", ["2: Invalid log_level: 'loud'"]),
        ("settings = 5", ["1: settings must be a table, not a whole number"]),
        ("[rule]\nname = 'a'", ["1: rule must be an array of tables, not a table"]),
        ("rule = 1", ["1: rule must be an array, not a whole number"]),
        ("rule = [1]", ["1: a rule must be a table, not a whole number"]),
        ("\n[[rule]]\nname = 'a'", ["2: a rule lacks input and outputs"]),
        (rule("output = 5\n"), ["4: Unknown key 'output' in a rule"]),
        (rule("name = ''\n"), ["4: Invalid rule name: ''"]),
        (rule("rule_id = 5\n"), ["4: rule rule_id must be a string, not a whole number"]),
        (rule("outputs = []\n"), ["3: The rule for 239.1.1.1:5000 on eth0 has no outputs"]),
        (rule("outputs = 'a'\n"), ["3: outputs must be an array, not a string"]),
        (
            rule(
                "outputs = [\n'239.2.2.2:6000',\n5,\n'239.2.2.2:6000:eth1:mtu=9',\n'239.2.2.2:6000:eth1:ttl=x',\n"
                "'239.2.2.2:6000:eth1:ttl=4:ttl=5']\n"
            ),
            [
                "4: Invalid output '239.2.2.2:6000': interface missing in G:P:IF",
                "5: an output must be a table or a string, not a whole number",
                "6: Invalid output '239.2.2.2:6000:eth1:mtu=9': 'mtu=9' is not an option of an output",
                "7: Invalid ttl: 'x'",
                "8: Invalid output '239.2.2.2:6000:eth1:ttl=4:ttl=5': 'ttl' is given twice",
            ],
        ),
        (
            rule("outputs = [\n{ group = 'fe80::1%eth0', port = 0, interface = 'a/b', gso = 1 }]\n"),
            [
                "4: Invalid output interface: 'a/b' is not an interface name",
                "4: Invalid output group: 'fe80::1%eth0' names a zone",
                "4: Invalid output port: 0 is not a port",
            ],
        ),
        (
            rule(
                "outputs = [\n'239.2.2.2:5000-:eth1',\n{ group = '239.2.2.2', port = '5000:5009', interface = 'e' }]\n"
            ),
            [
                "4: Invalid output '239.2.2.2:5000-:eth1': '5000-' is not a port",
                "5: Invalid output port: '5000:5009' is",
            ],
        ),
        (
            rule(input="interface = 'eth0', group = 'a', port = '5000-'"),
            ["2: Invalid input port: '5000-' is not a port", "2: Invalid input group"],
        ),
        (
            rule(input="interface = 'eth0', group = '239.1.1.1', port = ''"),
            ["2: Invalid input port: '' is not a port"],
        ),
        (rule("outputs = ['239.2.2.2:6000:eth1:gso=65']\n"), ["3: Invalid gso: '65'"]),
        (
            rule(
                "outputs = [\n'239.2.2.2:6000:eth1:ttl=256',\n"
                "{ group = '239.2.2.3', port=1, interface = 'e', dscp = 64, source = '239.1.1.1', source_port = 0 },\n"
                "{ group = '239.2.2.4', port = 1, interface = 'eth1', source-port = 1, ttl = 1.5 }]\n"
            ),
            [
                "4: Invalid ttl: 256",
                "5: Invalid dscp: 64",
                "5: Invalid source: '239.1.1.1' is no address that packets can come from",
                "5: Invalid source-port: 0",
                "6: Unknown key 'source-port' in an output",
                "6: output ttl must be a whole number or a string, not a fraction",
            ],
        ),
        (rule("outputs = ['127.0.0.1:6000:eth1']\n"), ["3: Invalid output group: '127.0.0.1' is neither a group nor"]),
        (rule("outputs = ['239.1.1.1:5000:eth0']\n"), ["3: The rule for 239.1.1.1:5000 on eth0 sends 239.1.1.1:5000"]),
        (rule(input="group = '239.1.1.1', prot = 5"), ["2: Unknown key 'prot' in an input", "2: an input lacks"]),
        (
            rule(input="interface = 'eth0', group = '240.1.1.1', port = 5000"),
            ["2: Invalid input group: '240.1.1.1' is not an address that datagrams are sent to"],
        ),
        (rule(input="interface = 'eth0', group = 'a', port = 1.5"), ["2: Invalid input group", "2: input port must"]),
        (
            "[[rule]]\ninput = 3\noutputs = ['239.2.2.2:6000:eth1', '239.2.2.2:6000:eth1']",
            ["2: an input must be a table", "3: The rule names output 239.2.2.2:6000:eth1 twice"],
        ),
        ("[[rule]]\ninput = 3\noutputs = []", ["2: an input must be a table", "3: The rule has no outputs"]),
        (f"{rule()}\n\n[[rules]]\nname = 'x'\n[[rules]]", ["6: Unknown key 'rules' in the file"]),
        (rule(f"name = '{'x' * 2000}'\n"), ["4: rule name is longer than 1,000 characters"]),
        (rule(input=f"interface='e', group='239.1.1.1', port = 0x{'f' * 9000}"), ["2: input port is out of range"]),
        (rule("name = 1979-05-27\n"), ["4: rule name must be a string, not a date or time"]),
    ],
)
def test_each_fault_is_told_with_its_line(tmp_path: Path, text: str, told: list[str]) -> None:
    found = faults(tmp_path, text)
    assert len(found) == len(told)
    for fault, expected in zip(found, told, strict=True):
        assert fault.startswith(f"a.toml:{expected}")


_OUTPUTS_EXAMPLE = 'for example: outputs = ["239.2.2.2:6000:eth1", "192.0.2.7:6000:eth2:gso=8"]'
_INPUT_EXAMPLE = 'for example: input = { interface = "eth0", group = "239.1.1.1", port = 5000 }'


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[setting]", "did you mean settings?"),
        ("[settings]\nnum_worker = 1", "did you mean num_workers?"),
        ("[[rules]]", "did you mean rule?"),
        ("num_workers = 3", "it is a setting: put it below [settings]"),
        (rule("output = []\n"), "did you mean outputs?"),
        ("[settings]\nMCR_NUM_WORKERS = 1", "did you mean num_workers?"),
        ("[settings]\nnum-workers = 1", "did you mean num_workers?"),
        ("[[rule]]\ninput = 'eth0'\noutputs = ['239.2.2.2:1:e']", _INPUT_EXAMPLE),
        (rule("outputs = '239.2.2.2:6000:eth1'\n"), _OUTPUTS_EXAMPLE),
        (rule("ttl = 5\n"), 'it belongs to an output: outputs = ["239.2.2.2:6000:eth1:ttl=8"]'),
        (rule("group = '239.1.1.1'\n"), _INPUT_EXAMPLE.replace("for example", "it belongs to the input")),
        (rule("outputs = ['239.2.2.2:6000:eth1:dscp=ef']\n"), "write its number: dscp=46"),
        (rule("outputs = ['a']\n"), _OUTPUTS_EXAMPLE),
    ],
)
def test_a_fault_has_its_remedy(tmp_path: Path, text: str, hint: str) -> None:
    (fault,) = read(tmp_path, text).faults
    assert hint in fault.hints


def test_a_port_may_be_a_text_as_a_range_is(tmp_path: Path) -> None:
    found = read(tmp_path, rule(input="interface = 'eth0', group = '239.1.1.1', port = '5000'"))
    assert [(each.rule.input.port, each.rule.input.last_port) for each in found.rules] == [(5000, None)]
    assert not found.faults


def test_faults_are_told_in_the_order_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("x = 1")
    (tmp_path / "b.toml").write_bytes(b"\n\xff")
    assert [Path(each.file).name for each in read_configuration([str(tmp_path)]).faults] == ["a.toml", "b.toml"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[[rule]]\ninput = { interface = 'eth0', group = '239.1.1.1' port = 5000 }\noutputs = ['239.2.2.2:1:e']", 2),
        (rule("outputs = [\n'239.2.2.2:6000:eth1' '239.2.2.3:6000:eth1'\n]\n"), 4),
        (rule("outputs = ['239.2.2.2:6000:eth1'\n") + rule(input="interface='x', group='239.1.1.2', port=1"), 3),
        ("[[rule]]\noutputs = ['239.2.2.2:6000:eth1']\n[rule.input\ninterface = 'eth0'\n", 3),
        ("[[rule]\nname = 'a'\n", 1),
    ],
)
def test_what_follows_from_a_fault_is_not_told(tmp_path: Path, text: str, line: int) -> None:
    (fault,) = read(tmp_path, text).faults
    assert fault.line == line


def test_a_fault_elsewhere_hides_nothing_that_a_rule_lacks(tmp_path: Path) -> None:
    found = faults(tmp_path, "[[rule]]\nname = 'a'\n[settings]\nabsorb = maybe\n[[rule]]\nname = 'b'")
    assert [each.split(": ")[0] for each in found] == ["a.toml:1", "a.toml:4", "a.toml:5"]


def test_duplicates_are_told_with_both_places(tmp_path: Path) -> None:
    first = rule("name = 'a'\n") + rule("rule_id = 'x'\n", input="interface='b', group='239.1.1.1', port=1")
    other = rule("name = 'a'\n", input="interface='c', group='239.1.1.1', port=1")
    again = rule("rule_id = 'x'\n")
    assert faults(tmp_path, first, other + again) == [
        f"b.toml:1: Rule already exists: the same name as at {tmp_path}/a.toml:1, a",
        f"b.toml:5: Rule already exists: the same input as at {tmp_path}/a.toml:1, 239.1.1.1:5000 on eth0",
        f"b.toml:5: Rule already exists: the same id as at {tmp_path}/a.toml:5, x",
    ]
    assert len(faults(tmp_path, rule() + rule())) == 1


def test_an_id_that_is_another_rules_name_is_told_with_both_places(tmp_path: Path) -> None:
    first = rule("name = 'a'\n") + rule("rule_id = 'x'\nname = 'x'\n", input="interface='b', group='239.1.1.1', port=1")
    other = rule("rule_id = 'a'\n", input="interface='c', group='239.1.1.1', port=1")
    named = rule("name = 'b'\n", input="interface='d', group='239.1.1.1', port=1") + rule(
        "rule_id = 'b'\n", input="interface='e', group='239.1.1.1', port=1"
    )
    assert faults(tmp_path, first, other + named) == [
        f"b.toml:1: Rule already exists: its id is the name of the rule at {tmp_path}/a.toml:1, a",
        f"b.toml:9: Rule already exists: its id is the name of the rule at {tmp_path}/b.toml:5, b",
    ]


def test_rules_that_share_a_source_clash_and_the_place_of_the_other_is_told(tmp_path: Path) -> None:
    """Once, however many they share; the rule for any source is another one."""
    two = 'input = { interface = "eth0", group = "239.1.1.1", port = 5000, sources = ["198.18.0.1", "198.18.0.2"] }'
    outputs = 'outputs = ["239.2.2.2:6000:eth1"]'
    a, b = f"[[rule]]\n{two}\n{outputs}", f'[[rule]]\nrule_id = "b"\n{two}\n{outputs}\n{rule()}'
    first = f"the same input as at {tmp_path}/a.toml:1, 239.1.1.1:5000 on eth0 from 198.18.0.1"
    assert faults(tmp_path, a, b) == [f"b.toml:1: Rule already exists: {first}"]


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ('["239.1.1.1"]', "Invalid input sources: '239.1.1.1' is not the address of a host"),
        ('["198.18.0.1", 5]', "input sources must be strings, not a whole number"),
        ('"198.18.0.1"', "input sources must be an array, not a string"),
        ('["nobody"]', "Invalid input sources: 'nobody' is not an IP address"),
    ],
)
def test_sources_that_nobody_can_have_are_told(tmp_path: Path, sources: str, said: str) -> None:
    source = f'input = {{ interface = "eth0", group = "239.1.1.1", port = 5000, sources = {sources} }}'
    assert faults(tmp_path, f'[[rule]]\n{source}\noutputs = ["239.2.2.2:6000:eth1"]') == [f"a.toml:2: {said}"]


def test_a_setting_stands_in_one_file(tmp_path: Path) -> None:
    found = faults(tmp_path, "[settings]\nabsorb = 1", "[settings]\n\nabsorb = 0")
    assert found == [f"b.toml:3: absorb is set already at {tmp_path}/a.toml:2"]


def test_of_a_directory_toml_files_are_read_by_name(tmp_path: Path) -> None:
    for name in ("b.toml", "a.toml", "notes.txt", ".#a.toml"):
        (tmp_path / name).write_text("" if name[1:] == ".toml" else "no TOML")
    both = [f"{tmp_path}/a.toml", f"{tmp_path}/b.toml"]
    assert read_configuration([str(tmp_path)]) == Configuration(files=tuple(both))
    assert list(read_configuration([both[1], str(tmp_path)]).files) == [both[1], both[0]]


def test_files_that_cannot_be_read_are_faults(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"# ok\n# \xe9")
    (tmp_path / "mark.toml").write_bytes(b"\xef\xbb\xbf[settings]\r\nabsorb = true\r\n")
    configuration = read_configuration([f"{tmp_path}/{name}.toml" for name in ("no", "latin", "mark")])
    assert [str(fault) for fault in configuration.faults] == [
        f"{tmp_path}/no.toml: No such file or directory (os error 2)",
        f"{tmp_path}/latin.toml:2: not text in UTF-8",
    ]
    assert configuration.settings == {"absorb": "1"}


def test_a_path_that_need_not_exist_is_a_fault_where_it_cannot_be_looked_for(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")  # as a directory that may not be searched: root may search all of them
    there, elsewhere = f"{tmp_path}/loop/mcr.toml", f"{tmp_path}/no/mcr.toml"
    assert not ConfigurationPaths((elsewhere,), must_exist=False).are_there()
    paths = ConfigurationPaths((elsewhere, there), must_exist=False)
    assert paths.are_there()
    (fault,) = paths.read().faults
    assert str(fault) == f"{there}: Too many levels of symbolic links (os error 40)"


def test_more_than_a_relay_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "MAX_RULES", 2)
    monkeypatch.setattr(file, "MAX_OUTPUTS", 1)
    inputs = [f"interface = 'eth0', group = '239.1.1.1', port = {port}" for port in range(1, 5)]
    assert faults(tmp_path, "".join(rule(input=each) for each in inputs)) == [
        "a.toml:4: too many outputs",
        "a.toml:7: 4 rules are too many",
    ]


@pytest.mark.slow
def test_lines_are_not_looked_up_without_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(SOUND)
    code = "import sys; from mcr.config.file import read_configuration; "
    code += "assert not read_configuration([sys.argv[1]]).faults; print(*sys.modules)"
    python = [sys.executable, "-c", code, str(tmp_path / "a.toml")]
    loaded = subprocess.run(python, check=True, capture_output=True, text=True).stdout.split()
    assert {"tree_sitter", "trio", "cattrs", "pyroute2", "cffi"}.isdisjoint(loaded)


OTHER = "interface = 'b', group = '239.1.1.1', port = 1"


def said(configuration: Configuration) -> object:
    """All of it, places as text."""
    rules = [(each.rule, str(each.place)) for each in configuration.rules]
    return configuration.settings, rules, configuration.faults


def test_a_rule_that_was_read_before_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(SOUND)
    before = ConfigurationPaths((str(path),)).read()
    path.write_text(SOUND.replace("[[rule]]", f"{rule(input=OTHER)}[[rule]]", 1))
    now = ConfigurationPaths((str(path),)).read(before)
    assert [each.rule for each in now.rules[1:]] == [each.rule for each in before.rules]
    assert now.rules[2].rule is before.rules[1].rule
    assert str(now.rules[2].place) == f"{path}:18"


@pytest.mark.parametrize(
    "text",
    [
        rule() + "[settings]\nabsorb = true\n",
        "[settings]\nabsorb = true\n" + rule() + "[settings]\n",
        rule() + "[[other]]\n",
        rule('name = """\n[[rule]]\nb = 1\n"""\n'),
        rule("outputs = [\n[[rule]]\n]\n"),
        "rule = []\n" + rule(),
        "[rule]\nname = 'a'\n" + rule(),
        rule() + "[[rule]] # a comment\r\n" + rule(input=OTHER).removeprefix("[[rule]]\n"),
        rule() + "[[rule.outputs]]\n",
        rule() + rule(),
    ],
)
def test_reading_rules_as_blocks_gives_what_the_whole_file_gives(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_blocks = said(read(tmp_path, text))
    monkeypatch.setattr(file, "read_blocks", lambda *_: None)
    assert said(read(tmp_path, text)) == by_blocks


PIECES = st.sampled_from([*SOUND.splitlines(keepends=True), *"[]{}\"'=,#.\n", '"""', "[[rule]]\n", "0x", "\\", "é"])
MUTATION = st.tuples(st.integers(0, len(SOUND)), st.integers(0, 12), st.lists(PIECES, max_size=3).map("".join))


@pytest.mark.slow
@given(st.lists(MUTATION, min_size=1, max_size=6))
def test_whatever_is_done_to_a_file_its_faults_have_lines(
    tmp_path_factory: pytest.TempPathFactory, mutations: list[tuple[int, int, str]]
) -> None:
    """Nor does it matter what was read before, or whether rules are read as blocks."""
    text = SOUND
    for start, length, piece in mutations:
        text = text[:start] + piece + text[start + length :]
    path = tmp_path_factory.getbasetemp() / f"fuzzed-{os.getpid()}.toml"
    path.write_text(SOUND)
    before = read_configuration([str(path)])
    path.write_text(text)
    configuration = read_configuration([str(path)], before.blocks)
    for fault in configuration.faults:
        assert 0 <= fault.line <= text.count("\n") + 1
        assert fault.message
        assert "\n" not in fault.message
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file, "read_blocks", lambda *_: None)
        assert said(read_configuration([str(path)])) == said(configuration)
