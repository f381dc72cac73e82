"""Metrics as mcrd has them: a listener that is there before the actors are, and the server when they are.

Where no metrics are asked for, what serves them (h11, above all) is not imported.
"""

import errno
import socket
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

import attrs
import trio

from mcr.errors import SystemFault
from mcr.logs.logger import get_logger
from mcr.model.endpoint import Endpoint, TcpEndpoint
from mcr.model.log import Facility

if TYPE_CHECKING:
    from mcr.metrics.pages import Rules, Statistics, Workers
    from mcr.metrics.server import MetricsServer

_log = get_logger(Facility.CONTROL)


@attrs.define
class Metrics:
    """A context manager: leaving it closes the listener."""

    _endpoint: Endpoint | None
    _listener: socket.socket | None
    _closing: ExitStack
    _server: "MetricsServer | None" = None

    @classmethod
    def open(cls, endpoint: Endpoint | None) -> Self:
        """Listen, if there is an endpoint.

        Raises:
            SystemFault: that can't be.
        """
        closing = ExitStack()
        if not endpoint:
            return cls(None, None, closing)
        from mcr.metrics.listener import metrics_listener  # noqa: PLC0415

        return cls(endpoint, closing.enter_context(metrics_listener(endpoint)), closing)

    @staticmethod
    def check(endpoint: Endpoint | None) -> None:
        """See that one can listen there, as soon as who does now has ended.

        Raises:
            SystemFault: one can't.
        """
        try:
            Metrics.open(endpoint)._closing.close()  # noqa: SLF001 - its own
        except SystemFault as error:
            if error.errno != errno.EADDRINUSE:
                raise

    async def serve(self, nursery: trio.Nursery, rules: "Rules", workers: "Workers", stats: "Statistics") -> None:
        """Answer clients from now on."""
        if not self._listener:
            return
        from mcr.metrics.pages import Pages  # noqa: PLC0415
        from mcr.metrics.server import run_metrics_server  # noqa: PLC0415

        pages = Pages(rules, workers, stats)
        self._server = await nursery.start(run_metrics_server, self._listener, self._closing, pages)
        _log.notice("metrics are served at %s", self._endpoint)
        if isinstance(self._endpoint, TcpEndpoint) and not self._endpoint.is_private:
            warning = "whoever reaches %s can read rules, addresses and counters: let a firewall limit who connects"
            _log.warning(warning, self._endpoint)

    async def stop(self) -> None:
        """Close everything."""
        if self._server:
            await self._server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._closing.close()
