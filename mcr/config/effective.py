"""What became of the settings: where the kernel or the machine gives something else than was asked for."""

import socket

import attrs

from mcr.config.settings import (
    ABSORB,
    MAX_HOLD,
    POOL_JUMBO,
    POOL_SMALL,
    POOL_STANDARD,
    RAW_SEND,
    RECEIVE_BUFFERS,
    SEND_BUFFER,
    Settings,
)
from mcr.model.log import LogLevels
from mcr.model.setting import SettingView
from mcr.net.buffer import granted
from mcr.net.capture import BufferPools
from mcr.net.ip_bypass import find_bar, kernel_bar
from mcr.net.machine import read_descriptors

_SLOT_SIZES = {POOL_SMALL: 2 << 10, POOL_STANDARD: 16 << 10, POOL_JUMBO: 32 << 10}
_SLOTS_PER_US = 2  # slots of a ring for each microsecond that a packet may wait (native/loop.c)


def effective_views(settings: Settings, levels: LogLevels) -> tuple[SettingView, ...]:
    """Every setting, with what is in force. It may wait for the kernel.

    Args:
        settings: as chosen at the start.
        levels: the log levels of now.
    """
    found = {
        "--num-workers": str(settings.num_workers),
        "--log-level": None if levels == settings.levels else "changed since; see: mcrctl log-level get",
        SEND_BUFFER.name: _send_buffer(settings.send_buffer),
        ABSORB.name: _absorbing(asked_for=settings.absorb),
        RAW_SEND.name: _raw_frames(asked_for=settings.raw_send),
        RECEIVE_BUFFERS.name: _at_most(settings.receive_buffers, 2, settings.pools),
        MAX_HOLD.name: _at_most(settings.max_hold_us, _SLOTS_PER_US, settings.pools),
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


def _absorbing(*, asked_for: bool) -> str | None:
    if not asked_for or "anon_inode:bpf_link" in read_descriptors():
        return None
    return "0: on no input interface now; if there are any, see the log of mcrd for why"


def _raw_frames(*, asked_for: bool) -> str | None:
    if not asked_for:
        return None
    try:
        bar = kernel_bar() or find_bar()
    except Exception as error:  # noqa: BLE001 - pyroute2's are many, and none says that they may leave
        bar = f"firewall rules and the like cannot be seen: {error}"
    return f"0: {bar}" if bar else None


def _slots(pools: BufferPools) -> dict[str, str]:
    return {variable.name: f"{pools.slots(size)} (a power of two)" for variable, size in _SLOT_SIZES.items()}


def _at_most(wanted: int, slots_each: int, pools: BufferPools) -> str | None:
    """What a worker keeps to, where a ring has fewer slots than `wanted` takes of them."""
    limits = ((pools.slots(size) // slots_each, variable.name) for variable, size in _SLOT_SIZES.items())
    return ", ".join(f"{most} where {name} counts" for most, name in limits if most < wanted) or None
