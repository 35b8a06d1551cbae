"""What a model has to offer to those who explore, tried on a few tokens: for people, not for a run.

The taps are held against the head, as `can_explore` does; then a policy of no strength must leave the draw as it is,
bit for bit, and one of great strength must move it. A policy that is asked for and has no effect is what this is for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from samplewise.errors import SamplewiseError
from samplewise.explore.base import Advice, Head, Step
from samplewise.explore.explorer import Explorer
from samplewise.explore.settings import Esamp
from samplewise.keys import Key
from samplewise.types import Sampling

from .forward import Cached, Forward
from .sample import Drawn, Filters, draw
from .taps import Taps, first_block, head_of

NUM_ROWS, NUM_TOKENS = 4, 4  # of what is tried
STRONG = 5.0


class Examined(NamedTuple):
    """`why` is not empty where the model cannot explore; the rest is then as far as it was found out."""

    why: str = ""
    dim: int = 0  # of the states at both taps
    vocab: int = 0
    blocks: int = 0  # the first of which is tapped
    block: str = ""  # their kind
    head: tuple[str, ...] = ()  # "linear", and what comes to it: "bias", "scale 0.5", "soft-cap 30"
    apart: float = float("nan")  # head(deep states) from the model's own logits, relative to the largest of these
    unmoved: bool = False  # beta = 0 gave the plain draw
    moved_nats: float = float("nan")  # KL of the law at beta = 5 against the plain one, mean


def examine(forward: Forward) -> Examined:
    """Looks at a model that no row runs in. Cost: one pass over 16 tokens and a few rows of logits."""
    if not isinstance(forward, Cached):
        return Examined("it runs without reusing keys and values, where nothing can be tapped")
    taps, num = Taps(forward), forward.num_forwarded
    found = Examined()
    try:
        with torch.inference_mode():
            head = head_of(forward.model)
            found = _shapes(forward, head)
            taps.open()
            rows = Key(0).fold("examine").generator().integers(0, found.vocab, size=(NUM_ROWS, NUM_TOKENS)).tolist()
            forward.reserve(NUM_ROWS, NUM_TOKENS, 0)
            logits = forward.extend(0, [0] * NUM_ROWS, rows)[:, 0]
            deep, shallow = taps.deep.clone(), taps.shallow.clone()
            if shallow.shape != deep.shape:
                sizes = f"{tuple(shallow.shape)} and {tuple(deep.shape)}"
                return found._replace(
                    why=f"the states after its first block and before its head differ in shape: {sizes}"
                )
            largest = max(1.0, float(logits.float().abs().max()))
            found = found._replace(apart=float((head(deep).float() - logits.float()).abs().max()) / largest)
            head.check(deep, logits)
            (plain, law), (none, _), (_, new) = (
                _drawn(head, logits, deep, shallow, beta) for beta in (None, 0.0, STRONG)
            )
            same = bool((none.tokens == plain.tokens).all() and (none.logq == plain.logq).all())
            moved = (new.exp() * (new - law)).nan_to_num(0.0).sum(-1).mean()
            return found._replace(unmoved=same, moved_nats=float(moved))
    except Exception as error:  # a model of another make raises what it likes
        line = next(iter(str(error).splitlines()), "")
        return found._replace(why=line if isinstance(error, SamplewiseError) else f"{type(error).__name__}: {line}")
    finally:
        taps.close()  # buffers stay: what is kept of earlier prompts is loaded into them
        forward.num_forwarded = num


def _shapes(forward: Cached, head: Head) -> Examined:
    vocab, dim = head.weight.shape
    kinds = ["linear"]
    kinds += ["bias"] if head.bias is not None else []
    kinds += [f"scale {head.scale:g}"] if head.scale != 1.0 else []
    kinds += [f"soft-cap {head.cap:g}"] if head.cap else []
    blocks = getattr(forward.model.config.get_text_config(), "num_hidden_layers", None) or 0
    return Examined("", dim, vocab, blocks, type(first_block(forward.model)).__name__, tuple(kinds))


def _drawn(head: Head, logits: Tensor, deep: Tensor, shallow: Tensor, beta: float | None) -> tuple[Drawn, Tensor]:
    """One step of a group of esamp: what was drawn, and the law (N, V) that it was drawn from."""
    num, device = len(logits), logits.device
    ones = torch.ones(num, dtype=torch.float64, device=device)
    filters = Filters.of([Sampling()], ones, torch.zeros(num, dtype=torch.int64, device=device), ones, 0 * ones)
    uniforms = torch.linspace(0.1, 0.9, num, dtype=torch.float64, device=device)
    laws: list[Tensor] = []
    explorer = Explorer(head)
    numbers = np.full(num, -1 if beta is None else explorer.open("examine", Esamp(beta or 0.0), 0))

    def advise(lines: Tensor, law: Tensor) -> list[Advice]:
        step = Step(numbers, np.arange(num), np.zeros(num, dtype=np.int64), ones, lines, law, deep, shallow, False)
        given = explorer.advise(step)
        laws.append(law)
        for advice in given:
            if advice.law is not None:
                laws.append(laws.pop().index_copy(0, advice.rows, advice.law))
        return given

    return draw(logits, filters, uniforms, advise=advise), laws[0]
