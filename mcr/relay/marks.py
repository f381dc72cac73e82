"""What outputs keep of the headers that datagrams came with, as both engines have it."""

from collections.abc import Mapping
from typing import Final

from mcr._native import lib
from mcr.model.output_options import DECREMENT, KEEP
from mcr.model.rule import Output

_TTL: Final[Mapping[int | str | None, int]] = {KEEP: lib.MCR_KEEP_TTL, DECREMENT: lib.MCR_DECREMENT_TTL}
_DSCP: Final[Mapping[int | str | None, int]] = {KEEP: lib.MCR_KEEP_SERVICE}
_SOURCE: Final[int] = lib.MCR_KEEP_SOURCE
_PORT: Final[int] = lib.MCR_KEEP_PORT


_SHIFT_GROUP: Final[int] = lib.MCR_SHIFT_GROUP
_SHIFT_PORT: Final[int] = lib.MCR_SHIFT_PORT


def shifts_of(output: Output) -> int:
    """MCR_SHIFT_…, together: which of its groups and ports it is that a datagram goes to, its flow says."""
    return _SHIFT_GROUP * (output.prefix is not None) | _SHIFT_PORT * (output.last_port is not None)


def keeps_of(output: Output) -> int:
    """MCR_KEEP_…, together."""
    origin = _SOURCE * output.keeps_source | _PORT * output.keeps_port
    return _TTL.get(output.ttl, 0) | _DSCP.get(output.dscp, 0) | origin
