"""The control protocol: any bytes in, requests and error replies out."""

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.control.wire import (
    MAX_LINE,
    LineBuffer,
    Rejection,
    Request,
    encode_error,
    encode_long_result,
    encode_result,
    parse_long_request,
    parse_request,
)
from mcr.errors import InvalidParams, McrError, RuleNotFound

LIMIT = 20
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,  # were it easily exceeded, most of the time would go into what is thrown away
)
MEMBERS = st.sampled_from(["jsonrpc", "id", "method", "params"])


def rejected(line: bytes) -> dict[str, Any]:
    """The error of a line that must be rejected."""
    rejection = parse_request(line)
    assert isinstance(rejection, Rejection)
    return reply_error(rejection.reply) | {"id": json.loads(rejection.reply)["id"]}


def reply_error(reply: bytes) -> dict[str, Any]:
    assert reply.endswith(b"\n")
    assert reply.count(b"\n") == 1
    error: dict[str, Any] = json.loads(reply)["error"]
    return error


def request(**members: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"} | members).encode()


# Lines


@given(st.lists(st.binary(max_size=2 * LIMIT) | st.just(b"\n") | st.just(b"a\r\n")), st.data())
def test_how_a_stream_is_cut_does_not_matter(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    whole, pieces = LineBuffer(LIMIT), LineBuffer(LIMIT)
    expected = whole.feed(stream)
    assert [
        line
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for line in pieces.feed(stream[start:end])
    ] == expected
    assert pieces.end() == whole.end()


@given(st.lists(st.binary(max_size=2 * LIMIT)))
def test_no_more_than_a_line_is_held(chunks: list[bytes]) -> None:
    buffer = LineBuffer(LIMIT)
    for chunk in chunks:
        buffer.feed(chunk)
        assert buffer.held <= LIMIT


@given(st.lists(st.binary(min_size=1, max_size=LIMIT).filter(lambda line: b"\n" not in line and line.strip())))
def test_lines_come_out_as_they_went_in(lines: list[bytes]) -> None:
    assert LineBuffer(LIMIT).feed(b"".join(line + b"\n" for line in lines)) == [line.strip() for line in lines]


def test_blank_lines_are_skipped() -> None:
    assert LineBuffer().feed(b"\n\r\n  \nx\n") == [b"x"]


@pytest.mark.parametrize("length", [LIMIT, LIMIT + 1])
def test_a_line_may_be_as_long_as_the_limit_and_no_longer(length: int) -> None:
    (line,) = LineBuffer(LIMIT).feed(b"x" * length + b"\n")
    assert isinstance(line, Rejection) == (length > LIMIT)


def test_an_overlong_line_is_told_once_at_once_and_the_next_line_is_whole() -> None:
    buffer = LineBuffer(LIMIT)
    (rejection,) = buffer.feed(b"x" * (LIMIT + 1))
    assert isinstance(rejection, Rejection)
    assert reply_error(rejection.reply) == {
        "code": -32004,
        "message": "A request is longer than 20 bytes",
        "data": {"kind": "limit_reached", "hints": ["send fewer rules in one request"]},
    }
    assert buffer.feed(b"x" * 1_000) == []
    assert buffer.held == 0
    assert buffer.feed(b"x\nnext\n") == [b"next"]


def test_an_unfinished_last_line_is_rejected() -> None:
    buffer = LineBuffer()
    buffer.feed(b'{"jsonrpc":')
    rejection = buffer.end()
    assert isinstance(rejection, Rejection)
    assert reply_error(rejection.reply)["code"] == -32700


def test_a_stream_that_ends_after_a_newline_ends_well() -> None:
    buffer = LineBuffer()
    buffer.feed(b"x\n")
    assert buffer.end() is None


# Requests


def test_a_request_is_read() -> None:
    assert parse_request(request(params={"rule_id": "x"})) == Request(1, "ping", {"rule_id": "x"})


def test_params_may_be_missing() -> None:
    assert parse_request(request()) == Request(1, "ping", {})


@pytest.mark.parametrize("request_id", ["x", "", 0, -1, 1.5, None, "\ud800", 10**1_000])
def test_an_id_comes_back_as_it_was(request_id: float | str | None) -> None:
    parsed = parse_request(request(id=request_id))
    assert isinstance(parsed, Request)
    assert not parsed.notification
    assert json.loads(encode_result(parsed.id, [])) == {"jsonrpc": "2.0", "id": request_id, "result": []}


def test_a_request_without_id_is_a_notification() -> None:
    assert parse_request(b'{"jsonrpc":"2.0","method":"ping"}') == Request(None, "ping", {}, notification=True)


@pytest.mark.parametrize(
    "line",
    [
        b"ping",
        b"{",
        b"\xff",
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf{}",
        b'{"id": NaN}',
        b'{"id": -Infinity}',
        b"1" * 5_000,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        '{"jsonrpc":"2.0","id":1,"method":"ping"}'.encode("utf-16"),
    ],
)
def test_what_is_not_json_is_a_parse_error(line: bytes) -> None:
    error = rejected(line)
    assert (error["code"], error["id"], error["data"]["kind"]) == (-32700, None, "parse_error")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"1", "A request is a JSON object"),
        (b'"ping"', "A request is a JSON object"),
        (b"null", "A request is a JSON object"),
        (b"[]", "Batch arrays are not supported"),
        (request(id={}), "id must be a string, a number or null"),
        (request(id=[1]), "id must be a string, a number or null"),
        (request(id=True), "id must be a string, a number or null"),
        (b'{"jsonrpc":"2.0","id":1e999,"method":"ping"}', "id must be a string, a number or null"),
    ],
)
def test_what_is_no_request_is_rejected_without_id(line: bytes, words: str) -> None:
    error = rejected(line)
    assert (error["code"], error["message"], error["id"]) == (-32600, words, None)


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (b'{"id":1}', -32600, 'The request lacks "jsonrpc":"2.0"'),
        (request(jsonrpc="1.0"), -32600, 'The request lacks "jsonrpc":"2.0"'),
        (request(jsonrpc=2.0), -32600, 'The request lacks "jsonrpc":"2.0"'),
        (b'{"jsonrpc":"2.0","id":1}', -32600, "The request lacks a method"),
        (request(method=1), -32600, "method must be a string"),
        (request(params=[1]), -32602, "params must be an object: parameters go by name"),
        (request(params=None), -32602, "params must be an object: parameters go by name"),
    ],
)
def test_a_malformed_request_is_rejected_with_its_id(line: bytes, code: int, words: str) -> None:
    error = rejected(line)
    assert (error["code"], error["message"], error["id"]) == (code, words, 1)


