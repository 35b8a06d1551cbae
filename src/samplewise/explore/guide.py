"""Guidance: from a prediction error to the law that tokens are drawn from (arXiv 2604.24927, section 2.4 there).

    new = (1 + beta) ref - beta dist = ref + beta W (hL - predicted)          law = softmax(new / T) over the allowed

The second form, exact for a head without a cap, needs one product; with a cap both go through the head. A constant
`dist` makes this the temperature 1 / (1 + beta) and nothing else, which is why heat can be compensated:

    none      as published
    entropy   the law is heated or cooled until it has the entropy of the plain one: pure re-ranking
    gate      beta times the R^2 of the group's predictions so far (never of a row's own error, which would take
              the guidance away exactly where a context is new)
    full      divided by 1 + beta: flattens what was explored, leaves alone what is new; hot, so only with a filter
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import Head, entropies

FEW = 64  # allowed tokens of a row, up to which head rows are gathered instead of multiplied
LOWEST, HIGHEST = 0.5, 2.0  # by how much `entropy` may heat
FAR = -1e4  # nats below the likeliest: as good as cut, and finite


def guided_law(
    head: Head,
    logits: Tensor,
    law: Tensor,
    deep: Tensor,
    predicted: Tensor,
    temperature: Tensor,
    beta: Tensor,
    compensate: str,
    filtered: bool,
) -> Tensor:
    """Log-probabilities (n, V) float64 of the guided law; `beta` and `temperature` are (n,)."""
    index = _few(law) if filtered else None
    if index is None:
        new = _moved(head, logits, deep, predicted, beta)
        new = new.masked_fill(torch.isneginf(law), -math.inf) if filtered else new
        return _compensated(new, law, temperature, beta, compensate)
    own = law.gather(1, index)
    if head.cap:
        new = (1 + beta[:, None]) * logits - beta[:, None] * head(predicted)
        new = new.gather(1, index)
    else:
        moved = torch.bmm(head.weight[index], (deep - predicted).to(head.weight.dtype)[:, :, None])[:, :, 0]
        new = logits.gather(1, index) + beta[:, None] * head.scale * moved
    new = new.masked_fill(torch.isneginf(own), -math.inf)
    drawn = _compensated(new, own, temperature, beta, compensate)
    return torch.full_like(law, -math.inf, dtype=torch.float64).scatter_(1, index, drawn)


def _few(law: Tensor) -> Tensor | None:
    """The allowed tokens (n, C) of rows that allow few; None where some row allows many."""
    most = int(torch.isfinite(law).sum(-1).amax())
    return law.topk(most, dim=-1).indices if most <= FEW < law.shape[-1] else None


def _moved(head: Head, logits: Tensor, deep: Tensor, predicted: Tensor, beta: Tensor) -> Tensor:
    by = beta[:, None].to(logits.dtype)
    if head.cap:
        return (1 + by) * logits - by * head(predicted).to(logits.dtype)
    return torch.addcmul(logits, head.moved(deep - predicted).to(logits.dtype), by)


def _compensated(new: Tensor, law: Tensor, temperature: Tensor, beta: Tensor, compensate: str) -> Tensor:
    heat = temperature.double()
    if compensate == "full":
        heat = heat * (1 + beta)
    elif compensate == "entropy":
        goal = entropies(law)
        heat = heat * heat_for(new / heat[:, None].to(new.dtype), goal, LOWEST, HIGHEST)
    if bool((heat != 1).any()):
        new = new.double().div_(heat[:, None])
    return torch.log_softmax(new, dim=-1, dtype=torch.float64)


def heat_for(logits: Tensor, goal: Tensor, low: float, high: float, rounds: int = 12) -> Tensor:
    """The heats (n,) in [low, high] at which softmax(logits / heat) has the entropies `goal` (n,), to about 1e-4 nats;
    the nearer end where none has.

    Newton's steps in log heat, in which the slope of the entropy is the variance of logits / heat, with a bracket that
    falls back on its middle. Cost: a softmax over (n, V) each round, usually four.
    """
    x = (logits.double() - logits.amax(-1, keepdim=True)).clamp_(min=FAR * low)
    at, floor, ceiling = (torch.full_like(goal, math.log(v)) for v in (1.0, low, high))
    at = at.clamp(math.log(low), math.log(high))
    for _ in range(rounds):
        y = x / at.exp()[:, None]
        logp = torch.log_softmax(y, dim=-1)
        p = logp.exp()
        mean = (p * y).sum(-1)
        entropy = torch.logsumexp(y, -1) - mean
        off = entropy - goal
        if not bool((off.abs() > 1e-5).any()):
            break
        slope = (p * (y - mean[:, None]).square()).sum(-1)
        floor, ceiling = torch.where(off < 0, at, floor), torch.where(off < 0, ceiling, at)
        step = at - off / slope.clamp(min=1e-9)
        inside = (step > floor) & (step < ceiling)
        at = torch.where(off.abs() <= 1e-5, at, torch.where(inside, step, (floor + ceiling) / 2))
    return at.exp()
