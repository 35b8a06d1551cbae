"""Learners: they predict the deep states of a group's rows from the shallow ones, and learn from the error.

`Adam` is the published learner: a gradient step on the distiller for each decoding step, on all rows of the group, the
gradient's norm clipped. `Ridge` is closed form: recursive least squares on fixed features, which fits a repeated
context at once and has no rate to choose. (controls/learners.py has two that never learn.) Each holds all groups of
one policy along a leading axis. x is (G, K, d), the mask (G, K) says where there are rows, and `live` (G,) which groups
those are.

A step of learning has two parts, so that it can run beside the engine (async_learner.py): `step` returns the work,
which any thread may do once, and `publish` makes the next predictions use it.

Float32 throughout. Costs for R rows in G groups: Adam 3 R P products and some eleven passes over G weights P; Ridge
about 3 R m (m + d) products, m features. Ridge with a small penalty (1e-3) and many similar rows exceeds float32
after some dozens of steps; its group is then broken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from samplewise.core.numerics import Ints

from .base import Layout
from .distiller import Shape, Tape, backward, forward
from .settings import Esamp

NARROW, MAPPED = 256, 256  # states up to NARROW are features themselves; wider ones get MAPPED random features
BETAS = (0.9, 0.999)
MOST = 256  # rows of a group that ridge takes at once: k rows need a k by k system


class LearnOutcome(NamedTuple):
    """The outcome of a step of learning."""

    layout: Layout  # the rows it learned from
    clipped: Tensor | None = None  # (G,) 1 where the gradient was cut; None where the learner does not clip
    end: Literal["learnt", "dropped", "failed"] = "learnt"


class Change(NamedTuple):
    """A finished step of learning that no prediction has used yet."""

    state: Tensor  # the new weights
    clipped: Tensor | None


class Learner(Protocol):
    """Predict deep states from shallow ones for every group of one policy."""

    learns: bool

    def open(self, seed: int) -> None: ...

    def close(self, index: int) -> None: ...

    def predict(self, live: Ints, x: Tensor) -> Tensor:
        """Return predictions (G, K, d), by the weights from before this step's learning."""
        ...

    def learn(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor) -> Sequence[LearnOutcome]:
        """Learn from the rows that were predicted last. Return the outcomes that are new, each once."""
        ...

    def settle(self) -> Sequence[LearnOutcome]:
        """Wait for steps under way and return their outcomes. Must be called before `open` and `close`."""
        ...


class Stepwise(ABC):
    """A learner whose steps are separate from its predictions."""

    learns = True

    @abstractmethod
    def open(self, seed: int) -> None: ...

    @abstractmethod
    def close(self, index: int) -> None: ...

    @abstractmethod
    def predict(self, live: Ints, x: Tensor) -> Tensor: ...

    @abstractmethod
    def step(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor, apart: bool) -> Callable[[], Change]:
        """Return the work of learning from the rows that were predicted last, for any thread to do once.

        With `apart` it overwrites nothing that `predict` reads. Without, nobody may predict until the change is
        published.
        """

    @abstractmethod
    def publish(self, change: Change) -> None: ...

    def learn(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor) -> Sequence[LearnOutcome]:
        change = self.step(layout, x, y, predicted, apart=False)()
        self.publish(change)
        return (LearnOutcome(layout, change.clipped),)

    def settle(self) -> Sequence[LearnOutcome]:
        return ()


def without(stack: Tensor, index: int) -> Tensor:
    """Return a stack (S, ...) without one entry."""
    return torch.cat([stack[:index], stack[index + 1 :]])


def select_rows(stack: Tensor, live: Ints) -> Tensor:
    """Return the entries of groups that have rows: the stack itself where all have."""
    return stack if len(live) == len(stack) else stack[torch.from_numpy(live).to(stack.device)]


