"""The check at loading, on a real model: rounding is forgiven in every precision, a wrong pass in none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.support import wrong_passes  # noqa: E402

from samplewise.engines.local import choose, forward  # noqa: E402

pytestmark = pytest.mark.real


def test_the_engine_takes_a_fast_pass(engine: Any) -> None:
    checked = engine.checked
    assert checked.path != "recomputed"
    assert checked.reasons == ()
    assert 1e-6 < checked.rounding < 1e-3
    assert checked.gap <= 4 * checked.rounding


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_right_pass_is_taken_and_a_wrong_one_refused(
    dtype: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    model.eval().requires_grad_(False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        reference = choose.plain_reference(model, "m", choose.check_rows(model.config.vocab_size, tokenizer))
        for name, fault in [("none", None), *wrong_passes.FAULTS.items()]:
            if name in wrong_passes.OF_WINDOWS:
                continue
            with monkeypatch.context() as patch:
                if fault is not None:
                    fault(patch)
                pass_ = forward.Cached(model, forward.Masks(model, False))
                distance = choose.worst(choose.stages(pass_, reference).values())
            if fault is None:
                assert distance.within(reference.bound)
            else:
                assert distance.nats > 2 * reference.bound.nats, name
