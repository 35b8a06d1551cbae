from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from samplewise.core.keys import SEED_BITS, Key, seed_words

data = st.one_of(st.integers(0, 2**64 - 1), st.text(max_size=8))

# Seeds that stored draws stand on: should one of these change, every store out there would be paid for again.
GOLDEN = [
    (Key(0), 7880159070718399, 0.9429375528828794),
    (Key(0).fold(0), 998774013433907, 0.4530936025482247),
    (Key(1), 3442288714752125, 0.6990345474368357),
    (Key(0).fold("run"), 3261019756362542, 0.7798812541085605),
    (Key(0).fold("run", "question", "7").fold("draw"), 1942340916448063, 0.652239090636521),
    (Key(2**128 - 1).fold(2**64 - 1), 6152380981283068, 0.429936723893636),
    (Key(0).fold(1, 2), 7845061187657350, 0.6126876089937726),
]


@pytest.mark.parametrize(("key", "seed", "uniform"), GOLDEN)
def test_stored_seeds_never_change(key: Key, seed: int, uniform: float) -> None:
    assert key.seed() == seed
    assert key.generator().random() == uniform


@given(st.integers(0, 2**128 - 1) | st.integers(0, 2**40), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=9))
def test_a_seed_is_made_of_the_words_that_numpy_makes(entropy: int, spawn_key: list[int]) -> None:
    words = np.random.SeedSequence(entropy, spawn_key=tuple(spawn_key)).generate_state(2)
    assert seed_words(entropy, tuple(spawn_key)) == tuple(words.tolist())


def test_a_key_holds_no_state() -> None:
    key = Key(3).fold("a")
    assert key.generator().random(5).tolist() == key.generator().random(5).tolist()
    assert key.seed() == key.seed()
    assert Key(*json.loads(json.dumps(key))[:1], tuple(json.loads(json.dumps(key))[1])) == key


@given(st.lists(data, max_size=5))
def test_folding_at_once_is_folding_one_by_one(items: list[int | str]) -> None:
    one_by_one = Key(5)
    for item in items:
        one_by_one = one_by_one.fold(item)
    assert one_by_one == Key(5).fold(*items)


@given(st.integers(0, 2**32), st.lists(data, max_size=4), st.integers(0, 2**32), st.lists(data, max_size=4))
def test_different_keys_have_different_seeds(e: int, a: list[int | str], f: int, b: list[int | str]) -> None:
    """Odds of a chance meeting of 53-bit seeds are 1e-16 per example."""
    first, second = Key(e).fold(*a), Key(f).fold(*b)
    assert (first.seed() == second.seed()) == (first == second)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Key(0).fold(1, 2), Key(0).fold(2, 1)),  # the order of what is folded matters
        (Key(0).fold(2**32), Key(0).fold(0, 1)),  # a 64-bit entry is not two 32-bit ones
        (Key(0).fold(1), Key(0).fold(1, 0)),  # nor are trailing zeros nothing
        (Key(0), Key(0).fold(0)),
        (Key(0).fold(1), Key(1).fold(0)),
        (Key(2**32), Key(0).fold(1)),  # a long entropy does not reach into the path
        (Key(5 << 96), Key(0).fold(5)),
        (Key(0).fold("1"), Key(0).fold(1)),
        (Key(0).fold("ab", "c"), Key(0).fold("a", "bc")),
    ],
)
def test_near_misses_do_not_collide(one: Key, other: Key) -> None:
    assert one.seed() != other.seed()
    assert one.generator().random() != other.generator().random()


def test_ten_thousand_draws_have_ten_thousand_seeds() -> None:
    key = Key(0).fold("draw")
    assert len({key.fold("direct", i).seed() for i in range(10_000)}) == 10_000
    assert len({k.seed() for k in key.split(1_000)}) == 1_000


def test_seeds_are_spread_evenly() -> None:
    """Chi-square over 64 cells; false alarm 1e-4 at fresh keys, these are fixed."""
    seeds = np.array([Key(1).fold("arm", i).seed() for i in range(6_400)])
    assert seeds.min() >= 0
    assert seeds.max() < 2**SEED_BITS
    for cells in (seeds >> (SEED_BITS - 6), seeds & 63):  # both ends of the number
        assert chisquare(np.bincount(cells, minlength=64)).pvalue > 1e-4


def test_streams_of_neighbouring_keys_are_uncorrelated() -> None:
    """|r| over 2,000 pairs has standard error .022; five of them is a false alarm of 6e-7."""
    left = np.array([Key(2).fold(i).generator().random() for i in range(2_001)])
    assert abs(np.corrcoef(left[:-1], left[1:])[0, 1]) < 0.11
    assert abs(left.mean() - 0.5) < 5 * 0.2887 / np.sqrt(2_001)


@pytest.mark.parametrize("datum", [-1, 2**64])
def test_an_entry_out_of_range_is_misuse(datum: int) -> None:
    with pytest.raises(ValueError, match=r"\[0, 2\*\*64\), got"):
        Key(0).fold(datum)


@pytest.mark.parametrize("entropy", [-1, 2**128])
def test_entropy_out_of_range_is_misuse(entropy: int) -> None:
    """An entropy of more than 128 bits would push its upper words to where the path stands: Key(e + (1 << 128)) and
    Key(e).fold(...) could then share a stream."""
    with pytest.raises(ValueError, match=r"\[0, 2\*\*128\), got"):
        Key(entropy).seed()


def test_half_a_surrogate_pair_can_be_folded() -> None:
    """Ids come from users' JSON files, where "\\ud83d" alone is legal; folding one raised UnicodeEncodeError."""
    assert Key(0).fold("\ud83d").seed() != Key(0).fold("\ud83c").seed()
