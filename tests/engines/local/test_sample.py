"""The distribution and the draw in torch, against the reference in numpy (engines/distribution.py)."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from samplewise.core.keys import Key  # noqa: E402
from samplewise.core.numerics import log_softmax  # noqa: E402
from samplewise.core.types import Sampling  # noqa: E402
from samplewise.engines.distribution import certainty, draw_log_probs, draw_token, powers  # noqa: E402
from samplewise.engines.local import sample  # noqa: E402
from samplewise.explore import softmax  # noqa: E402
from samplewise.explore.base import Advice  # noqa: E402

SAMPLINGS = [
    Sampling(temperature, top_k, top_p, min_p)
    for temperature, top_k, top_p, min_p in itertools.product(
        (0.0, 0.25, 1.0, 1.7), (0, 1, 3, 1000), (1.0, 0.9, 0.3, 1e-6), (0.0, 0.05, 0.6)
    )
]
LARGE = 150_001  # no multiple of a block


def filters(samplings: list[Sampling], **flags: Any) -> Any:
    lines = torch.tensor([sampling[:4] for sampling in samplings], dtype=torch.float64)
    wanted = sample.Filters.of(samplings, lines[:, 0], lines[:, 1].long(), lines[:, 2], lines[:, 3])
    return wanted._replace(**flags)


def logits(rows: int, vocab: int = 23, ties: bool = False, spread: float = 3.0) -> Any:
    values = spread * Key(5).fold(rows, int(ties)).generator().normal(size=(rows, vocab))
    return torch.from_numpy(np.round(values) if ties else values).float()


def uniforms_of(rows: int, seed: int = 1) -> Any:
    return torch.from_numpy(Key(seed).generator().random(rows))


def whole_distributions(scores: Any, wanted: Any) -> Any:
    """The log-probabilities (N, V) that policies see."""
    seen = []

    def advise(lines: Any, log_probs: Any) -> tuple[()]:
        seen.append(log_probs.double().numpy())
        return ()

    sample.draw(scores, wanted, uniforms_of(len(scores)), advise=advise)
    return seen[0]


def bound(log_probs: Any, temperature: float, dtype: Any) -> float:
    """The largest error of a log-probability (nats) that explore/softmax.py promises."""
    if dtype == torch.float64 or len(log_probs) <= softmax.EXACT:
        return 1e-10
    finite = log_probs[np.isfinite(log_probs)]
    entropy = -float((np.exp(finite) * finite).sum())
    return float(((1 if temperature in (0, 1) else 3) * entropy + 8) * 2.0**-24)


def expect_draws(line: Any, sampling: Sampling, uniforms: Any, drawn: Any, dtype: Any = None) -> None:
    """Compare draws from one line with exact arithmetic: a token's interval holds its uniform, but for rounding."""
    logp = log_softmax(line)
    log_probs = draw_log_probs(logp, sampling)
    plain, tempered = bound(logp, 1, dtype), bound(log_probs, sampling.temperature, dtype)
    tokens = drawn.tokens.numpy()
    assert np.isfinite(log_probs[tokens]).all(), sampling
    np.testing.assert_allclose(drawn.logp.numpy(), logp[tokens], atol=plain, rtol=1e-12)
    np.testing.assert_allclose(drawn.logq.numpy(), log_probs[tokens], atol=tempered, rtol=1e-12)
    upto = np.concatenate([[0.0], np.exp(log_probs).cumsum()])
    upto /= upto[-1]
    assert (upto[tokens] - tempered / 2 <= uniforms).all(), sampling
    assert (uniforms <= upto[tokens + 1] + tempered / 2).all(), sampling
    assert not drawn.stuck.any()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("vocab", [23, 5003])
