"""Explicit, splittable, serializable randomness.

A `Key` names a stream of random numbers and holds no state. Folding data into a key gives a key whose stream is
independent of it. So a draw's seed follows from what is drawn (run, question, arm, index), never from the order of
events. The package has no global generator.

Built on `numpy.random.SeedSequence`, whose hash separates keys that differ anywhere in entropy or path.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

WORD = 0xFFFFFFFF  # the largest word of 32 bits
SEED_BITS = 53  # a JSON number carries it exactly, and a 64-bit field of an endpoint accepts it


class Key(NamedTuple):
    """`entropy` is the user's seed, in [0, 2**128); `path` what was folded into it, each entry in [0, 2**64)."""

    entropy: int
    path: tuple[int, ...] = ()

    def fold(self, *data: int | str) -> Key:
        """Return the key for `data` below this one. Strings are hashed to 64 bits, so ids can be folded as they are."""
        return Key(self.entropy, (*self.path, *map(_as_int, data)))

    def split(self, num: int) -> tuple[Key, ...]:
        """Return `num` independent keys."""
        return tuple(self.fold(i) for i in range(num))

    def generator(self) -> np.random.Generator:
        """Return a generator at the start of this key's stream. Two calls give the same numbers."""
        import numpy as np

        return np.random.Generator(np.random.PCG64(self._sequence()))

    def seed(self) -> int:
        """Return an integer in [0, 2**53), the seed of an ask. Two of 10,000 collide with probability below 1e-8."""
        high, low = seed_words(self._entropy(), self._words())
        return (high << 32 | low) >> (64 - SEED_BITS)

    def _sequence(self) -> np.random.SeedSequence:
        import numpy as np

        return np.random.SeedSequence(self._entropy(), spawn_key=self._words())

    def _entropy(self) -> int:
        if not 0 <= self.entropy < 1 << 128:  # a longer one would reach into the words of the path
            raise ValueError(f"the entropy of a key is an integer in [0, 2**128), got {self.entropy}")
        return self.entropy

    def _words(self) -> tuple[int, ...]:
        # A 64-bit entry is passed as two 32-bit words of fixed place: SeedSequence would otherwise let (1, 2**32) and
        # (1, 0, 1) collide. The length goes first for the same reason.
        return (len(self.path), *(word for entry in self.path for word in (entry & WORD, entry >> 32)))


def seed_words(entropy: int, spawn_key: tuple[int, ...]) -> tuple[int, int]:
    """Return `SeedSequence(entropy, spawn_key=spawn_key).generate_state(2)`, for words of a spawn key below 2**32.

    The same hash (M. O'Neill, seed_seq_fe, with a pool of four words) without arrays: a server makes a seed per
    request, and in a process that was idle numpy takes twice as long for these 100 multiplications.
    """
    pool, factor = [], 0x43B0D7E5
    for shift in (0, 32, 64, 96):
        word = entropy >> shift & WORD ^ factor
        factor = factor * 0x931E8875 & WORD
        word = word * factor & WORD
        pool.append(word ^ word >> 16)
    for source in range(4):
        for index in range(4):
            if index != source:
                factor = _mix(pool, index, pool[source], factor)
    for word in spawn_key:
        for index in range(4):
            factor = _mix(pool, index, word, factor)
    factor = 0x8B51F9DD * 0x58F38DED & WORD
    high = (pool[0] ^ 0x8B51F9DD) * factor & WORD
    low = (pool[1] ^ factor) * (factor * 0x58F38DED & WORD) & WORD
    return high ^ high >> 16, low ^ low >> 16


def _mix(pool: list[int], index: int, word: int, factor: int) -> int:
    """Mix a word into one of the pool. Return the factor of the next word."""
    word ^= factor
    factor = factor * 0x931E8875 & WORD
    word = word * factor & WORD
    mixed = 0xCA01F9DD * pool[index] - 0x4973F715 * (word ^ word >> 16) & WORD
    pool[index] = mixed ^ mixed >> 16
    return factor


@functools.lru_cache(maxsize=256)  # most are the words for the parts of a run
def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "big")


def _as_int(datum: int | str) -> int:
    if isinstance(datum, str):
        return _hashed(datum)
    if not 0 <= datum < 1 << 64:
        raise ValueError(f"a key folds strings and integers in [0, 2**64), got {datum!r}")
    return datum
