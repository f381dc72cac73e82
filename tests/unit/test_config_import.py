"""`mcrctl config import`: files of smcroute, igmpproxy and the Rust relay become files of MCR."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from examples import examples
from mcr.config.file import read_configuration
from mcr.config.foreign.json5 import NotJson5, read_json5

SMCROUTE = """\
# A plant's routes
phyint eth0 enable ttl-threshold 11
phyint wlan0 disable
phyint eth1 enable mrdisc
mgroup from eth0                     group 225.1.2.3
mroute from eth0 source 192.168.1.42 group 225.1.2.3 to eth1 eth2
mroute from eth0 group 225.3.2.1/32 source 0.0.0.0 to eth1 # both orders are allowed

mroute from wlan0 group 225.1.2.9 to eth2
mgroup from eth0 group 225.0.0.0/24
mroute from eth0 group 225.0.0.0/24 to eth1 eth2
mroute from eth+ group 225.0.0.1 to eth2
mroute from eth0 group ff05::1 to eth1
ssmgroup from eth0 source 10.0.0.1 group 232.1.1.1
mroute from eth0 source 192.168.1.43 group 225.1.2.3 to eth2 eth1
mroute from eth1 igmp to eth0
mroute from eth0 group 225.5.5.5 to eth0 eth2
"""
IGMPPROXY = """\
quickleave
hashtablesize 1024
##----------------------
phyint eth0 upstream  ratelimit 0
        threshold 1   # spread over lines
        altnet 10.0.0.0/8;
        whitelist 239.1.1.1/32
        whitelist 239.1.1.2
        whitelist 224.0.0.0/24
phyint eth1 downstream ratelimit 0 threshold 1 whitelist 239.1.0.0/16
phyint eth2 downstream ratelimit 0 threshold 5 whitelist 239.1.1.2/32
phyint eth3 disabled
"""
RUST = """\
{
  // As the relay's manual shows it
  pinning: { "eth0": [0, 1, 2, 3], },
  rules: [
    {
      name: "video-feed",  /* for
      people */
      input: { interface: "eth0", group: "239.1.1.1", port: 5000 },
      outputs: [
        { group: "239.2.2.2", port: 0x1770, interface: "eth1", },
      ],
    },
    { 'name': null, input: { interface: "eth0", group: "239.1.1.2", port: 5000, protocol: "esp" }, outputs: [] },
    { input: { interface: "eth1", group: "10.0.0.50", port: 5002 },
      outputs: [ { group: "239.1.1.3", port: 5002, interface: "eth0" } ] },
    { name: 'audio', input: { interface: 'eth0', group: '239.1.1.3', port: 5000, protocol: null },
      outputs: [ { group: '239.2.2.4', port: 6000, interface: 'eth1', ttl: 1 },
                 { group: '10.0.0.7', port: 6000, interface: 'eth2', ttl: 16 } ] },
    { input: { interface: "eth0", group: "239.1.1.1", port: 5000 },
      outputs: [ { group: "239.2.2.9", port: 6000, interface: "eth1" } ] },
  ],
  multicast_ttl: 8,
  pim: { enabled: false },
  igmp: { querier_interfaces: ["eth0"] },
}
"""
SOUND = '{"pinning": {}, "rules": [{"input": {"interface": "eth0", "group": "239.1.1.1", "port": 5000}, "outputs": '
SOUND += '[{"group": "239.2.2.2", "port": 6000, "interface": "eth1"}]}], "multicast_ttl": null}'


@pytest.fixture
def imported(tmp_path: Path, run: Any) -> Callable[..., tuple[int, str, list[str]]]:
    """Import a text; the exit status, what is printed, and what is told, without the path of the file."""

    def translate(program: str, text: str | bytes, *options: str) -> tuple[int, str, list[str]]:
        path = tmp_path / "other.conf"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        status, out, errors = run("config", "import", "--from", program, str(path), *options)
        return status, out.replace(f"{tmp_path}/", ""), [line.replace(f"{tmp_path}/", "") for line in errors]

    return translate


Imported = Callable[..., tuple[int, str, list[str]]]


def places(errors: list[str]) -> list[str]:
    return [line.removeprefix("other.conf:") for line in errors if line.startswith("other.conf:")]


def test_smcroute(imported: Imported, tmp_path: Path) -> None:
    status, out, errors = imported("smcroute", SMCROUTE)
    assert out == (
        """\
