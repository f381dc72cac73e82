"""What the filter knows of this machine's own sources."""

from itertools import count

from filters import Wire, frame
from mcr._native import ffi, lib
from test_gates import Relay, relay

__all__ = ["relay"]


def test_this_machine_s_own_packets_are_the_workers(relay: Relay, wire: Wire) -> None:
    """Who says that they loop. A bit tells most strangers from them: some have the same, and one is that of several."""
    keys = [lib.mcr_own_address(int.from_bytes(b"\xc6\x12\0\1", "little")), lib.mcr_own_mac(b"\2\0\0\0\0\1")]
    alike = [key + next(i for i in count(1) if bit_of(key + i) == bit_of(key)) for key in keys]
    for key, other in zip(keys, alike, strict=True):
        for own in ([key], [key, other]):
            set_own(relay, own)
            wire.send(frame())
            assert wire.receive(1) == [frame()]
    many = [keys[0] + i for i in range(1, lib.MCR_MAX_OWN + 1)]
    for strangers in (alike, many, []):  # there is room for no more than many
        set_own(relay, strangers)
        relay.look()
        wire.send(frame())
        relay.forwarded(1)


def bit_of(key: int) -> int:
    return int(lib.mcr_own_bit(key))


def set_own(relay: Relay, keys: list[int]) -> None:
    relay.path.set_own(bytes(ffi.buffer(ffi.new("struct mcr_rec_own_key[]", [(each, 0) for each in keys]))))
