"""Options of inputs and outputs: the same in text, JSON, TOML and on disk, and refused for what is wrong with them."""

import json
import sqlite3
import tomllib
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.cli import batch
from mcr.cli.quantities import endpoint
from mcr.config.output_text import parse_output
from mcr.config.rule_table import rule_of, rule_of_table
from mcr.config.writing import table_of, toml_of
from mcr.control.structure import RuleParams, structure, unstructure
from mcr.errors import InvalidParams, UsageError
from mcr.model.flow import Input
from mcr.model.output_options import Sockets
from mcr.model.rule import Output, OutputView, Rule, automatic_rule_id
from mcr.rules.conditions import Conditions, view_of
from mcr.rules.rule_table import Put, prepare, rules_of, write_all

INPUT = Input("eth0", IPv4Address("239.1.1.1"), 5000)
OUTPUT = Output(IPv4Address("239.2.2.2"), 6000, "eth1")

outputs = (
    st.builds(
        Output,
        st.just(OUTPUT.group),
        st.integers(1, 65_535),
        st.just("eth1"),
        gso=st.sampled_from(["auto", "off", "2", "64"]),
        ttl=st.none() | st.integers(1, 255) | st.sampled_from(["keep", "dec"]),
        dscp=st.none() | st.integers(0, 63) | st.just("keep"),
        source_port=st.none() | st.integers(1, 65_535),
        vlan=st.none() | st.integers(1, 4094),
    )
    .flatmap(
        lambda output: st.builds(
            attrs.evolve,
            st.just(output),
            source=st.none() | st.just("keep") | st.integers(0x0A000000, 0x0AFFFFFF).map(IPv4Address),
        )
    )
    .flatmap(
        lambda output: (
            st.just(output) | (st.just(attrs.evolve(output, source_port="keep")) if output.source else st.nothing())
        )
    )
)


def shown(rule: Rule) -> dict[str, Any]:
    """As `mcrctl list --json` prints it."""
    view: dict[str, Any] = json.loads(json.dumps(unstructure(view_of(rule, 1, Conditions(1)))))
    return view


@given(outputs)
def test_an_output_is_the_same_however_it_is_written(output: Output) -> None:
    rule = Rule(automatic_rule_id(INPUT), INPUT, (output,))
    (text,) = table_of(rule)["outputs"]
    view = shown(rule)
    assert endpoint(view["outputs"][0]) == text
    assert rule_of(view) == rule_of_table(tomllib.loads(toml_of([rule]))["rule"][0]) == rule
    members = {"input": view["input"], "outputs": [parse_output(text)]}
    assert structure({"input": members["input"], "outputs": members["outputs"]}, RuleParams).rule() == rule


@given(outputs)
def test_an_output_is_the_same_from_disk(output: Output) -> None:
    rule = Rule("id", INPUT, (output,))
    database = sqlite3.connect(":memory:", isolation_level=None)
    prepare(database)
    write_all(database, [Put(rule)])
    assert [*rules_of(database)] == [rule]
    database.close()


hosts = st.integers(0x0A000000, 0x0AFFFFFF).map(IPv4Address)


@given(st.none() | st.integers(1, 4094), st.lists(hosts, max_size=5))
def test_an_input_is_the_same_however_it_is_written(vlan: int | None, sources: list[IPv4Address]) -> None:
    source = attrs.evolve(INPUT, vlan=vlan, sources=tuple(sources))
    rule = Rule(automatic_rule_id(source), source, (OUTPUT,))
    view = shown(rule)
    options = ({"vlan": vlan} if vlan else {}) | ({"sources": [*map(str, source.sources)]} if sources else {})
    assert view["input"] == {"interface": "eth0", "group": "239.1.1.1", "port": 5000} | options
    assert rule_of(view) == rule_of_table(tomllib.loads(toml_of([rule]))["rule"][0]) == rule
    assert structure({"input": view["input"], "outputs": table_of_outputs(view)}, RuleParams).rule() == rule
    tag = f" --input-vlan {vlan}" if vlan else ""
    tag += f" --input-source {','.join(map(str, source.sources))}" if sources else ""
    line = f"--input-interface eth0{tag} --input-group 239.1.1.1 --input-port 5000 --outputs 239.2.2.2:6000:eth1"
    (read,) = batch._read_line(line.encode(), "")
    assert read["input"] == view["input"]
    database = sqlite3.connect(":memory:", isolation_level=None)
    prepare(database)
    write_all(database, [Put(rule)])
    assert [*rules_of(database)] == [rule]
    database.close()


def table_of_outputs(view: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: output[name] for name in ("group", "port", "interface", "gso")} for output in view["outputs"]]


