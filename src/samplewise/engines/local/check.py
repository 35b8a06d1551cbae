"""Which forward pass a model gets: the first that agrees with a plain pass on a few random ids.

Row by row, a plain pass over the whole sequence is the reference. A candidate prefills ragged rows, copies, saves and
loads them, decodes, and must give the same log-probabilities. What differs by more than rounding is not used.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from samplewise.errors import SetupError
from samplewise.keys import Key

from . import llama
from .forward import BATCHED, Cached, Forward, Ints, Masks, Recomputed, register_attention

ROUNDING = {torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 2e-1}  # nats, beside what a batch alone changes
TAIL = 3  # tokens that the check decodes one at a time


def choose(model: Any, name: str, vocab_size: int) -> Forward:
    """The fastest forward pass that is right for this model."""
    register_attention()
    rows = _rows(model, vocab_size)
    with torch.inference_mode():
        reference = [_log_probs(model(input_ids=_tensor(model, [ids]), use_cache=False).logits)[0] for ids in rows]
        alike = model(input_ids=_tensor(model, [rows[0]] * 3), use_cache=False).logits
        bound = ROUNDING.get(model.dtype, 1e-4) + 4 * _gap(_log_probs(alike)[1], reference[0])
        part = rows[0][: -2 * TAIL]
        cut = _log_probs(model(input_ids=_tensor(model, [part]), use_cache=False).logits)[0]
        if not _gap(cut, reference[0][: len(part)]) <= bound:
            raise SetupError(f"{name} is not a causal model: what it says of a token depends on the tokens after it")
        reasons = []
        loaded = model.config._attn_implementation
        for make, attention, by_kind in _candidates(model, loaded):
            try:
                model.set_attn_implementation(attention)
                forward = make(model, Masks(model, by_kind))
                gap = _disagreement(forward, rows, reference)
            except Exception as error:  # whatever a model of someone else's raises, it cannot be run this way
                reasons.append(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
                continue
            if gap <= bound:
                return forward
            reasons.append(f"log-probabilities off by {gap:.1g} nats")
        model.set_attn_implementation(loaded)
    warnings.warn(
        f"{name} is run without reusing keys and values, which is slow: every token costs a pass over all tokens before"
        f" it ({reasons[-1]})",
        stacklevel=2,
    )
    return Recomputed(model)


def _candidates(model: Any, loaded: str) -> Iterator[tuple[type[Cached], str, bool]]:
    if llama.fits(model):
        yield llama.Lean, loaded, False
    batched = [BATCHED] if model.device.type == "cpu" and model.dtype == torch.float32 else []
    for attention in dict.fromkeys([*batched, loaded, "eager"]):
        if getattr(model.config.get_text_config(), "layer_types", None):
            yield Cached, attention, True
        yield Cached, attention, False


def _rows(model: Any, vocab_size: int) -> list[list[int]]:
    """Ragged rows, a little longer than the model's window where that is short."""
    window = getattr(model.config.get_text_config(), "sliding_window", None) or 0
    longest = (window if window <= 64 else 0) + 4 * TAIL
    rng = Key(0).fold("check").generator()
    return [rng.integers(0, vocab_size, size=longest - less).tolist() for less in (0, 4, 2)]


def _disagreement(forward: Forward, rows: list[list[int]], reference: list[Tensor]) -> float:
    """The largest difference (nats) between a pass's log-probabilities and the reference."""
    gaps: list[float] = []
    device = reference[0].device
    begun = [len(ids) - TAIL for ids in rows]
    forward.reserve(2, max(begun), 0)
    first = _log_probs(forward.extend(0, [0, 0], [rows[0][: begun[0]], rows[1][: begun[1]]])[:, 0])
    saved = forward.save(0, begun[0] - 1)
    forward.reserve(4, max(begun) + TAIL, 2)  # grows in both ways
    half = begun[2] // 2
    forward.extend(2, [0], [rows[2][:half]])
    third = _log_probs(forward.extend(2, [half], [rows[2][half : begun[2]]])[:, 0])
    forward.load(3, saved, begun[0] - 1)  # row 3 is row 0 again, by way of its saved keys and values
    fourth = _log_probs(forward.extend(3, [begun[0] - 1], [[rows[0][begun[0] - 1]]])[:, 0])
    held: Ints = np.array([*begun, begun[0]], dtype=np.int64)
    owner = [0, 1, 2, 0]
    for i, line in enumerate([first[0], first[1], third[0], fourth[0]]):
        gaps.append(_gap(line, reference[owner[i]][held[i] - 1]))
    to, source = (torch.tensor([i], device=device) for i in (1, 2))
    forward.copy(to, source, int(held[2]))  # row 1 becomes row 2
    owner[1], held[1] = 2, held[2]
    for _ in range(TAIL):
        tokens = torch.tensor([rows[o][h] for o, h in zip(owner, held.tolist(), strict=True)], device=device)
        lines = _log_probs(forward.decode(0, held, tokens))
        held = held + 1
        gaps += [_gap(lines[i], reference[o][held[i] - 1]) for i, o in enumerate(owner)]
    forward.forget()
    return max(gaps, key=lambda gap: math.inf if math.isnan(gap) else gap)


def _tensor(model: Any, rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64, device=model.device)


def _log_probs(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits, dim=-1, dtype=torch.float64)


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())
