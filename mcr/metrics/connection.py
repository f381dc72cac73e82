"""One HTTP connection (RFC 9112, by h11). Its failures are answers, not exceptions."""

from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from http import HTTPStatus
from itertools import chain
from typing import Final

import h11
import trio

from mcr.control.connection import has_left
from mcr.errors import McrError
from mcr.metrics.pages import Answer, Following

IDLE_SECONDS: Final = 120.0
"""For a client to ask again. Prometheus asks every minute or oftener."""

REQUEST_SECONDS: Final = 5.0
"""For a client to send a request, from its first byte on."""

SEND_SECONDS: Final = 30.0
"""For a client to read an answer."""

MAX_REQUEST: Final = 8 * 1024
"""Bytes of a request, with its headers."""

_CHUNK = 4 * 1024
_AT_ONCE = 64 * 1024  # bytes of an answer in a system call, at least, if there are as many
_METHODS = {b"GET", b"HEAD"}

Respond = Callable[[str, str], Awaitable[Answer]]
"""Answers a target, given the header `Accept`."""


class Client:
    """One client.

    Attributes:
        peer: who it is: connections of one peer are limited.
        waits_since: when it was answered last, or came; None: a request of its is carried out.
        held: bytes of the answer that is being sent.
        scope: ends it when it is cancelled.
    """

    def __init__(self, stream: trio.SocketStream, peer: Hashable) -> None:
        self.peer = peer
        self.waits_since: float | None = trio.current_time()
        self.held = 0
        self.scope = trio.CancelScope()
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST)

    @property
    def has_left(self) -> bool:
        """Whether nobody reads an answer any more."""
        return has_left(self._stream.socket)

    async def converse(self, respond: Respond) -> None:
        """Answer requests, one after the other, until the client leaves or has to."""
        with self.scope:
            while await self._answer_next(respond):
                self.held, self.waits_since = 0, trio.current_time()
                self._http.start_next_cycle()

    def close(self) -> None:
        """Close the connection."""
        self._stream.socket.close()

    async def _answer_next(self, respond: Respond) -> bool:
        """Answer one request; False if there is to be no other."""
        try:
            request = await self._receive_request()
            if request is None:
                return False
            answer = self._refusal(request)
        except h11.RemoteProtocolError as error:
            request, status = None, HTTPStatus(error.error_status_hint)
            answer = Answer.of(status, f"Error: not a request that mcrd understands: {error}")
        self.waits_since = None
        if answer is None and request is not None:
            accept = b",".join(value for name, value in request.headers if name == b"accept")
            answer = await respond(request.target.decode("ascii"), accept.decode("latin-1"))
        if answer is None or self.has_left:
            return False
        self.held = answer.size
        return await self._send(answer, headers_only=request is not None and request.method == b"HEAD")

    async def _receive_request(self) -> h11.Request | None:
        """The next request; None if none comes.

        Raises:
            h11.RemoteProtocolError: it is none.
        """
        with trio.CancelScope(deadline=trio.current_time() + IDLE_SECONDS) as scope:
            begun = False
            while True:
                match self._http.next_event():
                    case h11.Request() as request:
                        return request
                    case h11.NEED_DATA:
                        data = await self._receive()
                        if not begun and data:
                            begun, scope.deadline = True, trio.current_time() + REQUEST_SECONDS
                        self._http.receive_data(data)
                    case _:  # it has left
                        return None
        return None

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(_CHUNK))
        except trio.BrokenResourceError:
            return b""

    def _refusal(self, request: h11.Request) -> Answer | None:
        """What to say of a request that is not carried out."""
        if request.method not in _METHODS:
            return Answer.of(HTTPStatus.METHOD_NOT_ALLOWED, "Error: there is only GET and HEAD here")
        if not isinstance(self._http.next_event(), h11.EndOfMessage):
            return Answer.of(HTTPStatus.BAD_REQUEST, "Error: a request has no body here")
        return None

    async def _send(self, answer: Answer, *, headers_only: bool) -> bool:
        """Send an answer; False if the connection is no longer of use."""
        headers = [("Content-Type", answer.media_type), ("X-Content-Type-Options", "nosniff"), *answer.headers]
        if not answer.following:
            headers.append(("Content-Length", str(answer.size)))
        if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("Allow", "GET, HEAD"))
        if self._http.their_state is not h11.DONE:
            headers.append(("Connection", "close"))
        response = h11.Response(status_code=answer.status, reason=answer.status.phrase, headers=headers)
        # One after the other, as they are sent: all of them would be a second copy of the body.
        pieces = (h11.Data(data=each) for each in _gathered(() if headers_only else answer.body))
        if answer.following and not headers_only:
            return await self._send_events(chain((response,), pieces)) and await self._follow(answer.following)
        sent = await self._send_events(chain((response,), pieces, (h11.EndOfMessage(),)))
        return sent and self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _send_events(self, events: Iterable[h11.Event]) -> bool:
        """False if the client has left, or does not read."""
        with trio.move_on_after(SEND_SECONDS):
            try:
                for data in _gathered(self._http.send(each) or b"" for each in events):
                    await self._stream.send_all(data)
            except trio.BrokenResourceError:
                return False
            return True
        return False

    async def _follow(self, following: Following) -> bool:
        """Send what comes next until the client leaves, does not read, or has to make room for another."""
        self.waits_since = trio.current_time()
        while not self.has_left:
            try:
                data = await following()
            except McrError:  # mcrd stops, or holds too much; the browser asks anew
                break
            self.held = len(data)
            if not await self._send_events((h11.Data(data=data),)):
                break
            self.held = 0
        return False


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same in fewer pieces: a page of totals has 30, and to send one takes as long as to make three."""
    waiting, size = [], 0
    for each in pieces:
        waiting.append(each)
        size += len(each)
        if size >= _AT_ONCE:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
