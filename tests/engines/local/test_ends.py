"""How a response ends, and how an ask fails: as values, beside rows that go on."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from samplewise.core.types import Completion, Generate, Likelihood, Message, RejectionBound, Sampling  # noqa: E402
from samplewise.engines.local import local  # noqa: E402


def test_every_stop_id_ends_a_row(engine: Any, kit: SimpleNamespace) -> None:
    assert engine.checkpoint.stops == kit.eos
    ended = dict.fromkeys(kit.eos, 0)
    for ask, completion in zip(asks := kit.draws(150, max_tokens=25), kit.answers(engine, asks), strict=True):
        assert not set(completion.tokens[:-1]) & set(kit.eos)
        if completion.finish == "stop":
            ended[completion.tokens[-1]] += 1
        else:
            assert completion.finish == "length"
            assert len(completion.tokens) == ask.max_tokens
            assert completion.tokens[-1] not in kit.eos
        shown = [t for t in completion.tokens if t not in (0, 1, 2)]  # special tokens have no text
        if completion.finish == "stop":
            shown = [t for t in completion.tokens[:-1] if t not in (0, 1, 2)]
        assert completion.text == " ".join(kit.words[t] for t in shown)
    assert min(ended.values()) > 0


def test_only_what_is_wanted_is_returned(engine: Any, kit: SimpleNamespace) -> None:
    whole = kit.answers(engine, asks := kit.draws(4))
    for want in [(), ("tokens",), ("logp",), ("logq", "tokens")]:
        for ask, completion in zip(asks, kit.answers(engine, [a._replace(want=want) for a in asks]), strict=True):
            other = whole[asks.index(ask)]
            for name in ("tokens", "logp", "logq"):
                got, full = getattr(completion, name), getattr(other, name)
                assert (got is None) == (name not in want)
                assert got is None or got == pytest.approx(full, abs=1e-5)
            assert completion.logp_sum == pytest.approx(other.logp_sum, abs=1e-4)
            assert completion.text == other.text


def test_stop_strings(engine: Any, kit: SimpleNamespace) -> None:
    """Of one token, of two, with a space at the end, and several: the row ends with the token that completes one."""
    asks = kit.draws(60, max_tokens=20)
    free = kit.answers(engine, asks)
    words = [c.text.split(" ") for c in free]
    seen = 0
    for stop in [("w9",), ("w12 w",), ("2 ",), ("w20", "w11", "w30"), ("no such text",)]:
        stopped = kit.answers(engine, [ask._replace(stop=stop) for ask in asks])
        for completion, full, text in zip(stopped, free, [" ".join(w) for w in words], strict=True):
            cut = min((at for s in stop if (at := text.find(s)) >= 0), default=-1)
            assert completion.tokens == full.tokens[: len(completion.tokens)]
            if cut < 0:
                assert kit.bare(completion) == kit.bare(full)
                continue
            seen += 1
            assert completion.finish == "stop"
            assert completion.text == text[:cut]
            before = engine._language.texts([completion.tokens[:-1]])[0]
            assert not any(s in before for s in stop)  # not a token later than it had to be
    assert seen > 20


def test_a_stop_string_is_sought_in_the_new_text_alone(engine: Any, kit: SimpleNamespace) -> None:
    """The prompt and the prefix hold it already."""
    ask = Generate((Message("user", "w9 w9"),), prefix=(9, 9), stop=("w9",), sampling=Sampling(0.0), max_tokens=3)
    completion = kit.answers(engine, [ask._replace(want=("tokens",))])[0]
    assert completion.usage.completion_tokens == 3 or "w9" in engine._language.texts([completion.tokens])[0]


def test_text_of_a_continuation_joins_that_of_its_prefix(engine: Any, kit: SimpleNamespace) -> None:
    whole = next(c for c in kit.answers(engine, kit.draws(40, max_tokens=12)) if len(c.tokens) == 12)
    ask = Generate(kit.question(0), prefix=whole.tokens[:5], max_tokens=4, seed=3, want=("tokens",))
    rest = kit.answers(engine, [ask])[0]
    joined = engine._language.texts([(*ask.prefix, *rest.tokens)])[0]
    assert engine._language.texts([ask.prefix])[0] + rest.text == joined.removesuffix(" </turn>")


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.5), Sampling(0.25, top_k=5), Sampling(2.0)])
def test_floor(sampling: Sampling, engine: Any, kit: SimpleNamespace) -> None:
    """The row ends with the first token that takes the sum below the value, and keeps its text. Where the sum can only
    fall it ends before that token, as soon as the token's log Z would do so (types.RejectionBound)."""
    asks = kit.draws(40, max_tokens=15, sampling=sampling)
    free = kit.answers(engine, asks)
    num_seen = Counter()
    for alpha, value in itertools.product((1.0, 4.0), (-0.3, -1.0, -4.0)):
        cut = kit.answers(engine, [ask._replace(reject_below=RejectionBound(alpha, value)) for ask in asks])
        falls = 1 <= 1 / sampling.temperature <= alpha
        for completion, full in zip(cut, free, strict=True):
            steps = [alpha * p - q for p, q in zip(full.logp, full.logq, strict=True)]
            sums = list(itertools.accumulate(steps))
            log_z = [p / sampling.temperature - q for p, q in zip(full.logp, full.logq, strict=True)]
            bounds = [total + z for total, z in zip([0.0, *sums], log_z, strict=False)]
            below = next((i + 1 for i, total in enumerate(sums) if total < value), None)
            doomed = next((i for i, bound in enumerate(bounds) if bound < value), None) if falls else None
            if below is None:
                assert doomed is None  # a bound that is one
                assert kit.bare(completion) == kit.bare(full)
            else:
                num = below if doomed is None else min(doomed, below)
                num_seen["doomed" if num < below else "below"] += 1
                assert completion.finish == "rejected"
                assert completion.tokens == full.tokens[:num]
                assert completion.usage.completion_tokens == num
                shown = [t for t in completion.tokens if t not in (0, 1, 2, 3)]
                assert completion.text.split() == [kit.words[t] for t in shown]
    assert num_seen["below"] > 20
    assert num_seen["doomed"] > 10 or sampling.temperature >= 1


