"""The check at loading: what rounding does is measured and forgiven, in every precision; a wrong pass is not."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.support import wrong_passes  # noqa: E402

from samplewise.core.errors import SetupError  # noqa: E402
from samplewise.core.registry import build  # noqa: E402
from samplewise.engines.local import choose, forward, llama, local  # noqa: E402

DTYPES = ["float32", "bfloat16", "float16"]


@pytest.fixture(scope="module")
def load(checkpoint: Any) -> Callable[[str, str], Any]:
    def get(kind: str, dtype: str = "float32") -> Any:
        model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint(kind), dtype=getattr(torch, dtype))
        return model.eval().requires_grad_(False)

    return get


def chosen(model: Any, **given: Any) -> choose.Chosen:
    return choose.choose_forward(model, "m", model.config.vocab_size, **given)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["mistral", "gemma3", "gpt2", "qwen3_moe"])
def test_a_right_pass_is_taken_and_a_wrong_one_refused(
    kind: str, dtype: str, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fault alone: in the mask, the positions, the windows, what is copied, saved and loaded, and the slots."""
    model = load(kind, dtype)
    found = chosen(model)
    assert isinstance(found.forward, forward.Cached)

    assert found.checked.gap <= max(4 * found.checked.rounding, 0.05 if dtype != "float32" else 1e-5)
    windows = kind in {"mistral", "gemma3"}
    by_kind = kind == "gemma3"
    with torch.inference_mode(), choose.short_windows(model.config):
        reference = choose.plain_reference(model, "m", choose.check_rows(40))
        for name, fault in wrong_passes.FAULTS.items():
            if windows or name not in wrong_passes.OF_WINDOWS:
                with monkeypatch.context() as patch:
                    fault(patch)
                    wrong = forward.Cached(model, forward.Masks(model, by_kind))
                    distance = choose.worst(choose.stages(wrong, reference).values())
                assert distance.nats > 1.5 * reference.bound.nats, name


@pytest.mark.parametrize("fault", ["a token does not see itself", "a loaded prefix is not written"])
def test_a_model_whose_passes_are_all_wrong_is_refused(
    fault: str, load: Any, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    wrong_passes.FAULTS[fault](monkeypatch)
    model = load("llama")
    attention = model.config._attn_implementation
    with pytest.raises(SetupError, match=r"^m cannot reuse .*\(lean: log-probabilities off by .*allow_slow=True"):
        chosen(model)
    found = chosen(model, allow_slow=True)
    assert isinstance(found.forward, forward.Recomputed)
    assert found.checked.path == "recomputed"
    assert [reason.split(":")[0] for reason in found.checked.reasons][:2] == ["lean", "cached (batched)"]
    assert model.config._attn_implementation == attention
    assert not recwarn.list


def test_rounding_is_measured_on_the_model(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits that move by 3e-4 with the shape of the batch, as those of real models do: no fixed bound knows that."""
    model = load("llama")
    real = model.lm_head.forward

    def rounded(x: Any) -> Any:
        logits = real(x)
        rng = torch.Generator().manual_seed(x.shape[0] * 1000 + x.shape[1])
        return logits + 3e-4 * torch.randn(logits.shape[-1], generator=rng)

    monkeypatch.setattr(model.lm_head, "forward", rounded)
    found = chosen(model)
    assert found.checked.path == "lean"
    assert 1e-4 < found.checked.rounding < 5e-3
    assert 1e-4 < found.checked.gap < 5e-3
    wrong_passes.FAULTS["decoded one position too far"](monkeypatch)
    with pytest.raises(SetupError, match="rounding explains"):
        chosen(model)


@pytest.mark.parametrize(("nats", "is_right"), [(5e-6, True), (5e-4, False)])
def test_passes_that_agree_to_the_bit_here_need_not_do_so_elsewhere(
    nats: float, is_right: bool, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor whose fast kernels round otherwise than its plain ones, which agree with one another to the bit."""
    model = load("llama")
    real = llama.Lean.decode

    def rounded(self: Any, *given: Any) -> Any:
        logits = real(self, *given)
        return logits + nats * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))

    monkeypatch.setattr(llama.Lean, "decode", rounded)
    monkeypatch.setattr(choose, "MULTIPLE", 0.0)  # as if no rounding had been measured
    assert (chosen(model, allow_slow=True).checked.path == "lean") == is_right


def test_windows_are_short_for_the_check_alone(load: Any) -> None:
    model = load("gemma3")
    model.config.sliding_window = 4096
    found = chosen(model)
    assert model.config.sliding_window == 4096
    assert isinstance(found.forward, forward.Cached)
    assert found.forward.masks.reach["sliding_attention"] == (4096, None)
    model.config.sliding_window = 2  # shorter than the check's: stays
    with choose.short_windows(model.config) as shortened:
        assert not shortened
        assert model.config.sliding_window == 2