def test_each_row_has_the_distribution_of_its_own_sampling(vocab: int, ties: bool) -> None:
    """All samplings in one batch: a row's distribution must not leak into another's, and ties go to the lowest id."""
    some = SAMPLINGS if vocab < 100 else SAMPLINGS[::3]
    scores = logits(len(some), vocab, ties=ties)
    distributions = whole_distributions(scores, filters(some))
    for line, log_probs, sampling in zip(scores.double().numpy(), distributions, some, strict=True):
        wanted = draw_log_probs(log_softmax(line), sampling)
        assert np.array_equal(np.isfinite(log_probs), np.isfinite(wanted)), sampling
        error = 1e-12 if vocab < 100 else 1e-6
        np.testing.assert_allclose(np.exp(log_probs), np.exp(wanted), atol=error, err_msg=str(sampling))


@pytest.mark.parametrize("sampling", SAMPLINGS[::7])
def test_flags_only_skip_work(sampling: Sampling) -> None:
    scores, uniforms = logits(4), uniforms_of(4)
    few = sample.draw(scores, filters([sampling] * 4), uniforms)
    every = sample.draw(scores, filters([sampling] * 4, tempered=True, filtered=True), uniforms)
    for a, b in zip(few, every, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_a_uniform_picks_the_token_that_the_reference_picks() -> None:
    rows = 400
    samplings = [SAMPLINGS[i % len(SAMPLINGS)] for i in range(rows)]
    scores = logits(rows)
    uniforms = Key(1).generator().random(rows)
    uniforms[:3] = 0.0, np.nextafter(1.0, 0.0), 0.5
    drawn = sample.draw(scores, filters(samplings), torch.from_numpy(uniforms), None, None)
    for i, (sampling, uniform) in enumerate(zip(samplings, uniforms, strict=True)):
        logp = log_softmax(scores[i].double().numpy())
        log_probs = draw_log_probs(logp, sampling)
        token = draw_token(log_probs, uniform)
        assert int(drawn.tokens[i]) == token
        assert float(drawn.logp[i]) == pytest.approx(logp[token], abs=1e-12)
        assert float(drawn.logq[i]) == pytest.approx(log_probs[token], abs=1e-12)  # after the filter, not before it


@st.composite
def lines_of(draw: Any) -> Any:
    """Logits (V,): any spread and offset, ties, tokens ruled out, one token far above the rest."""
    vocab = draw(st.sampled_from([1, 2, 127, 128, 129, 4096, 4097, 4224, 6007]))
    generator = Key(draw(st.integers(0, 10**6))).generator()
    line = draw(st.sampled_from([0.0, 0.01, 1.0, 4.0, 30.0])) * generator.normal(size=vocab)
    if draw(st.booleans()):
        line = np.round(line)
    line += draw(st.sampled_from([0.0, 17.3, -900.0]))
    if draw(st.booleans()):
        line[int(generator.integers(vocab))] += draw(st.sampled_from([3.3, 9.1, 200.0]))
    if draw(st.booleans()):
        keep = int(generator.integers(vocab))
        line[np.arange(vocab) != keep] = np.where(generator.random(vocab - 1) < 0.7, -np.inf, line[1:])
    return line


kinds = st.builds(
    Sampling,
    st.sampled_from([0.0, 0.3, 1.0, 0.8, 1.9]),
    st.sampled_from([0, 1, 50, 128, 129, 4000]),
    st.sampled_from([1.0, 0.051, 0.617, 0.953]),
    st.sampled_from([0.0, 0.0003, 0.071]),
)


@settings(max_examples=80, deadline=None)
@given(
    lines_of(),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    st.lists(kinds, min_size=1, max_size=4),
    st.integers(0, 10**6),
)
def test_draws_are_those_of_exact_arithmetic(line: Any, dtype: Any, some: list[Sampling], seed: int) -> None:
    scores = torch.from_numpy(line)[None].to(dtype)
    read = scores[0].double().numpy()
    uniforms = np.concatenate([[0.0, np.nextafter(1.0, 0.0)], Key(seed).generator().random(4)])
    some = [sampling for sampling in some if no_close_call(read, sampling)]
    pick = torch.zeros(len(some) * len(uniforms), dtype=torch.int64)
    if some:
        each = torch.from_numpy(np.tile(uniforms, len(some)))
        drawn = sample.draw(scores, filters([kind for kind in some for _ in uniforms]), each, pick)
        for sampling, part in zip(some, torch.arange(len(pick)).chunk(len(some)), strict=True):
            expect_draws(read, sampling, uniforms, sample.TokenDraws(*(column[part] for column in drawn)), dtype)


def no_close_call(line: Any, sampling: Sampling) -> bool:
    """Whether no token is so close to the edge of a filter that rounding decides."""
    if sampling.temperature == 0:
        return True
    scaled = (line - line.max()) / sampling.temperature
    mass = np.sort(np.exp(log_softmax(scaled)))[::-1]
    close = np.abs(mass.cumsum() - sampling.top_p).min() < 3e-6 if sampling.top_p < 1 else False
    return not close and not (sampling.min_p and np.abs(scaled - np.log(sampling.min_p)).min() < 1e-9)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_large_vocabulary_keeps_its_promise(temperature: float) -> None:
    """The worst rounding there is: a peak, and all the others equally likely, each rounded the same way."""
    generator = Key(8).generator()
    flat = np.full(LARGE, 0.3)
    flat[77_000] = 10.123
    lines = [flat, 3 * generator.normal(size=LARGE), 7 * generator.normal(size=LARGE) - 40, np.zeros(LARGE)]
    scores = torch.from_numpy(np.stack(lines)).float()
    uniforms = np.linspace(0, 1, 64, endpoint=False) + 0.003
    sampling = Sampling(temperature)
    pick = torch.arange(4).repeat_interleave(len(uniforms))
    drawn = sample.draw(scores, filters([sampling] * len(pick)), torch.from_numpy(np.tile(uniforms, 4)), pick)
    for line, part in zip(scores.double().numpy(), torch.arange(len(pick)).chunk(4), strict=True):
        expect_draws(line, sampling, uniforms, sample.TokenDraws(*(column[part] for column in drawn)))


@pytest.mark.parametrize("vocab", [300, 5003])
def test_every_token_at_the_edges_of_blocks_has_its_own_interval(vocab: int) -> None:
    """Of equally likely tokens, the middle of the k-th interval picks token k, whatever block it is in."""
    starts = range(softmax.WIDTH, vocab, softmax.WIDTH)
    ids = sorted({0, 1, vocab - 1, *(start + step for start in starts for step in (-1, 0))})
    middles = (torch.tensor(ids).double() + 0.5) / vocab
    pick = torch.zeros(len(ids), dtype=torch.int64)
    drawn = sample.draw(torch.full((1, vocab), 4.0), filters([Sampling()] * len(ids)), middles, pick)
    assert drawn.tokens.tolist() == ids
    np.testing.assert_allclose(drawn.logp, -np.log(vocab), atol=1e-7)


def test_the_tail_of_a_large_vocabulary_is_drawn_as_often_as_logq_says() -> None:
    """A float32 running sum over 100,000 tokens is off by more than the mass of the last ones.

    Here the last token has mass 1e-5 and is hit by uniforms in [1 - 1e-5, 1) exactly."""
    vocab = 100_000
    scores = torch.zeros(1, vocab)
    edge = 1 - 1 / vocab
    uniforms = torch.tensor([edge + 1e-9, edge - 1e-9], dtype=torch.float64)
    drawn = sample.draw(scores, filters([Sampling()] * 2), uniforms, torch.zeros(2, dtype=torch.int64), None)
    assert drawn.tokens.tolist() == [vocab - 1, vocab - 2]


@pytest.mark.parametrize("share", [0.003, 0.2, 0.93])
def test_a_filter_that_keeps_more_tokens_than_were_sorted_at_first(share: float) -> None:
    """120, 8,000 and 37,200 of 40,000 tokens pass, beside a row that keeps three and one without a filter."""
    vocab = 40_000
    line = 1e-4 * Key(3).generator().normal(size=vocab)
    scores = torch.from_numpy(
        np.stack([line, line + np.where(np.arange(vocab) % 15_000 == 7, 60.0, 0.0), line])
    ).float()
    kinds = [Sampling(top_p=share), Sampling(top_p=0.9999), Sampling()]
    distributions = whole_distributions(scores, filters(kinds))
    for row, (line, sampling) in enumerate(zip(scores.double().numpy(), kinds, strict=True)):
        wanted = np.isfinite(draw_log_probs(log_softmax(line), sampling))
        assert abs(int(np.isfinite(distributions[row]).sum()) - int(wanted.sum())) <= (1 if row == 0 else 0)
    assert np.isfinite(distributions[1]).nonzero()[0].tolist() == [7, 15_007, 30_007]


@pytest.mark.parametrize("vocab", [600, 5003])
def test_ties_beyond_what_was_sorted_go_to_the_lowest_ids(vocab: int) -> None:
    line = np.zeros(vocab)
    line[100:] = 2.0  # 500 or more equally likely tokens, and more than are sorted at first
    line[-1] = 3.0
    distributions = whole_distributions(torch.from_numpy(line)[None].float(), filters([Sampling(top_k=4)]))
    assert np.isfinite(distributions[0]).nonzero()[0].tolist() == [100, 101, 102, vocab - 1]


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    scores = torch.zeros(2, 5003)
    scores[:, [4001, 4003]] = 1.0
    drawn = sample.draw(
        scores, filters([Sampling(0.0)] * 2), torch.tensor([0.9, 0.9]).double(), None, torch.tensor([-1, 4001])
    )
    assert int(drawn.tokens[0]) == 4001
    assert float(drawn.logq[0]) == 0.0
    assert float(drawn.logp[0]) == pytest.approx(log_softmax(scores[0].double().numpy())[4001], abs=1e-6)
    assert drawn.stuck.tolist() == [False, True]


def test_a_ban_leaves_logq_as_it_was() -> None:
    """The samplers' ratios need the unconditioned logq: one renormalized without the banned token is wrong."""
    scores = logits(1)
    logp = log_softmax(scores[0].double().numpy())
    best = int(logp.argmax())
    num = 2000
    uniforms = uniforms_of(num, 2)
    pick, banned = torch.zeros(num, dtype=torch.int64), torch.full((num,), best)
    for sampling in (Sampling(), Sampling(top_k=20)):
        log_probs = draw_log_probs(logp, sampling)
        drawn = sample.draw(scores, filters([sampling] * num), uniforms, pick, banned)
        tokens = drawn.tokens.numpy()
        assert best not in tokens
        assert not drawn.stuck.any()
        np.testing.assert_allclose(drawn.logq.numpy(), log_probs[tokens], atol=1e-12)
        allowed = log_probs.copy()
        allowed[best] = -np.inf
        assert tokens.tolist() == [draw_token(allowed, u) for u in uniforms.numpy()]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.5), Sampling(top_p=1 - 1e-15)], ids=str)
