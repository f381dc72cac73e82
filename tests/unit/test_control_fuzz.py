"""The control protocol under changed messages; `make fuzz` finds others, by what they reach."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_target import take

CORPUS = Path(__file__).parent.parent / "corpora" / "control"
SEEDS = sorted(each.read_bytes() for each in CORPUS.iterdir())
WORDS = (
    b'"',
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b"\n",
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"0.5",
    b"\xff",
    b"\\u0000",
)


def changed(chance: random.Random) -> bytes:
    """One of the seeds, with a few words or bytes put in, taken out, doubled, or exchanged with another seed's."""
    data = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randint(0, 4)):
        at, end = sorted(chance.randint(0, len(data)) for _ in range(2))
        other = chance.choice(SEEDS)
        match chance.randint(0, 4):
            case 0:
                data[at:at] = chance.choice(WORDS)
            case 1:
                data[at : min(end, at + 8)] = b""
            case 2:
                data[at:at] = data[at:end]
            case 3:
                data[at:] = other[at:]
            case _:
                data[at : at + 1] = chance.randbytes(1)
    return bytes(data)


def test_every_seed_is_taken() -> None:
    assert len(SEEDS) > 10
    for each in SEEDS:
        take(each)


@pytest.mark.slow
@given(st.integers(0, 2**64 - 1))
def test_no_changed_message_raises(number: int) -> None:
    chance = random.Random(number)
    for _ in range(100):
        take(changed(chance))
