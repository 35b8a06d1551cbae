"""What is drawn: from the ask and its seed alone, by the law that was asked for."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from scipy.stats import chi2  # noqa: E402

from samplewise.core.keys import Key  # noqa: E402
from samplewise.core.types import Generate, Message, Sampling  # noqa: E402
from samplewise.engines.distribution import draw_log_probs  # noqa: E402
from samplewise.engines.local import batch, columns, local  # noqa: E402


def test_a_draw_does_not_depend_on_its_company(checkpoint: Any, engine: Any, kit: SimpleNamespace) -> None:
    """Some 700 tokens: in one batch, in small batches, in another order, and alone.

    A flip needs a uniform within the rounding (about 1e-7) of an edge of the law: odds of below 1e-3 for this test, and
    the seeds are fixed, so it flips on a machine always or never."""
    samplings = [Sampling(), Sampling(0.5), Sampling(1.4, top_k=6), Sampling(top_p=0.9, min_p=0.02), Sampling(0.0)]
    asks = [ask._replace(sampling=samplings[i % 5]) for i, ask in enumerate(kit.draws(120))]
    together = kit.answers(engine, asks)
    few = local(checkpoint("llama"), device="cpu", max_rows=9)
    few._batch.chunk = 4  # and several passes a step
    assert [c.tokens for c in kit.answers(few, asks)] == [c.tokens for c in together]
    backwards = kit.answers(engine, asks[::-1])[::-1]
    assert [c.tokens for c in backwards] == [c.tokens for c in together]
    for i in range(0, 120, 12):
        alone = kit.answers(engine, [asks[i]])[0]
        assert alone.tokens == together[i].tokens
        assert alone.text == together[i].text
        assert alone.usage == together[i].usage
        np.testing.assert_allclose(alone.logp, together[i].logp, atol=1e-5)
    asyncio.run(few.close())


def test_a_seed_is_a_draw(engine: Any, kit: SimpleNamespace) -> None:
    ask = Generate(kit.question(2), max_tokens=8, want=("tokens",))
    texts = [c.text for c in kit.answers(engine, [ask._replace(seed=s) for s in (1, 1, 2, 3, 4)])]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 2


def test_uniforms_are_the_seeds_stream_beyond_a_block(
    engine: Any, plain: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Token t is drawn with number t of the stream, as in the toy engine: refilled blocks neither skip nor repeat."""
    ask = Generate(kit.question(4), max_tokens=40, want=("tokens",), sampling=Sampling(1.5))
    prompt = engine._language.prompt(ask.messages)
    for module in (batch, columns):
        monkeypatch.setattr(module, "BLOCK", 4)
    small = batch.Batch(
        engine._forward,
        engine._language,
        engine.checkpoint.stops,
        torch.device("cpu"),
        max_rows=8,
        chunk=8,
        prefix_bytes=0,
    )
    with torch.inference_mode():
        done = small.join([batch.PreparedAsk(ask._replace(seed=s), prompt, s) for s in range(8)])
        while small.num_rows:
            done += small.step()
    assert max(len(d.completion.tokens) for d in done) > 9
    for seed, completion in done:
        lines = plain("llama", prompt + completion.tokens)[len(prompt) - 1 :]
        uniforms = Key(seed).generator().random(len(completion.tokens))
        for line, token, uniform in zip(lines, completion.tokens, uniforms, strict=False):
            mass = np.exp(draw_log_probs(line, ask.sampling))
            edges = np.concatenate([[0], mass.cumsum()])
            assert edges[token] - 1e-5 <= uniform <= edges[token + 1] + 1e-5


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.6, top_k=7), Sampling(1.5, top_p=0.8), Sampling(min_p=0.1)], ids=str
)
def test_draws_follow_the_law(sampling: Sampling, engine: Any, plain: Any, kit: SimpleNamespace) -> None:
    """First tokens against the exact law, chi-square; a right engine fails each with odds of 1e-6 over the seeds."""
    num = 1500
    ask = Generate(kit.question(5), sampling=sampling, max_tokens=1, want=("tokens",))
    completions = kit.answers(engine, [ask._replace(seed=s) for s in range(num)])
    counts = Counter(c.tokens[0] for c in completions)
    mass = np.exp(draw_log_probs(plain("llama", engine._language.prompt(ask.messages))[-1], sampling))
    assert all(mass[token] > 0 for token in counts)
    often = [t for t in range(kit.vocab) if num * mass[t] >= 5]
    seen = np.array([*(counts[t] for t in often), num - sum(counts[t] for t in often)])
    wanted = num * np.array([*mass[often], 1 - mass[often].sum()])
    kept = wanted > 1
    statistic = ((seen - wanted)[kept] ** 2 / wanted[kept]).sum()
    assert statistic < chi2.isf(1e-6, kept.sum() - 1)


def test_a_whole_response_has_its_probability(engine: Any, plain: Any, kit: SimpleNamespace) -> None:
    """Pairs of tokens at a sharp temperature: the second follows from the first, in the row that drew it.

    The commonest pair's count is within 5 standard errors of its exact odds (false alarm below 1e-6)."""
    num, sampling = 2000, Sampling(0.5)
    ask = Generate(kit.question(6), sampling=sampling, max_tokens=2, want=("tokens",))
    prompt = engine._language.prompt(ask.messages)
    counts = Counter(c.tokens for c in kit.answers(engine, [ask._replace(seed=s) for s in range(num)]))
    pair, count = next((p, c) for p, c in counts.most_common() if len(p) == 2)
    lines = plain("llama", prompt + pair)[len(prompt) - 1 :]
    odds = float(np.exp(sum(draw_log_probs(lines[i], sampling)[pair[i]] for i in range(2))))
    assert abs(count - num * odds) < 5 * np.sqrt(num * odds * (1 - odds))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_greedy_is_what_generate_gives(kind: str, checkpoint: Any, kit: SimpleNamespace) -> None:
    engine = local(checkpoint(kind), device="cpu")
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint(kind), dtype=torch.float32)
    asks = [Generate(kit.question(i, 3 + i), sampling=Sampling(0.0), max_tokens=12, want=("tokens",)) for i in range(6)]
    for ask, completion in zip(asks, kit.answers(engine, asks), strict=True):
        ids = torch.tensor([engine._language.prompt(ask.messages)])
        settings = transformers.GenerationConfig(
            do_sample=False, max_new_tokens=12, eos_token_id=list(engine.checkpoint.stops), pad_token_id=0
        )
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        assert completion.tokens == tuple(whole[0, ids.shape[1] :].tolist())
    asyncio.run(engine.close())


def test_an_assistant_message_at_the_end_is_continued(engine: Any) -> None:
    begun = engine._language.prompt((Message("user", "w8 w9"), Message("assistant", "w10 w11")))
    asked = engine._language.prompt((Message("user", "w8 w9"),))
    assert begun == (*asked, 10, 11)
