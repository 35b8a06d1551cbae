"""One answer from all reasoning of a group: the distribution of whole answers by enumeration, and faulty policies that
the same checks detect."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from samplewise.explore import consensus as module
from samplewise.explore.base import Advice, EngineStep, Head, Layout, PolicyStep
from samplewise.explore.consensus import ConsensusPolicy, mixture
from samplewise.explore.explorer import Explorer
from samplewise.explore.settings import consensus

CPU = torch.device("cpu")
VOCAB, STOP, LONGEST = 4, 3, 3
HEAD = Head(torch.randn(VOCAB, 5, generator=torch.Generator().manual_seed(1)))
Answer = tuple[int, ...]
# Every answer: ended by the stop token, or cut at three tokens.
ANSWERS = [
    answer
    for length in range(1, LONGEST + 1)
    for answer in itertools.product(range(VOCAB), repeat=length)
    if STOP not in answer[:-1] and (answer[-1] == STOP or length == LONGEST)
]


def logp_of(trace: int, answer: Answer) -> Any:
    """Log-probabilities (V,) of the next token of an answer after a trace: fixed, and different for each."""
    rng = np.random.default_rng([trace, len(answer), *answer])
    logits = rng.normal(size=VOCAB) * 1.5
    return logits - np.log(np.exp(logits).sum())


def expected(traces: Sequence[int], answer: Answer, gamma: float) -> Any:
    """q (V,) of the next token, in probabilities, by the formula of the paper."""
    upto = [answer[:at] for at in range(len(answer))]
    weights = np.array([math.prod(np.exp(logp_of(i, y)[v]) for y, v in zip(upto, answer, strict=True)) for i in traces])
    mean = (weights / weights.sum()) @ np.array([np.exp(logp_of(i, answer)) for i in traces])
    return mean**gamma / (mean**gamma).sum()


def step_of(log_probs: Any, group: Any, sample: Any, at: int, uniforms: Any, met: Any = True) -> PolicyStep:
    num = len(log_probs)
    return PolicyStep(
        Layout(np.asarray(group), np.asarray(sample), CPU),
        np.full(num, at),
        torch.ones(num),
        log_probs,
        log_probs,
        torch.zeros(num, 5),
        None,
        True,
        torch.as_tensor(uniforms, dtype=torch.float64),
        np.broadcast_to(np.asarray(met), (num,)),
    )


def play(
    policy: ConsensusPolicy, traces: Sequence[int], uniform_of: Callable[[Answer], float]
) -> tuple[Answer, list[float]]:
    """Decode an answer with one group whose draws have these traces. Return it, and log q of each token."""
    policy.open(0)
    answer: Answer = ()
    logq: list[float] = []
    rng = np.random.default_rng(0)
    while len(answer) < LONGEST and STOP not in answer:
        log_probs = torch.tensor(np.array([logp_of(i, answer) for i in traces]))
        uniforms = rng.random(len(traces))
        uniforms[0] = uniform_of(answer)
        advice = policy.advise(step_of(log_probs, [0] * len(traces), range(len(traces)), len(answer), uniforms))
        assert advice is not None
        assert advice.tokens is not None
        assert advice.logq is not None
        assert sorted(advice.rows.tolist()) == list(range(len(traces)))
        assert len(set(advice.tokens.tolist())) == 1, "the draws of a group take the same token"
        assert len(set(advice.logq.tolist())) == 1
        answer += (int(advice.tokens[0]),)
        logq.append(float(advice.logq[0]))
        policy.took(advice.tokens)
    policy.close(0)
    return answer, logq


def check(make: Callable[[float], ConsensusPolicy], gamma: float, num: int = 3) -> None:
    """Enumerate all answers. A uniform is uniform, so a token has the probability of the interval of uniforms that give
    it: next to both of its ends are tried, for every token of every answer."""
    traces, total, policy = range(num), 0.0, make(gamma)
    for wanted in ANSWERS:
        for share in (0.01, 0.5, 0.99):

            def uniform_of(answer: Answer, wanted: Answer = wanted, share: float = share) -> float:
                assert answer == wanted[: len(answer)], "the uniform of a token's interval takes that token"
                upto = np.cumsum([0.0, *expected(traces, answer, gamma)])
                token = wanted[len(answer)]
                return float(upto[token] + share * (upto[token + 1] - upto[token]))

            answer, logq = play(policy, traces, uniform_of)
            assert answer == wanted
            truth = [expected(traces, wanted[:at], gamma)[token] for at, token in enumerate(wanted)]
            np.testing.assert_allclose(logq, np.log(truth), atol=1e-12, rtol=0)
        total += math.exp(math.fsum(logq))
        if gamma == 1.0:  # the mixture of whole answers
            alone = [math.exp(sum(logp_of(i, wanted[:at])[v] for at, v in enumerate(wanted))) for i in traces]
            assert math.exp(math.fsum(logq)) == pytest.approx(np.mean(alone), abs=1e-12)
    assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("num", [2, 3])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_answers_have_the_enumerated_distribution(gamma: float, num: int) -> None:
    check(lambda gamma: ConsensusPolicy(consensus(gamma), HEAD), gamma, num)


# --- faulty policies --------------------------------------------------------------------------------------------------


class EqualWeights(ConsensusPolicy):
    """The weights stay 1/N."""

    def advise(self, rows: PolicyStep) -> Advice | None:
        for group in self.groups:
            group.log_weights = torch.zeros_like(group.log_weights)
        return super().advise(rows)


class NoPower(ConsensusPolicy):
    """Gamma has no effect."""

    def __init__(self, settings: Any, head: Head) -> None:
        super().__init__(settings, head)
        self.gamma = 0.999999  # 1 would leave a single draw to the engine


class OwnUniforms(ConsensusPolicy):
    """Every draw takes a token of its own."""

    def advise(self, rows: PolicyStep) -> Advice | None:
        advice = super().advise(rows)
        if advice is None or rows.uniforms is None:
            return advice
        answer = module.Softmax(mixture(rows.log_probs, torch.zeros(len(rows.log_probs)), self.gamma)[None])
        tokens = torch.cat([answer.draw(uniform[None])[0] for uniform in rows.uniforms])
        return advice._replace(tokens=tokens[advice.rows])


def mean_of_logs(log_probs: Any, log_weights: Any, gamma: float) -> Any:
    return gamma * (log_weights.softmax(0)[:, None] * log_probs).sum(0)


def power_first(log_probs: Any, log_weights: Any, gamma: float) -> Any:
    """The mean of the powers in place of the power of the mean."""
    return (gamma * log_probs + log_weights.log_softmax(0)[:, None]).logsumexp(0)


@pytest.mark.parametrize("mutant", [EqualWeights, NoPower, OwnUniforms])
def test_a_faulty_policy_is_detected(mutant: type[ConsensusPolicy]) -> None:
    with pytest.raises(AssertionError):
        check(lambda gamma: mutant(consensus(gamma), HEAD), 2.0)


@pytest.mark.parametrize("faulty", [mean_of_logs, power_first])
def test_another_mean_is_detected(faulty: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "mixture", faulty)
    with pytest.raises(AssertionError):
        check(lambda gamma: ConsensusPolicy(consensus(gamma), HEAD), 2.0)


# --- who takes part ---------------------------------------------------------------------------------------------------


def rows_of(traces: Sequence[int], answer: Answer = ()) -> Any:
    return torch.tensor(np.array([logp_of(i, answer) for i in traces]))


def test_one_draw_at_gamma_one_is_left_to_the_engine() -> None:
    policy = ConsensusPolicy(consensus(1.0), HEAD)
    policy.open(0)
    assert policy.advise(step_of(rows_of([0]), [0], [0], 0, [0.5])) is None
    assert policy.close(0) == {"seen": 1.0, "guided": 1.0, "members": 1.0, "effective_members": 1.0}


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_one_draw_is_a_temperature(gamma: float) -> None:
    policy = ConsensusPolicy(consensus(gamma), HEAD)
    policy.open(0)
    log_probs = rows_of([0])
    advice = policy.advise(step_of(log_probs, [0], [0], 0, [0.5]))
    assert advice is not None
    assert advice.logq is not None
    assert float(advice.logq[0]) == pytest.approx(float((gamma * log_probs[0]).log_softmax(0)[advice.tokens]))


def test_nobody_is_guided_before_the_group_has_met() -> None:
    policy = ConsensusPolicy(consensus(), HEAD)
    policy.open(0)
    step = step_of(rows_of([0, 1]), [0, 0], [0, 1], 0, [0.5, 0.5], met=False)
    assert policy.advise(step) is None
    assert policy.advise(step._replace(met=None)) is None
    numbers = policy.close(0)
    assert (numbers["seen"], numbers["guided"], numbers["members"]) == (4.0, 0.0, 0.0)
    assert math.isnan(numbers["effective_members"])


def test_groups_do_not_touch_each_other_and_order_means_nothing() -> None:
    """Two groups, of which one has a draw that goes on alone, in two orders of the batch."""
    found = []
    for order in ([0, 1, 2, 3, 4], [3, 0, 4, 2, 1]):
        policy = ConsensusPolicy(consensus(), HEAD)
        policy.open(0)
        policy.open(1)
        drawn: list[dict[int, tuple[int, float]]] = []
        for at in range(2):
            group, sample = np.array([0, 0, 0, 1, 1])[order], np.array([0, 1, 2, 0, 1])[order]
            met, uniforms = np.array([True, False, True, True, True])[order], np.array([0.3, 0.9, 0.8, 0.6, 0.1])[order]
            answers = [(), *([int(drawn[0][row][0]) for row in (0, 3)] if drawn else [])]
            prefix = [() if not drawn else (answers[1],) if row < 3 else (answers[2],) for row in range(5)]
            log_probs = torch.tensor(np.array([logp_of(row, prefix[row]) for row in order]))
            advice = policy.advise(step_of(log_probs, group, sample, at, uniforms, met))
            assert advice is not None
            assert advice.tokens is not None
            assert advice.logq is not None
            rows = [order[row] for row in advice.rows.tolist()]
            drawn.append(dict(zip(rows, zip(advice.tokens.tolist(), advice.logq.tolist(), strict=True), strict=True)))
            assert sorted(rows) == [0, 2, 3, 4]
        truth = [expected([0, 2], (), 2.0)[drawn[0][0][0]], expected([3, 4], (drawn[0][3][0],), 2.0)[drawn[1][3][0]]]
        np.testing.assert_allclose([drawn[0][2][1], drawn[1][4][1]], np.log(truth), atol=1e-12)
        found.append(drawn)
    assert found[0] == found[1]


def test_a_member_that_leaves_takes_its_weight_along() -> None:
    policy = ConsensusPolicy(consensus(), HEAD)
    policy.open(0)
    first = policy.advise(step_of(rows_of([0, 1, 2]), [0, 0, 0], [0, 1, 2], 0, [0.5, 0.1, 0.1]))
    assert first is not None
    assert first.tokens is not None
    answer = (int(first.tokens[0]),)
    second = policy.advise(step_of(rows_of([0, 2], answer), [0, 0], [0, 2], 1, [0.5, 0.1]))
    assert second is not None
    assert second.logq is not None
    assert float(second.logq[0]) == pytest.approx(math.log(expected([0, 2], answer, 2.0)[second.tokens[0]]))  # type: ignore[index]
    assert policy.close(0)["members"] == 3.0


def test_a_filtered_token_counts_as_impossible_under_its_own_trace_alone() -> None:
    """Draw 0 may not say token 0, draw 1 not token 1, and neither token 2. What one may not say, the other can; a draw
    that could not have said the answer so far has no weight left, and nothing is nan."""
    cut = torch.tensor([[0.0, 0.6, 0.0, 0.4], [0.5, 0.0, 0.0, 0.5]], dtype=torch.float64).log()
    policy = ConsensusPolicy(consensus(1.0), HEAD)
    tokens = []
    for uniform in np.linspace(0.005, 0.995, 100):
        policy.open(0)
        advice = policy.advise(step_of(cut, [0, 0], [0, 1], 0, [uniform, 0.0]))
        assert advice is not None
        assert advice.tokens is not None
        tokens.append(int(advice.tokens[0]))
        if tokens[-1] == 0:  # after it draw 1 alone counts
            again = policy.advise(step_of(cut, [0, 0], [0, 1], 1, [0.999, 0.0]))
            assert again is not None
            assert again.logq is not None
            assert float(again.logq[0]) == pytest.approx(math.log(0.5))
        assert policy.close(0)["effective_members"] >= 1.0
    assert np.bincount(tokens, minlength=4).tolist() == [25, 30, 0, 45]


def test_an_engine_that_hands_over_no_uniforms_is_an_error() -> None:
    policy = ConsensusPolicy(consensus(), HEAD)
    policy.open(0)
    with pytest.raises(ValueError, match="engine's uniforms"):
        policy.advise(step_of(rows_of([0, 1]), [0, 0], [0, 1], 0, [0.5, 0.5])._replace(uniforms=None))


def test_the_explorer_hands_over_each_rows_own_uniform_and_phase() -> None:
    """Beside plain rows, in a mixed order."""
    explorer = Explorer(HEAD)
    number = explorer.open("a", consensus(), 0)
    deep = torch.randn(4, 5, generator=torch.Generator().manual_seed(2))
    logits = deep @ HEAD.weight.T
    log_probs = logits.double().log_softmax(-1)
    uniforms = torch.tensor([0.99, 0.2, 0.01, 0.7], dtype=torch.float64)
    (advice,) = explorer.advise(
        EngineStep(
            np.array([-1, number, number, number]),
            np.array([0, 2, 0, 1]),
            np.zeros(4, dtype=np.int64),
            torch.ones(4),
            logits,
            log_probs,
            deep,
            None,
            False,
            uniforms,
            np.array([False, True, False, True]),
        )
    )
    assert sorted(advice.rows.tolist()) == [1, 3]
    mean = (log_probs[[1, 3]].exp().mean(0)) ** 2
    token = int(np.searchsorted(np.cumsum((mean / mean.sum()).numpy()), 0.7))  # of draw 1, the first that met
    assert advice.tokens is not None
    assert advice.tokens.tolist() == [token, token]
    explorer.took(torch.full((4,), token))
    assert explorer.close(number, 3).problem == ""
