"""Learners: what predicts the deep states of a group's rows from the shallow ones, and learns from them.

`Adam` is the published one: a gradient step on the distiller for each decoding step, on all rows of the group, the
gradient's norm clipped. `Ridge` is closed form: recursive least squares on fixed features, which fits a repeated
context at once and has no rate to choose. `Frozen` never learns, `Zero` predicts zero. Each holds all groups of one
policy along a leading axis; x (G, K, d) and the mask (G, K) tell where there are rows; `live` (G,) which groups those
are.

Float32 throughout. Costs for R rows in G groups: Adam 3 R P products and some eleven passes over G weights P; Ridge
about 3 R m (m + d) products, m features.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .base import Ints, Layout
from .distiller import Shape, backward, forward
from .settings import Esamp

BETAS = (0.9, 0.999)


class Learned(NamedTuple):
    """What a step of learning says, (G,) each; nan where the learner has no such thing."""

    clipped: Tensor  # 1 where the gradient was cut


class Learner(Protocol):
    learns: bool

    def open(self, seed: int) -> None: ...

    def close(self, place: int) -> None: ...

    def predict(self, live: Ints, x: Tensor) -> Tensor:
        """Predictions (G, K, d), by the weights from before this step's learning."""
        ...

    def learn(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor) -> Learned | None:
        """Learn from the rows that were predicted last."""
        ...


def learner(settings: Esamp, dim: int, device: torch.device) -> Learner:
    """The learner of a policy."""
    if settings.control == "zero":
        return Zero(dim)
    if settings.control == "frozen":
        return Frozen(settings, dim, device)
    return Ridge(settings, dim, device) if settings.learner == "ridge" else Adam(settings, dim, device)


def without(stack: Tensor, place: int) -> Tensor:
    """A stack (S, ...) without one line."""
    return torch.cat([stack[:place], stack[place + 1 :]])


class Zero:
    learns = False

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def open(self, seed: int) -> None:
        return None

    def close(self, place: int) -> None:
        return None

    def predict(self, live: Ints, x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape[:2], self.dim)

    def learn(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor) -> Learned | None:
        return None


class Frozen:
    """A distiller with its first weights."""

    learns = False

    def __init__(self, settings: Esamp, dim: int, device: torch.device) -> None:
        self.settings, self.shape, self.device = settings, Shape(dim, settings.width), device
        self.weights = torch.zeros(0, self.shape.num_weights, device=device)
        self._tapes: tuple[object, ...] = ()

    def open(self, seed: int) -> None:
        self.weights = torch.cat([self.weights, self.shape.fresh(seed, self.device)])

    def close(self, place: int) -> None:
        self.weights = without(self.weights, place)

    def predict(self, live: Ints, x: Tensor) -> Tensor:
        return forward(self.shape, _lines(self.weights, live), x)[0]

    def learn(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor) -> Learned | None:
        return None


def _lines(stack: Tensor, live: Ints) -> Tensor:
    """The lines of groups that have rows: the stack itself where all have."""
    return stack if len(live) == len(stack) else stack[torch.from_numpy(live).to(stack.device)]


