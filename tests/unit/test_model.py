"""Values: what they accept, what they refuse and in which words."""

import hashlib
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import InvalidParams, McrError
from mcr.model.flow import Input, check_interface_name, check_port, parse_address
from mcr.model.limits import MAX_OUTPUTS_PER_RULE
from mcr.model.log import Facility, Level, LogLevels
from mcr.model.rule import Output, Rule, automatic_rule_id

GROUP = IPv4Address("239.1.1.1")
INPUT = Input("eth0", GROUP, 5000)
OUTPUT = Output(IPv4Address("239.2.2.2"), 5000, "eth1")


# Addresses, ports, interface names


def test_an_address_is_parsed() -> None:
    assert parse_address("239.1.1.1", "input group") == GROUP


@pytest.mark.parametrize("text", ["", "239.1.1", "239.1.1.256", "239.1.1.1/24", " 239.1.1.1", "host", "0xef.1.1.1"])
def test_what_is_no_address_is_refused_with_its_text_and_purpose(text: str) -> None:
    with pytest.raises(InvalidParams, match="Invalid input group: ") as caught:
        parse_address(text, "input group")
    assert repr(text) in caught.value.message


@pytest.mark.parametrize("source", ["239.1.1.1", "0.1.2.3", "127.0.0.1", "255.255.255.255", "240.0.0.1"])
def test_what_no_host_sends_from_is_no_source(source: str) -> None:
    with pytest.raises(InvalidParams, match=f"Invalid input source: '{source}' is not the address of a host"):
        Input("eth0", GROUP, 5000, sources=(IPv4Address(source),))


def test_sources_are_the_same_in_whatever_order_and_make_another_input() -> None:
    first, second = IPv4Address("198.18.0.1"), IPv4Address("198.18.0.2")
    inputs = [Input("eth0", GROUP, 5000, sources=each) for each in ((first, second), (second, first, second))]
    assert inputs[0] == inputs[1]
    assert str(inputs[0]) == "239.1.1.1:5000 on eth0 from 198.18.0.1 or 198.18.0.2"
    assert len({automatic_rule_id(each) for each in (*inputs, INPUT)}) == 2
    many = tuple(first + number for number in range(65))
    with pytest.raises(InvalidParams, match="has 65 sources"):
        Input("eth0", GROUP, 5000, sources=many)


@pytest.mark.parametrize("text", ["ff15::1", "[ff15::1]", "FF15:0::0001", "ff15:0:0:0:0:0:0:1"])
def test_an_ipv6_address_has_one_spelling(text: str) -> None:
    assert str(parse_address(text, "input group")) == "ff15::1"


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("fe80::1%eth0", "'fe80::1%eth0' names a zone", "its interface says that already: fe80::1"),
        ("::ffff:239.1.1.1", "stands for an IPv4 address", "write 239.1.1.1"),
        ("ff15:::1", "is not an IP address", "an address such as 239.1.1.1 or ff15::1"),
        ("[ff15::1", "is not an IP address", "an address such as 239.1.1.1 or ff15::1"),
    ],
)
def test_an_ipv6_address_that_cannot_be_meant_is_refused_with_the_remedy(text: str, said: str, hint: str) -> None:
    with pytest.raises(InvalidParams, match="Invalid input group: ") as caught:
        parse_address(text, "input group")
    assert said in caught.value.message
    assert caught.value.hints == (hint,)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("198.18.1.10/24", "a host's address, without a prefix: 198.18.1.10"),
        ("[fd00::1]/64", "a host's address, without a prefix: fd00::1"),
        ("239.9.9.9/24", "a host's address such as 192.0.2.5 or 2001:db8::5"),
        ("encoder/24", "a host's address such as 192.0.2.5 or 2001:db8::5"),
        ("encoder", "a host's address such as 192.0.2.5 or 2001:db8::5"),
    ],
)
def test_where_a_source_belongs_no_group_is_proposed(text: str, hint: str) -> None:
    for what in ("input source", "output source", "input sources"):
        with pytest.raises(InvalidParams, match=f"Invalid {what}: ") as caught:
            parse_address(text, what)
        assert caught.value.hints == (hint,)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ("::", "is not an address that datagrams are sent to"),
        ("ff01::1", "is a group of one machine alone (interface-local scope)"),
        ("ff11::1", "is a group of one machine alone (interface-local scope)"),
        ("ff00::1", "has the reserved scope 0"),
        ("ff1f::1", "has the reserved scope f"),
    ],
)
def test_an_ipv6_group_is_one_that_a_network_forwards(group: str, said: str) -> None:
    with pytest.raises(InvalidParams, match="Invalid input group") as caught:
        Input("eth0", IPv6Address(group), 5000)
    assert said in caught.value.message
    if IPv6Address(group).is_multicast:
        with pytest.raises(InvalidParams, match="Invalid output group"):
            Output(IPv6Address(group), 5000, "eth1")


