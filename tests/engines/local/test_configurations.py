"""Every kind of configuration, as a tiny random checkpoint: which pass it takes, and `logp` against a plain pass."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from samplewise.core.errors import SetupError  # noqa: E402
from samplewise.core.types import Generate, Likelihood, RejectionBound  # noqa: E402
from samplewise.engines.local import forward, local  # noqa: E402

TOLERANCE = 5e-5  # nats, float32

# Soft caps and sinks of attention are computed by "eager" alone.
KINDS = (
    "cohere2 deepseek_v3 gemma gemma3 gpt2 gpt_neox granite llama4 llama_biased mistral mixtral mpt olmo olmo2 olmo3"
    " olmoe opt phi phi3 qwen2 qwen2_windows qwen2_moe qwen3 qwen3_moe smollm3 stablelm"
)
PATHS = {
    **dict.fromkeys(KINDS.split(), "cached (batched)"),
    **dict.fromkeys(["gemma2", "gpt_oss"], "cached (eager)"),
    "llama": "lean",
}

# Those whose cache cannot be used: ALiBi slopes made from a mask of one row a sequence (bloom, falcon), a mask of their
# own that ignores the one given (gpt_neo), and states that are not keys and values (lfm2, mamba).
RECOMPUTED = ["bloom", "falcon_alibi", "gpt_neo", "lfm2", "mamba"]


def expect_plain(asks: Any, completions: Any, engine: Any, log_probs: Any) -> None:
    """`logp` of every token, from one plain pass over prompt, prefix and tokens."""
    for ask, completion in zip(asks, completions, strict=True):
        assert completion.failure is None, completion.failure
        known = engine._language.prompt(ask.messages) + ask.prefix
        lines = log_probs(known + completion.tokens)[len(known) - 1 :]
        wanted = [line[token] for line, token in zip(lines, completion.tokens, strict=False)]
        np.testing.assert_allclose(completion.logp, wanted, atol=TOLERANCE)


@pytest.mark.parametrize("kind", PATHS)
def test_a_kind_takes_its_fast_pass_and_is_exact(
    kind: str, checkpoint: Any, plain: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ragged rows that join while others run, in slots that others have left, each past the windows of 5 tokens. Then
    responses cut in the middle and continued, which must cost no token that is at hand."""
    # Whatever lies in the folder, a model of kind qwen2 is given the byte-pair tokenizer of that kind.
    stock = transformers.PreTrainedTokenizerFast.from_pretrained
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", stock)
    engine = local(checkpoint(kind), device="cpu", max_rows=4)
    assert engine.checked.path.replace(", packed", "") == PATHS[kind], engine.checked.reasons
    assert engine.checked.gap <= max(4 * engine.checked.rounding, 5e-6)  # plain passes of some builds agree to the bit
    assert engine.checked.total_variation < 1e-5
    asks = kit.draws(7, want=("tokens", "logp"))
    completions = kit.answers(engine, asks)
    expect_plain(asks, completions, engine, lambda ids: plain(kind, ids))
    long = [(ask, done.tokens) for ask, done in zip(asks, completions, strict=True) if len(done.tokens) > 3][:3]
    again = [ask._replace(prefix=ids[: len(ids) // 2], max_tokens=4, seed=ask.seed + 1) for ask, ids in long]
    before = engine._forward.num_forwarded
    continued = kit.answers(engine, again)
    # A token for the logits after each prefix, and one for each token drawn but a row's last.
    assert engine._forward.num_forwarded - before == sum(len(done.tokens) for done in continued)
    expect_plain(again, continued, engine, lambda ids: plain(kind, ids))
    asyncio.run(engine.close())


@pytest.mark.parametrize("kind", RECOMPUTED)
def test_a_kind_without_usable_keys_and_values_must_be_allowed(
    kind: str, checkpoint: Any, plain: Any, kit: SimpleNamespace, recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises(SetupError, match=r"cannot reuse keys and values.*allow_slow"):
        local(checkpoint(kind), device="cpu")
    engine = local(checkpoint(kind), device="cpu", max_rows=4, allow_slow=True)
    assert isinstance(engine._forward, forward.Recomputed)
    assert engine.checked.path == "recomputed"
    assert engine.checked.reasons
    asks = kit.draws(6, want=("tokens", "logp"))
    asks.append(asks[0]._replace(prefix=(9, 10, 11), reject_below=RejectionBound(1.0, -50.0)))
    expect_plain(asks, kit.answers(engine, asks), engine, lambda ids: plain(kind, ids))
    scored = kit.answers(engine, [Likelihood(asks[0].messages, (9, 10, 11))])[0]
    prompt = engine._language.prompt(asks[0].messages)
    wanted = [line[t] for line, t in zip(plain(kind, (*prompt, 9, 10))[len(prompt) - 1 :], (9, 10, 11), strict=True)]
    np.testing.assert_allclose(scored.logp, wanted, atol=TOLERANCE)
    asyncio.run(engine.close())
    assert not recwarn.list


def test_a_prefix_that_the_model_would_not_draw(checkpoint: Any, plain: Any, kit: SimpleNamespace) -> None:
    """Windows of both kinds, and a prefix given as ids that leaves the known response after some tokens."""
    engine = local(checkpoint("gemma3"), device="cpu")
    ask = Generate(kit.question(2, 14), max_tokens=12, seed=3, want=("tokens", "logp"))
    whole = next(c for s in range(50) if len((c := kit.answers(engine, [ask._replace(seed=s)])[0]).tokens) > 7)
    other = tuple((token + 1) % kit.vocab for token in whole.tokens[3:6])
    asks = [ask._replace(prefix=whole.tokens[:cut] + other, seed=cut) for cut in (0, 3, 7)]
    expect_plain(asks, kit.answers(engine, asks), engine, lambda ids: plain("gemma3", ids))
    asyncio.run(engine.close())