@given(
    st.binary() | st.text().map(str.encode) | (st.dictionaries(MEMBERS, JSON) | JSON).map(json.dumps).map(str.encode)
)
def test_no_line_raises_and_every_rejection_is_a_reply(line: bytes) -> None:
    parsed = parse_request(line)
    assert parse_long_request(line) == parsed
    if isinstance(parsed, Rejection):
        assert reply_error(parsed.reply)["code"] in {-32700, -32600, -32602}


@given(JSON.filter(lambda value: isinstance(value, dict)), st.text())
def test_params_come_out_as_they_went_in(params: dict[str, Any], method: str) -> None:
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    parsed = parse_request(line)
    if b"NaN" in line or b"Infinity" in line:
        return  # refused, or only within a string
    assert parsed == Request(1, method, params)


# Replies


@pytest.mark.parametrize(
    "values", [b"[],", b"{},", b"1.1,", b"[" * 1_000 + b"]" * 1_000 + b","], ids=lambda values: str(values[:9])
)
def test_a_request_takes_memory_by_its_size(values: bytes) -> None:
    """Python would make half a gigabyte of the values in some."""
    line = b'{"jsonrpc":"2.0","id":1,"method":"add","params":{"rules":[' + values * (MAX_LINE // len(values))
    tracemalloc.start()
    try:
        rejected = parse_request(line[:MAX_LINE])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{most / 1e6:.0f} MB")
    assert isinstance(rejected, Rejection)
    assert most < 100e6


@pytest.mark.parametrize("encode", [encode_result, encode_long_result])
def test_a_result_is_one_line(encode: Callable[[str, object], bytes]) -> None:
    assert encode("x", {"a": ["line\nbreak"]}) == b'{"jsonrpc":"2.0","id":"x","result":{"a":["line\\nbreak"]}}\n'


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 32, 33])
def test_a_long_result_says_what_a_short_one_does(count: int) -> None:
    """It is encoded some entries at a time."""
    rules = [{"rule_id": str(number), "outputs": [{"sent": number}] * (number % 3)} for number in range(count)]
    for result in (rules, {"rules": rules, "workers": []}):
        assert encode_long_result(1, result) == encode_result(1, result)


def test_an_error_names_its_kind_and_hints() -> None:
    assert reply_error(encode_error(1, RuleNotFound("No rule", "look", "again"))) == {
        "code": -32002,
        "message": "No rule",
        "data": {"kind": "rule_not_found", "hints": ["look", "again"]},
    }


def test_an_error_does_not_send_megabytes_back() -> None:
    error = reply_error(encode_error(1, InvalidParams("x" * 1_000_000)))
    assert len(error["message"]) == 1_001


@given(st.text(), st.lists(st.text()))
def test_every_error_can_be_sent(message: str, hints: list[str]) -> None:
    assert reply_error(encode_error(None, McrError(message, *hints)))["data"]["hints"] == hints
