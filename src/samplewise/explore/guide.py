"""Guidance: from a prediction error to the distribution that tokens are drawn from (arXiv 2604.24927, section 2.4).

    new = (1 + beta) ref - beta dist = ref + beta W (hL - predicted)          q = softmax(new / T) over allowed tokens

The second form is exact for a head without a cap and needs one product; with a cap both terms go through the head. A
constant `dist` makes this the temperature 1 / (1 + beta) and nothing else, so the change of temperature can be
compensated:

    none      as published
    entropy   the temperature is multiplied until q has the entropy of the plain distribution: pure re-ranking
    gate      beta is multiplied by the R^2 of the group's predictions so far (never by a row's own error, which would
              remove the guidance exactly where a context is new)
    full      divided by 1 + beta: flattens what was explored and leaves the new alone; hot, so only with a filter
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import Head, entropies
from .softmax import Softmax

FEW = 64  # allowed tokens of a row, up to which head rows are gathered instead of multiplied
LOWEST, HIGHEST = 0.5, 2.0  # range of the factor that `entropy` puts on the temperature
FAR = -1e4  # nats below the likeliest: as good as filtered, and finite


def guided_log_probs(
    head: Head,
    logits: Tensor,
    log_probs: Tensor,
    deep: Tensor,
    predicted: Tensor,
    temperature: Tensor,
    beta: Tensor,
    compensate: str,
    filtered: bool,
) -> Tensor:
    """Return log-probabilities (n, V) of the guided distribution; `beta` and `temperature` are (n,)."""
    index = _few(log_probs) if filtered else None
    if index is None:
        new = _moved(head, logits, deep, predicted, beta)
        new = new.masked_fill(torch.isneginf(log_probs), -math.inf) if filtered else new
        return _compensated(new, log_probs, temperature, beta, compensate)
    allowed = log_probs.gather(1, index)
    if head.cap:
        new = (1 + beta[:, None]) * logits - beta[:, None] * head(predicted)
        new = new.gather(1, index)
    else:
        moved = torch.bmm(head.weight[index], (deep - predicted).to(head.weight.dtype)[:, :, None])[:, :, 0]
        new = logits.gather(1, index) + beta[:, None] * head.scale * moved
    new = new.masked_fill(torch.isneginf(allowed), -math.inf)
    drawn = _compensated(new, allowed, temperature, beta, compensate)
    return torch.full_like(log_probs, -math.inf).scatter_(1, index, drawn.to(log_probs.dtype))


def _few(log_probs: Tensor) -> Tensor | None:
    """Return the allowed tokens (n, C) of rows that all allow few; None where some row allows many."""
    most = int(torch.isfinite(log_probs).sum(-1).amax())
    return log_probs.topk(most, dim=-1).indices if most <= FEW < log_probs.shape[-1] else None


def _moved(head: Head, logits: Tensor, deep: Tensor, predicted: Tensor, beta: Tensor) -> Tensor:
    by = beta[:, None].to(logits.dtype)
    if head.cap:
        return (1 + by) * logits - by * head(predicted).to(logits.dtype)
    return torch.addcmul(logits, head.moved(deep - predicted).to(logits.dtype), by)


def _compensated(new: Tensor, log_probs: Tensor, temperature: Tensor, beta: Tensor, compensate: str) -> Tensor:
    divisor = temperature.double()
    if compensate == "full":
        divisor = divisor * (1 + beta)
    elif compensate == "entropy":
        goal = entropies(log_probs).double()
        divisor = divisor * temperature_factor_for(new / divisor[:, None].to(new.dtype), goal, LOWEST, HIGHEST)
    return Softmax(new, None, divisor if bool((divisor != 1).any()) else None).dense()


def temperature_factor_for(logits: Tensor, goal: Tensor, low: float, high: float, rounds: int = 12) -> Tensor:
    """Return factors f (n,) in [low, high] at which softmax(logits / f) has the entropies `goal` (n,), to about 1e-4
    nats; the nearer end where none has.

    Newton steps in log f, where the slope of the entropy is the variance of logits / f, inside a bracket whose middle
    is the fallback. Cost: a softmax over (n, V) each round, usually four.
    """
    x = (logits.double() - logits.amax(-1, keepdim=True)).clamp_(min=FAR * low)
    log_factor, lower, upper = (torch.full_like(goal, math.log(v)) for v in (1.0, low, high))
    log_factor = log_factor.clamp(math.log(low), math.log(high))
    for _ in range(rounds):
        y = x / log_factor.exp()[:, None]
        logp = torch.log_softmax(y, dim=-1)
        p = logp.exp()
        mean = (p * y).sum(-1)
        entropy = torch.logsumexp(y, -1) - mean
        off = entropy - goal
        if not bool((off.abs() > 1e-5).any()):
            break
        slope = (p * (y - mean[:, None]).square()).sum(-1)
        lower, upper = torch.where(off < 0, log_factor, lower), torch.where(off < 0, upper, log_factor)
        step = log_factor - off / slope.clamp(min=1e-9)
        inside = (step > lower) & (step < upper)
        middle = torch.where(inside, step, (lower + upper) / 2)
        log_factor = torch.where(off.abs() <= 1e-5, log_factor, middle)
    return log_factor.exp()