# from other.conf:6: replace each port 0
[[rule]]
input = { interface = "eth0", group = "225.1.2.3", port = 0, sources = ["192.168.1.42"] }
outputs = [
    "225.1.2.3:0:eth1",
    "225.1.2.3:0:eth2",
]

# from other.conf:7: replace each port 0
[[rule]]
input = { interface = "eth0", group = "225.3.2.1", port = 0 }
outputs = ["225.3.2.1:0:eth1"]

# from other.conf:11: replace each port 0
[[rule]]
input = { interface = "eth0", group = "225.0.0.0/24", port = 0 }
outputs = [
    "225.0.0.0/24:0:eth1",
    "225.0.0.0/24:0:eth2",
]

# from other.conf:13: replace each port 0
[[rule]]
input = { interface = "eth0", group = "ff05::1", port = 0 }
outputs = ["[ff05::1]:0:eth1"]

# from other.conf:15: replace each port 0
[[rule]]
input = { interface = "eth0", group = "225.1.2.3", port = 0, sources = ["192.168.1.43"] }
outputs = [
    "225.1.2.3:0:eth2",
    "225.1.2.3:0:eth1",
]

# from other.conf:17: replace each port 0
[[rule]]
input = { interface = "eth0", group = "225.5.5.5", port = 0 }
outputs = ["225.5.5.5:0:eth2"]
"""
    )
    told = [place.split(":")[0] for place in places(errors)]
    assert told == ["2", "4", "6", "7", "9", "11", "12", "13", "14", "15", "16", "16", "17", "17"]
    assert (status, errors[-2]) == (1, "Error: Not all of other.conf is translated: 14 things to see to")

    (tmp_path / "a.toml").write_text(out)
    lines = [fault.line for fault in read_configuration([str(tmp_path / "a.toml")]).faults]
    assert lines == [number for number, line in enumerate(out.splitlines(), 1) if "port = 0" in line or ":0:" in line]
    (tmp_path / "a.toml").write_text(out.replace("port = 0", "port = 5000").replace(":0:", ":5000:"))
    completed = read_configuration([str(tmp_path / "a.toml")])
    assert (completed.faults, len(completed.rules)) == ((), 6)


def test_smcroute_lines_for_one_group_are_one_rule(imported: Imported) -> None:
    """There is one rule for an input; an output that can't be had takes no other with it."""
    to = "mroute from eth0 group 225.1.2.3"
    text = f"{to} to eth1\n{to} to a:b\n{to} source 192.0.2.0/24 to eth2 eth1\n{to.replace('eth0', 'eth1')} to eth2"
    _, out, errors = imported("smcroute", text)
    assert out.count("[[rule]]") == 2
    assert 'outputs = [\n    "225.1.2.3:0:eth1",\n    "225.1.2.3:0:eth2",\n]' in out
    assert "other.conf:2: Invalid output interface: 'a:b' is not an interface name" in errors
    assert "other.conf:3: source 192.0.2.0/24: the rule takes 225.1.2.3 from any source" in errors


def test_smcroute_includes_other_files(imported: Imported, tmp_path: Path) -> None:
    (tmp_path / "a.d").mkdir()
    (tmp_path / "a.d" / "1.conf").write_text(f"\nmroute from eth0 group 225.1.2.3 to eth1\ninclude {tmp_path}/*.conf\n")
    (tmp_path / "a.d" / "2.conf").write_text("phyint eth2 disable\n")
    text = f"include {tmp_path}/a.d/*.conf\ninclude {tmp_path}/none/*\nmroute from eth0 group 225.1.2.4 to eth2"
    _, out, errors = imported("smcroute", text)
    assert "# from a.d/1.conf:2: replace each port 0\n" in out
    assert "225.1.2.4" not in out
    assert "other.conf:2: no file is there that it includes: none/*" in errors
    assert "other.conf:3: eth2 is disabled at a.d/2.conf:1, so smcroute does not use it" in errors


