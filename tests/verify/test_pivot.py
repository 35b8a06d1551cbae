"""A tournament against pivots: its pairs, its fit, and who wins it before judges of known strength and bias."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.errors import BadRequest
from samplewise.core.keys import Key
from samplewise.core.types import Candidate, Completion, Generate, Message, Question, Usage
from samplewise.engines.base import failed
from samplewise.verify.pivot import PIVOTS, Met, bradley_terry, pivot, pivot_pairs, ring_pairs

QUESTION = Question("q", (Message("user", "Which is best?"),))
Say = Callable[[Generate], Completion]


def logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def shown(ask: Generate) -> tuple[str, str]:
    first, second = re.findall(r"Response [AB]:\n(.*)", ask.messages[0].content)
    return first, second


def reply(probability: float | None = None, text: str = "") -> Completion:
    """A judge's reply with log-probs of A and B, or with a text alone."""
    top = None if probability is None else ((("A", math.log(probability)), (" B", math.log1p(-probability))),)
    return Completion(text, "stop", Usage(1, 50, 1), top=top)


def by_strength(strengths: Sequence[float], bias: float = 0.0) -> Say:
    """P(A is better) is logistic(difference + bias), said exactly."""

    def say(ask: Generate) -> Completion:
        first, second = (strengths[int(text)] for text in shown(ask))
        return reply(logistic(first - second + bias))

    return say


def sampled(strengths: Sequence[float], bias: float, key: Key) -> Say:
    """The same judge, who writes a letter that it draws."""

    def say(ask: Generate) -> Completion:
        first, second = (strengths[int(text)] for text in shown(ask))
        is_first = key.fold(ask.seed).generator().random() < logistic(first - second + bias)
        return reply(text="A" if is_first else "B")

    return say


def play(say: Say, num: int, key: Key, pivots: int = PIVOTS) -> tuple[list[float], list[Generate]]:
    """The scores of a tournament of `num` answers, and all that it asked."""
    texts = tuple(map(str, range(num)))
    candidates, replies = tuple(map(Candidate, texts)), ()
    judge, asked = pivot(pivots=pivots), []
    while asks := judge.next_asks(key, QUESTION, candidates, texts, replies):
        asked += asks
        replies = (*replies, tuple(say(ask) for ask in asks))  # type: ignore[arg-type]
    return list(judge.rate(key, QUESTION, candidates, texts, replies)), asked  # type: ignore[return-value]


