"""A branching-paths world whose law is known, as a model with a linear head and states: untrained, in milliseconds.

Makes the `training` folder of the repository importable: it is no part of the package."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the local engine's extra is not installed")
pytest.importorskip("transformers", reason="the local engine's extra is not installed")

sys.path.insert(0, str(Path(__file__).parents[2]))

from training.branches import world as branches  # noqa: E402
from training.branches.decode import plain_law, take  # noqa: E402

from samplewise.explore import counters  # noqa: E402
from samplewise.explore.base import EngineStep, Head, entropies  # noqa: E402
from samplewise.explore.explorer import Explorer  # noqa: E402

V, LENGTH, VARIANTS, PROMPTS = branches.VOCAB, branches.LENGTH, branches.VARIANTS, branches.PROMPTS
JUNK = -18.0  # nats of a token that leads nowhere


class Exact:
    """The world's own law. Synonyms have head rows alike; each context has states of its own."""

    def __init__(self, seed: int = 0) -> None:
        self.world = branches.world(seed)
        weight = torch.zeros(V, PROMPTS + branches.SYMBOLS + V)
        for token in range(V):
            weight[token, token if token < PROMPTS else PROMPTS + (token - PROMPTS) // VARIANTS] = 1.0
            weight[token, PROMPTS + branches.SYMBOLS + token] = 0.4
        self.head = Head(weight)
        self.inverse = torch.linalg.pinv(weight)
        self.null = torch.linalg.svd(weight, full_matrices=True).Vh[V:]
        self.states: dict[tuple[int, ...], Any] = {}

    def state(self, prompt: int, prefix: tuple[int, ...]) -> Any:
        """Logits (V,), deep (d,), shallow (d,) after a prefix of tokens."""
        symbols = tuple((token - PROMPTS) // VARIANTS for token in prefix)
        name = (prompt, *symbols)
        if name not in self.states:
            paths = self.world.paths[prompt]
            on = self.world.weights * (paths[:, : len(symbols)] == np.array(symbols, dtype=int)).all(1)
            log_probs = np.zeros(V)
            for weight, path in zip(on, paths, strict=True):
                first = PROMPTS + VARIANTS * path[len(symbols)]
                log_probs[first : first + VARIANTS] += weight / VARIANTS / max(on.sum(), 1e-12)
            logits = torch.from_numpy(np.log(np.maximum(log_probs, np.exp(JUNK))) - JUNK).float()
            generator = torch.Generator().manual_seed(hash(name) % 2**40)
            apart = torch.randn(len(self.null), generator=generator) @ self.null
            deep = self.inverse @ logits + 20 * apart / apart.norm()
            self.states[name] = (logits, deep, torch.randn(len(deep), generator=generator))
        return self.states[name]

    def decode(
        self,
        prompts: list[int],
        size: int,
        settings: Any = None,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        min_p: float = 0.0,
        wave: int | None = None,
        shuffle: int | None = None,
        length: int = LENGTH,
        names: list[int] | None = None,
    ) -> SimpleNamespace:
        """Groups of samples, as training.branches.decode draws them. `shuffle` deals the rows in another order, and
        `names` are the groups' own numbers, which their seeds follow from."""
        explorer = Explorer(self.head, max_groups=len(prompts))
        names = list(range(len(prompts))) if names is None else names
        seeds = counters.random_bits(seed, np.array(names)) >> np.uint64(11)
        tokens = torch.zeros(len(prompts), size, length, dtype=torch.int64)
        logq, entropy, numbers = torch.zeros(len(prompts), size, length), [], []
        for first in range(0, size, wave or size):
            samples = np.arange(first, min(size, first + (wave or size)))
            group = np.repeat(np.arange(len(prompts)), len(samples))
            sample = np.tile(samples, len(prompts))
            if shuffle is not None:
                order = np.random.default_rng(shuffle).permutation(len(group))
                group, sample = group[order], sample[order]
            number = np.full(len(group), -1)
            if settings is not None:
                number = np.array([explorer.open(str(g), settings, int(seeds[g])) for g in group.tolist()])
                numbers = list(dict.fromkeys([*numbers, *sorted(set(number.tolist()))]))
            for at in range(length):
                states = [
                    self.state(prompts[g], tuple(tokens[g, s, :at].tolist()))
                    for g, s in zip(group.tolist(), sample.tolist(), strict=True)
                ]
                logits, deep, shallow = (torch.stack(part) for part in zip(*states, strict=True))
                log_probs = plain_law(logits, temperature, min_p)
                position, heat = np.full(len(group), at), torch.full((len(group),), temperature)
                step = EngineStep(number, sample, position, heat, logits, log_probs, deep, shallow, min_p > 0)
                uniforms = torch.from_numpy(counters.uniforms(seeds[group], sample, at))
                drawn, q, _ = take(explorer, step, uniforms)
                entropy.append(float(entropies(log_probs).mean()))
                tokens[group, sample, at], logq[group, sample, at] = drawn, q.float()
            for row in number.tolist():
                if row >= 0:
                    explorer.leave(row)
        reports = [explorer.close(number, size * length) for number in numbers]
        assert len(explorer) == 0
        return SimpleNamespace(tokens=tokens, logq=logq, reports=reports)

    def scores(self, prompts: list[int], tokens: Any) -> SimpleNamespace:
        """Share of valid samples, distinct paths a group (G,)."""
        found = [branches.paths_of(self.world, p, t.numpy()) for p, t in zip(prompts, tokens, strict=True)]
        return SimpleNamespace(
            valid=np.mean([(paths >= 0).mean() for paths in found]),
            coverage=np.array([len(set(paths[paths >= 0].tolist())) for paths in found]),
        )


@pytest.fixture(scope="session")
def exact() -> Exact:
    return Exact()


@pytest.fixture
def step_of() -> Any:
    """Makes a step of G groups by K samples from logits and states."""

    def make(
        logits: Any,
        deep: Any,
        shallow: Any = None,
        *,
        size: int,
        temperature: float = 1.0,
        min_p: float = 0.0,
        at: int = 0,
    ) -> EngineStep:
        rows = len(logits)
        group, sample = np.arange(rows) // size, np.arange(rows) % size
        log_probs, heat = plain_law(logits, temperature, min_p), torch.full((rows,), temperature)
        return EngineStep(group, sample, np.full(rows, at), heat, logits, log_probs, deep, shallow, min_p > 0)

    return make
