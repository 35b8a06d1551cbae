"""The branching-paths world: prompts with a few weighted paths each, which share beginnings and then part.

A prompt has PATHS paths of LENGTH symbols. The first is random; each further one copies an earlier one up to a cut and
goes on at random; path i has weight in proportion to i ** -1.3. Each symbol is written as one of VARIANTS tokens at
random, so a step away from a branch has ln 3 nats of entropy that mean nothing, as wording does in real text. What a
group of samples covers is known in closed form for independent draws from the true law.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from samplewise.core.keys import Key
from samplewise.core.numerics import Floats

PROMPTS, PATHS, LENGTH, SYMBOLS, VARIANTS = 12, 8, 12, 30, 3
LATEST_CUT = 8
DECAY = 1.3
VOCAB = PROMPTS + SYMBOLS * VARIANTS  # a prompt is one token; symbol s as variant v is PROMPTS + VARIANTS * s + v
RARE = 2  # the last so many paths count as rare

Ints = NDArray[np.int64]


class World(NamedTuple):
    """`paths` (PROMPTS, PATHS, LENGTH) symbols, all different within a prompt; `weights` (PATHS,) sum to 1."""

    paths: Ints
    weights: Floats


def world(seed: int) -> World:
    """The world of a seed."""
    rng = Key(seed).fold("branches").generator()
    paths = np.zeros((PROMPTS, PATHS, LENGTH), dtype=np.int64)
    for prompt in range(PROMPTS):
        seen: set[tuple[int, ...]] = set()
        for number in range(PATHS):
            while True:
                path = rng.integers(0, SYMBOLS, LENGTH)
                if number:
                    cut = int(rng.integers(0, LATEST_CUT + 1))
                    path[:cut] = paths[prompt, int(rng.integers(0, number)), :cut]
                if tuple(path.tolist()) not in seen:
                    break
            seen.add(tuple(path.tolist()))
            paths[prompt, number] = path
    weights = np.arange(1, PATHS + 1) ** -DECAY
    return World(paths, weights / weights.sum())


def rows(world: World, rng: np.random.Generator, num: int) -> Ints:
    """Sequences (num, 1 + LENGTH): a prompt's token and a path of it in random wording."""
    prompt = rng.integers(0, PROMPTS, num)
    path = rng.choice(PATHS, num, p=world.weights)
    symbols = world.paths[prompt, path]
    tokens = PROMPTS + VARIANTS * symbols + rng.integers(0, VARIANTS, symbols.shape)
    return np.concatenate([prompt[:, None], tokens], axis=1)


def paths_of(world: World, prompt: int, tokens: Ints) -> Ints:
    """Which path each of the responses (N, LENGTH) is, or -1 (N,)."""
    symbols = np.where(tokens >= PROMPTS, (tokens - PROMPTS) // VARIANTS, -1)
    same = (symbols[:, None, :] == world.paths[prompt][None]).all(-1)  # (N, PATHS)
    return np.where(same.any(1), same.argmax(1), -1)


def independent_coverage(weights: Floats, size: int) -> float:
    """Expected number of distinct paths among `size` independent draws from the true law."""
    return float((1 - (1 - weights) ** size).sum())


def entropy_bound(world: World) -> float:
    """The least mean loss a token, in nats: the wording, and the path once a response."""
    return float(np.log(VARIANTS) - (world.weights * np.log(world.weights)).sum() / LENGTH)
