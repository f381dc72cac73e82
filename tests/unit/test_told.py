"""A worker that is told what `Told` says is like those that were told everything."""

from ipaddress import ip_address
from socket import socket

from hypothesis import given
from hypothesis import strategies as st

from mcr._native import lib
from mcr.model.flow import Flow
from mcr.model.log import LogLevels
from mcr.relay.told import Told
from mcr.shm import records
from mcr.shm.records import Command

GROUP = ip_address("239.1.1.1")


class Worker:
    """What a worker holds, and what it refuses (mcr/native/control.c)."""

    def __init__(self) -> None:
        self.captures: dict[int, Command] = {}
        self.egress: dict[int, Command] = {}
        self.raw: dict[int, Command] = {}
        self.rules: dict[int, Command] = {}
        self.single: dict[int, Command] = {}

    def hear(self, command: Command) -> None:
        slot = command.slot
        match command.type:
            case lib.MCR_REC_CAPTURE_PUT:
                assert slot not in self.captures
                self.captures[slot] = command
            case lib.MCR_REC_CAPTURE_DROP:
                del self.captures[slot]
            case lib.MCR_REC_EGRESS_PUT:
                assert slot not in self.egress
                self.egress[slot] = command
            case lib.MCR_REC_EGRESS_DROP:
                del self.egress[slot]
                self.raw.pop(slot, None)
            case lib.MCR_REC_RAW_PUT:
                assert slot in self.egress
                self.raw[slot] = command
            case lib.MCR_REC_RAW_DROP:
                del self.raw[slot]
            case lib.MCR_REC_RULE_PUT:
                self.rules[slot] = command
            case lib.MCR_REC_RULE_DROP:
                del self.rules[slot]
            case _:
                self.single[command.type] = command


def put_rule(slot: int, tag: int) -> Command:
    return records.rule_put(tag=tag, rule=slot, capture=0, flows=[Flow(GROUP, 5000)], outputs=())


@given(st.lists(st.tuples(st.sampled_from("cCeErRuUglo"), st.integers(0, 3)), max_size=80))
def test_whoever_starts_is_like_those_that_heard_everything(steps: list[tuple[str, int]]) -> None:
    """Whatever is put, put again, and dropped, in whatever order a worker takes."""
    told, old = Told(), Worker()
    for tag, (what, slot) in enumerate(steps):
        can: dict[str, tuple[bool, Command]] = {
            "c": (slot not in old.captures, records.capture_put(slot, tag, (1, 1), (), offloads=False)),
            "C": (slot in old.captures, records.capture_drop(slot)),
            "e": (slot not in old.egress, records.egress_put(slot, 1500 + tag, ())),
            "E": (slot in old.egress, records.egress_drop(slot)),
            "r": (slot in old.egress, records.raw_put(slot, 1500 + tag, bytes(6), ())),
            "R": (slot in old.raw, records.raw_drop(slot)),
            "u": (True, put_rule(slot, tag)),
            "U": (slot in old.rules, records.rule_drop(slot)),
            "g": (True, records.generation(tag)),
            "l": (True, records.levels(LogLevels())),
            "o": (True, records.own(b"")),
        }
        possible, command = can[what]
        if possible:
            old.hear(command)
            told.note((command,))
    new = Worker()
    for command in told.whole():
        new.hear(command)
    assert vars(new) == vars(old)


def test_what_is_referred_to_comes_first() -> None:
    """A host's socket after the common one that it names, the generation last, unless all have to stop."""
    told = Told()
    told.note((records.egress_put(7, 1500, ()), records.egress_put(3, 1500, (), common=7)))
    told.note((records.egress_drop(7), records.egress_drop(3)))
    told.note((records.stop(), put_rule(1, 1), records.generation(9)))
    told.note((records.egress_put(5, 1500, ()), records.egress_put(2, 1500, (), common=5), records.levels(LogLevels())))
    assert [(each.type, each.slot) for each in told.whole()] == [
        (lib.MCR_REC_LEVELS, 0),
        (lib.MCR_REC_EGRESS_PUT, 5),
        (lib.MCR_REC_EGRESS_PUT, 2),
        (lib.MCR_REC_RULE_PUT, 1),
        (lib.MCR_REC_GENERATION, 0),
        (lib.MCR_REC_STOP, 0),
    ]


def test_no_socket_is_held_of_what_was_dropped() -> None:
    """It is closed soon."""
    told = Told()
    with socket() as mine:
        told.note((records.egress_put(1, 1500, (mine,)), records.raw_put(1, 1500, bytes(6), (mine,))))
        told.note((records.egress_drop(1),))
    assert told.whole() == ()
