"""Examine a model for people, not for a run: what it is, how it is run and how fast, and whether it can explore.

Exploring is tried on a few tokens. The taps are compared with the head, as `can_explore` does. Then a policy of
strength 0 must leave the draw as it is, bit for bit, and a strong one must change it. This finds policies that are
asked for and have no effect.
"""

from __future__ import annotations

import time
import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from samplewise.core.errors import SamplewiseError
from samplewise.core.keys import Key
from samplewise.core.types import Generate, Json, Message, Sampling
from samplewise.engines.base import Engine
from samplewise.explore.base import Advice, EngineStep, Head
from samplewise.explore.explorer import Explorer
from samplewise.explore.settings import Esamp
from samplewise.models.loading import CausalCheckpoint

from .choose import Checked
from .forward import Cached, Forward
from .language import Language
from .sample import Filters, TokenDraws, draw
from .taps import Taps, first_block, head_of

NUM_ROWS, NUM_TOKENS = 4, 4  # of the trial
STRONG = 5.0
SPEED_ROWS = (1, 16)  # responses drawn at once while the speed is measured
SPEED_S = 2.0  # of each measurement, about
LONG = (Message("user", "Tell me a long story."),)


class Examined(NamedTuple):
    """What was found. `why` is not empty where the model cannot explore; then the rest may be incomplete."""

    why: str = ""
    dim: int = 0  # of the states at both taps
    vocab: int = 0
    blocks: int = 0  # the first one is tapped
    block: str = ""  # their class
    head: tuple[str, ...] = ()  # "linear" and its additions: "bias", "scale 0.5", "soft-cap 30"
    apart: float = float(
        "nan"
    )  # distance of head(deep states) from the model's logits, relative to the largest of them
    unmoved: bool = False  # beta = 0 gave the plain draw
    moved_nats: float = float("nan")  # mean KL of the distribution at beta = 5 from the plain one


class ModelFacts(NamedTuple):
    """What a model is and how it is run. Distances are those that the check at loading found (choose.Checked)."""

    architecture: str
    parameters: int  # those that are shared count once
    dtype: str
    device: str
    context: int | None  # tokens; None: no limit is known
    chat_template: bool
    reasons: bool
    end_tokens: dict[str, Json]  # id -> text
    path: str
    refused: tuple[str, ...]  # why faster paths were refused
    rounding_nats: float
    gap_nats: float
    total_variation: float
    explores: bool


def model_facts(checkpoint: CausalCheckpoint, language: Language, checked: Checked, explores: bool) -> ModelFacts:
    model = checkpoint.model
    return ModelFacts(
        architecture=type(model).__name__,
        parameters=checkpoint.num_parameters,
        dtype=checkpoint.dtype,
        device=str(model.device),
        context=checkpoint.max_context,
        chat_template=language.has_template,
        reasons=language.reasons,
        end_tokens={str(i): str(checkpoint.tokenizer.convert_ids_to_tokens(i)) for i in checkpoint.stops},
        path=checked.path,
        refused=checked.reasons,
        rounding_nats=checked.rounding,
        gap_nats=checked.gap,
        total_variation=checked.total_variation,
        explores=explores,
    )


async def tokens_per_second(engine: Engine, num_rows: int) -> float:
    """Draw `num_rows` responses at once for about two seconds, whatever the speed. Return how many tokens came in one.

    A first, short draw computes the prompt and shows how long the next ones may be.
    """

    async def drawn(max_tokens: int, seed: int) -> int:
        asks = [Generate(LONG, max_tokens=max_tokens, seed=seed + i) for i in range(num_rows)]
        return sum([arrival.completion.usage.completion_tokens async for arrival in engine.answer(asks)])

    begun = time.perf_counter()
    total = await drawn(4, 0)
    steps = int(total / num_rows * SPEED_S / (time.perf_counter() - begun))
    begun, total, seed = time.perf_counter(), 0, num_rows
    while (elapsed := time.perf_counter() - begun) < SPEED_S / 2:
        num_new = await drawn(min(max(steps, 4), 128), seed)
        if not num_new:
            return float("nan")  # the draws fail
        total, seed = total + num_new, seed + num_rows
    return total / elapsed