def test_a_ban_leaves_what_is_far_less_likely(sampling: Sampling) -> None:
    """All others are 180 nats below the banned token: exp of that is 0 in float32."""
    scores = logits(1, 5003, spread=1.0)
    scores[0, 9] = 180.0
    line = scores[0].double().numpy()
    line[9] = -np.inf
    num = 50
    uniforms = uniforms_of(num)
    drawn = sample.draw(
        scores.expand(num, -1), filters([sampling] * num), uniforms, None, torch.tensor([9] * 49 + [-1])
    )
    if sampling.top_p < 1:
        assert drawn.stuck.tolist() == [True] * 49 + [False]
        return
    assert not drawn.stuck.any()
    assert int(drawn.tokens[-1]) == 9
    logq = draw_log_probs(log_softmax(scores[0].double().numpy()), sampling)
    for row in range(num - 1):
        token = int(drawn.tokens[row])
        upto = np.exp(draw_log_probs(log_softmax(line), sampling)).cumsum()
        assert upto[token - 1] - 1e-6 <= uniforms[row] <= upto[token] + 1e-6
        assert float(drawn.logq[row]) == pytest.approx(logq[token], rel=1e-6)


def test_a_row_whose_only_token_is_banned_is_stuck() -> None:
    scores = logits(2)
    best = scores.argmax(-1)
    drawn = sample.draw(scores, filters([Sampling(0.0), Sampling()]), torch.tensor([0.3, 0.3]).double(), None, best)
    assert drawn.stuck.tolist() == [True, False]


