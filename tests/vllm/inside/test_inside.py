"""Guided draws inside vLLM against the local engine: the same tokens, and what vLLM's scheduler may do to them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import vllm
from scipy.stats import chi2
from tests.vllm.inside.asks import ASKS, GROUPS, PLAIN, POLICIES, POWER, PROMPTS, WANT, group

from samplewise.core.types import Capability, Completion, Generate, Likelihood, Sampling
from samplewise.engines.vllm.versions import TESTED, version_note

from .conftest import Run, answers

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

TOLERANCE = 1e-4  # nats


def assert_same(mine: Sequence[Completion], theirs: Sequence[Completion]) -> None:
    for one, other in zip(mine, theirs, strict=True):
        assert one.failure == other.failure
        assert (one.tokens, one.finish, one.text) == (other.tokens, other.finish, other.text)
        assert one.usage == other.usage
        for array in ("logp", "logq", "certainty", "logz"):
            if getattr(other, array) is not None:
                np.testing.assert_allclose(getattr(one, array), getattr(other, array), atol=TOLERANCE, err_msg=array)
        assert one.logp_sum == pytest.approx(other.logp_sum, abs=TOLERANCE * (1 + len(other.tokens or ())))


def rows(engine: Any) -> int:
    """Return how many guided rows its worker holds."""
    return len(engine._client._engine.model_executor.driver_worker.worker.samplewise_bridge)


def test_the_engine_says_what_it_can_do(engine: Any, local: Any) -> None:
    assert engine.can == local.can
    assert engine.notes == (() if vllm.__version__ in TESTED else (version_note(vllm.__version__),))
    assert engine.identity == local.identity.replace("local:", "vllm:", 1)
    assert engine.runtime()["runs"] == "model runner V1, float32 on cpu"


class StaysOpen:
    """The session's engine for a command that would open and close it."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def open(self) -> None: ...

    async def close(self) -> None: ...