@pytest.mark.parametrize("fault", wrong_passes.OF_WINDOWS)
def test_a_long_window_is_checked_too(fault: str, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The windows of real models are longer than the rows of the check."""
    model = load("mistral")
    model.config.sliding_window = 4096
    wrong_passes.FAULTS[fault](monkeypatch)
    with pytest.raises(SetupError, match="rounding explains"):
        chosen(model)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_that_sees_later_tokens_is_not_causal(dtype: str) -> None:
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    generator = torch.Generator().manual_seed(7)
    model = transformers.BertLMHeadModel(config).eval().requires_grad_(False)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.normal_(0.0, 0.3, generator=generator)
    with pytest.raises(SetupError, match="not a causal model"):
        chosen(model.to(getattr(torch, dtype)), allow_slow=True)


def test_the_text_of_the_check_is_encoded(engine: Any) -> None:
    plain = choose.check_rows(50)
    rows = choose.check_rows(50, lambda text: {"input_ids": [7, 8, 9]})
    assert rows[0] == [7, 8, 9, *plain[0][3:]]
    assert rows[2] == [7, 8, 9, *plain[0][3:5], *plain[2][5:]]
    assert rows[1] == plain[1]
    assert choose.check_rows(50, lambda text: {"input_ids": [11] * 40})[0] == [11] * 10


def test_distances_are_taken_where_there_is_mass() -> None:
    reference = torch.tensor([[0.5, 0.5, 1e-9], [0.2, 0.7, 0.1]], dtype=torch.float64).log()
    other = torch.tensor([[0.25, 0.75, 1e-5], [0.2, 0.7, 0.1]], dtype=torch.float64).log()
    found = choose.distance_between(other, reference)
    assert found.nats == pytest.approx(math.log(2) / 2, rel=1e-4)  # not the log(10,000) of the third token
    assert found.total_variation == pytest.approx(0.25 / 2, rel=1e-4)
    assert math.isnan(choose.distance_between(other * math.nan, reference).nats)
    assert not choose.Distance(math.nan, 0.0).within(choose.Distance(1.0, 1.0))
    assert not choose.Distance(0.0, 2.0).within(choose.Distance(1.0, 1.0))
    assert math.isnan(choose.worst([choose.Distance(1.0, math.nan), choose.Distance(2.0, 0.0)]).total_variation)
    assert choose.worst([choose.Distance(1.0, 3.0), choose.Distance(2.0, 0.0)]) == (2.0, 3.0)


def test_what_was_refused_is_kept_and_the_next_is_taken(checkpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = llama.Lean._rotations
    monkeypatch.setattr(llama.Lean, "_rotations", lambda self, positions: real(self, positions).conj())
    engine = local(checkpoint("llama"), device="cpu")
    assert engine.checked.path == "cached (batched)"
    (reason,) = engine.checked.reasons
    assert reason.startswith("lean: log-probabilities off by")


def test_a_spec_can_allow_the_slow_pass(checkpoint: Any, kit: SimpleNamespace) -> None:
    folder = checkpoint("mamba")
    with pytest.raises(SetupError, match="cannot reuse keys and values"):
        build("engine", f"local('{folder}', device='cpu')")
    engine = build("engine", f"local('{folder}', device='cpu', allow_slow=True)")
    assert engine.checked.path == "recomputed"
    assert [c.finish for c in kit.answers(engine, kit.draws(2))] != ["error"] * 2
    asyncio.run(engine.close())


DRAW = """
import asyncio, sys
from samplewise.core.types import Generate, Message
from samplewise.engines.local import local

async def draw(engine):
    asks = [Generate((Message("user", "w7 w8"),), (9,) * (i % 3), max_tokens=4, seed=i) for i in range(4)]
    async for arrival in engine.answer(asks):
        assert arrival.completion.failure is None, arrival.completion.failure
    await engine.close()

for folder in sys.argv[1:]:
    asyncio.run(draw(local(folder, device="cpu", allow_slow=folder.endswith("mamba"))))
"""


def test_nothing_is_said_while_a_model_is_loaded_and_draws(checkpoint: Any) -> None:
    """In a process of its own, where every warning is shown: those of the libraries do not reach the user."""
    folders = [checkpoint(kind) for kind in ("llama", "gemma3", "mamba")]
    command = [sys.executable, "-W", "always:::transformers", "-W", "always:::samplewise", "-c", DRAW, *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