# --- pairs ------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 5))
def test_pairs(num: int, pivots: int, seed: int) -> None:
    """Each answer is once A and once B in the ring, and meets each pivot once more, not in an order seen before."""
    order = Key(seed).generator().permutation(num).tolist()
    ring = ring_pairs(order)
    assert len(ring) == (num if num > 1 else 0)
    if num > 1:
        assert Counter(first for first, _ in ring) == Counter(second for _, second in ring) == Counter(order)
    chosen = order[: min(num, pivots)]
    pairs = pivot_pairs(order, chosen)
    k = len(chosen)
    assert len(pairs) == (k * (num - k) + k * (k - 1) // 2 if num > 2 else 0)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    assert not set(pairs) & set(ring)
    assert all(set(pair) & set(chosen) for pair in pairs)


@pytest.mark.parametrize(("num", "pivots"), [(1, 3), (2, 3), (3, 1), (5, 2), (8, 3), (16, 3), (4, 9)])
def test_requests_are_counted_exactly(num: int, pivots: int) -> None:
    _, asked = play(by_strength([0.1 * i for i in range(num)]), num, Key(1), pivots)
    k = min(num, pivots)
    expected = {1: 0, 2: 2}.get(num, num + k * (num - k) + k * (k - 1) // 2)
    assert len(asked) == len(set(asked)) == expected


# --- the fit ----------------------------------------------------------------------------------------------------------


def test_bradley_terry_finds_strengths_and_bias() -> None:
    """All pairs in both orders, exact probabilities: the truth, but for the prior, which holds it towards 0."""
    truth, bias = [1.2, 0.3, -0.4, -1.1], 0.7
    met = [Met(i, j, logistic(truth[i] - truth[j] + bias)) for i, j in itertools.permutations(range(4), 2)]
    many = [each for each in met for _ in range(400)]
    strengths, found = bradley_terry(4, many)
    assert strengths.tolist() == pytest.approx(truth, abs=2e-3)
    assert found == pytest.approx(bias, abs=2e-3)
    few, _ = bradley_terry(4, met)
    assert all(abs(a) < abs(b) for a, b in zip(few.tolist(), truth, strict=True))
    assert few.sum() == pytest.approx(0.0, abs=1e-8)


def test_bradley_terry_is_at_the_maximum() -> None:
    """By brute force: no step in any direction is better."""
    rng = np.random.default_rng(0)
    met = [Met(*rng.choice(5, 2, replace=False).tolist(), float(rng.random())) for _ in range(9)]
    strengths, bias = bradley_terry(5, [*met, Met(0, 1, math.nan)])

    def objective(weights: np.ndarray) -> float:
        total = -0.05 / 2 * float(weights @ weights)
        for first, second, better in met:
            p = logistic(weights[first] - weights[second] + weights[5])
            total += better * math.log(p) + (1 - better) * math.log(1 - p)
        return total

    best = np.append(strengths, bias)
    for _ in range(300):
        assert objective(best + rng.normal(0, 0.05, 6)) <= objective(best) + 1e-9


def test_answers_that_win_everything_stay_finite() -> None:
    strengths, bias = bradley_terry(2, [Met(0, 1, 1.0), Met(1, 0, 0.0)] * 50)
    assert np.isfinite(strengths).all()
    assert strengths[0] > 2
    assert abs(bias) < 1e-6


# --- who wins ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [-2.0, 0.0, 1.5])
@pytest.mark.parametrize("num", [2, 3, 5, 9, 16])
def test_the_strongest_wins_whatever_the_bias_for_the_order(num: int, bias: float) -> None:
    """A judge that says its probabilities exactly: the ring alone has the order of strengths, and all agree with it."""
    for seed in range(4):
        strengths = (1.5 * Key(seed).fold("s").generator().permutation(num)).tolist()
        scores, _ = play(by_strength(strengths, bias), num, Key(seed))
        assert scores.index(max(scores)) == strengths.index(max(strengths))
        assert scores.count(max(scores)) == 1


def outcomes(strengths: Sequence[float], bias: float, key: Key, pivots: int) -> tuple[float, float]:
    """P(answer 0 wins) over all replies that a judge who draws its letters can give, ties shared, and their mass."""
    num = len(strengths)
    texts = tuple(map(str, range(num)))
    candidates, judge = tuple(map(Candidate, texts)), pivot(pivots=pivots)

    def follow(replies: tuple[tuple[Completion, ...], ...], probability: float) -> tuple[float, float]:
        asks = judge.next_asks(key, QUESTION, candidates, texts, replies)
        if not asks:
            scores = judge.rate(key, QUESTION, candidates, texts, replies)
            top = [i for i, score in enumerate(scores) if score == max(scores)]
            return probability * (0 in top) / len(top), probability
        won = mass = 0.0
        for letters in itertools.product("AB", repeat=len(asks)):
            p = probability
            for ask, letter in zip(asks, letters, strict=True):
                assert isinstance(ask, Generate)
                first, second = (strengths[int(text)] for text in shown(ask))
                p_first = logistic(first - second + bias)
                p *= p_first if letter == "A" else 1 - p_first
            more = follow((*replies, tuple(reply(text=letter) for letter in letters)), p)
            won, mass = won + more[0], mass + more[1]
        return won, mass

    return follow((), 1.0)


def test_two_answers_in_closed_form() -> None:
    """d = .8, b = 1: both orders agree on the better with .386309, on the worse with .077994, else a tie."""
    won, mass = outcomes([0.8, 0.0], 1.0, Key(0), 3)
    assert mass == pytest.approx(1.0)
    assert won == pytest.approx(0.386309 + 0.535697 / 2, abs=1e-6)


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_three_answers_by_enumeration(bias: float) -> None:
    """The enumerated probability that the strongest wins is that of 400 drawn tournaments: 4.5 standard errors, so a
    false alarm has probability 1e-5. It grows with the gap, and, over all orders of the ring, with the pivots."""
    key, strengths = Key(3), [1.0, 0.0, 0.0]
    exact, mass = outcomes(strengths, bias, key, 1)
    assert mass == pytest.approx(1.0)
    wins = 0.0
    for seed in range(400):
        scores, _ = play(sampled(strengths, bias, Key(seed)), 3, key, 1)
        top = [i for i, score in enumerate(scores) if score == max(scores)]
        wins += (0 in top) / len(top)
    assert abs(wins / 400 - exact) < 4.5 * math.sqrt(0.25 / 400)
    assert 1 / 3 < exact < outcomes([2.0, 0.0, 0.0], bias, key, 1)[0] < 1
    orders = {tuple(Key(i).fold("ring").generator().permutation(3).tolist()): Key(i) for i in range(40)}
    assert len(orders) == 6
    one, two = ([outcomes(strengths, bias, each, k)[0] for each in orders.values()] for k in (1, 2))
    assert np.mean(two) > np.mean(one) > 0.62
    assert np.ptp(two) < 1e-6, "all pairs in both orders: the order of the ring means nothing"


def test_without_a_difference_each_answer_wins_as_often() -> None:
    """A judge that only says A: four answers, 400 keys. Each wins a quarter, a false alarm has probability 1e-5."""
    wins = np.zeros(4)
    for seed in range(400):
        scores, _ = play(lambda ask: reply(text="A"), 4, Key(seed), 1)
        top = [i for i, score in enumerate(scores) if score == max(scores)]
        for winner in top:
            wins[winner] += 1 / len(top)
    assert np.abs(wins - 100).max() < 4.5 * math.sqrt(400 * 0.25 * 0.75)


# --- replies ----------------------------------------------------------------------------------------------------------


def test_replies_that_say_nothing_are_left_out() -> None:
    scores, _ = play(lambda ask: failed(BadRequest("no")), 4, Key(0))
    assert all(map(math.isnan, scores))

    def says(ask: Generate) -> Completion:
        return failed(BadRequest("no")) if "3" in shown(ask) else by_strength([0.0, 3.0, 1.0, 9.0])(ask)

    scores, _ = play(says, 4, Key(0))
    assert math.isnan(scores[3])
    assert scores.index(max(scores[:3])) == 1


def test_a_budget_that_ends_after_the_ring_leaves_its_scores() -> None:
    texts = tuple(map(str, range(5)))
    candidates, judge = tuple(map(Candidate, texts)), pivot()
    say = by_strength([0.0, 1.0, 4.0, 2.0, 3.0])
    ring = tuple(say(ask) for ask in judge.next_asks(Key(2), QUESTION, candidates, texts, ()))  # type: ignore[arg-type]
    scores = judge.rate(Key(2), QUESTION, candidates, texts, (ring,))
    assert scores.index(max(scores)) == 2
    assert all(map(math.isnan, judge.rate(Key(2), QUESTION, candidates, texts, ())))


def test_candidates_of_one_answer_share_their_score() -> None:
    candidates, answers = tuple(map(Candidate, ["1", "2", "1b", "?"])), ("one", "two", "one", None)
    judge, say = pivot(), by_strength([0.0, 1.0, 2.0])
    asks = judge.next_asks(Key(0), QUESTION, candidates, answers, ())
    assert len(asks) == 2
    one, two, again, unread = judge.rate(
        Key(0),
        QUESTION,
        candidates,
        answers,
        (tuple(say(ask) for ask in asks),),  # type: ignore[arg-type]
    )
    assert one == again < two
    assert math.isnan(unread)
    assert judge.rate(Key(0), QUESTION, candidates[:1], ("one",), ()) == (0.0,), "nothing to compare"
    assert math.isnan(judge.rate(Key(0), QUESTION, candidates[:1], (None,), ())[0])
