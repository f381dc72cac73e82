"""What a look has seen; once that is too much, a share of the payloads: each whole, or not at all."""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final

from mcr.tap.copies import SAME, Origin, Sightings

HELD: Final = 16_384
"""Datagrams at the most."""

_PLAIN: Final = 2048  # datagrams from one origin that says nothing twice: in a circle are others', or the same ones
_PLAIN_AGAIN: Final = 16  # one of so many may have been said before


class Sampled:
    """Datagrams that came, none left out, of a share of the payloads.

    The share becomes half whenever too many are held. Where that leaves nearly as many, or somebody says so little that
    the next share may have nothing of it, there is no more to be seen.

    Attributes:
        is_full: so it is.
    """

    def __init__(self, named: Collection[bytes]) -> None:
        """`named`: as for `Sightings`."""
        self.is_full = False
        self._named = named
        self._came = list[tuple[Origin, int]]()
        self._sightings = Sightings(named)  # of the first of them
        self._settled: int | None = None  # place of the first that was not on its way before
        self._origins, self._payloads = set[Origin](), set[int]()
        self._mask = 0  # bits of a hash that are 0 in the share

    def add(self, came: Iterable[tuple[Origin, int]]) -> None:
        """Some that came: who has sent them, and hashes of the payloads."""
        kept = [each for each in came if not each[1] & self._mask]
        self._came += kept
        self._origins.update(origin for origin, _ in kept)
        self._payloads.update(payload for _, payload in kept)
        while len(self._came) >= HELD and not self.is_full:
            self._thin()

    def settle(self) -> None:
        """As `Sightings.settle`."""
        if self._settled is None:
            self._settled = len(self._came)

    @property
    def is_settled(self) -> bool:
        """Whether what comes from here on is new."""
        return self._settled is not None

    @property
    def is_alone(self) -> bool:
        """Whether there is none but one, who returns nothing of others'."""
        return len(self._origins) <= 1

    @property
    def is_plain(self) -> bool:
        """Whether this is a source alone: nobody is there who could return anything, and nothing is in a circle."""
        count = len(self._came)
        if count < _PLAIN or _PLAIN_AGAIN * (count - len(self._payloads)) >= count:
            return False
        return sum(each.address not in self._named for each in self._origins) == 1

    def judge(self, most: int) -> bool:
        """Judge so many more, at most: that costs more than to hold them. Whether none is left."""
        begun = self._sightings.count
        for each in self._came[begun : begun + most]:
            self._settle_here()
            self._sightings.add(*each)
        self._settle_here()
        return self._sightings.count == len(self._came)

    @property
    def seen(self) -> Sightings:
        """All that is held, judged."""
        self.judge(len(self._came))
        return self._sightings

    def _settle_here(self) -> None:
        if self._sightings.count == self._settled:
            self._sightings.settle()

    def _is_little_said(self) -> bool:
        """Whether who sends most says the same again and again, as a crowd does."""
        ((most, count),) = Counter(origin for origin, _ in self._came).most_common(1)
        return count >= SAME * len({payload for origin, payload in self._came if origin == most})

    def _thin(self) -> None:
        mask = 2 * self._mask + 1
        kept = [each for each in self._came if not each[1] & mask]
        self.is_full = self._is_little_said() or 4 * len(kept) > 3 * len(self._came)
        if self.is_full:
            return
        if self._settled is not None:
            self._settled = sum(not payload & mask for _, payload in self._came[: self._settled])
        self._came, self._mask, self._sightings = kept, mask, Sightings(self._named)
        self._payloads = {payload for _, payload in kept}
