"""Learners that never learn, for the controls of esamp: `Zero` predicts zero, `Frozen` keeps its first weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from samplewise.core.numerics import Ints
from samplewise.explore.base import Layout
from samplewise.explore.distiller import Shape, forward
from samplewise.explore.learn import LearnOutcome, select_rows, without
from samplewise.explore.settings import Esamp


class Zero:
    """Predict zero."""

    learns = False

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def open(self, seed: int) -> None:
        return None

    def close(self, index: int) -> None:
        return None

    def predict(self, live: Ints, x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape[:2], self.dim)

    def learn(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor) -> Sequence[LearnOutcome]:
        return ()

    def settle(self) -> Sequence[LearnOutcome]:
        return ()


class Frozen:
    """Predict with a distiller that keeps its first weights."""

    learns = False

    def __init__(self, settings: Esamp, dim: int, device: torch.device) -> None:
        self.settings, self.shape, self.device = settings, Shape(dim, settings.width), device
        self.weights = torch.zeros(0, self.shape.num_weights, device=device)

    def open(self, seed: int) -> None:
        self.weights = torch.cat([self.weights, self.shape.fresh(seed, self.device)])

    def close(self, index: int) -> None:
        self.weights = without(self.weights, index)

    def predict(self, live: Ints, x: Tensor) -> Tensor:
        return forward(self.shape, select_rows(self.weights, live), x)[0]

    def learn(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor) -> Sequence[LearnOutcome]:
        return ()

    def settle(self) -> Sequence[LearnOutcome]:
        return ()
