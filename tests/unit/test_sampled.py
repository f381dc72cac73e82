"""What a look holds of what it has seen, and which share once that is too much."""

import random

import pytest

from mcr.tap import sampled
from mcr.tap.copies import Origin, Sightings
from mcr.tap.sampled import Sampled

MAC = bytes.fromhex("020000000001")
S, B, C = (Origin(MAC, bytes([198, 18, 0, number])) for number in (1, 2, 3))
HELD = 256


def judged(seen: Sightings) -> tuple[object, ...]:
    return seen.count, seen.are_varied, seen.echoes([S, B, C]), seen.returners(1, 1), seen.crowd()


def share_of(came: list[tuple[Origin, int]], settled: int) -> Sightings:
    """All of the largest share that is not too much; what comes after so many is new."""
    masks = ((1 << bits) - 1 for bits in range(64))
    mask = next(mask for mask in masks if sum(not payload & mask for _, payload in came) < HELD)
    made = Sightings()
    for number, each in enumerate(came):
        if number == settled:
            made.settle()
        if not each[1] & mask:
            made.add(*each)
    return made


@pytest.mark.parametrize("settled", [0, 1, 255, 256, 700, 1499])
def test_a_share_of_the_payloads_is_held_whole(monkeypatch: pytest.MonkeyPatch, settled: int) -> None:
    """In order, and nothing of the others, however it comes in; what is new stays new."""
    monkeypatch.setattr(sampled, "HELD", HELD)
    chance = random.Random(settled)
    payloads = [chance.getrandbits(64) for _ in range(500)]
    came = [(chance.choice([S, B, C]), chance.choice(payloads)) for _ in range(1500)]
    held, at = Sampled(frozenset()), 0
    while at < len(came):
        if at == settled:
            held.settle()
        until = min(at + chance.randint(1, 300), settled if at < settled else len(came))
        held.add(came[at:until])
        at = until
        if chance.randint(0, 1):
            assert held.seen.count < HELD
    assert judged(held.seen) == judged(share_of(came, settled))
    assert not held.is_full


def test_where_no_share_says_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody drowns all others with the same few payloads, or all that there is falls into one share."""
    monkeypatch.setattr(sampled, "HELD", 2048)
    drowned, one, two = (Sampled(frozenset()) for _ in range(3))
    drowned.add([(S, 7), *[(B, number % 4) for number in range(2047)]])
    assert drowned.is_full
    assert drowned.seen.crowd()
    one.add([(origin, 0) for _ in range(1024) for origin in (S, B)])
    assert one.is_full
    two.add([(origin, number) for number in range(1024) for origin in (S, B)])
    assert not two.is_full
    assert two.seen.count == 1024


def test_so_much_is_judged_at_a_time() -> None:
    """The same comes of it as of all at once."""
    came = [(origin, number) for number in range(100) for origin in (S, B)]
    held, all_at_once = Sampled(frozenset()), Sampled(frozenset())
    for each in (held, all_at_once):
        each.add(came[:70])
        assert not each.is_settled
        each.settle()
        assert each.is_settled
        each.add(came[70:])
    assert [held.judge(90) for _ in range(4)] == [False, False, True, True]
    assert judged(held.seen) == judged(all_at_once.seen)


@pytest.mark.parametrize(
    ("count", "origins", "payloads", "is_plain"),
    [
        (2048, 1, 2048, True),
        (2047, 1, 2047, False),
        (2048, 2, 2048, False),
        (2048, 1, 1920, False),
        (2048, 1, 1921, True),
    ],
)
def test_a_source_alone_is_soon_seen_to_be_one(count: int, origins: int, payloads: int, is_plain: bool) -> None:
    """Unless another sends, or it says again what it has said: a circle of its own looks like that."""
    made = Sampled([C.address])
    made.add([((S, B)[number % origins], number % payloads) for number in range(count)])
    assert made.is_plain is is_plain
    assert made.is_alone is (origins == 1)
    made.add([(C, count)])  # whom another rule takes
    assert made.is_plain >= is_plain
    assert not made.is_alone