def test_igmpproxy(imported: Imported) -> None:
    status, out, errors = imported("igmpproxy", IGMPPROXY)
    _, as_json, (error,) = imported("igmpproxy", IGMPPROXY, "--json")
    tables = json.loads(as_json)["rule"]
    assert json.loads(error)["error"]["message"].endswith("is translated: 6 things to see to")
    assert [(each["input"]["group"], each["outputs"]) for each in tables] == [
        ("239.1.1.1", ["239.1.1.1:0:eth1"]),
        ("239.1.1.2", ["239.1.1.2:0:eth1", "239.1.1.2:0:eth2"]),
    ]
    assert "# from other.conf:7: replace each port 0\n" in out
    assert [place.split(":")[0] for place in places(errors)] == ["6", "7", "8", "9", "10", "11"]
    assert status == 1


def test_igmpproxy_without_whitelists_leaves_a_rule_to_be_filled_in(imported: Imported, tmp_path: Path) -> None:
    text = "phyint eth0 upstream altnet 0.0.0.0/0\nphyint br0 downstream\nphyint br1 downstream"
    _, out, errors = imported("igmpproxy", text)
    assert 'outputs = [\n    "GROUP:0:br0",\n    "GROUP:0:br1",\n]' in out
    assert [place.split(":")[0] for place in places(errors)] == ["1", "1"]
    (tmp_path / "a.toml").write_text(out)
    assert {each.line for each in read_configuration([str(tmp_path / "a.toml")]).faults} == {3, 5, 6}
    _, again, errors = imported("igmpproxy", f"{text}\nphyint br0 downstream\nphyint eth0 disabled")
    assert again == out
    assert [place.split(":")[0] for place in places(errors)] == ["1", "1", "4", "5"]
    _, _, errors = imported("igmpproxy", "phyint eth0 upstream")
    assert errors[0] == "other.conf: no interface is downstream, so there is nothing to relay"


def test_rust_mcr(imported: Imported) -> None:
    status, out, errors = imported("rust-mcr", RUST)
    assert out == (
        """\
# from other.conf:5
[[rule]]
name = "video-feed"
input = { interface = "eth0", group = "239.1.1.1", port = 5000 }
outputs = ["239.2.2.2:6000:eth1"]

# from other.conf:14
[[rule]]
input = { interface = "eth1", group = "10.0.0.50", port = 5002 }
outputs = ["239.1.1.3:5002:eth0"]

# from other.conf:16
[[rule]]
name = "audio"
input = { interface = "eth0", group = "239.1.1.3", port = 5000 }
outputs = [
    "239.2.2.4:6000:eth1",
    "10.0.0.7:6000:eth2:ttl=16",
]
"""
    )
    assert [place.split(":")[0] for place in places(errors)] == ["3", "13", "19", "22", "24"]
    assert "other.conf:19: Rule already exists: the same input as on line 5, 239.1.1.1:5000 on eth0" in errors
    assert status == 1


def test_rust_mcr_may_be_the_array_of_its_rules(imported: Imported) -> None:
    rules = SOUND[SOUND.index("[") : SOUND.rindex("]") + 1]
    status, out, errors = imported("rust-mcr", rules)
    assert (status, errors) == (0, [])
    assert out == imported("rust-mcr", SOUND)[1]
    assert "other.conf:3: Unknown key 'a' in a rule" in imported("rust-mcr", "[\n\n{a: 1}]")[2]


def test_what_is_translated_whole_is_told_by_the_exit_status(imported: Imported, tmp_path: Path) -> None:
    status, out, errors = imported("rust-mcr", SOUND)
    assert (status, errors) == (0, [])
    (tmp_path / "a.toml").write_text(out)
    assert len(read_configuration([str(tmp_path / "a.toml")]).rules) == 1


