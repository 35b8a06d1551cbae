"""Answers and texts: known values, the null of the divergence, likeness of texts."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.keys import Key
from samplewise.measure.spread import (
    answer_divergence,
    deal_answers,
    distinct_answers,
    distinct_k,
    divergence,
    semantic_entropy,
    utility,
    vendi,
)
from samplewise.measure.texts import (
    character_grams,
    cosines,
    edit_distance,
    edit_similarity,
    jaccard,
    relevance,
)


def test_known_figures():
    assert divergence([[0.5, 0.5, 0], [0, 0.5, 0.5]]) == pytest.approx(0.346574, abs=1e-6)
    assert divergence(np.eye(2)) == pytest.approx(0.693147, abs=1e-6)
    assert vendi(np.eye(4)) == pytest.approx(4)
    assert vendi(np.ones((3, 3))) == pytest.approx(1)
    assert vendi([[1, 0.5], [0.5, 1]]) == pytest.approx(1.754765, abs=1e-6)
    assert utility([5, 9, 6, 2], [0, 0, 1, 2]) == pytest.approx(3.341463, abs=1e-6)
    assert distinct_k([3, 3, 1]) == 2
    assert semantic_entropy([4, 4, 9, 9]) == pytest.approx(math.log(2))
    assert semantic_entropy([4, 9], [math.log(3), 0.0]) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert math.isnan(semantic_entropy([]))
    assert math.isnan(utility([], []))
    assert math.isnan(vendi(np.zeros((0, 0))))


@given(st.lists(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), min_size=1, max_size=4))
def test_the_divergence_is_between_0_and_the_log_of_the_arms(rows):
    distributions = np.array(rows) / np.sum(rows, axis=1, keepdims=True)
    value = divergence(distributions)
    assert -1e-12 <= value <= math.log(len(rows)) + 1e-12
    assert divergence(distributions[::-1]) == pytest.approx(value)
    assert divergence(np.repeat(distributions[:1], 4, axis=0)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("num_draws", [4, 16, 64])
def test_identical_arms_have_a_null_as_large_as_the_plug_in(num_draws):
    """Six arms, one uniform distribution over ten answers. The textbook correction, (M - 1)(K - 1) / (2 M n), is .938
    nats at 4 draws, where the plug-in is .9; for distributions with rare answers it takes off far too much."""
    generator = Key(1).fold(num_draws).generator()
    answers = generator.integers(10, size=(150, 6 * num_draws))
    found = answer_divergence(answers, np.repeat(np.arange(6), num_draws), Key(2), num_shuffles=20)
    assert abs(found.corrected.value) < 4 * found.corrected.stderr
    assert found.p_value > 0.01
    assert found.raw == pytest.approx(5 * 9 / (12 * num_draws), rel=0.3)
    assert found.null > 0.9 * found.raw


def test_arms_that_answer_differently_are_told():
    arms = np.repeat([0, 1], 8)
    answers = np.tile(np.where(arms == 0, 3, 5), (10, 1))
    found = answer_divergence(answers, arms, Key(0), num_shuffles=99)
    assert found.raw == pytest.approx(math.log(2))
    assert found.p_value == 0.01
    assert found.corrected.value == pytest.approx(found.raw - found.null)
    assert (found.per_problem > 0.5).all()


def test_unread_answers_take_no_part():
    arms = np.array([0, 0, 0, 1, 1, 1])
    with_unread = np.array([[2, 2, -1, 4, -1, 4], [-1, -1, -1, 0, 0, 0]])
    found = answer_divergence(with_unread, arms, Key(0), num_shuffles=50)
    assert found.raw == pytest.approx(math.log(2))
    assert math.isnan(found.per_problem[1])  # an arm without a readable draw
    assert found.corrected.num_problems == 1
    assert distinct_answers(with_unread).tolist() == [2, 1]
    nothing = answer_divergence(with_unread[1:], arms, Key(0))
    assert math.isnan(nothing.raw)
    assert math.isnan(nothing.p_value)


@given(st.lists(st.lists(st.integers(-1, 3), min_size=6, max_size=6), min_size=1, max_size=3), st.integers(0, 99))
def test_shuffles_keep_what_they_must(table, seed):
    """The readable draws of a problem stay its own, and unread positions stay unread."""
    dealt = deal_answers(np.array(table), [0, 1, 2, 0, 1, 2], 3)
    codes = dealt.shuffled(Key(seed).generator())
    assert np.sort(codes, axis=1).tolist() == np.sort(dealt.codes, axis=1).tolist()
    assert ((codes == dealt.num_codes) == (dealt.codes == dealt.num_codes)).all()
    assert dealt.tally(codes).sum(axis=2).tolist() == dealt.tally().sum(axis=2).tolist()
    assert dealt.tally(codes).sum(axis=1).tolist() == dealt.tally().sum(axis=1).tolist()


def test_a_shuffle_is_uniform():
    """Three readable draws, six orders, 3,000 shuffles: chi-square of 5 degrees below its 1e-5 point."""
    dealt = deal_answers(np.tile([0, -1, 1, 2], (3_000, 1)), [0, 0, 1, 1], 2)
    codes = dealt.shuffled(Key(0).generator())
    _, counts = np.unique(codes, axis=0, return_counts=True)
    assert len(counts) == 6
    assert ((counts - 500) ** 2 / 500).sum() < 31


def test_edit_distance():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == 3
    assert edit_distance("flaw", "lawn") == 2
    assert edit_similarity("kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert edit_similarity("", "") == 1.0


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_edit_distance_is_the_recursion(first, second):
    def twin(one, other):
        if not one or not other:
            return len(one) + len(other)
        cost = one[0] != other[0]
        return min(twin(one[1:], other[1:]) + cost, twin(one[1:], other) + 1, twin(one, other[1:]) + 1)

    if len(first) + len(second) <= 8:
        assert edit_distance(first, second) == twin(first, second)
    assert edit_distance(first, second) == edit_distance(second, first)


def test_jaccard():
    assert jaccard("Add the two", "the TWO sums") == pytest.approx(2 / 4)
    assert jaccard("", " ") == 1.0
    assert jaccard("a", "") == 0.0


def test_relevance_orders_texts_as_a_person_would():
    question = "How many apples are left if Ann eats three of her twelve apples?"
    texts = ["The slithy toves did gyre.", "Subtract the three eaten apples from twelve.", question, ""]
    nonsense, idea, same, empty = relevance(texts, question)
    assert 0 <= nonsense < idea < same
    assert same == pytest.approx(1)
    assert math.isnan(empty)


def test_the_embedder_is_pluggable():
    def by_length(texts):
        return np.array([[len(text), 1.0] for text in texts])

    assert relevance(["aa"], "bb", by_length) == pytest.approx([1.0])
    assert cosines(["a", "b", "a"]).shape == (3, 3)
    assert cosines(["abc def", "xyz uvw"])[0, 1] == 0


def test_vectors_have_length_1_and_ignore_case_and_blanks():
    vectors = character_grams(["Two  plus two", "two plus\nTWO", ""])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 0])
    assert (vectors[0] == vectors[1]).all()
    assert character_grams([]).shape[0] == 0


def test_the_hash_is_the_same_in_every_process():
    code = "from samplewise.measure.texts import relevance; print(repr(relevance(['prime sums'], 'sum of primes')[0]))"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert seen == {repr(relevance(["prime sums"], "sum of primes")[0]) + "\n"}


def test_misuse_is_told():
    with pytest.raises(ValueError, match="answers must be codes"):
        distinct_answers([[0.5]])
    with pytest.raises(ValueError, match="arms must be 0 to 0, got 1"):
        answer_divergence([[1, 2]], [0, 1], Key(0), num_arms=1)
    with pytest.raises(ValueError, match="square matrix"):
        vendi([[1.0, 0.0]])
    with pytest.raises(ValueError, match="equally many"):
        utility([1.0], [])
