"""Learners: what predicts the deep states of a group's rows from the shallow ones, and learns from them.

`Adam` is the published one: a gradient step on the distiller for each decoding step, on all rows of the group, the
gradient's norm clipped. `Ridge` is closed form: recursive least squares on fixed features, which fits a repeated
context at once and has no rate to choose. `Frozen` never learns, `Zero` predicts zero. Each holds all groups of one
policy along a leading axis; x (G, K, d) and the mask (G, K) tell where there are rows; `live` (G,) which groups those
are.

A step of learning is in two parts, so that it can run beside the engine (aside.py): `step` is the work, which any
thread may do once, and `publish` makes the next predictions see it.

Float32 throughout. Costs for R rows in G groups: Adam 3 R P products and some eleven passes over G weights P; Ridge
about 3 R m (m + d) products, m features. Ridge with a small penalty (1e-3) and many rows alike outruns float32 after
some dozens of steps; its group is then broken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .base import Ints, Layout
from .distiller import Shape, Tape, backward, forward
from .settings import Esamp

NARROW, MAPPED = 256, 256  # states up to so wide are features themselves; so many random ones of wider states
BETAS = (0.9, 0.999)
MOST = 256  # rows of a group that ridge takes at once: with k of them it solves systems of k by k


class Learned(NamedTuple):
    """What came of a step of learning."""

    layout: Layout  # its rows
    clipped: Tensor | None = None  # (G,) 1 where the gradient was cut; None where the learner has no such thing
    end: Literal["learnt", "dropped", "failed"] = "learnt"


class Change(NamedTuple):
    """A step of learning that is done, and that no prediction has seen."""

    state: Tensor  # what to predict by
    clipped: Tensor | None


class Learner(Protocol):
    learns: bool

    def open(self, seed: int) -> None: ...

    def close(self, place: int) -> None: ...

    def predict(self, live: Ints, x: Tensor) -> Tensor:
        """Predictions (G, K, d), by the weights from before this step's learning."""
        ...

    def learn(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor) -> Sequence[Learned]:
        """Learn from the rows that were predicted last: what came of this and of earlier steps, each told once."""
        ...

    def settle(self) -> Sequence[Learned]:
        """What came of steps that are not told of yet, waiting for them. Must be called before `open` and `close`."""
        ...


class Stepwise(ABC):
    """A learner whose steps are work apart from its predictions."""

    learns = True

    @abstractmethod
    def open(self, seed: int) -> None: ...

    @abstractmethod
    def close(self, place: int) -> None: ...

    @abstractmethod
    def predict(self, live: Ints, x: Tensor) -> Tensor: ...

    @abstractmethod
    def step(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor, apart: bool) -> Callable[[], Change]:
        """The work of learning from the rows that were predicted last, for any thread to do once. With `apart` it
        writes over nothing that `predict` reads; without, nobody may predict until the change is published."""

    @abstractmethod
    def publish(self, change: Change) -> None: ...

    def learn(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor) -> Sequence[Learned]:
        change = self.step(layout, x, y, predicted, apart=False)()
        self.publish(change)
        return (Learned(layout, change.clipped),)

    def settle(self) -> Sequence[Learned]:
        return ()


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

    def learn(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor) -> Sequence[Learned]:
        return ()

    def settle(self) -> Sequence[Learned]:
        return ()


class Frozen:
    """A distiller with its first weights."""

    learns = False

    def __init__(self, settings: Esamp, dim: int, device: torch.device) -> None:
        self.settings, self.shape, self.device = settings, Shape(dim, settings.width), device
        self.weights = torch.zeros(0, self.shape.num_weights, device=device)

    def open(self, seed: int) -> None:
        self.weights = torch.cat([self.weights, self.shape.fresh(seed, self.device)])

    def close(self, place: int) -> None:
        self.weights = without(self.weights, place)

    def predict(self, live: Ints, x: Tensor) -> Tensor:
        return forward(self.shape, _lines(self.weights, live), x)[0]

    def learn(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor) -> Sequence[Learned]:
        return ()

    def settle(self) -> Sequence[Learned]:
        return ()


def _lines(stack: Tensor, live: Ints) -> Tensor:
    """The lines of groups that have rows: the stack itself where all have."""
    return stack if len(live) == len(stack) else stack[torch.from_numpy(live).to(stack.device)]


