"""What exploring is worth on the Game of 24: the bundled model, groups of K samples, at equal tokens.

A group is one puzzle and K samples. Scored per puzzle: `solved` (some sample is right), `ways` (different right
solutions), `vendi` (effective number of different responses, by character n-grams) and `tokens` a sample. Pass@K is
that of groups of K, drawn as such, never k out of a larger group: samples of a group are not independent. `at equal
tokens` gives every way the tokens of K plain draws, in the mean over puzzles: of one that takes more tokens a sample so
many fewer samples are counted (between two whole numbers by interpolation), and one that takes fewer gets no more.
Intervals are over puzzles, differences from plain draws paired.

`matched` is plain draws at the one temperature that has the entropy a token of the policy before it: what heat alone
would do. Settings are chosen on `dev` puzzles and scored on `test` ones; `CHOSEN` holds them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.core.registry import build
from samplewise.core.types import Completion, Generate, Problem
from samplewise.engines.base import Engine
from samplewise.measure import mean_interval, paired_difference, vendi
from samplewise.measure.texts import cosines
from samplewise.recipe import recipe
from samplewise.verify.puzzle import grade_puzzle, read_puzzle

KS = (4, 16, 64)
MOST = 3  # groups of each puzzle, fewer of large ones
MAX_TOKENS = 96  # a solution of the bundled model has some 25
HEATS = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)  # at which the plain law's entropy is measured
BESIDE = 50  # puzzles drawn for at once
GAUGED = 40  # puzzles that it is measured on

# How each way draws K samples: as published or by default, and `chosen` on the dev puzzles. There ESamp was best as it
# is published.
CHOSEN: dict[str, str] = {
    "plain": "repeat({k})",
    "temperature, chosen": "repeat({k}, temperature=0.7)",
    "temperature .85": "repeat({k}, temperature=0.85)",
    "hot": "repeat({k}, temperature=1.25)",
    "min-p, chosen": "repeat({k}, min_p=0.1, temperature=1.25)",
    "top-n-sigma": "repeat({k}, explore=top_sigma(1.5))",
    "top-H": "repeat({k}, explore=top_entropy(0.8))",
    "ladder": "vary(ladder) | repeat({k})",
    "arithmetic": "repeat({k}, explore=arithmetic)",
    "zero": "repeat({k}, explore=zero)",
    "frozen": "repeat({k}, explore=frozen)",
    "noise": "repeat({k}, explore=noise)",
    "esamp": "repeat({k}, explore=esamp)",
    "esamp, 4 waves": "repeat({k}, wave={quarter}, explore=esamp)",
    "esamp, ridge, chosen": "repeat({k}, wave={quarter}, explore=esamp(learner=ridge, compensate=gate))",
    "css": "repeat({k}, explore=css)",
    "css, chosen": "repeat({k}, temperature=0.85, explore=css(min_cosine=0.8))",
    "lss": "repeat({k}, explore=lss)",
    "lss, chosen": "repeat({k}, temperature=0.85, explore=lss(sigma=0.02))",
}
MATCHED = ("esamp", "esamp, ridge, chosen", "lss")
# What a way must beat: the same without what it is about, or at the same temperature.
AGAINST = (
    ("css", "plain"),
    ("lss", "css"),
    ("css, chosen", "temperature .85"),
    ("lss, chosen", "temperature .85"),
    ("lss, chosen", "css, chosen"),
    ("css, chosen", "temperature, chosen"),
    ("lss, chosen", "temperature, chosen"),
    ("esamp", "zero"),
    ("esamp", "frozen"),
    ("esamp", "noise"),
    ("esamp", "temperature, chosen"),
    ("lss, chosen", "esamp"),
)
# Options of ESamp one by one, at one K.
ABLATED = 16
ABLATIONS: dict[str, str] = {
    "esamp": "repeat({k}, explore=esamp)",
    "4 waves": "repeat({k}, wave={quarter}, explore=esamp)",
    "4 waves, gate": "repeat({k}, wave={quarter}, explore=esamp(compensate=gate))",
    "entropy": "repeat({k}, explore=esamp(compensate=entropy))",
    "forks only": "repeat({k}, explore=esamp(forking=0.25))",
    "ridge": "repeat({k}, explore=esamp(learner=ridge))",
    "warm start": "repeat({k}, explore=esamp(warm_start=True))",
    "ridge, warm start": "repeat({k}, explore=esamp(learner=ridge, warm_start=True))",
}
CANDIDATES: Mapping[str, Sequence[str]] = {
    "plain": ["repeat({k})"],
    "min-p": [f"repeat({{k}}, min_p={p}, temperature={t})" for p in (0.02, 0.05, 0.1) for t in (1.0, 1.25, 1.5)],
    "hot": [f"repeat({{k}}, temperature={t})" for t in (0.7, 0.85, 1.15, 1.3, 1.5)],
    "ladder": ["vary(ladder) | repeat({k})"],
    "esamp": [
        f"repeat({{k}}, wave={wave}, explore=esamp(beta={beta}, rate={rate}, compensate='{how}'))"
        for wave, beta, rate, how in (
            ("{k}", 0.25, 4e-4, "none"),
            ("{k}", 0.25, 4e-3, "none"),
            ("{k}", 0.25, 4e-3, "entropy"),
            ("{k}", 1.0, 4e-3, "entropy"),
            ("{quarter}", 0.25, 4e-4, "none"),
            ("{quarter}", 0.25, 4e-3, "none"),
        )
    ],
    "ridge": [
        f"repeat({{k}}, wave={{quarter}}, {heat}explore=esamp(beta={beta}, learner=ridge, compensate='{how}'{fork}))"
        for heat, beta, how, fork in (
            ("", 0.25, "none", ""),
            ("", 0.25, "gate", ""),
            ("", 1.0, "entropy", ""),
            ("", 1.0, "entropy", ", forking=0.25"),
            ("min_p=0.05, ", 0.25, "full", ""),
            ("min_p=0.05, ", 1.0, "full", ""),
        )
    ],
    "css": [
        f"repeat({{k}}, temperature={t}, explore=css(min_cosine={cosine}))"
        for t in (0.7, 0.85, 1.0, 1.25)
        for cosine in (0.8, 0.9, 0.98)
    ],
    "lss": [
        f"repeat({{k}}, temperature={t}, explore=lss(strength={strength}, sigma={sigma}))"
        for t in (0.7, 0.85, 1.0)
        for strength, sigma in ((2.0, 0.05), (4.0, 0.05), (8.0, 0.05), (4.0, 0.02))
    ],
}


class Row(NamedTuple):
    """A way's S groups of each puzzle: (P,) means over them each but for the samples' (S, P, K)."""

    solved: Floats
    ways: Floats
    vendi: Floats
    tokens: Floats  # a sample
    entropy: float  # nats a token, minus the mean of logq
    right: Floats  # (S, P, K) 0 or 1


def asks_of(line: str, problem: Problem, seed: int, wave: int) -> list[Generate]:
    """The asks of a wave of a group: its draws do not hang on what came before, its exploration does."""
    made = recipe(line)
    key = Key(seed).fold("run").fold("question", problem.question.id)
    thinking, step = made.vary.step(key.fold("vary"), made.vary.init(problem.question), ())
    assert not step.asks, f"{line} asks a helper, which is not counted here"
    state = made.sampler.init(made.vary.variants(thinking))
    completions: tuple[Completion, ...] = ()
    for _ in range(wave + 1):
        state, step = made.sampler.step(key.fold("draw"), state, completions)
        completions = (Completion("", "error"),) * len(step.asks)
    return [ask._replace(want=("logq",)) for ask in step.asks if isinstance(ask, Generate)]


async def drawn(engine: Engine, line: str, problems: Sequence[Problem], size: int, seed: int) -> list[list[Completion]]:
    """The groups (P, K), some puzzles beside each other: an engine holds so many groups between two waves."""
    parts = [problems[first : first + BESIDE] for first in range(0, len(problems), BESIDE)]
    return [group for part in parts for group in await _beside(engine, line, part, size, seed)]


async def _beside(
    engine: Engine, line: str, problems: Sequence[Problem], size: int, seed: int
) -> list[list[Completion]]:
    """The groups of puzzles beside each other, wave after wave."""
    line = line.format(k=size, quarter=max(1, size // 4)).replace(
        "repeat(", f"repeat(max_tokens={MAX_TOKENS}, num_samples="
    )
    groups: list[list[Completion]] = [[] for _ in problems]
    wave = 0
    while len(groups[0]) < size:
        asks, owner = [], []
        for number, problem in enumerate(problems):
            own = asks_of(line, problem, seed, wave)
            asks += own
            owner += [number] * len(own)
        found: dict[int, Completion] = {}
        async for position, completion in engine.answer(asks):
            assert completion.finish != "error", completion.failure
            found[position] = completion
        for position, number in enumerate(owner):
            groups[number].append(found[position])
        wave += 1
    return groups


def scored(problems: Sequence[Problem], groups: Sequence[Sequence[Completion]]) -> Row:
    """The scores of one group of each puzzle."""
    right, lengths = np.zeros((len(groups), len(groups[0]))), np.zeros((len(groups), len(groups[0])))
    ways, spread = np.zeros(len(groups)), np.zeros(len(groups))
    surprise = 0.0
    for number, (problem, group) in enumerate(zip(problems, groups, strict=True)):
        answers = [read_puzzle(problem.question, completion.text) for completion in group]
        right[number] = [grade_puzzle(problem, answer).value for answer in answers]
        lengths[number] = [completion.usage.completion_tokens for completion in group]
        ways[number] = len({answer for answer, fine in zip(answers, right[number], strict=True) if fine})
        texts = [completion.text for completion in group if completion.text.strip()]
        spread[number] = vendi(cosines(texts)) if texts else 0.0
        surprise -= sum(sum(completion.logq or ()) for completion in group)
    solved = (right > 0).any(1).astype(float)
    return Row(solved, ways, spread, lengths.mean(1), surprise / float(lengths.sum()), right[None])


async def row_of(engine: Engine, line: str, problems: Sequence[Problem], size: int, seed: int, repeats: int = 1) -> Row:
    """Several groups of each puzzle, each with a seed of its own."""
    each = [scored(problems, await drawn(engine, line, problems, size, seed + number)) for number in range(repeats)]
    solved, ways, spread, tokens, entropy = (np.mean(column, axis=0) for column in list(zip(*each, strict=True))[:-1])
    return Row(solved, ways, spread, tokens, float(entropy), np.concatenate([row.right for row in each]))


def equal(rows: Mapping[str, Row], base: str) -> dict[str, Floats]:
    """The share (P,) of each puzzle that is solved with the tokens of as many draws of `base`."""
    found = {}
    for name, row in rows.items():
        size = row.right.shape[-1]
        num = size * min(1.0, float(rows[base].tokens.mean() / row.tokens.mean()))
        low = int(num)
        fewer, more = ((row.right[..., :upto] > 0).any(-1).mean(0) for upto in (low, min(size, low + 1)))
        found[name] = fewer + (num - low) * (more - fewer)
    return found


async def compare(
    engine: Engine,
    problems: Sequence[Problem],
    size: int,
    seed: int,
    repeats: int,
    console: Console,
    ways: Mapping[str, str] = CHOSEN,
    against: Sequence[tuple[str, str]] = AGAINST,
) -> dict[str, Any]:
    """The table at one K, and its figures. The first way is what others are compared with."""
    base = next(iter(ways))
    rows: dict[str, Row] = {}
    gauge = [
        (await row_of(engine, f"repeat({{k}}, temperature={heat})", problems[:GAUGED], 4, seed)).entropy
        for heat in HEATS
    ]
    for name, line in ways.items():
        rows[name] = await row_of(engine, line, problems, size, seed, repeats)
        console.print(f"K = {size}, {name}: {rows[name].solved.mean():.3f}", style="dim")
        if name in MATCHED and gauge[0] <= rows[name].entropy <= gauge[-1]:
            heat = float(np.interp(rows[name].entropy, gauge, HEATS))
            plain = f"repeat({{k}}, temperature={heat:.3f})"
            rows[f"{name}, matched: T {heat:.2f}"] = await row_of(engine, plain, problems, size, seed, repeats)
    within = equal(rows, base)
    table = Table(title=f"Game of 24, {repeats} groups of {size} for each of {len(problems)} puzzles")
    for column in (
        "way",
        f"pass@{size}",
        "at equal tokens",
        f"difference from {base}",
        "ways",
        "Vendi",
        "tokens",
        "entropy",
    ):
        table.add_column(column, justify="left" if column == "way" else "right")
    found: dict[str, Any] = {}
    for name, row in rows.items():
        apart = paired_difference(within[name], within[base])
        spread = mean_interval(within[name])
        more = paired_difference(row.ways, rows[base].ways, support=None)
        figures = {
            "pass": row.solved.mean(),
            "equal": spread.value,
            "equal_low": spread.low,
            "equal_high": spread.high,
            "difference": apart.value,
            "low": apart.low,
            "high": apart.high,
            "ways": row.ways.mean(),
            "more_ways": more.value,
            "more_ways_low": more.low,
            "more_ways_high": more.high,
            "vendi": row.vendi.mean(),
            "tokens": row.tokens.mean(),
            "pass1": row.right.mean(),
            "entropy": row.entropy,
        }
        found[name] = {key: float(value) for key, value in figures.items()}
        table.add_row(
            name,
            f"{row.solved.mean():.3f}",
            f"{spread.value:.3f}",
            "" if name == base else f"{apart.value:+.3f} [{apart.low:+.3f}, {apart.high:+.3f}]",
            f"{row.ways.mean():.2f}",
            f"{row.vendi.mean():.2f}",
            f"{row.tokens.mean():.1f}",
            f"{row.entropy:.3f}",
        )
    console.print(table)
    for name, other in against:
        if not {name, other} <= rows.keys():
            continue
        apart = paired_difference(within[name], within[other])
        found[name][f"over {other}"] = [apart.value, apart.low, apart.high]
        console.print(f"{name} over {other}: {apart.value:+.3f} [{apart.low:+.3f}, {apart.high:+.3f}]")
    return found


async def choose(engine: Engine, problems: Sequence[Problem], size: int, seed: int, console: Console) -> dict[str, Any]:
    """What CANDIDATES are worth at one K, the best of each family first: by puzzles solved, then by ways."""
    told: dict[str, Any] = {}
    for family, lines in CANDIDATES.items():
        rows = []
        for line in lines:
            rows.append((line, await row_of(engine, line, problems, size, seed)))
            console.print(f"{line}: {rows[-1][1].solved.mean():.3f}", style="dim")
        rows.sort(key=lambda pair: (-pair[1].solved.mean(), -pair[1].ways.mean()))
        table = Table("line", f"pass@{size}", "ways", "tokens", title=f"{family}, {len(problems)} dev puzzles")
        for line, row in rows:
            table.add_row(line, f"{row.solved.mean():.3f}", f"{row.ways.mean():.2f}", f"{row.tokens.mean():.1f}")
        console.print(table)
        told[family] = [{"line": line, "pass": row.solved.mean(), "ways": row.ways.mean()} for line, row in rows]
    return told


def game24(
    console: Console,
    *,
    choosing: bool,
    puzzles: int,
    sizes: Sequence[int] = KS,
    seed: int = 0,
    ways: Sequence[str] = (),
) -> dict[str, Any]:
    """The tables, and the figures by K, of all ways or of some; with `choosing` what candidates are worth at the last
    K, by family."""
    return asyncio.run(_game24(console, choosing, puzzles, sizes, seed, ways))


async def _game24(
    console: Console, choosing: bool, puzzles: int, sizes: Sequence[int], seed: int, ways: Sequence[str]
) -> dict[str, Any]:
    some = {name: line for name, line in CHOSEN.items() if not ways or name in ways}
    engine: Engine = build("engine", "tiny")
    problems = build("task", f"game24(split='{'dev' if choosing else 'test'}', limit={puzzles})").problems
    try:
        if choosing:
            return await choose(engine, problems, sizes[-1], seed, console)
        found = {
            str(size): await compare(engine, problems, size, seed, max(1, min(MOST, KS[-1] // size)), console, some)
            for size in sizes
        }
        if ways:
            return found
        console.print("options of esamp, one by one:")
        return {**found, "options": await compare(engine, problems, ABLATED, seed, 1, console, ABLATIONS, ())}
    finally:
        await engine.close()