def test_doctor_says_what_runs(
    engine: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from samplewise.cli import main

    monkeypatch.setattr("samplewise.cli.doctor.registry.build", lambda kind, spec: StaysOpen(engine))
    monkeypatch.setattr(sys, "argv", ["samplewise", "doctor", "--engine", "vllm:tiny", "--json"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code in (0, None)
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["can"] == sorted(engine.can)
    assert printed["runtime"]["runs"] == "model runner V1, float32 on cpu"
    assert all(version in printed["runtime"]["tested"] for version in TESTED)
    assert printed["runtime"]["exploring"] == "yes"


def test_59_asks_have_the_tokens_of_the_local_engine(run: Run, engine: Any, expected: list[Completion]) -> None:
    drawn = run(answers(engine, ASKS))
    assert_same(drawn, expected)
    assert {completion.finish for completion in drawn} == {"stop", "length", "rejected"} - (
        set() if any(completion.finish == "length" for completion in expected) else {"length"}
    )
    reports = [completion.explored for completion in drawn if completion.explored]
    assert sorted(report["policy"] for report in reports) == sorted(POLICIES)
    for report in reports:
        assert (report["samples"], report["problem"], report["together"]) == (8, "", True)
    theirs = {c.explored["policy"]: c.explored["numbers"] for c in expected if c.explored}
    for report in reports:
        for name, value in theirs[report["policy"]].items():
            assert report["numbers"][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert rows(engine) == 0


def test_statistics_first_scores_texts_and_likelihoods_are_those_of_the_local_engine(
    run: Run, engine: Any, local: Any, expected: list[Completion]
) -> None:
    want = (*WANT, "logz", "certainty", "whole")
    tokens = expected[0].tokens or ()
    text = expected[0].text
    asks = [
        Generate(PROMPTS[0], max_tokens=20, seed=3, want=want, exponents=(4.0, 0.5)),
        Generate(PROMPTS[0], tokens[:4], Sampling(0.7, 8, 0.9, 0.01), 20, seed=4, want=want, exponents=(2.0,)),
        Generate(PROMPTS[1], max_tokens=1, seed=5, want=WANT, score_first=("4", "7", "nothing")),
        Generate(PROMPTS[0], max_tokens=50, seed=100, want=WANT, stop=(text[12:16],)),
        Generate(PROMPTS[0], tokens[:6], max_tokens=50, seed=101, want=(*WANT, "whole"), stop=("=", "zzz")),
        Generate(PROMPTS[0], max_tokens=0, seed=1, want=WANT),
        Generate(PROMPTS[0], max_tokens=10**6, seed=2, want=WANT, sampling=Sampling(0.001)),
        *(Likelihood(PROMPTS[i], c.tokens or ()) for i, c in ((0, expected[0]), (1, expected[6]))),
        Likelihood(PROMPTS[0], ()),
    ]
    mine, theirs = run(answers(engine, asks)), run(answers(local, asks))
    assert_same(mine, theirs)
    assert mine[2].top is not None
    assert [name for name, _ in mine[2].top[0]] == [name for name, _ in theirs[2].top[0]]
    np.testing.assert_allclose(*([v for _, v in c.top[0]] for c in (mine[2], theirs[2])), atol=TOLERANCE)
    assert mine[3].text == text[:12]


def test_plain_draws_are_vllms_own_and_repeat(run: Run, engine: Any, local: Any) -> None:
    asks = [
        Generate(prompt, max_tokens=40, seed=seed, want=("tokens", "logp"), sampling=sampling)
        for prompt in PROMPTS
        for seed in range(3)
        for sampling in (Sampling(), Sampling(0.6, top_k=20), Sampling(0.0), Sampling(1.3, top_p=0.8))
    ]
    drawn = run(answers(engine, asks))
    assert not any(completion.failure for completion in drawn)
    assert run(answers(engine, asks[::-1]))[::-1] == drawn
    scores = run(answers(local, [Likelihood(ask.messages, c.tokens) for ask, c in zip(asks, drawn, strict=True)]))
    for one, other in zip(drawn, scores, strict=True):
        np.testing.assert_allclose(one.logp, other.logp, atol=TOLERANCE)
        assert one.logq is None
        assert one.finish == "stop"
        assert one.text == other.text
        assert one.logp_sum == pytest.approx(sum(one.logp))
    greedy = [ask for ask in asks if ask.sampling.temperature == 0]
    assert [c.tokens for c in run(answers(local, greedy))] == [
        c.tokens for ask, c in zip(asks, drawn, strict=True) if ask in greedy
    ]


def assert_distributed(run: Run, local: Any, prompt: Any, sampling: Sampling, tokens: Sequence[int]) -> None:
    """Chi-square of first tokens against their distribution, in cells of five or more: false alarm 1e-4."""
    num, counts = len(tokens), Counter(tokens)
    log_probs = run(answers(local, [Likelihood(prompt, (token,)) for token in counts]))
    tempered = np.array([c.logp[0] for c in log_probs]) / sampling.temperature
    exact = run(answers(local, [Generate(prompt, (), sampling, 1, want=WANT)]))[0]
    log_total = exact.logp[0] / sampling.temperature - exact.logq[0]
    mean = num * np.exp(tempered - log_total)
    observed = np.array(list(counts.values()), dtype=float)
    is_large = mean >= 5
    cells = [*zip(observed[is_large], mean[is_large], strict=True)]
    rest = num - mean[is_large].sum()
    cells += [(observed[~is_large].sum(), rest)] if rest >= 5 else []
    assert len(cells) > 3
    statistic = sum((seen - mean) ** 2 / mean for seen, mean in cells)
    assert statistic < chi2.ppf(1 - 1e-4, len(cells) - 1), (sampling, cells)


def test_plain_draws_have_the_models_distribution(run: Run, engine: Any, local: Any) -> None:
    for sampling in (Sampling(1.5), Sampling(2.0, top_k=6)):
        asks = [Generate(PROMPTS[0], (), sampling, 1, seed=seed, want=("tokens",)) for seed in range(600)]
        tokens = [completion.tokens[0] for completion in run(answers(engine, asks))]
        assert_distributed(run, local, PROMPTS[0], sampling, tokens)


def test_guided_rows_are_the_same_whatever_runs_beside_them(run: Run, engine: Any, expected: list[Completion]) -> None:
    """Plain, guided and exploring rows in one batch, in another order."""
    beside = [Generate(PROMPTS[2], max_tokens=30, seed=seed, want=("tokens",)) for seed in range(30)]
    mixed = [ask for pair in zip(beside, [*PLAIN, *POWER], strict=False) for ask in pair][::-1] + GROUPS[8:16]
    drawn = dict(zip(mixed, run(answers(engine, mixed)), strict=True))
    chosen = [*PLAIN, *POWER, *GROUPS[8:16]]
    assert_same([drawn[ask] for ask in chosen], [expected[ASKS.index(ask)] for ask in chosen])


def test_chunks_and_preemption_change_no_draw(run: Run, narrow: Any, expected: list[Completion]) -> None:
    """Sixteen tokens a step and room for ten blocks: prompts come in pieces, rows are put off and computed again."""
    scheduler = narrow._client._engine.engine_core.engine_core.scheduler
    preempted, inner = [], scheduler._preempt_request
    scheduler._preempt_request = lambda request, *args, **kwargs: (
        preempted.append(request.request_id),
        inner(request, *args, **kwargs),
    )[1]
    drawn = run(answers(narrow, [*PLAIN, *POWER]))
    assert_same(drawn, expected[: len(drawn)])
    assert preempted, "nothing was preempted, so nothing is shown"
    completions = run(answers(narrow, GROUPS))
    assert not any(completion.failure for completion in completions)
    reports = [completion.explored for completion in completions if completion.explored]
    assert len(reports) == len(POLICIES)
    assert not any(report["problem"] for report in reports)
    assert not all(report["together"] for report in reports), "16 tokens a step cannot begin eight rows at once"
    # Whatever the schedule, every logp is the model's own.
    scores = run(answers(narrow, [Likelihood(a.messages, c.tokens) for a, c in zip(GROUPS, completions, strict=True)]))
    for one, other in zip(completions, scores, strict=True):
        np.testing.assert_allclose(one.logp, other.logp, atol=TOLERANCE)
    assert rows(narrow) == 0


def test_draws_that_all_end_at_once_make_room_for_others(
    run: Run, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it waited for ever when every draw that it had begun ended in the same moment."""

    async def at_once(ask: Any, meeting: Any) -> Completion:
        await asyncio.sleep(0)
        return Completion("", "stop")

    monkeypatch.setattr(engine, "_answer", at_once)
    monkeypatch.setattr(engine, "max_concurrency", 2)
    asks = [PLAIN[0]._replace(seed=seed) for seed in range(20)]
    assert len(run(asyncio.wait_for(answers(engine, asks), 20))) == 20


def cut_short(run: Run, engine: Any, asks: Sequence[Generate]) -> None:
    """Ask for these and cancel them as soon as another draw, of one token, has come."""

    async def cut() -> None:
        stream = engine.answer([Generate(PROMPTS[0], max_tokens=1, seed=1, want=WANT), *asks])
        assert (await anext(stream)).position == 0
        await stream.aclose()
        await asyncio.gather(*engine._background)

    run(cut())


def test_what_is_cancelled_leaves_nothing_behind(run: Run, engine: Any, expected: list[Completion]) -> None:
    cut_short(run, engine, [*group("css", "cut", 900), *PLAIN, *POWER])
    assert rows(engine) == 0
    late = run(answers(engine, group("css", "cut", 900)[3:4]))[0]
    assert late.failure is not None
    assert "again from its first draw" in late.failure.message
    assert_same(run(answers(engine, PLAIN[:6])), expected[:6])
    again = run(answers(engine, group("css", "cut", 900)))
    assert sum(completion.explored is not None for completion in again) == 1
    assert not engine._client._engine.has_unfinished_requests()


REFUSED = [
    ({"sampling": Sampling(explore="css"), "stop": ("x",)}, "leave out stop"),
    ({"sampling": Sampling(explore="esamp(warm_start=True)")}, "leave out warm_start"),
    ({"sampling": Sampling(explore="consensus"), "max_tokens": 100, "stop": ("x",)}, "leave out wave="),
    ({"sampling": Sampling(0.0, explore="css")}, "goes with no temperature of 0"),
    ({"sampling": Sampling(explore="nonsense")}, "nonsense"),
    ({"prefix": (10**6,)}, "token ids must be 0 to"),
    ({"sampling": Sampling(-1.0)}, "cannot draw with"),
    ({"want": ("logz",)}, "needs exponents"),
    ({"forbid_first": -3}, "forbid_first must be"),
]


@pytest.mark.parametrize(("changes", "why"), REFUSED)
def test_what_cannot_be_done_is_refused_in_one_line(run: Run, engine: Any, changes: Any, why: str) -> None:
    ask = Generate(PROMPTS[0], max_tokens=8, want=WANT, group="r", group_size=2)._replace(**changes)
    (completion,) = run(answers(engine, [ask]))
    assert completion.failure is not None
    assert completion.failure.kind == "BadRequest"
    assert why in completion.failure.message
    assert "\n" not in completion.failure.message


def test_a_prompt_that_is_too_long_is_a_context_overflow(run: Run, engine: Any) -> None:
    (completion,) = run(answers(engine, [Generate(PROMPTS[0], prefix=(14,) * 300, want=WANT)]))
    assert completion.failure is not None
    assert completion.failure.kind == "ContextOverflow"


def test_a_fault_of_the_bridge_ends_its_rows_and_nobody_elses(
    run: Run, engine: Any, expected: list[Completion], monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = engine._client._engine.model_executor.driver_worker.worker.samplewise_bridge

    def fault(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a made-up fault")

    plain = [ask._replace(want=("tokens",)) for ask in PLAIN[:6]]
    alone = run(answers(engine, plain))
    with monkeypatch.context() as patch:
        patch.setattr(bridge._exploring, "draw", fault)
        drawn = run(answers(engine, [*plain, *PLAIN[:2]]))
    assert drawn[:6] == alone
    for completion in drawn[6:]:
        assert completion.failure is not None
        assert "a made-up fault" in completion.failure.message
    assert_same(run(answers(engine, PLAIN[:2])), expected[:2])


def test_tokens_that_are_not_those_drawn_are_an_error(run: Run, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler that goes its own way after the bridge must not pass."""
    bridge = engine._client._engine.model_executor.driver_worker.worker.samplewise_bridge
    monkeypatch.setattr(bridge, "_ended", lambda lineup, position, drawn, reals: drawn.tokens * 0 + 14)
    (completion,) = run(answers(engine, [PLAIN[0]._replace(max_tokens=4)]))
    assert completion.failure is not None
    assert "vLLM returned other tokens than were drawn" in completion.failure.message


def test_parameters_that_would_change_a_guided_draw_are_refused() -> None:
    from vllm import SamplingParams

    from samplewise.engines.vllm.guided import GuidedDraw, encode_draw
    from samplewise.engines.vllm.processor import GuidedProcessor

    extra_args = encode_draw(GuidedDraw("a", 1, 2))
    GuidedProcessor.validate_params(SamplingParams(extra_args=extra_args))
    GuidedProcessor.validate_params(SamplingParams(n=3, temperature=0.5))
    changes: list[dict[str, Any]] = [
        {"n": 2},
        {"temperature": 0.5},
        {"top_k": 5},
        {"top_p": 0.5},
        {"min_p": 0.5},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"repetition_penalty": 1.5},
        {"min_tokens": 5},
        {"logit_bias": {1: 2.0}},
        {"allowed_token_ids": [1]},
        {"bad_words": ["a"]},
    ]
    for change in changes:
        with pytest.raises(ValueError, match=f"leave out {next(iter(change))}"):
            GuidedProcessor.validate_params(SamplingParams(extra_args=extra_args, **change))


def test_options_that_leave_only_plain_draws_say_so() -> None:
    from samplewise.core.errors import SetupError
    from samplewise.core.registry import build

    for option, why in (
        ("speculative_config={'method': 'ngram'}", "leave out speculative_config"),
        ("tensor_parallel_size=2", "tensor_parallel_size=2 has several"),
        ("pipeline_parallel_size=2", "pipeline_parallel_size=2 has several"),
        ("data_parallel_size=2", "data_parallel_size=2 has several"),
        ("worker_cls='other.Worker'", "leave out worker_cls"),
    ):
        engine = build("engine", f"vllm('tiny', {option})")
        assert engine.can == {
            *(Capability.GENERATE, Capability.SEED, Capability.TOKENS),
            *(Capability.LOGP, Capability.PREFIX, Capability.LIKELIHOOD),
        }
        assert why in engine.notes[-1]
        assert not {"worker_cls", "logits_processors"} & {*engine._options} - {option.partition("=")[0]}
    with pytest.raises(SetupError, match="has no engine argument 'colour'"):
        build("engine", "vllm('tiny', colour='red')")
    with pytest.raises(SetupError, match="leave out logprobs_mode"):
        build("engine", "vllm('tiny', logprobs_mode='processed_logprobs')")
    assert Capability.SEED not in build("engine", "vllm('tiny', seeded=False)").can
    late = build("engine", "vllm('tiny', async_scheduling=True)")
    late._facts = {"async_scheduling": True, "no_shallow": ""}
    assert Capability.EXPLORE not in late.can
    assert "leave out async_scheduling" in late.notes[-1]
