"""`logp` against a plain forward pass of stock `transformers`, however the row came about."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from samplewise.engines.law import draw_law  # noqa: E402
from samplewise.engines.local import check, forward, llama, local  # noqa: E402
from samplewise.keys import Key  # noqa: E402
from samplewise.types import Completion, Floor, Generate, Likelihood, Sampling  # noqa: E402

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
        law = draw_law(line, ask.sampling)
        assert logq == pytest.approx(law[token], abs=TOLERANCE / max(ask.sampling.temperature, 0.1))
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


@pytest.mark.parametrize("kind", CACHED[1:])
def test_other_architectures(kind: str, checkpoint: Any, plain: Any, kit: SimpleNamespace) -> None:
    """Windows of 5 tokens, soft caps, grouped heads and learned positions, each beyond the window's length."""
    engine = local(checkpoint(kind), device="cpu", max_rows=7)
    assert isinstance(engine._forward, forward.Cached)
    asks = kit.draws(14)
    completions = kit.answers(engine, asks)
    longest = max(completions, key=lambda c: len(c.tokens))
    asks.append(
        Generate(asks[completions.index(longest)].messages, longest.tokens[:-1], want=asks[0].want, max_tokens=9)
    )
    completions += kit.answers(engine, asks[-1:])
    for ask, completion in zip(asks, completions, strict=True):
        expect_exact(ask, completion, engine._language.prompt(ask.messages), lambda ids: plain(kind, ids))
    asyncio.run(engine.close())


@pytest.mark.parametrize("kind", ["mamba", "bloom"])
def test_models_without_plain_keys_and_values_are_recomputed(
    kind: str, checkpoint: Any, plain: Any, kit: SimpleNamespace
) -> None:
    with pytest.warns(UserWarning, match="without reusing keys and values"):
        engine = local(checkpoint(kind), device="cpu", max_rows=4)
    assert isinstance(engine._forward, forward.Recomputed)
    asks = kit.draws(8)
    asks.append(asks[0]._replace(prefix=(9, 10, 11), floor=Floor(1.0, -50.0)))
    for ask, completion in zip(asks, kit.answers(engine, asks), strict=True):
        expect_exact(ask, completion, engine._language.prompt(ask.messages), lambda ids: plain(kind, ids))
    scored = kit.answers(engine, [Likelihood(asks[0].messages, (9, 10, 11))])[0]
    prompt = engine._language.prompt(asks[0].messages)
    wanted = [line[t] for line, t in zip(plain(kind, (*prompt, 9, 10))[len(prompt) - 1 :], (9, 10, 11), strict=True)]
    np.testing.assert_allclose(scored.logp, wanted, atol=TOLERANCE)
    asyncio.run(engine.close())


MUTANTS = {
    "positions one too high": ("decode", lambda self, first, held, tokens: _decode_at(self, first, held + 1, tokens)),
    "a copied row keeps its own keys": ("copy", lambda self, to, source, length: None),
    "a loaded prefix is not written": ("load", lambda self, row, saved, length: None),
    "the mask shows the slots of whoever was here before": ("masks", None),
}


def _decode_at(self: Any, first: int, held: Any, tokens: Any) -> Any:
    return _DECODE(self, first, held, tokens)


_DECODE = forward.Cached.decode


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_check_refuses_a_wrong_pass(mutant: str, checkpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fault of the cached pass is seen when a model is loaded, and the slow pass is taken instead."""
    name, wrong = MUTANTS[mutant]
    if wrong is None:
        shown = lambda self, positions, slots, kind: torch.zeros(*positions.shape, len(slots))[:, None]  # noqa: E731
        monkeypatch.setattr(forward.Masks, "_mask", shown)
    else:
        monkeypatch.setattr(forward.Cached, name, wrong)
    with pytest.warns(UserWarning, match="off by"):
        engine = local(checkpoint("llama"), device="cpu")
    assert isinstance(engine._forward, forward.Recomputed)


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


def test_the_check_refuses_a_mask_without_windows(checkpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = forward.Masks._mask
    monkeypatch.setattr(forward.Masks, "_mask", lambda self, p, s, kind: real(self, p, s, "full_attention"))
    with pytest.warns(UserWarning, match="off by"):
        local(checkpoint("mistral"), device="cpu")


def test_the_check_takes_the_right_pass(engine: Any) -> None:
    model = engine.checkpoint.model
    rows = check._rows(model, engine.checkpoint.vocab_size)
    with torch.inference_mode():
        reference = [check._log_probs(model(input_ids=torch.tensor([ids]), use_cache=False).logits)[0] for ids in rows]
        gap = check._disagreement(forward.Cached(model, forward.Masks(model, False)), rows, reference)
    assert gap < 2e-5
