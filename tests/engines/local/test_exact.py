"""`logp` against a plain forward pass of stock `transformers`, however the row came about."""

from __future__ import annotations

import asyncio
import functools
import math
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from samplewise.core.keys import Key  # noqa: E402
from samplewise.core.types import Capability, Completion, Generate, Likelihood, Sampling  # noqa: E402
from samplewise.engines.distribution import draw_log_probs  # noqa: E402
from samplewise.engines.local import (  # noqa: E402
    examine,
    forward,
    llama,
    local,
)

TOLERANCE = 1e-4  # nats, float32
CACHED = ["llama", "qwen3", "mistral", "gemma2", "gemma3", "gpt2"]


def expect_exact(ask: Generate, completion: Completion, prompt: tuple[int, ...], log_probs: Any) -> None:
    """Both arrays of a completion, token by token, from one plain pass over prompt, prefix and tokens."""
    assert completion.failure is None, completion.failure
    assert completion.tokens is not None
    assert completion.logp is not None
    assert completion.logq is not None
    known = prompt + ask.prefix
    lines = log_probs(known + completion.tokens)[len(known) - 1 :]
    for line, token, logp, logq in zip(lines, completion.tokens, completion.logp, completion.logq, strict=False):
        assert logp == pytest.approx(line[token], abs=TOLERANCE)
        log_probs = draw_log_probs(line, ask.sampling)
        assert logq == pytest.approx(log_probs[token], abs=TOLERANCE / max(ask.sampling.temperature, 0.1))
    assert completion.logp_sum == pytest.approx(math.fsum(completion.logp), abs=1e-12)
    assert completion.usage.completion_tokens == len(completion.tokens)
    assert completion.usage.prompt_tokens == len(known)


def test_ragged_rows(engine: Any, plain: Any, kit: SimpleNamespace) -> None:
    asks = kit.draws(60)
    for ask, completion in zip(asks, kit.answers(engine, asks), strict=True):
        expect_exact(ask, completion, engine._language.prompt(ask.messages), lambda ids: plain("llama", ids))


def test_filtered_rows(engine: Any, plain: Any, kit: SimpleNamespace) -> None:
    """Mixed settings in one batch. A logq taken before the filter is wrong by up to some nats here."""
    samplings = [Sampling(0.7), Sampling(1.3, top_k=5), Sampling(top_p=0.8), Sampling(0.0), Sampling(min_p=0.2)]
    asks = [ask._replace(sampling=samplings[i % 5]) for i, ask in enumerate(kit.draws(30))]
    for ask, completion in zip(asks, kit.answers(engine, asks), strict=True):
        expect_exact(ask, completion, engine._language.prompt(ask.messages), lambda ids: plain("llama", ids))


def test_rows_that_joined_late(checkpoint: Any, plain: Any, kit: SimpleNamespace) -> None:
    """Five rows run at once: each joins where another has left, in a slot that still holds the other's keys."""
    engine = local(checkpoint("llama"), device="cpu", max_rows=5)
    asks = kit.draws(40)
    for ask, completion in zip(asks, kit.answers(engine, asks), strict=True):
        expect_exact(ask, completion, engine._language.prompt(ask.messages), lambda ids: plain("llama", ids))
    asyncio.run(engine.close())


def test_a_continued_prefix_reuses_its_keys_and_values(checkpoint: Any, plain: Any, kit: SimpleNamespace) -> None:
    """A response is cut in the middle and continued: only the tokens that are not at hand go through the model."""
    engine = local(checkpoint("llama"), device="cpu")
    begin = Generate(kit.question(3, 40), max_tokens=30, seed=11, want=("tokens",), sampling=Sampling(0.9))
    whole = next(c for s in range(50) if len((c := kit.answers(engine, [begin._replace(seed=s)])[0]).tokens) >= 12)
    prompt = engine._language.prompt(begin.messages)
    asks = [
        Generate(begin.messages, whole.tokens[:cut], max_tokens=6, seed=cut, want=("tokens", "logp", "logq"))
        for cut in (0, 1, 5, 5, 9)
    ]
    before = engine._forward.num_forwarded
    completions = kit.answers(engine, asks)
    forwarded = engine._forward.num_forwarded - before
    new = sum(c.usage.completion_tokens for c in completions)
    # One token for each of four contexts, whose logits are wanted, and one for each token drawn but a row's last.
    assert forwarded == 4 + new - len(asks)
    for ask, completion in zip(asks, completions, strict=True):
        expect_exact(ask, completion, prompt, lambda ids: plain("llama", ids))
        assert completion.usage.prompt_tokens == len(prompt) + len(ask.prefix)  # whatever was at hand
        assert completion.usage.cached_tokens == 0
    other = tuple((t + 1) % kit.vocab for t in whole.tokens[5:9])  # leaves the known response after five tokens
    ask = asks[0]._replace(prefix=whole.tokens[:5] + other)
    expect_exact(ask, kit.answers(engine, [ask])[0], prompt, lambda ids: plain("llama", ids))
    asyncio.run(engine.close())