class Adam(Stepwise):
    """One distiller a group, in one buffer, with torch.optim.Adam's arithmetic (a test holds the two together).

    New weights are written into the buffer of the gradients, so old ones stay whole for as long as somebody reads them.
    """

    def __init__(self, settings: Esamp, dim: int, device: torch.device) -> None:
        self.settings, self.shape, self.device = settings, Shape(dim, settings.width), device
        self.weights = torch.zeros(0, self.shape.num_weights, device=device)
        self.first, self.second = self.weights.clone(), self.weights.clone()  # moments
        self.steps = np.zeros(0, dtype=np.int64)
        self._tapes: tuple[Tape, ...] = ()
        self._by = self.weights  # what the tapes are of

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
        self._tapes, self._by = (), self.weights

    def predict(self, live: Ints, x: Tensor) -> Tensor:
        self._by = self.weights
        predicted, self._tapes = forward(self.shape, _lines(self._by, live), x)
        return predicted

    def step(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor, apart: bool) -> Callable[[], Change]:
        return partial(self._step, layout, x, y, predicted, self._tapes, self._by is not self.weights)

    def _step(
        self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor, tapes: tuple[Tape, ...], late: bool
    ) -> Change:
        some = len(layout.live) != len(self.steps)
        weights, first, second = (_lines(stack, layout.live) for stack in (self.weights, self.first, self.second))
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
            if (count == count[0]).all():  # as groups that began together do: no factor for each
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

    For rows X with targets Y: G = P X' (I + X P X')^-1, B += G (Y - X B), P -= G X P. A row without a sample is a line
    of zeros, which changes nothing. A context seen again has its error cut to 1 / (1 + x' P x). Rows beyond `MOST` of a
    group follow in further parts, which comes to the same.
    """

    def __init__(self, settings: Esamp, dim: int, device: torch.device) -> None:
        self.settings, self.dim, self.device = settings, dim, device
        self.num_random = settings.features or (MAPPED if dim > NARROW else 0)
        self.size = (self.num_random or dim) + 1  # a constant besides
        self.solution = torch.zeros(0, self.size, dim, device=device)  # B
        self.spread = torch.zeros(0, self.size, self.size, device=device)  # P
        generator = torch.Generator()
        generator.manual_seed(self.size)  # the same map for every group
        self._map = (torch.randn(dim, self.num_random, generator=generator) * (2 / dim) ** 0.5).to(device)
        self._x = self._by = self.solution  # features of the rows predicted last, and by what

    def open(self, seed: int) -> None:
        self.solution = torch.cat([self.solution, self.solution.new_zeros(1, self.size, self.dim)])
        self.spread = torch.cat([self.spread, torch.eye(self.size, device=self.device)[None] / self.settings.penalty])

    def close(self, place: int) -> None:
        self.solution, self.spread = without(self.solution, place), without(self.spread, place)
        self._x = self._by = self.solution

    def features(self, x: Tensor) -> Tensor:
        """Fixed features (G, K, m), their last one constant."""
        mapped = torch.relu(x @ self._map) if self.num_random else x
        return torch.nn.functional.pad(mapped / mapped.shape[-1] ** 0.5, (0, 1), value=1.0)

    def predict(self, live: Ints, x: Tensor) -> Tensor:
        self._x, self._by = self.features(x), self.solution
        return torch.bmm(self._x, _lines(self._by, live))

    def step(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor, apart: bool) -> Callable[[], Change]:
        late = self._by is not self.solution
        return partial(self._step, layout, self._x, y, None if late else predicted, apart)

    def _step(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor | None, apart: bool) -> Change:
        some = len(layout.live) != len(self.solution)
        solution, spread = _lines(self.solution, layout.live), _lines(self.spread, layout.live)
        if apart and not some:
            solution = solution.clone()
        x, forget = layout.zeroed(x), self.settings.forget
        for at in range(0, x.shape[1], MOST):
            rows, wanted = x[:, at : at + MOST], y[:, at : at + MOST]
            known = predicted[:, at : at + MOST] if predicted is not None and at == 0 else torch.bmm(rows, solution)
            wrong = wanted - known
            if not layout.full:
                wrong = wrong * layout.mask[:, at : at + MOST, None]
            reach = torch.bmm(spread, rows.transpose(1, 2))  # P X' (G, m, K)
            inner = torch.bmm(rows, reach)
            inner.diagonal(dim1=1, dim2=2).add_(forget)
            # What rounding has ruined is no number from here on, and no other group's concern (it would be an error).
            factor, info = torch.linalg.cholesky_ex(inner)
            factor.masked_fill_((info != 0)[:, None, None], torch.nan)
            gain = torch.cholesky_solve(reach.transpose(1, 2), factor).transpose(1, 2)
            solution.baddbmm_(gain, wrong)
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
