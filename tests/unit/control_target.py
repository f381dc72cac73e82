"""Whatever bytes a client sends: the control protocol makes requests, values and replies of them, and raises nothing.

A target for fuzzers: `tools/fuzz_control.py` drives it by coverage, `tests/unit/test_control_fuzz.py` by chance.
"""

import json
from typing import Any

from mcr.control.methods import METHODS
from mcr.control.structure import structure, unstructure
from mcr.control.wire import LineBuffer, Rejection, Request, encode_error, encode_result, parse_request
from mcr.errors import McrError

LIMIT = 4096


def take(data: bytes) -> None:
    """Take bytes as a connection would, in one piece and in two: what comes of them is the same."""
    whole, halves = LineBuffer(LIMIT), LineBuffer(LIMIT)
    lines = whole.feed(data)
    cut = len(data) // 2
    assert halves.feed(data[:cut]) + halves.feed(data[cut:]) == lines
    for line in (*lines, whole.end()):
        if line is not None:
            _answer(line if isinstance(line, Rejection) else parse_request(line))


def _answer(parsed: Request | Rejection) -> None:
    match parsed:
        case Rejection(reply):
            _check_error(reply)
        case Request() if parsed.method in METHODS:
            try:
                params: Any = structure(parsed.params, METHODS[parsed.method].params)
            except McrError as error:
                _check_error(encode_error(parsed.id, error))
                return
            reply = json.loads(encode_result(parsed.id, unstructure(params)))
            assert reply["id"] == parsed.id
            _check_rules(reply["result"], METHODS[parsed.method].params)
        case Request():
            pass


def _check_rules(result: dict[str, Any], cls: type) -> None:
    """Rules that were taken are taken again as they are shown."""
    if "rules" in result:
        assert unstructure(structure(result, cls)) == result


def _check_error(reply: bytes) -> None:
    assert reply.endswith(b"\n")
    error = json.loads(reply)["error"]
    assert isinstance(error["code"], int)
    assert error["message"]
