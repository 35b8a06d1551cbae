from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stop.twins import asc_exact, stops_after, verdict

from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.stop.published.dirichlet import leader_probability
from samplewise.stop.tables import asc_value

counts = st.lists(st.integers(1, 30), min_size=1, max_size=6).map(lambda found: tuple(sorted(found, reverse=True)))


@given(st.integers(1, 200), st.integers(0, 200))
def test_two_answers_give_asc(a: int, b: int) -> None:
    a, b = max(a, b), min(a, b)  # the leader has a vote
    assert leader_probability((a, b)) == pytest.approx(asc_value(a, b), abs=1e-12)
    assert leader_probability((a,)) == pytest.approx(asc_value(a, 0), abs=1e-12)  # one alone: against none
    assert a > 40 or leader_probability((a, b)) == pytest.approx(float(asc_exact(a, b)), abs=1e-12)


@given(counts)
def test_it_is_a_probability_that_falls_with_every_rival(found: tuple[int, ...]) -> None:
    chance = leader_probability(found)
    assert 1 / (len(found) + 1) - 1e-9 <= chance <= 1
    assert leader_probability((*found, 0)) <= chance + 1e-12
    assert leader_probability((found[0] + 1, *found[1:])) >= chance - 1e-12
    assert chance <= asc_value(found[0], found[1] if len(found) > 1 else 0) + 1e-12  # why a table can say "not yet"
    assert leader_probability(found, 0.3) <= chance + 1e-12 or len(found) == 1


@pytest.mark.parametrize("labels", [3, 5, 12])
@pytest.mark.parametrize("votes", [1, 7, 60])
def test_alike_answers_share_it(labels: int, votes: int) -> None:
    assert leader_probability((votes,) * labels) == pytest.approx(1 / labels, abs=1e-12)


def test_it_is_what_draws_of_the_law_say() -> None:
    """Within 4.5 standard errors of 200,000 draws: a false alarm in 100,000 runs."""
    law = Key(0).generator().dirichlet([9, 6, 3, 1], size=200_000)
    found, exact = float((law.argmax(axis=1) == 0).mean()), leader_probability((8, 5, 2, 0))
    assert abs(found - exact) < 4.5 * math.sqrt(exact * (1 - exact) / 200_000)
    law = Key(1).generator().dirichlet([9, 6, 1.3], size=200_000)
    found, exact = float((law.argmax(axis=1) == 0).mean()), leader_probability((8, 5), 0.3)
    assert abs(found - exact) < 4.5 * math.sqrt(exact * (1 - exact) / 200_000)


def test_with_two_answers_the_rule_is_asc_and_with_more_it_waits_longer() -> None:
    for votes in ("aaaa", "aabaaaa", "abababaaaaaaaa"):
        assert stops_after(build("stop", "asc_dirichlet"), votes) == stops_after(build("stop", "asc"), votes)
    many = "abcdefgh" * 2 + "a" * 30
    asc, dirichlet = (stops_after(build("stop", name), many) for name in ("asc", "asc_dirichlet"))
    assert asc is not None
    assert dirichlet is not None
    assert asc < dirichlet


def test_the_bayes_factor_is_what_it_says() -> None:
    stop = verdict(build("stop", "bayes_factor"), "aaabaa")
    assert stop is not None
    chance = leader_probability((5, 1), 0.3)
    assert stop.evidence["statistic"] == pytest.approx(3 * chance / (1 - chance))
    assert stop.evidence["statistic"] >= 10 == stop.evidence["threshold"]


@pytest.mark.parametrize("factor", [2, 10, 100, 1000])
def test_the_bayes_factor_of_one_answer_has_a_closed_form(factor: int) -> None:
    """One answer against what is unknown: P(Gamma(n + 1) > Gamma(1.3)) is an incomplete Beta function."""
    from scipy.special import betainc

    chances = [float(betainc(1.3, votes + 1, 0.5)) for votes in range(1, 40)]
    expected = next(votes for votes, chance in enumerate(chances, 1) if 2 * chance >= factor * (1 - chance))
    assert stops_after(build("stop", f"bayes_factor({factor})"), "a" * 40) == expected
