"""Exploring alone, on synthetic states: microseconds of processor time a step, one thread.

Beside it what a plain draw of the same rows takes (log-softmax in float64, running sum, search: what the local engine
does). In the first step all rows of a group stand at the same prompt; later they are apart, a quarter of them at forks,
half of these in pairs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from samplewise.core.keys import Key
from samplewise.core.numerics import Ints
from samplewise.explore.base import EngineStep, Head
from samplewise.explore.explorer import Explorer
from samplewise.explore.settings import ExploreSettings

SEED = 0
GROUPS, STEPS, WARM = 8, 12, 3


class Bed(NamedTuple):
    """Synthetic steps of R rows."""

    head: Head
    steps: list[EngineStep]


def bed(size: int, dim: int, vocab: int, min_p: float) -> Bed:
    """`STEPS` steps of GROUPS groups of `size` rows."""
    generator = torch.Generator()
    generator.manual_seed(Key(SEED).fold("bed", size, dim, vocab).seed())
    head = Head(torch.randn(vocab, dim, generator=generator) / dim**0.5)
    rows = GROUPS * size
    group, sample = np.repeat(np.arange(GROUPS), size), np.tile(np.arange(size), GROUPS)
    steps = []
    for at in range(STEPS):
        sharpness = torch.where(torch.rand(rows, generator=generator) < 0.25, 3.0, 12.0)  # a quarter are forks
        deep = torch.randn(rows, dim, generator=generator) * sharpness[:, None]
        if at == 0:
            deep = (torch.randn(GROUPS, dim, generator=generator) * 3.0).repeat_interleave(size, 0)
        else:
            deep[1::4] = deep[::4]  # pairs that stand at the same place
        shallow = torch.randn(rows, dim, generator=generator)
        logits = deep @ head.weight.T
        log_probs = torch.log_softmax(logits.double(), -1)
        if min_p:
            log_probs = log_probs.masked_fill(log_probs < log_probs.amax(-1, keepdim=True) + np.log(min_p), -torch.inf)
            log_probs = torch.log_softmax(log_probs, -1)
        position = np.full(rows, at)
        steps.append(
            EngineStep(group, sample, position, torch.ones(rows), logits, log_probs, deep, shallow, bool(min_p))
        )
    return Bed(head, steps)


def plain(step: EngineStep) -> Tensor:
    """What the engine does without a policy."""
    log_probs = torch.log_softmax(step.logits, -1, dtype=torch.float64)
    upto = log_probs.exp().cumsum_(-1)
    return torch.searchsorted(upto, upto[:, -1:] * 0.5)[:, 0]


def timed(work: Callable[[EngineStep], object], steps: list[EngineStep]) -> list[float]:
    """Microseconds of processor time of each step: the machine may be busy with something else."""
    found = []
    for step in steps:
        started = time.process_time()
        work(step)
        found.append((time.process_time() - started) * 1e6)
    return found


def alone(found: Bed, settings: ExploreSettings) -> dict[str, float]:
    """A policy's own microseconds: the step at the prompt, and the median of the later ones."""
    best: list[list[float]] = []
    for _ in range(WARM):
        explorer = Explorer(found.head)
        names = [str(group) for group in found.steps[0].group.tolist()]
        numbers = np.array([explorer.open(name, settings, 1 + int(name)) for name in names])
        tokens = torch.zeros(len(names), dtype=torch.int64)

        def work(
            step: EngineStep, explorer: Explorer = explorer, numbers: Ints = numbers, tokens: Tensor = tokens
        ) -> None:
            for advice in explorer.advise(step._replace(group=numbers)):
                if advice.tokens is not None:
                    tokens.index_copy_(0, advice.rows, advice.tokens)
            explorer.took(tokens)

        best.append(timed(work, found.steps))
        for number in sorted(set(numbers.tolist())):
            report = explorer.close(number, sum(numbers == number) * STEPS)
            assert not report.problem, report.problem
    least = np.array(best).min(0)
    return {"first_us": float(least[0]), "later_us": float(np.median(least[1:]))}


def alone_tables(
    policies: Mapping[str, ExploreSettings],
    size: int,
    dims: Sequence[int],
    vocabs: Sequence[int],
    min_p: float,
    console: Console,
) -> dict[str, Any]:
    """Each policy in groups of `size` rows, for states and vocabularies of several sizes."""
    found: dict[str, dict[str, float]] = {}
    for vocab in vocabs:
        for dim in dims:
            steps = bed(size, dim, vocab, min_p)
            base = float(np.median(timed(plain, steps.steps)))
            table = Table(title=f"{GROUPS * size} rows, d = {dim}, V = {vocab}: microseconds a step, one thread")
            for column in ("policy", "at the prompt", "later", "plain draws' time"):
                table.add_column(column, justify="left" if column == "policy" else "right")
            table.add_row("plain draw", "", f"{base:,.0f}", "1.00")
            for name, settings in policies.items():
                own = alone(steps, settings)
                found[f"{name}, d {dim}, V {vocab}"] = {**own, "plain_us": base}
                table.add_row(
                    name, f"{own['first_us']:,.0f}", f"{own['later_us']:,.0f}", f"{own['later_us'] / base:.2f}"
                )
            console.print(table)
    return found