def test_each_vlan_is_an_input_of_its_own_and_the_untagged_one_keeps_its_id() -> None:
    inputs = [attrs.evolve(INPUT, vlan=vlan) for vlan in (None, 1, 4094)]
    ids = [*map(automatic_rule_id, inputs)]
    assert len({*ids}) == 3
    assert ids[0] == "dcfca9531161"
    assert [str(each) for each in inputs[:2]] == ["239.1.1.1:5000 on eth0", "239.1.1.1:5000 on eth0 in VLAN 1"]
    back = Output(INPUT.group, INPUT.port, INPUT.interface)
    assert Rule("id", inputs[1], (back,))
    with pytest.raises(InvalidParams, match="back to where it came from"):
        Rule("id", inputs[0], (back,))


@pytest.mark.parametrize("vlan", [0, 4095, -1, True])
def test_what_is_no_vlan_is_refused(vlan: Any) -> None:
    with pytest.raises(InvalidParams, match=f"Invalid input VLAN: {vlan} is not the id of a VLAN"):
        attrs.evolve(INPUT, vlan=vlan)


def test_what_nobody_asked_for_is_not_shown() -> None:
    (plain,) = shown(Rule("id", INPUT, (OUTPUT,)))["outputs"]
    assert plain.keys() == {"group", "port", "interface", "gso", "state", "reason"}
    chosen = attrs.evolve(OUTPUT, ttl=8, dscp=0, source=IPv4Address("10.0.0.1"), source_port=4000, vlan=7)
    more = {"ttl": 8, "dscp": 0, "source": "10.0.0.1", "source_port": 4000, "vlan": 7}
    asked = OutputView.of(chosen)
    assert unstructure(asked) == plain | more | {"state": "active"}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        *(("ttl", value, "a number from 1 to 255, or keep, or dec") for value in (0, 256, -1, True, "", "8", "kept")),
        *(("dscp", value, "a number from 0 to 63, or keep") for value in (-1, 64, "dec", "AF44")),
        *(("dscp", value, f"write its number: dscp={n}") for value, n in (("EF", 46), ("af41", 34), ("cs5", 40))),
        *(("source_port", value, "a number from 1 to 65535, or keep") for value in (0, 65_536, "kept")),
        ("source_port", "keep", "source=keep, or source=ADDR with an address of this machine: ip address show"),
        ("source", "kept", "an address of this machine, or keep"),
        *(
            ("source", IPv4Address(value), "an address of this machine: ip address show")
            for value in ("0.0.0.0", "127.0.0.1", "239.1.1.1", "255.255.255.255")  # noqa: S104
        ),
    ],
)
def test_what_no_datagram_can_have_is_refused(name: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidParams, match=f"Invalid {name.replace('_', '-')}: ") as caught:
        attrs.evolve(OUTPUT, **{name: value})
    assert caught.value.hints == (said,)


@pytest.mark.parametrize("option", ["vlan=", "vlan=x", "vlan=-1", "vlan=1.5", "vlan=9999999999"])
def test_what_is_no_number_is_named(option: str) -> None:
    with pytest.raises(UsageError, match=f"'{option}' has no number"):
        parse_output(f"239.2.2.2:6000:eth1:{option}")


@pytest.mark.parametrize("interface", ["]eth1", "[eth1", "e]h[1", "[e]th"])
def test_brackets_in_an_interfaces_name_enclose_no_address(interface: str) -> None:
    parts = parse_output(f"[ff05::1]:6000:{interface}:source=[fd00::1]:ttl=4")
    assert parts == {"group": "ff05::1", "port": 6000, "interface": interface, "source": "fd00::1", "ttl": 4}


def test_a_source_is_kept_within_a_family() -> None:
    there = Output(IPv6Address("ff15::2"), 6000, "eth1", source="keep")
    with pytest.raises(InvalidParams, match=r"The rule for .* sends to .* with source=keep, but takes IPv4") as caught:
        Rule(automatic_rule_id(INPUT), INPUT, (there,))
    assert caught.value.hints == ("send to IPv4, or let the source be the relay's",)
    own = attrs.evolve(there, source=IPv6Address("2001:db8::1"), source_port="keep")
    assert Rule("id", INPUT, (own,)).outputs[0].keeps_port


@pytest.mark.parametrize(
    ("asked", "port", "kind"),
    [
        ({}, 0, Sockets.UDP),
        ({"source_port": 4000}, 4000, Sockets.UDP),
        ({"source": IPv4Address("10.0.0.1"), "source_port": "keep"}, 0, Sockets.RAW),
        ({"source": "keep"}, 0, Sockets.FOREIGN),
        ({"source": "keep", "source_port": 4000}, 0, Sockets.FOREIGN),
    ],
)
def test_a_port_is_reserved_where_it_is_of_this_machine(asked: dict[str, Any], port: int, kind: Sockets) -> None:
    """What is kept travels alone: raw sockets cut nothing."""
    output = attrs.evolve(OUTPUT, **asked)
    assert output.sockets == ("eth1", OUTPUT.group, port, kind)
    assert output.max_train == (32 if kind is Sockets.UDP else 1)
    assert output.keeps_port == (kind is not Sockets.UDP and output.source_port != 4000)