class Adam:
    """One distiller a group, in one buffer, with torch.optim.Adam's arithmetic (a test holds the two together)."""

    learns = True

    def __init__(self, settings: Esamp, dim: int, device: torch.device) -> None:
        self.settings, self.shape, self.device = settings, Shape(dim, settings.width), device
        self.weights = torch.zeros(0, self.shape.num_weights, device=device)
        self.first, self.second = self.weights.clone(), self.weights.clone()  # moments
        self.steps = np.zeros(0, dtype=np.int64)

    def open(self, seed: int) -> None:
        fresh = self.shape.fresh(seed, self.device)
        self.weights = torch.cat([self.weights, fresh])
        self.first, self.second = (torch.cat([m, torch.zeros_like(fresh)]) for m in (self.first, self.second))
        self.steps = np.append(self.steps, 0)

    def close(self, place: int) -> None:
        self.weights, self.first, self.second = (
            without(stack, place) for stack in (self.weights, self.first, self.second)
        )
        self.steps = np.delete(self.steps, place)

    def predict(self, live: Ints, x: Tensor) -> Tensor:
        predicted, self._tapes = forward(self.shape, _lines(self.weights, live), x)
        return predicted

    def learn(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor) -> Learned | None:
        some = len(layout.live) != len(self.steps)
        stacks = [_lines(stack, layout.live) for stack in (self.weights, self.first, self.second)]
        weights, first, second = stacks
        scale = 2.0 / layout.counts.float()
        if self.settings.loss == "mean":
            scale = scale / y.shape[-1]
        norm = torch.zeros(0)
        for again in range(self.settings.steps):
            if again:
                predicted, self._tapes = forward(self.shape, weights, x)
            change = layout.zeroed((predicted - y) * scale[:, None, None])
            gradients = backward(self.shape, weights, self._tapes, change)
            norm = gradients.norm(dim=1)
            gradients.mul_((self.settings.clip / (norm + 1e-6)).clamp(max=1.0)[:, None])
            self.steps[layout.live] += 1
            count = self.steps[layout.live].astype(np.float64)
            rate, root = self.settings.rate / (1 - BETAS[0] ** count), (1 - BETAS[1] ** count) ** 0.5
            first.lerp_(gradients, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(gradients, gradients, value=1 - BETAS[1])
            bottom = torch.sqrt(second, out=gradients)
            if (count == count[0]).all():  # as groups that began together do: no factor for each
                weights.addcdiv_(first, bottom.div_(root[0]).add_(self.settings.eps), value=-rate[0])
            else:
                by = [torch.from_numpy(c).float().to(self.device)[:, None] for c in (rate, root)]
                weights.sub_(first / bottom.div_(by[1]).add_(self.settings.eps) * by[0])
        if some:
            back = torch.from_numpy(layout.live).to(self.device)
            for stack, lines in zip((self.weights, self.first, self.second), stacks, strict=True):
                stack[back] = lines
        return Learned((norm > self.settings.clip).double())


class Ridge:
    """Recursive least squares: B (m, d) and P = (penalty I + sum x x')^-1 (m, m) for each group.

    For rows X with targets Y: G = P X' (I + X P X')^-1, B += G (Y - X B), P -= G X P. A row without a sample is a line
    of zeros, which changes nothing. A context seen again has its error cut to 1 / (1 + x' P x).
    """

    learns = True

    def __init__(self, settings: Esamp, dim: int, device: torch.device) -> None:
        self.settings, self.dim, self.device = settings, dim, device
        self.size = (settings.features or dim) + 1  # a constant besides
        self.solution = torch.zeros(0, self.size, dim, device=device)  # B
        self.spread = torch.zeros(0, self.size, self.size, device=device)  # P
        generator = torch.Generator()
        generator.manual_seed(self.size)  # the same map for every group
        self._map = (torch.randn(dim, settings.features, generator=generator) * (2 / dim) ** 0.5).to(device)

    def open(self, seed: int) -> None:
        self.solution = torch.cat([self.solution, self.solution.new_zeros(1, self.size, self.dim)])
        self.spread = torch.cat([self.spread, torch.eye(self.size, device=self.device)[None] / self.settings.penalty])

    def close(self, place: int) -> None:
        self.solution, self.spread = without(self.solution, place), without(self.spread, place)

    def features(self, x: Tensor) -> Tensor:
        """Fixed features (G, K, m), their last one constant."""
        mapped = torch.relu(x @ self._map) if self.settings.features else x
        return torch.nn.functional.pad(mapped / mapped.shape[-1] ** 0.5, (0, 1), value=1.0)

    def predict(self, live: Ints, x: Tensor) -> Tensor:
        self._x = self.features(x)
        return torch.bmm(self._x, _lines(self.solution, live))

    def learn(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor) -> Learned | None:
        rows = layout.zeroed(self._x)
        solution, spread = _lines(self.solution, layout.live), _lines(self.spread, layout.live)
        reach = torch.bmm(spread, rows.transpose(1, 2))  # P X' (G, m, K)
        inner = torch.bmm(rows, reach)
        inner.diagonal(dim1=1, dim2=2).add_(self.settings.forget)
        gain = torch.cholesky_solve(reach.transpose(1, 2), torch.linalg.cholesky(inner)).transpose(1, 2)
        solution.baddbmm_(gain, layout.zeroed(y - predicted))
        spread.baddbmm_(gain, reach.transpose(1, 2), alpha=-1.0)
        if self.settings.forget < 1.0:
            spread.div_(self.settings.forget)
        if len(layout.live) != len(self.solution):
            back = torch.from_numpy(layout.live).to(self.device)
            self.solution[back], self.spread[back] = solution, spread
        return None
