"""The settings in force, where the kernel or the machine gives something else than was asked for."""

import socket

import attrs

from mcr.config import table
from mcr.config.settings import Settings
from mcr.model.log import LogLevels
from mcr.model.setting import SettingView
from mcr.net.buffer import granted
from mcr.net.capture import BufferPools
from mcr.net.ip_bypass import Blocker, find_blocker, kernel_blocker
from mcr.net.machine import read_descriptors

_SLOT_SIZES = {
    table.POOL_SMALL.variable: 2 << 10,
    table.POOL_STANDARD.variable: 16 << 10,
    table.POOL_JUMBO.variable: 32 << 10,
}
_SLOTS_PER_US = 2  # slots of a ring for each microsecond that a packet may wait (native/loop.c)


def effective_views(settings: Settings, levels: LogLevels) -> tuple[SettingView, ...]:
    """Every setting, with what is in force. It may wait for the kernel.

    Args:
        settings: as chosen at the start.
        levels: the log levels of now.
    """
    found = {
        table.NUM_WORKERS.shown_name: str(settings.num_workers),
        table.LOG_LEVEL.shown_name: (None if levels == settings.levels else "changed since; see: mcrctl log-level get"),
        table.SEND_BUFFER.shown_name: _send_buffer(settings.send_buffer),
        table.ABSORB.shown_name: _suppression(asked_for=settings.absorb),
        table.RAW_SEND.shown_name: _raw_frames(asked_for=settings.raw_send),
        table.RECEIVE_BUFFERS.shown_name: _at_most(settings.receive_buffers, 2, settings.pools),
        table.MAX_HOLD.shown_name: _at_most(settings.max_hold_us, _SLOTS_PER_US, settings.pools),
        **_slots(settings.pools),
    }
    return tuple(
        attrs.evolve(view, effective=None if found.get(view.name) == view.value else found.get(view.name))
        for view in settings.views
    )


def _send_buffer(wanted: int) -> str | None:
    try:
        given = granted(socket.SO_SNDBUF, wanted)
    except OSError:
        return None  # no descriptor to try with
    if given >= wanted:
        return None
    return f"{given}, by net.core.wmem_max (mcrd has no CAP_NET_ADMIN)"


def _suppression(*, asked_for: bool) -> str | None:
    if not asked_for or "anon_inode:bpf_link" in read_descriptors():
        return None
    return "0: on no input interface now; if there are any, see the log of mcrd for why"


def _raw_frames(*, asked_for: bool) -> str | None:
    if not asked_for:
        return None
    try:
        blocker = kernel_blocker() or find_blocker()
    except Exception as error:  # noqa: BLE001 - pyroute2's are many, and none says that they may leave
        blocker = Blocker(f"firewall rules and the like cannot be seen: {error}")
    return f"0: {blocker.reason}" if blocker else None


def _slots(pools: BufferPools) -> dict[str, str]:
    return {variable: f"{pools.slots(size)} (a power of two)" for variable, size in _SLOT_SIZES.items()}


def _at_most(wanted: int, slots_each: int, pools: BufferPools) -> str | None:
    """What a worker keeps to, where a ring has fewer slots than `wanted` takes of them."""
    limits = ((pools.slots(size) // slots_each, variable) for variable, size in _SLOT_SIZES.items())
    return ", ".join(f"{most} where {name} counts" for most, name in limits if most < wanted) or None
