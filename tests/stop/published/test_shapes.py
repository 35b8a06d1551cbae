from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
from tests.stop.twins import stops_after, verdict

from samplewise.core.registry import build
from samplewise.stop.published.shapes import bayes_l3, learned_shapes, mode_probability

SHAPES = ((0.5, 0.3, 0.15, 0.05), (0.7, 0.1, 0.1, 0.1), (0.6, 0.4))


def twin(shapes: tuple[tuple[float, ...], ...], num: int) -> dict[tuple[int, int, int], float]:
    """P(leader is label 0 | n1, n2, rest) for every triple: all counts of `num` votes, a tie for the lead shared."""
    every: Counter[tuple[int, int, int]] = Counter()
    right: Counter[tuple[int, int, int]] = Counter()
    for law in shapes:
        for counts in itertools.product(range(num + 1), repeat=len(law)):
            if sum(counts) == num:
                ways = math.factorial(num) / math.prod(map(math.factorial, counts))
                chance = ways * math.prod(p**own for p, own in zip(law, counts, strict=True))
                first, second, *rest = sorted(counts, reverse=True)
                every[first, second, sum(rest)] += chance  # type: ignore[assignment]
                right[first, second, sum(rest)] += chance * (counts[0] == first) / counts.count(first)  # type: ignore[assignment]
    return {key: right[key] / every[key] for key in every}


@pytest.mark.parametrize("num", [1, 2, 4, 6, 7])  # 6: a tie for the lead, with and without a third
@pytest.mark.parametrize("shapes", [SHAPES, SHAPES[:1], SHAPES[1:2]])
def test_it_is_the_enumerated_probability(shapes: tuple[tuple[float, ...], ...], num: int) -> None:
    for (first, second, rest), chance in twin(shapes, num).items():
        assert mode_probability(shapes, first, second, rest) == pytest.approx(chance, abs=1e-12)


def test_many_votes_stay_in_range() -> None:
    shape = (0.3, 0.2, *(0.05,) * 10)
    assert mode_probability((shape,), 120, 80, 200) == pytest.approx(1.0, abs=1e-4)
    assert mode_probability((shape,), 90, 90, 200) == pytest.approx(0.5, abs=1e-6)
    assert 0.5 < mode_probability((shape,), 10, 9, 21) < 0.7


def test_what_no_shape_can_give_is_unknown_and_never_stops() -> None:
    assert math.isnan(mode_probability(((0.6, 0.4),), 5, 1, 3))
    assert verdict(bayes_l3([(0.6, 0.4)]), "aaaaabccd") is None


def test_a_model_that_agrees_with_itself_needs_fewer_votes() -> None:
    sure, unsure = ("bayes_l3(((0.9, 0.1),))", "bayes_l3(((0.55, 0.45),))")
    assert stops_after(build("stop", sure), "a" * 40) == 2  # .9^2 / (.9^2 + .1^2) = .988; one vote gives .9
    assert stops_after(build("stop", unsure), "a" * 40) == 15  # (11/9)^15 = 20.3, the first above 19
    assert verdict(build("stop", sure), "ab") is None


def test_shapes_are_learned_from_past_votes() -> None:
    easy, hard = [[9, 1], [1, 9, 0]], [[4, 3, 3], [3, 4, 3]]
    one, two = learned_shapes([*easy, *hard], 2)
    assert (one, two) == (pytest.approx((0.4, 0.3, 0.3)), pytest.approx((0.9, 0.1)))
    assert learned_shapes([*hard, *easy], 1) == (pytest.approx((0.65, 0.2, 0.15)),)
    rule = bayes_l3(learned_shapes([*easy, *hard], 2))
    stop = verdict(rule, "a" * 9)
    assert stop is not None
    assert stop.evidence["statistic"] == pytest.approx(
        (0.9**9 + 0.4**9) / (0.9**9 + 0.1**9 + 0.4**9 + 2 * 0.3**9), rel=1e-9
    )
    with pytest.raises(ValueError, match="3 shapes need as many past questions with votes at least, got 1"):
        learned_shapes([[3, 1], [], [0]], 3)