@pytest.mark.parametrize("max_bytes", [None, 200_000])
def test_a_chain_that_redraws_its_ends_computes_no_token_twice(
    max_bytes: int | None, checkpoint: Any, plain: Any, kit: SimpleNamespace
) -> None:
    """Four chains, each redrawing its response from some place on: a step's prefix is that of the response at hand, cut
    anywhere, beside rows of other lengths. One token of it goes through the model, for its logits, whichever redraws
    were taken; with little room some are forgotten and computed again, and the numbers stay right."""
    engine = local(checkpoint("llama"), device="cpu", max_bytes=max_bytes)
    want = ("tokens", "logp", "logq")
    asks = [Generate(kit.question(i, 9 + 7 * i), max_tokens=40, seed=i, want=want) for i in range(4)]
    prompts = [engine._language.prompt(ask.messages) for ask in asks]
    chains = [completion.tokens for completion in kit.answers(engine, asks)]
    rng = Key(3).generator()
    for step in range(7):
        cuts = [int(rng.integers(len(chain))) for chain in chains]
        asks = [
            Generate(
                ask.messages,
                chain[:cut],
                Sampling(0.5),
                40 - cut,
                seed=100 * step + i,
                want=want,
                forbid_first=chain[cut],
            )
            for i, (ask, chain, cut) in enumerate(zip(asks, chains, cuts, strict=True))
        ]
        before = engine._forward.num_forwarded
        drawn = kit.answers(engine, asks)
        if max_bytes is None:
            decoded = sum(len(c.tokens) for c in drawn)
            assert engine._forward.num_forwarded - before == decoded  # one to begin with, none after the last
        for i, (ask, completion, prompt) in enumerate(zip(asks, drawn, prompts, strict=True)):
            expect_exact(ask, completion, prompt, lambda ids: plain("llama", ids))
            if rng.random() < 0.5:
                chains[i] = ask.prefix + completion.tokens
        assert engine._batch.prefixes.num_bytes <= engine._batch.prefixes.max_bytes
    if max_bytes is not None:
        assert len(engine._batch.prefixes) < 8  # of 32 responses
    asyncio.run(engine.close())