@pytest.mark.parametrize("program", ["smcroute", "igmpproxy", "rust-mcr"])
def test_a_file_that_is_none_is_refused(program: str, imported: Imported, tmp_path: Path, run: Any) -> None:
    for text in ("[[rule]]\nname = 1\n", os.urandom(1000).replace(b"#", b"") + b"\nx", b'{"a": 1}'):
        status, out, errors = imported(program, text)
        assert (status, out) == (2, "")
        assert errors[0].startswith(("Error: other.conf is no ", "Error: other.conf:"))
    status, _, errors = run("config", "import", "--from", program, str(tmp_path / "no"))
    assert (status, errors) == (2, [f"Error: Cannot read {tmp_path}/no: No such file or directory (os error 2)"])
    assert run("config", "import", "--from", program, str(tmp_path))[0] == 2


PIECES = st.sampled_from(
    [
        *SMCROUTE.splitlines(keepends=True),
        *IGMPPROXY.split(" "),
        *RUST.split(" "),
        *"[]{}\"'=,#.:/\n\r\0\\+\u2028é",
        "include /dev/null\n",
        "\\ud800",
        "[" * 200,
        "9" * 5000,
    ]
)
MUTATIONS = st.lists(
    st.tuples(st.integers(0, len(RUST)), st.integers(0, 12), st.lists(PIECES, max_size=3).map("".join)), max_size=6
)


@pytest.mark.parametrize(("program", "text"), [("smcroute", SMCROUTE), ("igmpproxy", IGMPPROXY), ("rust-mcr", RUST)])
# Nothing of it is kept. Each example is a command and a file that it writes.
@settings(examples(0.4), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations=MUTATIONS)
def test_whatever_stands_in_a_file_there_is_no_traceback(
    program: str, text: str, imported: Imported, tmp_path: Path, mutations: list[tuple[int, int, str]]
) -> None:
    for start, length, piece in mutations:
        text = text[:start] + piece + text[start + length :]
    status, out, errors = imported(program, text)
    assert status == (2 if errors and not out else 1 if errors else 0)
    (tmp_path / "a.toml").write_text(out)
    faults = read_configuration([str(tmp_path / "a.toml")]).faults
    completed = [each for each in faults if "0 is not a port" not in each.message and "GROUP" not in each.message]
    assert [each for each in completed if "Rule already exists" not in each.message] == []


# JSON5.


def test_json5_is_read_with_its_lines() -> None:
    text = "// one\n{a: [1, -.5, +2e1, 0xfF, Infinity,], 'b\\\nc': {\"d\\u0041\\x42\\n\": null, $e: true},\n}"
    document = read_json5(text)
    assert document.values == {"a": [1, -0.5, 20.0, 255, float("inf")], "bc": {"dAB\n": None, "$e": True}}
    assert (document.line(("a", 2)), document.line(("bc", "$e")), document.line(("a", 9))) == (2, 3, 2)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("{a: 1\nb: 2}", 2, "a comma or } is missing before 'b'"),
        ("{a:\n}", 2, "a value is missing before '}'"),
        ("{a 1}", 1, "a colon is missing behind 'a'"),
        ("{,}", 1, "a key is missing before ','"),
        ("{a: [\n", 2, "a value is missing before 'the end'"),
        ("{a: 1, a: 2}", 1, "the key 'a' stands there already"),
        ("{} {}", 1, "'{' stands behind the end"),
        ("\n{a: 'x\n'}", 2, 'nothing of JSON5 begins with "\'"'),
        ("[1]", 1, "not an object: { … }"),
        ("{a: " + "[" * 200, 1, "objects or arrays are nested too deeply"),
        ("{a: " + "9" * 5000 + "}", 1, "a number has too many digits"),
    ],
)
def test_what_is_no_json5_is_told_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(NotJson5) as raised:
        read_json5(text)
    assert (raised.value.fault.line, raised.value.fault.message) == (line, message)
