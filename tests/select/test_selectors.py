"""Property laws, exact accuracy by enumeration, and ties."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from samplewise.core.keys import Key
from samplewise.core.types import Candidate, Pool, Selection
from samplewise.select import Selector, best, first, vote, weighted
from samplewise.select.arms import arm_vote, log_pool, only
from samplewise.select.base import Graded
from samplewise.select.learned import dawid_skene
from samplewise.select.ranked import bom, borda, mob, softsat
from samplewise.select.sharpened import sharpened

KEY = Key(0)
SELECTORS = {
    **{"first": first(), "vote": vote(), "weighted": weighted("v"), "best": best("v")},
    **{"mob": mob("v"), "mob found": mob("v", find=True), "borda": borda("v"), "bom": bom("v")},
    **{"log_pool": log_pool(), "only": only(), "arm_vote": arm_vote(), "dawid_skene": dawid_skene()},
    **{"softsat": softsat(), "sharpened": sharpened()},
}
COUNTING = tuple(name for name in SELECTORS if name != "first")  # those that do not look at the order

score = st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0, -1.0, math.nan, math.inf, -math.inf])
draw = st.tuples(st.sampled_from(["a", "b", "c", None]), score)
drawn = st.lists(draw, max_size=7)
every = pytest.mark.parametrize("name", SELECTORS)


def chosen(
    name: str, draws: list[tuple[str | None, float]], key: Key = KEY, log_weights: list[float] | None = None
) -> Selection:
    logw = log_weights or [0.0] * len(draws)
    pool = Pool(
        tuple(
            Candidate(f"text {a}", scores={"v": s, "likelihood": s}, log_weight=w)
            for (a, s), w in zip(draws, logw, strict=True)
        )
    )
    return SELECTORS[name].choose(key, pool, tuple(a for a, _ in draws))


def winners(name: str, draws: list[tuple[str | None, float]]) -> set[str | None]:
    """What any of a dozen keys chooses: the tied answers."""
    return {chosen(name, draws, Key(i)).answer for i in range(12)}


@every
@given(drawn)
def test_a_selection_holds_together(name: str, draws: list[tuple[str | None, float]]) -> None:
    selection = chosen(name, draws)
    answers = [a for a, _ in draws]
    assert len(selection.weights) == len(draws)
    assert all(w >= 0 for w in selection.weights)
    if all(a is None for a in answers):
        assert selection[:2] == (None, None)
        assert not any(selection.weights)
    else:
        assert selection.position is not None
        assert answers[selection.position] == selection.answer is not None
        assert math.isclose(sum(selection.weights), 1.0)
        assert all(w == 0 for w, a in zip(selection.weights, answers, strict=True) if a is None)


@every
@given(drawn)
def test_the_same_key_chooses_the_same(name: str, draws: list[tuple[str | None, float]]) -> None:
    assert repr(chosen(name, draws, Key(3))) == repr(chosen(name, draws, Key(3)))


@pytest.mark.parametrize("name", COUNTING)
@given(drawn, st.permutations(range(7)))
def test_permuting_draws_changes_nothing_but_keyed_ties(
    name: str, draws: list[tuple[str | None, float]], order: list[int]
) -> None:
    permuted = [draws[i] for i in order if i < len(draws)]
    plain, shuffled = chosen(name, draws), chosen(name, permuted)
    assert plain.info.get("tied") == shuffled.info.get("tied")
    if plain.info.get("tied", 1) == 1:
        assert plain.answer == shuffled.answer
    if name != "best":  # ties are drawn among answers, whatever order they come in
        assert plain.answer == shuffled.answer


@every
@given(drawn)
def test_renaming_answers_renames_the_choice(name: str, draws: list[tuple[str | None, float]]) -> None:
    """The names keep their alphabetical order here: keyed ties are drawn from the sorted answers."""
    renamed = [(None if a is None else f"<{a}>", s) for a, s in draws]
    plain, other = chosen(name, draws), chosen(name, renamed)
    assert other.position == plain.position
    assert other.weights == plain.weights
    assert other.answer == (None if plain.answer is None else f"<{plain.answer}>")


@pytest.mark.parametrize("name", ["weighted", "vote"])
@given(drawn, st.sampled_from([1e-18, 1e-9, 2.0, 1e9, 1e18]))
def test_scaling_changes_nothing(name: str, draws: list[tuple[str | None, float]], scale: float) -> None:
    """Masses below 1e-15 were all taken for ties: a verifier that gives probabilities chose at random among them."""
    scaled = [(a, s * scale) for a, s in draws]
    assert chosen(name, scaled)[:2] == chosen(name, draws)[:2]
    assert chosen(name, scaled).info.get("tied") == chosen(name, draws).info.get("tied")
    tiny: list[tuple[str | None, float]] = [("a", scale), ("b", scale / 2)]
    assert winners("weighted", tiny) == {"a"}


def test_scaling_weights_changes_nothing() -> None:
    draws: list[tuple[str | None, float]] = [("a", 1.0), ("b", 1.0), ("b", 1.0), ("a", 1.0)]
    logw = [0.0, -1.0, -2.0, -3.0]
    for name in ("vote", "weighted"):
        plain = chosen(name, draws, Key(0), logw)
        assert plain.answer == "a"
        shifted = chosen(name, draws, Key(0), [w - 700.0 for w in logw])
        assert shifted.answer == plain.answer
        assert np.allclose(shifted.weights, plain.weights)


@every
@given(drawn, st.integers(1, 3))
def test_unread_draws_change_nothing(name: str, draws: list[tuple[str | None, float]], num: int) -> None:
    more = chosen(name, [*draws, *[(None, 5.0)] * num])
    assert more[:2] == chosen(name, draws)[:2]
    assert more.weights[len(draws) :] == (0.0,) * num


@every
def test_one_candidate_is_chosen_and_none_is_none(name: str) -> None:
    for s in (0.0, -1.0, 2.0, math.nan):
        assert chosen(name, [("a", s)])[:3] == ("a", 0, (1.0,))
    assert chosen(name, []) == Selection(None, None, ())
    assert chosen(name, [(None, 1.0)] * 3)[:3] == (None, None, (0.0,) * 3)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([-2.0, 0.0, 1.0])), min_size=1), st.integers(0, 4))
def test_a_nan_score_never_wins_over_a_finite_one(draws: list[tuple[str, float]], num: int) -> None:
    for name in ("best", "weighted"):
        assert "nan" not in winners(name, [*[("nan", math.nan)] * num, *draws]) or (
            name == "weighted" and not any(s > 0 for _, s in draws)  # then it is plain plurality
        )


@given(drawn)
def test_first_is_the_first_readable(draws: list[tuple[str | None, float]]) -> None:
    assert chosen("first", draws).answer == next((a for a, _ in draws if a is not None), None)


@given(drawn)
def test_vote_is_plurality(draws: list[tuple[str | None, float]]) -> None:
    counts = Counter(a for a, _ in draws if a is not None)
    top = {a for a, n in counts.items() if n == max(counts.values())} or {None}
    assert winners("vote", draws) <= top
    assert chosen("vote", draws).info.get("tied", len(top)) == len(top)


@given(drawn)
def test_equal_scores_make_weighted_the_vote(draws: list[tuple[str | None, float]]) -> None:
    for s in (0.3, 0.0, math.nan):  # all the same, or nothing to weigh with
        level = [(a, s) for a, _ in draws]
        plain, level_weighted = chosen("vote", level), chosen("weighted", level)
        assert level_weighted[:2] == plain[:2]
        assert np.allclose(level_weighted.weights, plain.weights)


def test_weighted_sums_scores_and_breaks_ties_by_count() -> None:
    assert chosen("weighted", [("a", 0.9), ("b", 0.5), ("b", 0.5)]).answer == "b"
    assert chosen("weighted", [("a", 1.0), ("b", 0.4), ("b", 0.5)]).answer == "a"
    tied: list[tuple[str | None, float]] = [("a", 1.0), ("b", 0.5), ("b", 0.5)]
    assert winners("weighted", tied) == {"b"}
    assert chosen("weighted", [("a", -5.0), ("a", -5.0), ("b", 0.1)]).answer == "b"  # below 0 does not vote


def test_infinite_scores_outvote_the_finite_ones() -> None:
    inf = math.inf
    assert chosen("weighted", [("a", 9.0), ("a", 9.0), ("b", inf)])[:3] == ("b", 2, (0.0, 0.0, 1.0))
    assert chosen("weighted", [("a", inf), ("b", inf), ("b", inf), ("a", 5.0)])[:2] == ("b", 1)
    assert winners("weighted", [("a", inf), ("b", inf), ("a", -inf)]) == {"a"}  # equal, and drawn more often
    assert winners("weighted", [("a", inf), ("b", inf)]) == {"a", "b"}
    assert chosen("weighted", [("a", -inf), ("a", -inf), ("b", 1.0)]).answer == "b"
    assert winners("weighted", [("a", -inf), ("a", -inf), ("b", -inf)]) == {"a"}  # nobody votes: plurality
    assert chosen("weighted", [(None, inf), ("b", 1.0), ("a", 0.5)]).answer == "b"
    assert chosen("bom", [("a", inf), ("a", 1.0), ("b", 3.0), ("b", 3.0)])[:3] == ("a", 0, (0.5, 0.5, 0.0, 0.0))


@settings(max_examples=60)
@given(st.lists(draw, min_size=1, max_size=5), st.data())
def test_expected_of_weighted_is_the_mean_over_subsets(
    draws: list[tuple[str | None, float]], data: st.DataObject
) -> None:
    """`expected` draws 400 subsets: a mean of [0, 1] is .12 off with probability 1e-5 (Hoeffding)."""
    k = data.draw(st.integers(1, len(draws)))
    codes = {None: -1, "a": 0, "b": 1, "c": 2}
    grade = {None: 0.0, "a": 1.0, "b": 0.0, "c": 0.5}
    graded = Graded(
        np.array([[codes[a] for a, _ in draws]] * 50),
        np.array([[grade[a] for a, _ in draws]] * 50),
        {"v": np.array([[s for _, s in draws]] * 50)},
    )
    value = SELECTORS["weighted"].expected(graded, np.array([k]), KEY.fold("expected"))  # type: ignore[misc]
    exact = []
    for subset in itertools.combinations(draws, k):
        tied = winners("weighted", list(subset))
        exact.append(math.fsum(grade[a] for a in tied) / len(tied))
    assert value.mean() == pytest.approx(np.mean(exact), abs=0.07)


def test_best_is_the_best_candidate() -> None:
    selection = chosen("best", [("a", 0.1), ("b", 0.9), ("a", 0.8), (None, 7.0)])
    assert selection[:3] == ("b", 1, (0.0, 1.0, 0.0, 0.0))
    assert chosen("best", [("a", -math.inf), ("b", math.nan)]).answer == "a"
    assert winners("best", [("a", math.nan), ("b", math.nan)]) == {"a", "b"}


def test_best_by_its_formula_is_best_by_choosing() -> None:
    """A score of -inf comes before none, and none before an answer that cannot be read."""
    answers, scores, grades = ("c", "b", None), (-math.inf, math.nan, 1.0), (0.0, 1.0, 0.0)
    for places in itertools.permutations(range(3)):
        graded = Graded(
            np.array([[0, 1, -1]])[:, places], np.array([grades])[:, places], {"v": np.array([scores])[:, places]}
        )
        assert best("v").expected is not None
        # of two draws: c before b, c before None, b before None
        assert best("v").expected(graded, np.array([1, 2, 3]), KEY)[:, 0] == pytest.approx([1 / 3, 1 / 3, 0.0])  # type: ignore[misc]
        assert winners("best", [(answers[i], scores[i]) for i in places]) == {"c"}


@pytest.mark.parametrize("ranked", [borda("v", p=0.0), mob("v", m=1)])
@pytest.mark.parametrize(
    ("better", "worse"),
    [(-5.0, math.nan), (-5.0, -math.inf), (-math.inf, math.nan), (math.inf, 5.0), (-4.0, -5.0)],
)
def test_ties_go_to_the_better_scores(ranked: Selector, better: float, worse: float) -> None:
    """Log-probabilities are negative: an unscored draw, or one of -inf, counted as 0 and won every tie."""
    pool = Pool(
        tuple(Candidate(text, scores={"v": value}) for text, value in (("a", better), ("b", worse), ("c", -9.0)))
    )
    for seed in range(8):
        assert ranked.choose(Key(seed), pool, ("a", "b", None)).answer == "a"


def test_a_weighted_pool_votes_with_its_weights() -> None:
    draws: list[tuple[str | None, float]] = [("a", 1.0), ("b", 1.0), ("b", 1.0)]
    assert chosen("vote", draws, Key(0), [math.log(3.0), 0.0, 0.0]).answer == "a"
    assert chosen("vote", draws, Key(0), [-math.inf, 0.0, 0.0]).answer == "b"


@pytest.mark.parametrize("selector", [only("x"), arm_vote(), log_pool()], ids=lambda selector: selector.name)
def test_the_draws_of_an_arm_count_with_their_weights(selector: Selector) -> None:
    """They were counted one by one, so the choice from a weighted pool was that of its proposal.

    An arm's level does not count: the weights of arm y are those of x times e^9.
    """
    logs = [math.log(3.0), 0.0, 0.0]
    pool = Pool(
        tuple(Candidate("", arm=arm, log_weight=log + level) for arm, level in (("x", 0), ("y", 9)) for log in logs)
    )
    answers = ("a", "b", "b", "a", "c", "c")
    assert {selector.choose(Key(seed), pool, answers).answer for seed in range(4)} == {"a"}
    plain = Pool(tuple(candidate._replace(log_weight=0.0) for candidate in pool.candidates[:3]))
    assert selector.choose(Key(0), plain, answers[:3]).answer == "b"


@pytest.mark.parametrize(
    ("name", "draws", "shares"),
    [
        ("vote", [("b", 0.0), ("a", 0.0)], {"a": 0.5, "b": 0.5}),
        ("vote", [("c", 0.0), ("a", 0.0), ("b", 0.0), (None, 0.0)], {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}),
        ("weighted", [("a", 0.5), ("b", 0.5)], {"a": 0.5, "b": 0.5}),
        ("best", [("a", 1.0), ("b", 1.0), ("b", 1.0), ("c", 0.0)], {"a": 1 / 3, "b": 2 / 3}),  # among candidates
    ],
)
def test_ties_are_drawn_evenly(name: str, draws: list[tuple[str | None, float]], shares: dict[str, float]) -> None:
    """Neither the first position nor the alphabet is favoured. Each share is within its bound with odds 1 - 1e-5."""
    counts = Counter(chosen(name, draws, Key(i).fold("tie")).answer for i in range(3_000))
    assert set(counts) == set(shares)
    for answer, share in shares.items():
        assert binomtest(counts[answer], 3_000, share).pvalue > 1e-5


# --- exact accuracy by listing every outcome --------------------------------------------------------------------------

LAW = {"right": 0.45, "wrong": 0.35, "odd": 0.20}


def exact_vote(num: int, law: dict[str, float]) -> float:
    """P(the vote says "right") over num independent draws, ties shared evenly."""
    total = 0.0
    for outcome in itertools.product(law, repeat=num):
        counts = Counter(outcome)
        top = [a for a, n in counts.items() if n == max(counts.values())]
        total += math.prod(law[a] for a in outcome) * ("right" in top) / len(top)
    return total


def exact_best(num: int, law: dict[str, float], accept: dict[str, float]) -> float:
    """P(best of num says "right") when a verifier passes each answer with probability `accept`, else scores 0."""
    total = 0.0
    for outcome in itertools.product(itertools.product(law, (0.0, 1.0)), repeat=num):
        p = math.prod(law[a] * (accept[a] if s else 1 - accept[a]) for a, s in outcome)
        top = [a for a, s in outcome if s == max(s for _, s in outcome)]
        total += p * top.count("right") / len(top)
    return total


def simulate(selector: Selector, num: int, accept: dict[str, float] | None, runs: int, key: Key) -> float:
    names = list(LAW)
    rng = key.fold("draws").generator()
    codes = rng.choice(len(LAW), size=(runs, num), p=list(LAW.values()))
    uniforms = rng.random((runs, num))
    passes = uniforms < np.array([(accept or {}).get(name, 0.0) for name in names])[codes]
    pools: dict[bytes, tuple[Pool, tuple[str, ...]]] = {}
    right = 0
    for run in range(runs):
        outcome = codes[run].tobytes() + passes[run].tobytes()
        if outcome not in pools:
            answers = tuple(names[code] for code in codes[run])
            scored = zip(answers, passes[run].tolist(), strict=True)
            pools[outcome] = Pool(tuple(Candidate(a, scores={"v": float(s)}) for a, s in scored)), answers
        right += selector.choose(key.fold(run), *pools[outcome]).answer == "right"
    return right / runs


@pytest.mark.slow
@pytest.mark.parametrize("num", [2, 6])
def test_vote_has_its_exact_accuracy(num: int) -> None:
    """10,000 seeded runs within four standard errors: false alarm 6e-5 at fresh keys."""
    truth = exact_vote(num, LAW)
    assert abs(simulate(vote(), num, None, 10_000, Key(num)) - truth) < 4 * math.sqrt(truth * (1 - truth) / 10_000)


@pytest.mark.slow
@pytest.mark.parametrize("num", [4])
def test_best_has_its_exact_accuracy(num: int) -> None:
    accept = {"right": 0.8, "wrong": 0.3, "odd": 0.05}
    truth = exact_best(num, LAW, accept)
    found = simulate(best("v"), num, accept, 10_000, Key(num))
    assert abs(found - truth) < 4 * math.sqrt(truth * (1 - truth) / 10_000)


def test_enumeration_meets_closed_forms() -> None:
    assert math.isclose(exact_vote(1, LAW), 0.45)
    assert math.isclose(exact_vote(2, LAW), 0.45)  # two draws decide nothing that one does not
    assert math.isclose(exact_best(3, LAW, {"right": 0, "wrong": 0, "odd": 0}), 0.45)


@pytest.mark.parametrize("name", ["best", "weighted", "mob", "borda", "bom"])
def test_a_choice_without_any_score_is_said(name: str) -> None:
    """A judge whose replies cannot be read, or that the budget does not admit, left a choice by chance unsaid."""
    how = "by chance" if name == "best" else "by a vote"

    def note(answers: tuple[str | None, ...], *scores: float) -> str:
        candidates = (Candidate("", scores={"v": score}) for score in scores)
        return SELECTORS[name].note_on(Pool(tuple(candidates)), answers)

    assert note(("a", "b", None), math.nan, math.nan, 0.5) == f"none of 2 draws has a score by v: chosen {how}"
    assert note(("a", "b"), math.nan, 0.5) == note(("a", "a"), math.nan, math.nan) == note((None,), math.nan) == ""