def test_a_row_whose_context_is_at_hand_has_no_pass_of_its_own(
    checkpoint: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It draws its first token with the rows that run, and with the same number of its stream as on an engine that has
    never seen the response: alone, beside others, with a forbidden token or without."""
    engine, fresh = (local(checkpoint("llama"), device="cpu") for _ in range(2))
    begun = kit.draws(14, max_tokens=100)
    known = kit.answers(engine, begun)
    asks = [
        ask._replace(
            prefix=done.tokens[: len(done.tokens) // 2],
            seed=77 + i,
            forbid_first=done.tokens[len(done.tokens) // 2] if i % 2 else None,
        )
        for i, (ask, done) in enumerate(zip(begun, known, strict=True))
    ]
    asks = list({(ask.messages, ask.prefix): ask for ask in asks}.values())  # those of one context share a pass
    wanted = kit.answers(fresh, asks)
    extended = []
    monkeypatch.setattr(engine._forward, "extend", lambda *given: extended.append(given))
    assert [kit.bare(c) for c in kit.answers(engine, asks)] == [kit.bare(c) for c in wanted]
    assert kit.bare(kit.answers(engine, asks[1:2])[0]) == kit.bare(wanted[1])
    assert not extended
    assert len(asks) > 7
    for made in (engine, fresh):
        asyncio.run(made.close())


def test_a_prompt_is_computed_once_for_all_its_samples(checkpoint: Any, kit: SimpleNamespace) -> None:
    engine = local(checkpoint("llama"), device="cpu", max_rows=6)
    ask = Generate(kit.question(1, 30), max_tokens=1)
    before = engine._forward.num_forwarded
    kit.answers(engine, [ask._replace(seed=s) for s in range(20)])  # in four waves, of which three know the prompt
    assert engine._forward.num_forwarded - before == len(engine._language.prompt(ask.messages)) + 3
    asyncio.run(engine.close())


def test_likelihood(engine: Any, plain: Any, kit: SimpleNamespace) -> None:
    drawn = kit.answers(engine, asks := kit.draws(12))
    scores = [Likelihood(ask.messages, completion.tokens) for ask, completion in zip(asks, drawn, strict=True)]
    scores += [Likelihood(kit.question(0), ()), Likelihood(kit.question(9, 20), (8, 9, 10, 1))]
    found = kit.answers(engine, [*scores, *asks[:3]])  # beside rows that draw
    assert found[12].tokens == ()
    assert found[12].logp_sum == 0.0
    assert [c.tokens for c in found[14:]] == [c.tokens for c in drawn[:3]]
    for ask, completion in zip(scores, found, strict=False):
        prompt = engine._language.prompt(ask.messages)
        lines = plain("llama", prompt + ask.completion)[len(prompt) - 1 :]
        wanted = [line[token] for line, token in zip(lines, ask.completion, strict=False)]
        np.testing.assert_allclose(completion.logp, wanted, atol=TOLERANCE)
        assert completion.logq == completion.logp
        assert completion.logp_sum == math.fsum(completion.logp)
        assert completion.usage == (1, len(prompt) + len(ask.completion), 0, 0, 0, 0.0, 0.0)


def test_tokens_are_scored_at_the_first_position(engine: Any, plain: Any, kit: SimpleNamespace) -> None:
    """Beside rows that want nothing scored, for one prompt drawn several times, and one that is computed already."""
    words = ("w8", "w30", "w12")
    asks = [
        ask._replace(score_first=words if i % 3 else (), sampling=Sampling(0.5 + i % 2))
        for i, ask in enumerate(kit.draws(30))
    ]
    for _ in range(2):
        for ask, completion in zip(asks, kit.answers(engine, asks), strict=True):
            if not ask.score_first:
                assert completion.top is None
                continue
            (line,) = plain("llama", engine._language.prompt(ask.messages))[-1:]
            (scored,) = completion.top
            assert [text for text, _ in scored] == list(words)
            wanted = [line[kit.words.index(word)] for word in words]
            np.testing.assert_allclose([logp for _, logp in scored], wanted, atol=TOLERANCE)
    without = kit.answers(engine, [ask._replace(score_first=()) for ask in asks])
    assert [c.tokens for c in without] == [c.tokens for c in kit.answers(engine, asks)], "it changes no draw"
    unknown = kit.answers(engine, [kit.draws(1)[0]._replace(score_first=("no word",))])
    assert unknown[0].top is None


def test_the_lean_pass_is_for_llamas_and_checked_like_any_other(
    checkpoint: Any, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert type(engine._forward) is llama.Lean
    model = engine.checkpoint.model
    assert not llama.fits(model.model)
    with monkeypatch.context() as patch:
        patch.setattr(llama, "MAX_BYTES", 1000)
        assert not llama.fits(model)
    real = llama.Lean._rotations
    monkeypatch.setattr(llama.Lean, "_rotations", lambda self, positions: real(self, positions + 1).conj())
    wrong = local(checkpoint("llama"), device="cpu")  # no warning: the modular pass serves
    assert type(wrong._forward) is forward.Cached
    assert wrong.identity == engine.identity


LLAMAS = {
    "a head of its own for each query": {"num_key_value_heads": 4},
    "wide heads, one for keys and values": {"num_key_value_heads": 1, "head_dim": 24},
    "tied, scaled rotation": {
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
}


@pytest.mark.parametrize("changes", LLAMAS.values(), ids=LLAMAS)
def test_llamas_of_other_shapes_take_the_lean_pass(
    changes: dict[str, Any], tmp_path: Path, kit: SimpleNamespace
) -> None:
    kit.write(tmp_path / "model", "llama", **changes)
    engine = local(str(tmp_path / "model"), device="cpu", max_rows=5)
    assert type(engine._forward) is llama.Lean
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)

    def log_probs(ids: Any) -> Any:
        with torch.no_grad():
            return torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), -1).numpy()

    for ask, completion in zip(asks := kit.draws(12), kit.answers(engine, asks), strict=True):
        expect_exact(ask, completion, engine._language.prompt(ask.messages), log_probs)
    asyncio.run(engine.close())


def test_a_cache_goes_by_the_name_that_the_model_takes() -> None:
    def old(input_ids: Any, past_key_values: Any = None, **rest: Any) -> None: ...

    def new(input_ids: Any, cache: Any = None, **rest: Any) -> None: ...

    assert forward.cache_argument(SimpleNamespace(forward=old)) == "past_key_values"
    assert forward.cache_argument(SimpleNamespace(forward=new)) == "cache"


@pytest.mark.parametrize("name", CACHED)
def test_no_deprecated_name_is_used(name: str, checkpoint: Any, kit: SimpleNamespace) -> None:
    """Not even where a pass fails and the next is tried: each way of running a model is asked for, and none warns."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine = local(checkpoint(name), device="cpu")
        kit.answers(engine, kit.draws(3))
    assert isinstance(engine._forward, forward.Cached)
    assert not [str(w.message) for w in caught if "past_key_values" in str(w.message)]


def test_a_warning_is_no_failed_pass(checkpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With warnings as errors, the check took a deprecation in transformers for a fault, and every model ran slowly."""
    calls = []

    def warns(call: Any) -> Any:
        @functools.wraps(call)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            calls.append(call)
            warnings.warn("will be gone in the next release", FutureWarning, stacklevel=2)
            return call(*args, **kwargs)

        return wrapped

    folder = checkpoint("qwen3")
    kind, loader = transformers.Qwen3ForCausalLM, transformers.AutoTokenizer
    monkeypatch.setattr(kind, "forward", warns(kind.forward))
    monkeypatch.setattr(loader, "from_pretrained", warns(loader.from_pretrained))
    with warnings.catch_warnings(action="error"):
        engine = local(folder, device="cpu")
        assert examine.examine(engine._forward).why == ""
    assert len(calls) > 2
    assert type(engine._forward) is forward.Cached
    assert Capability.EXPLORE in engine.can