def test_marks(engine: Any, plain: Any, kit: SimpleNamespace) -> None:
    """log Z and certainty of every token, of rows that want other exponents or none, in one batch."""
    wants = [((), ("tokens", "logp")), ((4.0, 0.5), ("tokens", "logz")), ((), ("tokens", "certainty"))]
    wants.append(((1.0, 2.0, 3.0), ("tokens", "logp", "logz", "certainty")))
    asks = [
        ask._replace(exponents=wants[i % 4][0], want=wants[i % 4][1], sampling=Sampling((1.0, 0.5)[i // 4 % 2]))
        for i, ask in enumerate(kit.draws(40))
    ]
    for ask, completion in zip(asks, kit.answers(engine, asks), strict=True):
        prompt = engine._language.prompt(ask.messages)
        lines = [law_powers(line, ask.exponents) for line in plain("llama", prompt + completion.tokens)]
        lines = lines[len(prompt) - 1 : -1]
        assert (completion.logz is None) == ("logz" not in ask.want)
        assert (completion.certainty is None) == ("certainty" not in ask.want)
        if completion.logz is not None:
            assert len(completion.logz) == len(completion.tokens)
            np.testing.assert_allclose(completion.logz, [powers for powers, _ in lines], atol=1e-4)
        if completion.certainty is not None:
            np.testing.assert_allclose(completion.certainty, [sure for _, sure in lines], atol=1e-4)
    bare = kit.answers(engine, [ask._replace(exponents=(), want=("tokens",)) for ask in asks])
    assert [c.tokens for c in bare] == [c.tokens for c in kit.answers(engine, asks)]


def law_powers(line: Any, exponents: tuple[float, ...]) -> tuple[list[float], float]:
    return [float(np.log((np.exp(line) ** e).sum())) for e in exponents], float(-line.mean() - np.log(len(line)))


def test_forbidden_first_token(engine: Any, kit: SimpleNamespace) -> None:
    ask = Generate(kit.question(1), sampling=Sampling(0.0), max_tokens=3, want=("tokens", "logp", "logq"))
    best = kit.answers(engine, [ask])[0].tokens[0]
    warm = ask._replace(sampling=Sampling(), forbid_first=best, max_tokens=1)
    asks = [warm._replace(seed=s) for s in range(200)] + [ask._replace(forbid_first=best), ask]
    *drawn, stuck, free = kit.answers(engine, asks)
    assert all(c.tokens[0] != best for c in drawn)
    assert all(c.logq[0] == c.logp[0] for c in drawn)  # that of the law without the ban
    assert stuck.failure.kind == "BadRequest"
    assert free.tokens[0] == best


def test_the_text_of_the_whole_response(engine: Any, kit: SimpleNamespace) -> None:
    """It is what the joined token ids say, cut where the new part is: what a sampler that splices responses keeps."""
    for ask in kit.draws(12, want=("tokens",)):
        for stop in ((), ("w1",), ("w2", " w")):
            new = ask._replace(prefix=(9, 10, 11), stop=stop)
            part, whole = kit.answers(engine, [new, new._replace(want=("tokens", "whole"))])
            assert whole.tokens == part.tokens
            assert whole.text == "w9 w10 w11" + part.text
    none = kit.answers(engine, [new._replace(max_tokens=0, want=("whole",))])[0]
    assert none.text == "w9 w10 w11"


def test_bad_asks_fail_alone(engine: Any, kit: SimpleNamespace) -> None:
    good = kit.draws(3)
    bad = {
        "BadRequest": [
            good[0]._replace(prefix=(3, kit.vocab)),
            good[0]._replace(prefix=(-1,)),
            good[0]._replace(forbid_first=kit.vocab),
            good[0]._replace(max_tokens=-1),
            good[0]._replace(sampling=Sampling(top_p=0.0)),
            good[0]._replace(exponents=(2.0, -1.0)),
            good[0]._replace(want=("logz",)),
            Likelihood(kit.question(0), (99,)),
        ],
        "ContextOverflow": [
            good[0]._replace(messages=kit.question(0, 200)),
            Likelihood(kit.question(0), (8,) * 128),
        ],
    }
    asks = [ask for some in bad.values() for ask in some]
    completions = kit.answers(engine, [good[0], *asks, *good[1:]])
    alone = kit.answers(engine, good)
    assert [c.tokens for c in (completions[0], *completions[-2:])] == [c.tokens for c in alone]
    kinds = [kind for kind, some in bad.items() for _ in some]
    for kind, completion in zip(kinds, completions[1:-2], strict=True):
        assert completion.finish == "error"
        assert completion.failure.kind == kind
        assert not completion.failure.retryable
        assert completion.usage.tokens == 0


def test_a_response_ends_where_the_context_does(engine: Any, kit: SimpleNamespace) -> None:
    messages = kit.question(0, 115)
    room = 128 - len(engine._language.prompt(messages))
    assert 0 < room < 12
    full = [Generate(messages, max_tokens=room, seed=s, want=("tokens",)) for s in range(6)]
    more = [ask._replace(max_tokens=room + 1000) for ask in full]
    filled = kit.answers(engine, full)
    assert all(c.failure is None for c in filled)
    assert any(c.finish == "length" for c in filled)
    assert [c.tokens for c in kit.answers(engine, more)] == [c.tokens for c in filled]
    assert engine.worst_case(more[0]) == engine.worst_case(full[0])


def test_no_tokens_asked_for(engine: Any, kit: SimpleNamespace) -> None:
    """Nothing goes through the model and nothing is charged: what a sampler asks for at the end of its horizon."""
    before = engine._forward.num_forwarded
    completion = kit.answers(engine, [Generate(kit.question(0), max_tokens=0, want=("tokens", "logp"))])[0]
    assert completion == Completion("", "length", (1, 0, 0, 0, 0, 0.0, 0.0), (), (), None, 0.0)
    assert engine._forward.num_forwarded == before


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), IndexError("bad\nkernel")])
@pytest.mark.parametrize("step", [0, 2])
def test_a_fault_in_the_model_is_a_value(
    error: Exception, step: int, checkpoint: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While prompts are computed, or two steps later: what ran fails, what comes next is drawn as ever."""
    engine = local(checkpoint("llama"), device="cpu")
    asks = kit.draws(6, max_tokens=9)
    before = kit.answers(engine, asks)
    engine._batch.prefixes.clear()
    real, calls = engine._forward._run, itertools.count()

    def faulty(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == step:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(engine._forward, "_run", faulty)
    during = kit.answers(engine, asks)
    lost = [c for c in during if c.finish == "error"]
    assert lost
    out_of_memory = isinstance(error, torch.OutOfMemoryError)
    assert {c.failure.kind for c in lost} == {"EngineUnavailable" if out_of_memory else "EngineError"}
    assert {c.failure.retryable for c in lost} == {out_of_memory}
    assert [kit.bare(c) for c in kit.answers(engine, asks)] == [kit.bare(c) for c in before]
    asyncio.run(engine.close())


def test_a_model_that_gives_no_numbers_fails_its_rows(checkpoint: Any, kit: SimpleNamespace) -> None:
    engine = local(checkpoint("llama"), device="cpu")
    with torch.no_grad():
        engine.checkpoint.model.lm_head.weight[5] = float("nan")
    failures = {c.failure.kind for c in kit.answers(engine, kit.draws(3))}
    assert failures == {"EngineError"}
    asyncio.run(engine.close())
