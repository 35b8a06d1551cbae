"""Matrices in the processor's layout compute the same; 8-bit ones compute nearly the same, each row by itself."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from samplewise.core.errors import SetupError
from samplewise.core.types import Completion, Generate, Message
from samplewise.engines.local import local
from samplewise.engines.local.choose import choose_forward
from samplewise.engines.local.int8 import Int8Linear, quantize
from samplewise.engines.local.packed import PackedLinear, is_packed, pack, unpack
from samplewise.models import TINY

hugging: Any = transformers
ROWS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])


def qwen(tied: bool = True) -> Any:
    config = hugging.Qwen2Config(
        vocab_size=96,
        hidden_size=24,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng():
        model = hugging.Qwen2ForCausalLM(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator) * (0.3 if weight.ndim > 1 else 1.0))
    return model


def log_probs(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return torch.log_softmax(model(input_ids=ids, use_cache=False).logits.double(), dim=-1)


@pytest.mark.parametrize("tied", [True, False])
def test_a_packed_model_computes_the_same_and_unpacks_to_the_bit(tied: bool) -> None:
    model = qwen(tied)
    plain, before = log_probs(model, ROWS), copy.deepcopy(model.state_dict())
    assert pack(model) == 5, "the way up of two layers, gate and up, and the head"
    assert is_packed(model)
    kinds = {name: type(module) for name, module in model.named_modules()}
    assert kinds["model.layers.0.mlp.up_proj"] is PackedLinear
    assert kinds["model.layers.0.mlp.down_proj"] is nn.Linear, "a way down gains nothing"
    assert float((log_probs(model, ROWS) - plain).abs().max()) < 1e-4
    head = model.get_output_embeddings()
    assert torch.equal(head.weight, before["lm_head.weight"])
    assert (head.weight is model.get_input_embeddings().weight) == tied, "a matrix that is there twice is not copied"
    unpack(model)
    assert not is_packed(model)
    assert torch.equal(log_probs(model, ROWS), plain)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_bias_is_added() -> None:
    layer = nn.Linear(3, 6).requires_grad_(False)
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2))
    packed = PackedLinear(layer, tied=False)
    assert torch.allclose(packed(x), layer(x), atol=1e-6)
    assert torch.equal(packed.unpacked().bias, layer.bias)


def test_a_layer_with_code_of_its_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return -super().forward(x)

    model = qwen(tied=False)
    other = Other(24, 96, bias=False).requires_grad_(False)
    model.set_output_embeddings(other)
    pack(model)
    assert model.get_output_embeddings() is other
    half = qwen().bfloat16()
    assert pack(half) == 0


def test_the_check_sees_a_wrong_layout_and_runs_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: PackedLinear, x: torch.Tensor) -> torch.Tensor:
        return -torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")

    model = qwen()
    right = choose_forward(model, "q", 96)
    assert right.checked.path == "cached (batched, packed)"
    unpack(model)
    monkeypatch.setattr("samplewise.engines.local.packed._works", lambda: True)
    monkeypatch.setattr(PackedLinear, "forward", wrong)
    chosen = choose_forward(model, "q", 96)
    assert chosen.checked.path == "cached (batched)"
    assert "cached (batched, packed): log-probabilities off by" in chosen.checked.reasons[0]
    assert not is_packed(model)


def test_8_bit_rows_do_not_depend_on_their_company() -> None:
    """To the bit: a row is scaled by itself, and sums of integers have no order. Without a scale of its own, a row of
    small values beside one of large values would be rounded to nothing."""
    generator = torch.Generator().manual_seed(3)
    layer = nn.Linear(40, 30).requires_grad_(False)
    layer.weight.copy_(torch.randn(30, 40, generator=generator))
    small = Int8Linear(layer)
    rows = torch.randn(7, 40, generator=generator) * torch.logspace(-4, 4, 7)[:, None]
    together = small(rows)
    for index in range(7):
        assert torch.equal(small(rows[index : index + 1])[0], together[index])
    assert torch.equal(small(rows.view(1, 7, 40))[0], together)
    exact = layer(rows)
    error = (together - exact).abs().amax(1) / (exact - layer.bias).abs().amax(1)
    assert float(error.max()) < 0.03, "a step of the activations is 1/127 of a row's largest"
    assert float(error.min()) > 0, "another distribution, and said to be"
    assert torch.equal(small(torch.zeros(1, 40))[0], layer.bias), "a row of zeros has no scale"


def test_an_8_bit_model_is_close_and_its_head_is_whole() -> None:
    model = qwen(tied=False)
    plain = log_probs(model, ROWS)
    head = model.get_output_embeddings()
    quantize(model, "q")
    assert model.get_output_embeddings() is head
    assert sum(isinstance(module, Int8Linear) for module in model.modules()) == 14
    near = log_probs(model, ROWS)
    variation = (near.exp() - plain.exp()).abs().sum(-1) / 2
    assert 0 < float(variation.mean()) < 0.1


def test_8_bit_weights_need_a_processor_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    with pytest.raises(SetupError, match=r'tiny cannot run with dtype="int8" on cpu \(DEFAULT\): it needs .* AVX2'):
        quantize(qwen(), "tiny")


def test_an_8_bit_engine_draws_what_its_model_says(tmp_path: Path) -> None:
    """Its log-probabilities are those of its own model's plain pass; its name and its notes say that it is another."""
    engine, plain = local(str(TINY), dtype="int8"), local(str(TINY))

    async def drawn() -> list[Completion]:
        ask = Generate((Message("user", "make 24 from 4 6 7 8"),), max_tokens=12, seed=1, want=("tokens", "logp"))
        asks = [ask._replace(seed=seed) for seed in range(6)]
        return [arrival.completion async for arrival in engine.answer(asks)]

    completions = asyncio.run(drawn())
    prompt = engine.checkpoint.tokenizer.apply_chat_template(
        [{"role": "user", "content": "make 24 from 4 6 7 8"}], add_generation_prompt=True, return_dict=False
    )
    for completion in completions:
        assert completion.tokens is not None
        assert completion.logp is not None
        ids = torch.tensor([[*prompt, *completion.tokens]])
        lines = log_probs(engine.checkpoint.model, ids)[0, len(prompt) - 1 : -1]
        expected = lines.gather(1, torch.tensor(completion.tokens)[:, None])[:, 0]
        assert float((torch.tensor(completion.logp) - expected).abs().max()) < 0.05, "a rounding flips a step at most"
    assert engine.identity == plain.identity.replace(":float32:", ":int8:")
    assert any("8-bit weights draw from a distribution close to" in note for note in engine.notes)
    assert engine.checkpoint.num_parameters == plain.checkpoint.num_parameters
    asyncio.run(engine.close())
    asyncio.run(plain.close())


def test_an_unknown_dtype_names_the_known_ones() -> None:
    with pytest.raises(SetupError, match="dtype must be one of float32, float16, bfloat16, int8, auto, got 'int4'"):
        local(str(TINY), dtype="int4")


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt2"])
def test_the_head_sees_rows_that_lie_together(kind: str, checkpoint: Any, kit: Any) -> None:
    """Of rows that lie apart torch copies the head for each, in half precision: gigabytes, and minutes."""
    engine = local(checkpoint(kind), device="cpu", dtype="bfloat16")
    seen: list[tuple[int, bool]] = []
    head = engine.checkpoint.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0].numel(), inputs[0].is_contiguous())))
    asks = [Generate(kit.question(num, num), seed=num, max_tokens=2) for num in range(5, 10)]
    kit.answers(engine, asks)
    assert max(seen)[0] == 5 * 32  # the last token alone, of all five rows at once
    assert all(is_close for _, is_close in seen)
