"""The control protocol without its socket: bytes to requests, results and errors to bytes.

Rules of the module:

1. A message is one JSON-RPC 2.0 object on one line, at most `MAX_LINE` bytes long.
2. No bytes whatever raise: a bad line becomes a `Rejection`, which holds the reply to send.
3. What comes out depends on the bytes that went in, never on how they were cut into chunks.
4. Memory is bounded: an overlong line is dropped as it arrives, and no more than `MAX_LINE` bytes are kept.
"""

import json
import math
from collections.abc import Callable, Collection
from typing import Any, Final, NoReturn, cast

import attrs

from mcr.errors import InvalidParams, InvalidRequest, LimitReached, McrError, ParseError

PROTOCOL: Final = 1
"""Version of the methods and their shapes; it grows when one of them changes incompatibly."""

MAX_LINE: Final = 16 * 1024 * 1024
"""Bytes of a request without its newline. A full relay (16,384 rules, 65,536 outputs) fits in half of it."""

MANY: Final = 200
"""Rules and outputs from which on a message takes a thread, so that others get their turn."""

MAX_VALUES: Final = 2_000_000
"""Values in a request, about: what Python makes of one takes up to 72 bytes. A full relay has a third of them."""

_LONG_TEXT = 64 * 1024  # of a result that is written already: to copy it takes a while
_PIECE = 16  # rules that are encoded at a time; one at a time takes a third longer
_MAX_MESSAGE = 1_000  # an error message quotes what the client sent, which may be megabytes

RequestId = str | int | float | None


@attrs.frozen
class Request:
    """A well-formed request. Whether the method exists and takes these parameters is not known yet."""

    id: RequestId
    method: str
    params: dict[str, Any]
    notification: bool = False
    """It has no `id` member: it is carried out, and nothing is answered, not even an error."""
    progress: bool = False
    """The client wants progress messages while it is carried out."""


@attrs.frozen
class Rejection:
    """A line that is no request, and the error reply that says why."""

    reply: bytes


@attrs.frozen
class Written:
    """A result, or a member of one, that is JSON already, on one line."""

    text: str


class LineBuffer:
    """Cuts a byte stream into lines."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._partial = bytearray()
        self._discarding = False

    @property
    def held(self) -> int:
        """Bytes of the unfinished line kept in memory."""
        return len(self._partial)

    def feed(self, data: bytes) -> list[bytes | Rejection]:
        """Take the next bytes; return the lines they complete, without their newlines, blank ones left out.

        A line that outgrows the limit is rejected once, as soon as that is known.
        """
        lines: list[bytes | Rejection] = []
        *ends, rest = data.split(b"\n")
        for end in ends:
            if self._discarding:
                self._discarding = False
            elif len(self._partial) + len(end) > self._limit:
                lines.append(self._overlong())
            elif line := (bytes(self._partial + end) if self._partial else end).strip():
                lines.append(line)
            self._partial.clear()
        if not self._discarding:
            if len(self._partial) + len(rest) > self._limit:
                lines.append(self._overlong())
                self._discarding = True
                self._partial.clear()
            else:
                self._partial += rest
        return lines

    def end(self) -> Rejection | None:
        """The stream has ended: reject the bytes after the last newline, since they may be half a message."""
        if not self._partial.strip():
            return None
        return _reject(ParseError("The last line does not end with a newline, so it was not carried out"))

    def _overlong(self) -> Rejection:
        return _reject(
            LimitReached(
                f"A request is longer than {self._limit:,} bytes",
                "send fewer rules in one request",
            )
        )


def parse_request(line: bytes) -> Request | Rejection:
    """Read one line."""
    return _parse(line, None)


def parse_long_request(line: bytes) -> Request | Rejection:
    """The same, in a thread: other threads run between its objects."""
    return _parse(line, _pause)


def _pause(members: dict[str, Any]) -> dict[str, Any]:
    """What Python calls for each object, where another thread may have its turn: it has none in the JSON module."""
    return members


def _parse(line: bytes, pause: Callable[[dict[str, Any]], dict[str, Any]] | None) -> Request | Rejection:
    request_id: RequestId = None
    try:
        message = _load(line, pause)
        request_id = _request_id(message)
        return _request(message, request_id)
    except McrError as error:
        return _reject(error, request_id)


def encode_result(request_id: RequestId, result: object) -> bytes:
    """The reply that carries a result."""
    if any(isinstance(part, Written) for part in _parts(result)):
        return encode_long_result(request_id, result)
    return _line({"jsonrpc": "2.0", "id": request_id, "result": result})


def encode_long_result(request_id: RequestId, result: object) -> bytes:
    """The same, in a thread: other threads run between its parts."""
    return f'{{"jsonrpc":"2.0","id":{dump(request_id)},"result":{_dump_long(result)}}}\n'.encode()


def encode_progress(request_id: RequestId, seconds: float) -> bytes:
    """The notification that a request is carried out, for so many seconds by now."""
    params = {"id": request_id, "seconds": round(seconds, 1)}
    return _line({"jsonrpc": "2.0", "method": "progress", "params": params})


def is_long(result: object) -> bool:
    """Whether a result takes long to encode."""
    return any(
        len(part.text) > _LONG_TEXT if isinstance(part, Written) else _entries(part) > MANY
        for part in _parts(result)
        if isinstance(part, list | Written)
    )


def _parts(result: object) -> Collection[object]:
    return result.values() if isinstance(result, dict) else (result,)


def _entries(part: list[Any]) -> int:
    """Of a list, and of its entries' outputs."""
    return len(part) + sum(len(each.get("outputs", ())) for each in part if isinstance(each, dict))