def examine(forward: Forward) -> Examined:
    """Examine a model while no row runs. Cost: one pass over 16 tokens and a few rows of logits."""
    if not isinstance(forward, Cached):
        return Examined("it runs without reusing keys and values, where nothing can be tapped")
    taps, num = Taps(forward), forward.num_forwarded
    examined = Examined()
    try:
        with torch.inference_mode(), warnings.catch_warnings(action="ignore"):  # a warning is no failure
            head = head_of(forward.model)
            examined = _shapes(forward, head)
            taps.open()
            rows = Key(0).fold("examine").generator().integers(0, examined.vocab, size=(NUM_ROWS, NUM_TOKENS)).tolist()
            forward.reserve(NUM_ROWS, NUM_TOKENS, 0)
            logits = forward.extend(0, [0] * NUM_ROWS, rows)[:, 0]
            deep, shallow = taps.deep.clone(), taps.shallow.clone()
            if shallow.shape != deep.shape:
                sizes = f"{tuple(shallow.shape)} and {tuple(deep.shape)}"
                return examined._replace(
                    why=f"the states after its first block and before its head differ in shape: {sizes}"
                )
            largest = max(1.0, float(logits.float().abs().max()))
            examined = examined._replace(apart=float((head(deep).float() - logits.float()).abs().max()) / largest)
            head.check(deep, logits)
            (plain, log_probs), (none, _), (_, new) = (
                _drawn(head, logits, deep, shallow, beta) for beta in (None, 0.0, STRONG)
            )
            same = bool((none.tokens == plain.tokens).all() and (none.logq == plain.logq).all())
            moved = (new.exp() * (new - log_probs)).nan_to_num(0.0).sum(-1).mean()
            return examined._replace(unmoved=same, moved_nats=float(moved))
    except Exception as error:  # other people's models raise anything
        line = next(iter(str(error).splitlines()), "")
        return examined._replace(why=line if isinstance(error, SamplewiseError) else f"{type(error).__name__}: {line}")
    finally:
        taps.close()  # buffers stay: saved prompts are loaded into them
        forward.num_forwarded = num


def _shapes(forward: Cached, head: Head) -> Examined:
    vocab, dim = head.weight.shape
    kinds = ["linear"]
    kinds += ["bias"] if head.bias is not None else []
    kinds += [f"scale {head.scale:g}"] if head.scale != 1.0 else []
    kinds += [f"soft-cap {head.cap:g}"] if head.cap else []
    blocks = getattr(forward.model.config.get_text_config(), "num_hidden_layers", None) or 0
    return Examined("", dim, vocab, blocks, type(first_block(forward.model)).__name__, tuple(kinds))


def _drawn(head: Head, logits: Tensor, deep: Tensor, shallow: Tensor, beta: float | None) -> tuple[TokenDraws, Tensor]:
    """Run one step of a group of esamp. Return the draw, and the log-probabilities (N, V) it was drawn from."""
    num, device = len(logits), logits.device
    ones = torch.ones(num, dtype=torch.float64, device=device)
    filters = Filters.of([Sampling()], ones, torch.zeros(num, dtype=torch.int64, device=device), ones, 0 * ones)
    uniforms = torch.linspace(0.1, 0.9, num, dtype=torch.float64, device=device)
    distributions: list[Tensor] = []
    explorer = Explorer(head)
    numbers = np.full(num, -1 if beta is None else explorer.open("examine", Esamp(beta or 0.0), 0))

    def advise(lines: Tensor, log_probs: Tensor) -> list[Advice]:
        step = EngineStep(
            numbers, np.arange(num), np.zeros(num, dtype=np.int64), ones, lines, log_probs, deep, shallow, False
        )
        given = explorer.advise(step)
        distributions.append(log_probs)
        for advice in given:
            if advice.log_probs is not None:
                distributions.append(distributions.pop().index_copy(0, advice.rows, advice.log_probs))
        return given

    return draw(logits, filters, uniforms, advise=advise), distributions[0]
