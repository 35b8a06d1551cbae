"""An answer drawn from the powered distribution of a pool: its law, exactly."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
from scipy.stats import chisquare

from samplewise.core.keys import Key
from samplewise.core.types import Candidate, Pool, Selection
from samplewise.select.sharpened import sharpened


def choose(answers: str, gamma: float, key: Key, weights: list[float] | None = None) -> Selection:
    logs = [math.log(w) if w else -math.inf for w in weights or [1.0] * len(answers)]
    pool = Pool(tuple(Candidate(a, log_weight=w) for a, w in zip(answers, logs, strict=True)))
    return sharpened(gamma).choose(key, pool, tuple(None if a == "?" else a for a in answers))


def law(selection: Selection, answers: str) -> dict[str, float]:
    """The probability of each answer, by the weights of the selection."""
    shares: Counter[str] = Counter()
    for answer, weight in zip(answers, selection.weights, strict=True):
        shares[answer] += weight  # type: ignore[assignment]
    return dict(shares)


CASES = [
    ("AAABBC", 2.0, None, {"A": 9 / 14, "B": 4 / 14, "C": 1 / 14}),
    ("CBABAA", 1.0, None, {"A": 3 / 6, "B": 2 / 6, "C": 1 / 6}),
    ("ABBBBB", 0.0, None, {"A": 0.5, "B": 0.5}),
    ("ABBC?", 2.0, [3.0, 1.0, 1.0, 0.0, 9.0], {"A": 9 / 13, "B": 4 / 13, "C": 0.0}),  # weights of a sampler
    ("AB", 2.0, [2.0, 1.0], {"A": 0.8, "B": 0.2}),
]


@pytest.mark.parametrize(("answers", "gamma", "weights", "expected"), CASES)
def test_the_answer_has_its_exact_law(
    answers: str, gamma: float, weights: list[float] | None, expected: dict[str, float]
) -> None:
    """Chi-square over 3,000 keys: each case alarms falsely with probability 1e-5. The weights say the law exactly."""
    selections = [choose(answers, gamma, Key(i).fold("select"), weights) for i in range(3_000)]
    counts = Counter(selection.answer for selection in selections)
    possible = [answer for answer, share in expected.items() if share > 0]
    assert set(counts) <= set(possible)
    assert chisquare([counts[a] for a in possible], [3_000 * expected[a] for a in possible]).pvalue > 1e-5
    found = law(selections[0], answers)
    assert {answer: found[answer] for answer in expected} == pytest.approx(expected)
    assert found.get("?", 0.0) == 0.0
    for selection in selections[:20]:
        assert selection.position == answers.index(str(selection.answer))
        assert selection.info["probability"] == pytest.approx(expected[str(selection.answer)])


def test_over_pools_it_is_the_enumerated_power() -> None:
    """Three independent draws of A (.6) and B (.4): P(A) = sum over pools of P(pool) n_A^2 / (n_A^2 + n_B^2)."""
    exact = math.fsum(math.comb(3, n) * 0.6**n * 0.4 ** (3 - n) * n**2 / (n**2 + (3 - n) ** 2) for n in range(4))
    total = 0.0
    for pool in itertools.product("AB", repeat=3):
        chance = math.prod(0.6 if a == "A" else 0.4 for a in pool)
        total += chance * law(choose("".join(pool), 2.0, Key(0)), "".join(pool)).get("A", 0.0)
    assert total == pytest.approx(exact)
    assert exact > 0.6, "sharper than a draw"


def test_a_large_gamma_is_the_vote() -> None:
    assert {choose("AAABBC", 5_000.0, Key(i)).answer for i in range(50)} == {"A"}
    assert {choose("AABB", 5_000.0, Key(i)).answer for i in range(50)} == {"A", "B"}, "a tie stays one"


def test_nothing_readable_is_no_answer() -> None:
    assert choose("??", 2.0, Key(0))[:3] == (None, None, (0.0, 0.0))
    with pytest.raises(ValueError, match="gamma"):
        sharpened(-1.0)