@pytest.mark.parametrize("group", ["ff02::1:3", "ff12::1", "ff15::1", "ff18::1", "ff3e::1", "ff0e::1"])
def test_other_scopes_are_taken(group: str) -> None:
    assert Input("eth0", IPv6Address(group), 5000).group == Output(IPv6Address(group), 5000, "eth1").group


def test_ipv6_is_written_in_brackets_and_known_by_its_own_id() -> None:
    source = Input("eth0", IPv6Address("ff15::1"), 5000)
    assert str(source) == "[ff15::1]:5000 on eth0"
    assert str(Output(IPv6Address("fe80::1"), 5000, "eth1")) == "[fe80::1]:5000:eth1"
    assert automatic_rule_id(source) == hashlib.sha256(b"eth0|ff15::1|5000").hexdigest()[:12]


@pytest.mark.parametrize("host", ["::", "::1"])
def test_an_output_of_ipv6_is_a_group_or_a_host(host: str) -> None:
    with pytest.raises(InvalidParams, match="neither a group nor a host"):
        Output(IPv6Address(host), 5000, "eth1")


def test_a_source_is_of_the_family_that_it_sends_to() -> None:
    to, source = IPv6Address("ff15::1"), IPv6Address("2001:db8::1")
    assert Output(to, 5000, "eth1", source=source).source == source
    for group, wrong in ((to, IPv4Address("198.18.0.1")), (GROUP, source)):
        with pytest.raises(InvalidParams, match="is of another family than"):
            Output(group, 5000, "eth1", source=wrong)


@pytest.mark.parametrize("port", [1, 65_535])
def test_the_first_and_the_last_port_are_ports(port: int) -> None:
    assert check_port(port, "input port") == port


@pytest.mark.parametrize("port", [0, 65_536, -1, True, "5000", 5000.0])
def test_what_is_no_port_is_refused(port: Any) -> None:
    with pytest.raises(InvalidParams, match="Invalid input port"):
        check_port(port, "input port")


@pytest.mark.parametrize("name", ["a", "eth0", "enp0s31f6", "fifteen-letters", "br0.100", "veth@x", "été"])
def test_what_the_kernel_takes_for_an_interface_name_passes(name: str) -> None:
    assert check_interface_name(name, "input interface") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "sixteen-letters!", "a/b", "a:b", "a b", "a\tb", "a\n", "a\0", "\ud800", "é" * 8]
)
def test_what_the_kernel_refuses_as_an_interface_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidParams, match="Invalid input interface"):
        check_interface_name(name, "input interface")


@pytest.mark.parametrize("name", ["eth*", "eth?", "eth[01]"])
def test_a_pattern_of_interfaces_is_refused_for_what_it_is(name: str) -> None:
    with pytest.raises(InvalidParams, match="is a pattern, and a rule takes one interface by its name"):
        check_interface_name(name, "input interface")


@given(st.text(alphabet=st.characters()))
def test_an_interface_name_that_passes_can_be_given_to_the_kernel(name: str) -> None:
    try:
        check_interface_name(name, "input interface")
    except InvalidParams:
        return
    assert 1 <= len(name.encode()) <= 15


# Inputs, outputs, rules


@pytest.mark.parametrize("group", ["0.0.0.0", "0.1.2.3", "240.0.0.1"])  # noqa: S104 - nothing is bound
def test_an_input_group_is_sent_to(group: str) -> None:
    with pytest.raises(InvalidParams, match="is not an address that datagrams are sent to"):
        Input("eth0", IPv4Address(group), 5000)


def test_an_input_may_be_an_address_of_this_machine_or_of_all_on_the_link() -> None:
    assert [Input("eth0", IPv4Address(each), 5000).is_own for each in ("198.18.0.2", "198.18.0.255")] == [True, True]
    assert not Input("eth0", IPv4Address("255.255.255.255"), 5000).is_own
    assert Input("eth0", IPv6Address("fe80::7"), 5000).is_own
    assert Input("lo", IPv4Address("127.0.0.1"), 5000).is_own
    with pytest.raises(InvalidParams, match=r"what is sent to 127\.0\.0\.1 stays on this machine"):
        Input("eth0", IPv4Address("127.0.0.1"), 5000)


def test_what_is_sent_to_the_address_that_a_rule_takes_would_come_in_again() -> None:
    own, every = IPv4Address("198.18.0.2"), IPv4Address("255.255.255.255")
    with pytest.raises(InvalidParams, match="to the address that it takes: that does not leave this machine"):
        Rule("id", Input("lo", own, 5000), (Output(own, 5000, "eth1"),))
    ends_like_a_broadcast = IPv4Address("198.18.0.3")
    with pytest.raises(InvalidParams, match="to the address that it takes"):
        Rule("id", Input("lo", ends_like_a_broadcast, 5000), (Output(ends_like_a_broadcast, 5000, "eth1"),))
    with pytest.raises(InvalidParams, match="back to where it came from"):
        Rule("id", Input("eth0", every, 5000), (Output(every, 5000, "eth0"),))
    for address in (every, IPv4Address("198.18.0.255")):
        assert Rule("id", Input("eth0", address, 5000), (Output(address, 5000, "eth1"),))


