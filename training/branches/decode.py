"""A plain decoding loop over a `transformers` model, as small as can be, for what explores: groups, waves, taps.

It is to the local engine what a test's twin is to a fast routine: no queue, no stop tokens, all groups in lockstep, and
the whole contract of samplewise.explore.base in one screen. Uniforms are counted by group, sample and position, so two
policies draw with the same numbers and their difference is paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from samplewise.engines.local.forward import cache_argument
from samplewise.explore import counters
from samplewise.explore.base import EngineStep, Head, entropies
from samplewise.explore.explorer import Explorer, GroupReport
from samplewise.explore.settings import ExploreSettings


class Sampled(NamedTuple):
    """G groups of K samples of L tokens."""

    tokens: Tensor  # (G, K, L)
    logp: Tensor  # (G, K, L) nats, under the model at temperature 1
    logq: Tensor  # (G, K, L) nats, under the law drawn from
    entropy: float  # mean of the laws drawn from, nats; of the plain law where the policy drew by itself
    reports: tuple[GroupReport, ...]  # (G,)


class Taps(NamedTuple):
    """What the last forward pass left: states (N, d) of the last position."""

    deep: list[Tensor]
    shallow: list[Tensor]


@contextmanager
def taps(model: Any) -> Iterator[Taps]:
    """Listens at the head's input and at the first block's output."""
    heard = Taps([], [])

    def at_head(module: Any, args: tuple[Tensor, ...]) -> None:
        heard.deep[:] = [args[0][:, -1]]

    def at_first(module: Any, args: Any, output: Any) -> None:
        states = output if isinstance(output, Tensor) else output[0]  # a tuple before transformers 5
        heard.shallow[:] = [states[:, -1]]

    longest = max((m for m in model.modules() if isinstance(m, torch.nn.ModuleList)), key=len)
    hooks = [
        model.get_output_embeddings().register_forward_pre_hook(at_head),
        longest[0].register_forward_hook(at_first),
    ]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def head_of(model: Any) -> Head:
    """The head of a model that has a plain linear one."""
    linear = model.get_output_embeddings()
    bias = None if linear.bias is None else linear.bias.detach()
    return Head(linear.weight.detach(), bias)


def plain_law(logits: Tensor, temperature: float, min_p: float) -> Tensor:
    """Log-probabilities (N, V) at a temperature, less what is `min_p` times as likely as the likeliest."""
    log_probs = torch.log_softmax(logits.double() / temperature, dim=-1)
    if min_p:
        log_probs = log_probs.masked_fill(log_probs < log_probs.amax(-1, keepdim=True) + math.log(min_p), -math.inf)
        log_probs = torch.log_softmax(log_probs, dim=-1)
    return log_probs


def drawn(log_probs: Tensor, uniforms: Tensor) -> Tensor:
    """Tokens (N,) by the inverse of each distribution function."""
    upto = log_probs.exp().cumsum(-1)
    goal = torch.minimum(uniforms[:, None] * upto[:, -1:], torch.nextafter(upto[:, -1:], torch.zeros(1).to(upto)))
    return torch.searchsorted(upto, goal, right=True)[:, 0].clamp(max=log_probs.shape[-1] - 1)


@torch.no_grad()
def decode(
    model: Any,
    prompts: Sequence[int],
    size: int,
    length: int,
    settings: ExploreSettings | None = None,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    min_p: float = 0.0,
    wave: int | None = None,
    watch: Callable[[EngineStep], None] | None = None,
) -> Sampled:
    """One group of `size` samples for each prompt, a token; `wave` samples of each group at a time, all by default."""
    explorer = Explorer(head_of(model), max_groups=len(prompts))
    seeds = counters.random_bits(seed, np.arange(len(prompts))) >> np.uint64(11)
    parts: list[list[Tensor]] = []
    numbers: list[int] = []
    entropy, each = 0.0, wave or size
    cached = cache_argument(model)
    with taps(model) as heard:
        for first in range(0, size, each):
            samples = range(first, min(size, first + each))
            if settings is not None:
                numbers = [
                    explorer.open(str(g), settings, int(s)) for g, s in enumerate(seeds.tolist()) for _ in samples
                ]
            sample = np.tile(np.array(samples, dtype=np.int64), len(prompts))
            group = np.repeat(np.arange(len(prompts)), len(samples))
            number = np.array(numbers, dtype=np.int64) if numbers else np.full(len(group), -1)
            cache, ids = DynamicCache(), torch.tensor(prompts)[torch.from_numpy(group)]
            columns: list[Tensor] = []
            for at in range(length):
                logits = model(input_ids=ids[:, None], use_cache=True, **{cached: cache}).logits[:, -1]
                log_probs = plain_law(logits, temperature, min_p)
                position = np.full(len(group), at)
                heat = torch.full((len(group),), temperature)
                step = EngineStep(
                    number,
                    sample,
                    position,
                    heat,
                    logits,
                    log_probs,
                    heard.deep[0],
                    heard.shallow[0],
                    filtered=min_p > 0,
                )
                ids, logq, seen = take(explorer, step, torch.from_numpy(counters.uniforms(seeds[group], sample, at)))
                entropy += seen / (size * length * len(prompts))
                logp = torch.log_softmax(logits.double(), dim=-1).gather(1, ids[:, None])[:, 0]
                columns.append(torch.stack([ids.double(), logp, logq]))
                if watch is not None:
                    watch(step)
            for row in set(numbers):
                for _ in samples:
                    explorer.leave(row)
            parts.append([torch.stack(columns, dim=-1).view(3, len(prompts), len(samples), length)])
    whole = torch.cat([part for (part,) in parts], dim=2)
    drawn_for = size * length
    reports = tuple(explorer.close(number, drawn_for) for number in dict.fromkeys(numbers))
    return Sampled(whole[0].long(), whole[1], whole[2], entropy, reports)


def take(explorer: Explorer, step: EngineStep, uniforms: Tensor) -> tuple[Tensor, Tensor, float]:
    """Tokens (N,), their log-probabilities (N,) under the laws drawn from, and the sum of those laws' entropies."""
    log_probs, given = step.log_probs, []
    for advice in explorer.advise(step):
        if advice.log_probs is not None:
            log_probs = log_probs.index_copy(0, advice.rows, advice.log_probs)
        else:
            given.append(advice)
    tokens = drawn(log_probs, uniforms)
    logq = log_probs.gather(1, tokens[:, None])[:, 0]
    for advice in given:
        assert advice.tokens is not None
        assert advice.logq is not None
        tokens = tokens.index_copy(0, advice.rows, advice.tokens)
        logq = logq.index_copy(0, advice.rows, advice.logq)
    explorer.took(tokens)
    return tokens, logq, float(entropies(log_probs).sum())
