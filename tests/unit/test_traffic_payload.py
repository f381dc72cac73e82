"""What the traffic generator sends, and when: payloads, frames, the schedule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Padding, Raw

import trafficgen.payload as payloads
from mcr.errors import UsageError
from traffic import datagram, template
from trafficgen.frame import Frame
from trafficgen.schedule import Paced


@given(
    st.integers(payloads.MIN_SIZE, 3000),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
)
def test_a_payload_says_what_its_sender_said(size: int, flow: int, sequence: int, due_ns: int) -> None:
    frame = Frame.build(template(), size)
    buffer = bytearray(frame.data)
    frame.stamp_into(buffer, 0, flow, sequence, due_ns)
    payload = memoryview(buffer)[frame.payload_offset :]
    assert len(payload) == size
    assert payloads.read(payload) == payloads.Stamp(flow, sequence, due_ns)


def test_a_payload_with_any_bit_changed_is_not_read() -> None:
    sound = datagram(7, size=60)
    for bit in range(len(sound) * 8):
        changed = bytearray(sound)
        changed[bit // 8] ^= 1 << bit % 8
        # Byte 5 is padding that nobody reads, but the checksum covers it.
        assert payloads.read(memoryview(changed)) is None


@pytest.mark.parametrize("length", [0, 1, payloads.MIN_SIZE - 1, payloads.MIN_SIZE, 99])
def test_a_payload_cut_short_is_not_read(length: int) -> None:
    assert payloads.read(memoryview(datagram(7)[:length])) is None


def test_a_payload_with_something_appended_is_not_read() -> None:
    assert payloads.read(memoryview(datagram(7) + b"\0")) is None


@pytest.mark.parametrize("size", [32, 33, 1316, 1317])
@pytest.mark.parametrize(
    "headers",
    [
        template(),
        template(vlan=7, ttl=1, ip_id=4711),
        template() / Raw(b"replaced"),
        template() / Padding(b"after the datagram"),
        template() / Raw(b"replaced") / Padding(b"after the datagram"),
        Ether() / IP(dst="239.1.1.1", src="198.18.1.1", options=[]) / UDP(sport=1, dport=2),
    ],
)
def test_every_stamp_leaves_the_udp_checksum_as_scapy_would_compute_it(headers: Ether, size: int) -> None:
    frame = Frame.build(headers, size)
    buffer = bytearray(frame.data)
    for number in range(8):
        sequence = number * 0x9E3779B97F4A7C15 % 2**64  # the golden ratio's: all bits change
        frame.stamp_into(buffer, 0, 0xDEADBEEF, sequence, sequence // 7)
        expected = Ether(bytes(buffer))
        del expected[UDP].chksum
        assert bytes(expected) == buffer


@pytest.mark.parametrize("checksum", [0, 0x1234])
def test_a_udp_checksum_that_is_set_stays_as_set(checksum: int) -> None:
    headers = template()
    headers[UDP].chksum = checksum
    frame = Frame.build(headers, 100)
    buffer = bytearray(frame.data)
    frame.stamp_into(buffer, 0, 1, 2, 3)
    assert Ether(bytes(buffer))[UDP].chksum == checksum


def test_headers_are_as_asked_and_the_template_stays_as_it_was() -> None:
    headers = template(vlan=7, ttl=3, ip_id=4711)
    before = bytes(headers)
    built = Ether(Frame.build(headers, 64).data)
    assert built.dst == "01:00:5e:01:01:01"
    assert (built[Dot1Q].vlan, built[IP].ttl, built[IP].id, built[UDP].dport) == (7, 3, 4711, 5001)
    assert built[UDP].len == 8 + 64
    assert bytes(headers) == before


@pytest.mark.parametrize("size", [-1, 0, 31, 65_508])
def test_a_payload_that_cannot_be_is_refused(size: int) -> None:
    with pytest.raises(UsageError, match=f"Invalid payload size: {size}"):
        Frame.build(template(), size)


@given(st.floats(0.1, 1e7), st.integers(0, 10**15), st.integers(0, 10**11))
def test_what_is_due_is_what_has_a_due_time_that_passed(rate: float, start_ns: int, after_ns: int) -> None:
    schedule = Paced(rate, start_ns)
    due = schedule.due_by(start_ns + after_ns)
    assert schedule.due_ns(due - 1) <= start_ns + after_ns
    assert schedule.due_ns(due) >= start_ns + after_ns


@pytest.mark.parametrize("rate", [1, 999, 4000, 20_000, 99_999.5, 1_000_000])
def test_the_rate_is_kept_in_the_long_run_and_bursts_stay_short(rate: float) -> None:
    schedule = Paced(rate, 0)
    for index in (0, 1, 10, 1000, 1_000_003):
        late_ns = index * 1e9 / rate - schedule.due_ns(index)
        assert -1 <= late_ns <= 250_000 + 1  # a packet leaves with its burst: early by a burst at most, never late