def encode_error(request_id: RequestId, error: McrError) -> bytes:
    """The reply that carries an error."""
    message = error.message if len(error.message) <= _MAX_MESSAGE else error.message[:_MAX_MESSAGE] + "…"
    return _line({"jsonrpc": "2.0", "id": request_id, "error": error.to_json() | {"message": message}})


def _load(line: bytes, pause: Callable[[dict[str, Any]], dict[str, Any]] | None) -> dict[str, Any]:
    if len(line) > MAX_VALUES and sum(map(line.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise LimitReached(f"A request has more than {MAX_VALUES:,} values", "send fewer rules in one request")
    try:
        message = json.loads(line.decode(), parse_constant=_refuse_constant, object_hook=pause)
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, or a 5,000-digit integer
        raise ParseError(f"Not a JSON message: {error}", "a message is one JSON object on one line") from None
    if isinstance(message, list):
        raise InvalidRequest("Batch arrays are not supported", "send one request per line")
    if not isinstance(message, dict):
        raise InvalidRequest("A request is a JSON object", 'such as {"jsonrpc":"2.0","id":1,"method":"ping"}')
    return message


def _request_id(message: dict[str, Any]) -> RequestId:
    value = message.get("id")
    # 1e999 is valid JSON and infinite; no JSON could carry it back.
    if isinstance(value, bool | dict | list) or (isinstance(value, float) and not math.isfinite(value)):
        raise InvalidRequest("id must be a string, a number or null")
    return cast("RequestId", value)


def _request(message: dict[str, Any], request_id: RequestId) -> Request:
    if message.get("jsonrpc") != "2.0":
        raise InvalidRequest('The request lacks "jsonrpc":"2.0"')
    method = message.get("method")
    if not isinstance(method, str):
        raise InvalidRequest("method must be a string" if "method" in message else "The request lacks a method")
    params = message.get("params", {})
    if not isinstance(params, dict):
        raise InvalidParams("params must be an object: parameters go by name")
    notification = "id" not in message
    progress = message.get("progress") is True and not notification
    return Request(request_id, method, params, notification=notification, progress=progress)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _reject(error: McrError, request_id: RequestId = None) -> Rejection:
    return Rejection(encode_error(request_id, error))


def _line(message: dict[str, object]) -> bytes:
    return dump(message).encode() + b"\n"


dump: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
"""JSON of a value."""


def _dump_long(value: object) -> str:
    # Piece by piece: in one piece, no other thread would run until it is done.
    match value:
        case Written(text):
            return text
        case list():
            pieces = (dump(value[start : start + _PIECE])[1:-1] for start in range(0, len(value), _PIECE))
            return f"[{','.join(pieces)}]"
        case dict():
            return f"{{{','.join(f'{dump(name)}:{_dump_long(part)}' for name, part in value.items())}}}"
        case _:
            return dump(value)