class Adam(Stepwise):
    """One distiller a group, in one buffer, with the arithmetic of torch.optim.Adam (a test compares the two).

    New weights are written into the buffer of the gradients, so old ones stay whole as long as they are read.
    """

    def __init__(self, settings: Esamp, dim: int, device: torch.device) -> None:
        self.settings, self.shape, self.device = settings, Shape(dim, settings.width), device
        self.weights = torch.zeros(0, self.shape.num_weights, device=device)
        self.first, self.second = self.weights.clone(), self.weights.clone()  # moments
        self.steps = np.zeros(0, dtype=np.int64)
        self._tapes: tuple[Tape, ...] = ()
        self._by = self.weights  # the weights that the tapes belong to

    def open(self, seed: int) -> None:
        fresh = self.shape.fresh(seed, self.device)
        self.weights = torch.cat([self.weights, fresh])
        self.first, self.second = (torch.cat([m, torch.zeros_like(fresh)]) for m in (self.first, self.second))
        self.steps = np.append(self.steps, 0)

    def close(self, index: int) -> None:
        self.weights, self.first, self.second = (
            without(stack, index) for stack in (self.weights, self.first, self.second)
        )
        self.steps = np.delete(self.steps, index)
        self._tapes, self._by = (), self.weights

    def predict(self, live: Ints, x: Tensor) -> Tensor:
        self._by = self.weights
        predicted, self._tapes = forward(self.shape, select_rows(self._by, live), x)
        return predicted

    def step(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor, apart: bool) -> Callable[[], Change]:
        return partial(self._step, layout, x, y, predicted, self._tapes, self._by is not self.weights)

    def _step(
        self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor, tapes: tuple[Tape, ...], late: bool
    ) -> Change:
        some = len(layout.live) != len(self.steps)
        weights, first, second = (select_rows(stack, layout.live) for stack in (self.weights, self.first, self.second))
        scale = 2.0 / layout.counts.float()
        if self.settings.loss == "mean":
            scale = scale / y.shape[-1]
        norm = torch.zeros(0)
        for again in range(self.settings.steps):
            if again or late:  # `late`: the prediction was by older weights
                predicted, tapes = forward(self.shape, weights, x)
            change = layout.zeroed((predicted - y) * scale[:, None, None])
            gradients = backward(self.shape, weights, tapes, change)
            norm = gradients.norm(dim=1)
            gradients.mul_((self.settings.clip / (norm + 1e-6)).clamp(max=1.0)[:, None])
            self.steps[layout.live] += 1
            count = self.steps[layout.live].astype(np.float64)
            rate, root = self.settings.rate / (1 - BETAS[0] ** count), (1 - BETAS[1] ** count) ** 0.5
            first.lerp_(gradients, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(gradients, gradients, value=1 - BETAS[1])
            bottom = torch.sqrt(second, out=gradients)
            if (count == count[0]).all():  # groups that began together share the factor
                bottom.div_(root[0]).add_(self.settings.eps)
                weights = torch.addcdiv(weights, first, bottom, value=-rate[0], out=bottom)
            else:
                by = [torch.from_numpy(c).float().to(self.device)[:, None] for c in (rate, root)]
                bottom.div_(by[1]).add_(self.settings.eps)
                weights = torch.sub(weights, torch.div(first, bottom, out=bottom).mul_(by[0]), out=bottom)
        if some:
            back = torch.from_numpy(layout.live).to(self.device)
            self.first[back], self.second[back] = first, second
            weights = torch.index_copy(self.weights, 0, back, weights)
        return Change(weights, (norm > self.settings.clip).double())

    def publish(self, change: Change) -> None:
        self.weights = change.state


class Ridge(Stepwise):
    """Recursive least squares: B (m, d) and P = (penalty I + sum x x')^-1 (m, m) for each group.

    For rows X with targets Y: G = P X' (I + X P X')^-1, B += G (Y - X B), P -= G X P. A gap without a row is
    all zeros, which changes nothing. A context seen again has its error divided by 1 + x' P x. Rows beyond `MOST` of a
    group follow in further parts, with the same result.
    """

    def __init__(self, settings: Esamp, dim: int, device: torch.device) -> None:
        self.settings, self.dim, self.device = settings, dim, device
        self.num_random = settings.features or (MAPPED if dim > NARROW else 0)
        self.size = (self.num_random or dim) + 1  # and a constant
        self.solution = torch.zeros(0, self.size, dim, device=device)  # B
        self.spread = torch.zeros(0, self.size, self.size, device=device)  # P
        generator = torch.Generator()
        generator.manual_seed(self.size)  # the same map for every group
        self._map = (torch.randn(dim, self.num_random, generator=generator) * (2 / dim) ** 0.5).to(device)
        self._x = self._by = self.solution  # features of the rows predicted last, and the solution used

    def open(self, seed: int) -> None:
        self.solution = torch.cat([self.solution, self.solution.new_zeros(1, self.size, self.dim)])
        self.spread = torch.cat([self.spread, torch.eye(self.size, device=self.device)[None] / self.settings.penalty])

    def close(self, index: int) -> None:
        self.solution, self.spread = without(self.solution, index), without(self.spread, index)
        self._x = self._by = self.solution

    def features(self, x: Tensor) -> Tensor:
        """Return fixed features (G, K, m); the last one is constant."""
        mapped = torch.relu(x @ self._map) if self.num_random else x
        return torch.nn.functional.pad(mapped / mapped.shape[-1] ** 0.5, (0, 1), value=1.0)

    def predict(self, live: Ints, x: Tensor) -> Tensor:
        self._x, self._by = self.features(x), self.solution
        return torch.bmm(self._x, select_rows(self._by, live))

    def step(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor, apart: bool) -> Callable[[], Change]:
        late = self._by is not self.solution
        return partial(self._step, layout, self._x, y, None if late else predicted, apart)

    def _step(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor | None, apart: bool) -> Change:
        some = len(layout.live) != len(self.solution)
        solution, spread = select_rows(self.solution, layout.live), select_rows(self.spread, layout.live)
        if apart and not some:
            solution = solution.clone()
        x, forget = layout.zeroed(x), self.settings.forget
        for start in range(0, x.shape[1], MOST):
            rows, wanted = x[:, start : start + MOST], y[:, start : start + MOST]
            expected = (
                predicted[:, start : start + MOST]
                if predicted is not None and start == 0
                else torch.bmm(rows, solution)
            )
            error = wanted - expected
            if not layout.full:
                error = error * layout.mask[:, start : start + MOST, None]
            reach = torch.bmm(spread, rows.transpose(1, 2))  # P X' (G, m, K)
            inner = torch.bmm(rows, reach)
            inner.diagonal(dim1=1, dim2=2).add_(forget)
            # What rounding has ruined becomes nan, for its own group alone; raising would affect all groups.
            factor, info = torch.linalg.cholesky_ex(inner)
            factor.masked_fill_((info != 0)[:, None, None], torch.nan)
            gain = torch.cholesky_solve(reach.transpose(1, 2), factor).transpose(1, 2)
            solution.baddbmm_(gain, error)
            spread.baddbmm_(gain, reach.transpose(1, 2), alpha=-1.0)
            if forget < 1.0:
                spread.div_(forget)
            forget = 1.0  # once a step
        if some:
            back = torch.from_numpy(layout.live).to(self.device)
            self.spread[back] = spread
            solution = torch.index_copy(self.solution, 0, back, solution)
        return Change(solution, None)

    def publish(self, change: Change) -> None:
        self.solution = change.state