@pytest.mark.parametrize("vocab", [23, 5003])
@pytest.mark.parametrize("wrong", ["nan", "inf", "-inf"])
def test_a_row_that_is_not_numbers_says_so_and_spoils_no_other(vocab: int, wrong: str) -> None:
    scores, uniforms = logits(4, vocab), uniforms_of(4)
    kinds = [Sampling(top_p=0.9), Sampling(), Sampling(), Sampling(0.0)]
    sound = sample.draw(scores, filters(kinds), uniforms)
    broken = scores.clone()
    if wrong == "-inf":
        broken[:2] = -np.inf
    else:
        broken[:2, 20] = float(wrong)
    drawn = sample.draw(broken, filters(kinds), uniforms)
    assert torch.isnan(drawn.logp).tolist() == [True, True, False, False]
    assert ((drawn.tokens >= 0) & (drawn.tokens < vocab)).all()
    for a, b in zip(drawn, sound, strict=True):
        assert torch.equal(a[2:], b[2:])


@pytest.mark.parametrize("vocab", [23, 4200])
def test_rows_are_worked_off_in_parts(vocab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, uniforms = logits(9, vocab), uniforms_of(40, 3)
    pick = torch.arange(40) % 9
    banned = torch.where(pick == 2, 4, -1)
    exponents = torch.linspace(0.5, 4, 80).double().view(40, 2)
    wanted = filters([SAMPLINGS[i * 3] for i in range(40)])
    whole = sample.draw(scores, wanted, uniforms, pick, banned, exponents)
    for rows in (1, 7):
        monkeypatch.setattr(softmax, "CACHE_BYTES", 16 * vocab * rows)
        parts = sample.draw(scores, wanted, uniforms, pick, banned, exponents)
        for a, b in zip(whole, parts, strict=True):
            assert torch.equal(a, b)


def test_a_draw_does_not_depend_on_the_samplings_beside_it() -> None:
    scores, uniforms = logits(40, 5003), uniforms_of(40)
    samplings = [SAMPLINGS[i * 4] for i in range(40)]
    together = sample.draw(scores, filters(samplings), uniforms)
    for i, sampling in enumerate(samplings):
        alone = sample.draw(scores[i : i + 1], filters([sampling]), uniforms[i : i + 1])
        for a, b in zip(together, alone, strict=True):
            assert torch.equal(a[i : i + 1], b)


def test_a_device_that_must_not_be_waited_for_sorts_all_and_draws_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, uniforms = logits(60, 5003), uniforms_of(60)
    wanted = filters([SAMPLINGS[i * 3] for i in range(60)])
    banned = torch.where(torch.arange(60) % 3 == 0, scores.argmax(-1), -1)
    here, distributions = sample.draw(scores, wanted, uniforms, None, banned), whole_distributions(scores, wanted)
    monkeypatch.setattr(sample, "_on_host", lambda device: False)
    there = sample.draw(scores, wanted, uniforms, None, banned)
    np.testing.assert_allclose(whole_distributions(scores, wanted), distributions, atol=1e-12)
    assert torch.equal(here.stuck, there.stuck)
    assert torch.equal(here.tokens[~here.stuck], there.tokens[~here.stuck])
    plain = ~wanted.active
    assert plain.any()
    assert torch.equal(here.logq[plain], there.logq[plain])
    torch.testing.assert_close(here.logq[~here.stuck], there.logq[~here.stuck], atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab", [23, 5003])
def test_short_floats_are_read_exactly(vocab: int, dtype: Any) -> None:
    short, uniforms = logits(30, vocab).to(dtype), uniforms_of(30)
    wanted = filters([SAMPLINGS[i * 5] for i in range(30)])
    exponents = torch.full((30, 1), 2.0, dtype=torch.float64)
    pairs = zip(*(sample.draw(x, wanted, uniforms, None, None, exponents) for x in (short, short.float())), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("vocab", [23, 5003])
def test_statistics_are_those_of_the_reference(vocab: int) -> None:
    scores = logits(3, vocab)
    scores[2, 5] = -np.inf  # ruled out, so the certainty is infinite
    exponents = torch.tensor([[0.5, 4.0], [1.0, 2.0], [3.0, 1.5]], dtype=torch.float64)
    pick = torch.tensor([1, 0, 2])
    drawn = sample.draw(scores, filters([Sampling(0.7)] * 3), uniforms_of(3), pick, None, exponents)
    for row in range(3):
        logp = log_softmax(scores[pick[row]].double().numpy())
        wanted = [certainty(logp), *powers(logp, exponents[row].tolist())]
        np.testing.assert_allclose(drawn.statistics[row], wanted, atol=1e-12 if vocab < 100 else 3e-6)


def test_advice_is_followed_in_the_rows_that_it_names() -> None:
    """A distribution is drawn from with the row's own uniform and ban, whatever its normalizer; a token is taken."""
    scores, uniforms = logits(6, 5003), uniforms_of(6)
    plain = sample.draw(scores, filters([Sampling(0.8)] * 6), uniforms)
    other = logits(2, 5003) - 7.0
    banned = torch.full((6,), -1)
    banned[4] = other[0].argmax()
    given = [
        Advice(torch.tensor([4, 1]), log_probs=other),
        Advice(torch.tensor([2]), tokens=torch.tensor([11]), logq=torch.tensor([-3.5]).double()),
    ]
    drawn = sample.draw(
        scores, filters([Sampling(0.8)] * 6), uniforms, None, banned, None, lambda lines, log_probs: given
    )
    for row in (0, 3, 5):
        assert [float(a[row]) for a in drawn[:3]] == [float(a[row]) for a in plain[:3]]
    assert (int(drawn.tokens[2]), float(drawn.logq[2])) == (11, -3.5)
    for row, line in ((4, other[0]), (1, other[1])):
        logq = log_softmax(line.double().numpy())
        allowed = logq.copy()
        if banned[row] >= 0:
            allowed[banned[row]] = -np.inf
        token = draw_token(allowed, float(uniforms[row]))
        assert int(drawn.tokens[row]) == token
        assert float(drawn.logq[row]) == pytest.approx(logq[token], abs=1e-6)


def test_a_draw_is_quicker_than_the_float64_draw_that_it_does_without() -> None:
    """Four to twenty times. Both are measured in turn, in processor time, so that neighbors do not matter."""
    scores, uniforms, wanted = logits(8, LARGE), uniforms_of(8), filters([Sampling()] * 8)
    quick, slow = [], []
    for _ in range(5):
        start = time.process_time()
        sample.draw(scores, wanted, uniforms)
        middle = time.process_time()
        torch.log_softmax(scores, dim=-1, dtype=torch.float64).exp().cumsum(-1)
        quick.append(middle - start)
        slow.append(time.process_time() - middle)
    assert min(quick) < 0.7 * min(slow)