def test_an_output_may_be_a_host() -> None:
    assert Output(IPv4Address("10.0.0.1"), 5000, "eth1").group == IPv4Address("10.0.0.1")


@pytest.mark.parametrize("group", ["0.0.0.0", "240.0.0.1", "255.255.255.254"])  # noqa: S104
def test_an_output_is_a_group_or_a_host(group: str) -> None:
    with pytest.raises(InvalidParams, match="neither a group nor a host"):
        Output(IPv4Address(group), 5000, "eth1")


def test_an_output_prints_as_operators_write_it() -> None:
    assert str(OUTPUT) == "239.2.2.2:5000:eth1"


def test_a_rule_needs_an_output() -> None:
    with pytest.raises(InvalidParams, match="Rule id has no outputs"):
        Rule("id", INPUT, ())


def test_a_rule_has_room_for_so_many_outputs_and_no_more() -> None:
    outputs = tuple(Output(GROUP + 1, 1 + i, "eth1") for i in range(MAX_OUTPUTS_PER_RULE + 1))
    assert Rule("id", INPUT, outputs[:-1])
    with pytest.raises(InvalidParams, match="Rule id has 513 outputs"):
        Rule("id", INPUT, outputs)


def test_an_output_named_twice_is_refused() -> None:
    with pytest.raises(InvalidParams, match=r"^Rule id names output 239\.2\.2\.2:5000:eth1 twice"):
        Rule("id", INPUT, (OUTPUT, OUTPUT))


def test_rule_that_was_given_no_id_is_called_by_its_input() -> None:
    """Its automatic id says nothing to anybody who has not seen it in a list."""
    with pytest.raises(InvalidParams, match=f"^The rule for {INPUT} names output {OUTPUT} twice"):
        Rule(automatic_rule_id(INPUT), INPUT, (OUTPUT, OUTPUT))


def test_an_output_that_is_the_input_is_refused() -> None:
    with pytest.raises(InvalidParams, match="back to where it came from"):
        Rule("id", INPUT, (Output(INPUT.group, INPUT.port, INPUT.interface),))


def test_the_same_group_on_another_interface_is_what_a_relay_is_for() -> None:
    assert Rule("id", INPUT, (Output(INPUT.group, INPUT.port, "eth1"),))


@pytest.mark.parametrize("label", ["", " x", "x ", "a\nb", "\x1b[0m", "x" * 129, "\ud800"])
def test_ids_and_names_are_printable(label: str) -> None:
    with pytest.raises(InvalidParams, match="Invalid rule id"):
        Rule(label, INPUT, (OUTPUT,))
    with pytest.raises(InvalidParams, match="Invalid rule name"):
        Rule("id", INPUT, (OUTPUT,), label)


def test_the_automatic_id_is_the_same_everywhere_and_for_ever() -> None:
    assert automatic_rule_id(INPUT) == "dcfca9531161"


@pytest.mark.parametrize("other", [Input("eth1", GROUP, 5000), Input("eth0", GROUP + 1, 5000), Input("eth0", GROUP, 1)])
def test_the_automatic_id_depends_on_all_of_the_input(other: Input) -> None:
    assert automatic_rule_id(other) != automatic_rule_id(INPUT)


# Levels and facilities


@pytest.mark.parametrize("level", Level)
def test_a_level_is_found_by_its_label(level: Level) -> None:
    assert Level.parse(level.label) is level


def test_the_levels_are_those_of_syslog_and_trace() -> None:
    assert [level.label for level in Level] == [
        "emergency",
        "alert",
        "critical",
        "error",
        "warning",
        "notice",
        "info",
        "debug",
        "trace",
    ]


@pytest.mark.parametrize("facility", Facility)
def test_a_facility_is_found_by_its_label(facility: Facility) -> None:
    assert Facility.parse(facility.label) is facility


@pytest.mark.parametrize("parse", [Level.parse, Facility.parse])
def test_an_unknown_label_is_told_with_the_known_ones(parse: Callable[..., Any]) -> None:
    with pytest.raises(McrError, match=r"Unknown (level|facility): 'loud'") as caught:
        parse("loud")
    assert ", " in caught.value.hints[0]


def test_one_facility_is_set_and_the_others_stay() -> None:
    levels = LogLevels().with_facility(Facility.CONTROL, Level.TRACE)
    assert {facility: levels.of(facility) for facility in Facility} == {
        facility: Level.TRACE if facility is Facility.CONTROL else Level.INFO for facility in Facility
    }


def test_all_facilities_are_set() -> None:
    levels = LogLevels().with_facility(Facility.CONTROL, Level.TRACE).with_global(Level.ERROR)
    assert set(levels.levels) == {Level.ERROR}
