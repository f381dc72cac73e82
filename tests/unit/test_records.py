"""Records are what the compiler says they are, and carry what was put in."""

import socket
from ipaddress import IPv4Address, ip_address

import pytest

from mcr._native import ffi, lib
from mcr.model.flow import Flow
from mcr.model.limits import DEFAULT_TRAIN
from mcr.model.log import Facility, Level, LogLevels
from mcr.shm import records
from mcr.shm.flows import address_words, family_of, make_flow


def test_rule_record_carries_key_and_outputs_in_network_byte_order() -> None:
    places = [records.OutputPlace(i, i + 20, i + 10, ip_address(f"239.0.0.{i}"), 6000 + i, 16) for i in range(2)]
    asked = ip_address("198.18.0.1")
    last = records.OutputPlace(2, 22, 12, ip_address("239.0.0.2"), 6002, 16, ttl=8, dscp=46, asked_source=asked)
    places.append(last)
    group, sources = ip_address("239.1.2.3"), [ip_address(f"198.18.0.{i}") for i in (1, 2, 3)]
    flows = [Flow(group, 5000, source=source) for source in sources]
    command = records.rule_put(tag=7, rule=5, capture=2, flows=flows, outputs=places)
    size = ffi.sizeof("struct mcr_rec_rule")
    head = ffi.from_buffer("struct mcr_rec_rule *", command.body[:size], require_writable=False)
    assert (head.tag, head.rule, head.flow.interface, head.output_count, head.more_flows) == (7, 5, 2, 3, 2)
    assert int(head.flow.group).to_bytes(4, "little") == socket.inet_aton("239.1.2.3")
    assert socket.ntohs(head.flow.port) == 5000
    end = size + 3 * ffi.sizeof("struct mcr_rec_output")
    further = ffi.from_buffer("struct mcr_flow[]", command.body[end:], require_writable=False)
    kept = [int(each.source).to_bytes(4, "little") for each in (head.flow, *further)]
    assert kept == [each.packed for each in sources]
    outputs = ffi.from_buffer("struct mcr_rec_output[]", command.body[size:end], require_writable=False)
    assert [(o.output, o.tag, o.egress, socket.ntohs(o.port)) for o in outputs] == [
        (0, 20, 10, 6000),
        (1, 21, 11, 6001),
        (2, 22, 12, 6002),
    ]
    assert int(outputs[2].address).to_bytes(4, "little") == socket.inet_aton("239.0.0.2")
    assert [(o.ttl, o.service) for o in outputs] == [(0, 0), (0, 0), (8, 0xB8)]
    assert int(outputs[2].asked_source).to_bytes(4, "little") == asked.packed


def test_each_field_of_a_rule_and_its_outputs_is_where_the_compiler_has_it() -> None:
    group, source, asked = (ip_address(each) for each in ("ff15::1", "198.18.0.1", "2001:db8::7"))
    place = records.OutputPlace(1, 2, 3, group, 4, 5, source, False, 6, 7, 8, asked, 9, 10)
    body = records.rule_put(
        tag=11, rule=12, capture=13, flows=[Flow(group, 14)], outputs=[place], first_port=15, groups=16
    ).body
    rule = ffi.new("struct mcr_rec_rule *", {"tag": 11, "rule": 12, "output_count": 1, "group_mask": 15})
    rule.flow, rule.first_port = make_flow(Flow(group, 14), 13)[0], socket.htons(15)
    output = ffi.new("struct mcr_rec_output *", {"output": 1, "tag": 2, "egress": 3, "port": socket.htons(4)})
    output.max_train, output.source, output.no_carrier = 5, records.network_address(source), 1
    output.ttl, output.service, output.keeps, output.vlan = 6, 7 << 2, 8, 9
    output.source_port, output.family = socket.htons(10), family_of(group)
    output.address, *output.address_rest = address_words(group)
    output.asked_source, *output.asked_source_rest = address_words(asked)
    assert body == bytes(ffi.buffer(rule)) + bytes(ffi.buffer(output))


@pytest.mark.parametrize("source", [None, ip_address("198.18.0.1")])
@pytest.mark.parametrize("carrier", [True, False])
def test_plain_output_is_packed_as_others_are(source: IPv4Address | None, *, carrier: bool) -> None:
    group = ip_address("239.1.1.1")
    place = records.OutputPlace(1, 2, 3, group, 4, DEFAULT_TRAIN, source, carrier)
    (packed,) = records.plain_outputs([(1, 2)], [(3, carrier)], [(group.packed, 4)], [source.packed if source else b""])
    assert packed == records._output(place)


def test_what_a_struct_does_not_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="struct mcr_rec_egress has no mtuu, v6"):
        records._body("mcr_rec_egress", egress=1, mtuu=1500, v6=True)
    with pytest.raises(TypeError, match="struct mcr_rec_raw: mac has room for 6 bytes, not for 20"):
        records.raw_put(1, 1500, bytes(20), ())


def test_levels_are_one_byte_a_facility() -> None:
    body = records.levels(LogLevels().with_global(Level.TRACE)).body
    assert body == bytes([8]) * lib.MCR_FACILITIES


def test_log_event_survives_the_way_through_bytes() -> None:
    written = ffi.new(
        "struct mcr_rec_log *",
        {
            "time_ns": 5,
            "first_ns": 3,
            "repeats": 2,
            "subjects": 9,
            "code": 4,
            "level": 7,
            "facility": 6,
            "args": [1, 2, 3],
        },
    )
    event = records.decode_event(lib.MCR_REC_LOG, bytes(ffi.buffer(written)))
    assert event == records.LogRecord(5, 3, 2, 9, 4, Level.DEBUG, Facility(6), (1, 2, 3))


@pytest.mark.parametrize(
    ("kind", "body"),
    [(lib.MCR_REC_ACK, b""), (lib.MCR_REC_LOG, bytes(10)), (999, bytes(100))],
)
def test_event_that_no_sound_worker_writes_is_refused(kind: int, body: bytes) -> None:
    with pytest.raises(ValueError, match=r"bytes are too few|unknown event"):
        records.decode_event(kind, body)


def test_event_with_an_impossible_level_is_refused() -> None:
    written = ffi.new("struct mcr_rec_log *", {"level": 200, "repeats": 1})
    with pytest.raises(ValueError, match="200 is not a valid Level"):
        records.decode_event(lib.MCR_REC_LOG, bytes(ffi.buffer(written)))


def test_a_sample_says_no_more_than_that_it_is_time_for_a_line() -> None:
    assert records.decode_event(lib.MCR_REC_SAMPLE, b"") == records.Sample()
