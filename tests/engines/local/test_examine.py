"""Looking at a model before it explores: what is found, and that what is amiss is found out."""

from __future__ import annotations

import asyncio
import math
import time
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from samplewise.core.errors import EngineError  # noqa: E402
from samplewise.core.types import Completion, Usage  # noqa: E402
from samplewise.engines.base import Arrival  # noqa: E402
from samplewise.engines.local import examine as module  # noqa: E402
from samplewise.engines.local import local  # noqa: E402
from samplewise.engines.local.examine import Examined, examine  # noqa: E402
from samplewise.engines.local.taps import Taps, head_of  # noqa: E402
from samplewise.engines.toy import Toy  # noqa: E402
from samplewise.explore.base import Head  # noqa: E402
from samplewise.explore.esamp import EsampPolicy  # noqa: E402


@pytest.mark.parametrize(
    ("kind", "block", "head"),
    [
        ("llama", "LlamaDecoderLayer", ("linear",)),
        ("qwen3", "Qwen3DecoderLayer", ("linear",)),
        ("gemma2", "Gemma2DecoderLayer", ("linear", "soft-cap 30")),
        ("gpt2", "GPT2Block", ("linear",)),
    ],
)
def test_a_model_that_can_explore(kind: str, block: str, head: tuple[str, ...], checkpoint: Any) -> None:
    engine = local(checkpoint(kind), device="cpu")
    forwarded = engine._forward.num_forwarded
    found = Examined(**engine.exploration())
    assert (found.why, found.dim, found.vocab, found.blocks) == ("", 32, 40, 2)
    assert (found.block, found.head) == (block, head)
    assert 0 <= found.apart < 1e-4
    assert found.unmoved
    assert found.moved_nats > 0.05
    assert engine._forward.num_forwarded == forwarded
    assert not engine.checkpoint.model.get_output_embeddings()._forward_pre_hooks
    assert Examined(**engine.exploration()) == found
    asyncio.run(engine.close())


def test_what_a_model_is(checkpoint: Any, kit: SimpleNamespace) -> None:
    """What doctor shows is what the engine uses; shared weights count once."""
    engine = local(checkpoint("llama"), device="cpu")
    facts = module.model_facts(engine.checkpoint, engine._language, engine.checked, True)
    assert (facts.architecture, facts.dtype, facts.device, facts.context) == ("LlamaForCausalLM", "float32", "cpu", 128)
    assert facts.parameters == sum(w.numel() for w in {id(w): w for w in engine.checkpoint.model.parameters()}.values())
    assert facts.end_tokens == {str(i): kit.words[i] for i in kit.eos}
    assert (facts.chat_template, facts.reasons, facts.explores) == (True, False, True)
    assert (facts.path, facts.gap_nats, facts.refused) == ("lean", engine.checked.gap, engine.checked.reasons)
    asyncio.run(engine.close())


class Metered(Toy):
    """An engine that draws `rate` tokens a second, by the clock that it moves."""

    def __init__(self, rate: float, longest: int = 10**9) -> None:
        super().__init__(3)
        self.rate, self.longest, self.now, self.calls = rate, longest, 100.0, []

    async def answer(self, asks: Any) -> Any:
        num = [min(ask.max_tokens, self.longest) for ask in asks]
        self.calls.append((len(asks), asks[0].max_tokens, {ask.seed for ask in asks}))
        self.now += sum(num) / self.rate
        for position, tokens in enumerate(num):
            yield Arrival(position, Completion("", "length", Usage(1, 3, tokens)))


@pytest.mark.parametrize("rate", [0.5, 7.0, 80.0, 5000.0])
@pytest.mark.parametrize("num_rows", [1, 16])
def test_speed_is_tokens_over_time(rate: float, num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a clock that the engine moves: the measured rate is its rate, in about two seconds where four tokens allow."""
    engine = Metered(rate)
    monkeypatch.setattr(module.time, "perf_counter", lambda: engine.now)
    assert asyncio.run(module.tokens_per_second(engine, num_rows)) == pytest.approx(rate)
    assert all(num == num_rows for num, _, _ in engine.calls)
    drawn = [seeds for _, _, seeds in engine.calls]
    assert len(set.union(*drawn)) == num_rows * len(drawn)  # never the same draw twice
    one_step = num_rows / rate
    assert 1.0 <= engine.now - 100.0 - 4 * one_step <= max(2.5, 4 * one_step + 1e-9)


def test_the_speed_of_draws_that_fail_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Metered(10.0, longest=0)
    assert math.isnan(asyncio.run(module.tokens_per_second(engine, 2)))


def test_between_two_runs_it_changes_nothing(checkpoint: Any, kit: SimpleNamespace) -> None:
    """The prompt is at hand from before, as saved keys and values, and is loaded again."""
    engine = local(checkpoint("llama"), device="cpu")
    before = kit.answers(engine, kit.draws(4))
    while engine._thread is not None:  # it lingers
        time.sleep(0.01)
    assert Examined(**engine.exploration()).why == ""
    assert [kit.bare(c) for c in kit.answers(engine, kit.draws(4))] == [kit.bare(c) for c in before]
    asyncio.run(engine.close())


def test_one_that_cannot_says_why(checkpoint: Any) -> None:
    engine = local(checkpoint("mamba"), device="cpu", allow_slow=True)
    found = Examined(**engine.exploration())
    assert found.why == "it runs without reusing keys and values, where nothing can be tapped"
    assert math.isnan(found.apart)
    asyncio.run(engine.close())


def test_a_head_that_is_not_the_models(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is told, and the shapes that were found before it."""
    right = head_of(engine.checkpoint.model)
    monkeypatch.setattr(module, "head_of", lambda model: Head(right.weight, scale=2.0))
    found = examine(engine._forward)
    assert found.why.startswith("cannot explore with this model: its head applied to the deep states is")
    assert found.apart == pytest.approx(1.0)  # twice the logits
    assert found.head == ("linear", "scale 2")
    assert not found.unmoved


def test_taps_of_different_shapes(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Taps, "shallow", property(lambda self: torch.zeros(4, 7)))
    assert examine(engine._forward).why.endswith("differ in shape: (4, 7) and (4, 32)")


def test_a_model_of_another_make(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(model: Any) -> Any:
        raise AttributeError("no such head\nand more")

    monkeypatch.setattr(module, "head_of", none)
    assert examine(engine._forward).why == "AttributeError: no such head"


def test_a_policy_without_effect_is_found_out(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch that never reaches the sampler: every counter reads well, and nothing moves."""
    monkeypatch.setattr(EsampPolicy, "advise", lambda self, rows: None)
    found = examine(engine._forward)
    assert found.unmoved
    assert found.moved_nats == 0.0


def test_a_policy_that_always_acts_is_found_out(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    guided = EsampPolicy._guided

    def always(self: EsampPolicy, rows: Any) -> Any:
        object.__setattr__(self.settings, "beta", 1.0)
        return guided(self, rows)

    monkeypatch.setattr(EsampPolicy, "_guided", always)
    assert not examine(engine._forward).unmoved


def test_it_is_not_looked_at_while_it_works(engine: Any, kit: SimpleNamespace) -> None:
    async def go() -> None:
        stream = engine.answer(kit.draws(3, max_tokens=60))
        await anext(stream)
        with pytest.raises(EngineError, match="is busy"):
            engine.exploration()
        await stream.aclose()

    asyncio.run(go())
    while engine._thread is not None:  # tests that follow use its forward pass themselves
        time.sleep(0.01)
