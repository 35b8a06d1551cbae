"""Measure the bundled reward model: `python -m training.reward.evaluate`.

Fresh responses of the bundled tiny model to the `dev` puzzles of the Game of 24, none of which either model has seen,
and the draws that were set aside from training. Prints how well the score ranks, how far it is a probability, and what
it is worth as a selector of one answer among 64, beside the plain ones. Intervals are 95 %, over puzzles.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.core.types import Candidate, Generate, Question
from samplewise.engines.local import tiny
from samplewise.measure import mean_interval
from samplewise.select.base import Graded
from samplewise.select.best import best
from samplewise.select.votes import first, vote, weighted
from samplewise.tasks.game24 import game24
from samplewise.tasks.game24 import puzzle_question as question
from samplewise.verify.puzzle import read_puzzle
from samplewise.verify.reward import reward
from samplewise.verify.reward.score import Reward

from .data import WORK, is_right, load, split_of
from .train import BUNDLED

SAMPLES = 64
BINS = 10


class Drawn(NamedTuple):
    """One response, its puzzle (a number from 0), its score and whether it is right."""

    puzzle: int
    candidate: Candidate
    answer: str | None
    score: float
    right: bool


# ------------------------------------------------------------------------------------------------------------- figures


def auc(scores: Floats, right: Floats) -> float:
    """The chance that a right response scores above a wrong one, ties half; nan without one of each."""
    num_right = float(right.sum())
    num_wrong = len(right) - num_right
    if not num_right or not num_wrong:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[right > 0].sum() - num_right * (num_right + 1) / 2) / (num_right * num_wrong))


def reliability(probabilities: Floats, right: Floats, bins: int = BINS) -> list[tuple[int, float, float]]:
    """For each of the equal bins of [0, 1]: how many responses, their mean probability, the share that is right."""
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    table = []
    for i in range(bins):
        inside = place == i
        num = int(inside.sum())
        mean, share = (probabilities[inside].mean(), right[inside].mean()) if num else (np.nan, np.nan)
        table.append((num, float(mean), float(share)))
    return table


def calibration_error(probabilities: Floats, right: Floats, bins: int = BINS) -> float:
    """The expected calibration error: the mean over responses of how far their bin's two figures are apart."""
    table = reliability(probabilities, right, bins)
    return sum(num * abs(mean - share) for num, mean, share in table if num) / len(probabilities)


def between(puzzles: Sequence[int], figure: Any, seed: int = 0, resamples: int = 500) -> tuple[float, float]:
    """95 % interval of `figure(rows)` by a bootstrap over puzzles, `rows` being the numbers of the responses."""
    rows: dict[int, list[int]] = {}
    for i, puzzle in enumerate(puzzles):
        rows.setdefault(puzzle, []).append(i)
    groups = [np.array(group) for group in rows.values()]
    generator = Key(seed).fold("reward", "bootstrap").generator()
    values = []
    for _ in range(resamples):
        picks = generator.integers(0, len(groups), len(groups))
        values.append(figure(np.concatenate([groups[i] for i in picks])))
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def ranking(drawn: Sequence[Drawn]) -> dict[str, Any]:
    """Ranking and calibration of scored responses, each figure as (value, low, high)."""
    puzzles = [d.puzzle for d in drawn]
    scores, right = np.array([d.score for d in drawn]), np.array([float(d.right) for d in drawn])
    within = [
        auc(scores[rows], right[rows])
        for rows in (np.flatnonzero(np.array(puzzles) == p) for p in sorted(set(puzzles)))
    ]
    inside = mean_interval(within)
    log_loss = -np.log(np.clip(np.where(right > 0, scores, 1 - scores), 1e-12, 1))

    def ece(rows: Any) -> float:
        return calibration_error(scores[rows], right[rows])

    return {
        "responses": len(drawn),
        "puzzles": len(set(puzzles)),
        "right": float(right.mean()),
        "auc": (auc(scores, right), *between(puzzles, lambda rows: auc(scores[rows], right[rows]))),
        "auc within puzzles": (inside.value, inside.low, inside.high),
        "puzzles with both": inside.num_problems,
        "calibration error": (calibration_error(scores, right), *between(puzzles, ece)),
        "log loss": (float(log_loss.mean()), *between(puzzles, lambda rows: log_loss[rows].mean())),
        "reliability": reliability(scores, right),
    }


def selection(drawn: Sequence[Drawn], samples: int) -> dict[str, tuple[float, float, float]]:
    """Accuracy of the answer that each selector chooses among a puzzle's `samples` responses, ties shared out."""
    rows = [drawn[at : at + samples] for at in range(0, len(drawn), samples)]
    answers = np.full((len(rows), samples), -1, dtype=np.int64)
    for i, row in enumerate(rows):
        codes: dict[str | None, int] = {None: -1}
        answers[i] = [codes.setdefault(d.answer, len(codes) - 1) for d in row]
    right = np.array([[float(d.right) for d in row] for row in rows])
    sums = np.array([[d.candidate.logp_sum for d in row] for row in rows])
    lengths = np.array([[d.candidate.num_tokens for d in row] for row in rows])
    scores = {"reward": np.array([[d.score for d in row] for row in rows]), "likelihood": sums, "logp": sums / lengths}
    scores["puzzle"] = right
    ways = {
        "first readable answer": first(),
        "majority": vote(),
        "best by mean log-probability": best("logp"),
        "best by log-probability": best("likelihood"),
        "majority weighted by reward": weighted("reward"),
        "best by reward": best("reward"),
        "ceiling (best by checker)": best("puzzle"),
    }
    found = {}
    for name, selector in ways.items():
        assert selector.expected is not None
        values = selector.expected(Graded(answers, right, scores), np.array([samples]), Key(0))[0]
        estimate = mean_interval(np.clip(values, 0.0, 1.0))
        found[name] = (estimate.value, estimate.low, estimate.high)
    return found


# --------------------------------------------------------------------------------------------------------------- draws


def draw(questions: Sequence[Question], verifier: Reward, samples: int, seed: int) -> list[Drawn]:
    """`samples` responses of the tiny model to each question at temperature 1, scored and checked."""
    key = Key(seed).fold("reward", "evaluate")
    asks = [
        Generate(q.messages, max_tokens=64, seed=key.fold(q.id, k).seed(), want=("logp",), draw=k)
        for q in questions
        for k in range(samples)
    ]

    async def answered() -> list[Candidate]:
        engine = tiny()
        found = {}
        async for position, completion in engine.answer(asks):
            found[position] = Candidate(
                completion.text, num_tokens=completion.usage.completion_tokens, logp_sum=completion.logp_sum
            )
        await engine.close()
        return [found[i] for i in range(len(asks))]

    candidates = asyncio.run(answered())
    pairs = [(questions[i // samples], candidate) for i, candidate in enumerate(candidates)]
    scores = verifier.score_all(pairs)
    return [
        Drawn(
            i // samples,
            candidate,
            read_puzzle(asked, candidate.text),
            score,
            is_right(asked.facts["numbers"], asked.facts["target"], candidate.text),
        )
        for i, ((asked, candidate), score) in enumerate(zip(pairs, scores, strict=True))
    ]


def set_aside(folder: Path, verifier: Reward, split: str) -> list[Drawn]:
    """The scored draws of one split of the training family."""
    draws = [d for d in load(folder) if split_of(d.numbers, d.target) == split]
    names: dict[tuple[int, ...], int] = {}
    pairs = [(question(d.numbers, target=d.target), Candidate(d.response)) for d in draws]
    scores = verifier.score_all(pairs)
    return [
        Drawn(names.setdefault((d.target, *sorted(d.numbers)), len(names)), Candidate(d.response), None, score, d.right)
        for d, score in zip(draws, scores, strict=True)
    ]


def speed(verifier: Reward, questions: Sequence[Question], drawn: Sequence[Drawn], samples: int) -> tuple[float, float]:
    """Seconds to score a puzzle's responses for the first time, on one core: least and median over puzzles."""
    import torch

    torch.set_num_threads(1)
    taken = []
    for i, asked in enumerate(questions):
        pairs = [(asked, d.candidate) for d in drawn[i * samples : (i + 1) * samples]]
        verifier.forget()
        began = time.perf_counter()
        verifier.score_all(pairs)
        taken.append(time.perf_counter() - began)
    return min(taken), float(np.median(taken))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=BUNDLED)
    parser.add_argument("--draws", type=Path, default=WORK, help="folder of the draws, made by training.reward.data")
    parser.add_argument("--puzzles", type=int, help="of the 262 dev puzzles; default all")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    verifier = reward(str(args.checkpoint))
    figures: dict[str, Any] = {}
    if args.draws.is_dir():
        figures["set aside"] = ranking(set_aside(args.draws, verifier, "test"))
    questions = game24("dev", limit=args.puzzles).questions
    drawn = draw(questions, verifier, args.samples, args.seed)
    figures["game24 dev"] = ranking(drawn)
    figures[f"accuracy among {args.samples}"] = selection(drawn, args.samples)
    least, median = speed(verifier, questions[:50], drawn, args.samples)
    figures["ms to score a puzzle's responses"] = {"least": 1e3 * least, "median": 1e3 * median}
    for name, part in figures.items():
        print(f"\n{name}")
        for what, value in part.items():
            shown = f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]" if isinstance(value, tuple) else value
            print(f"  {what}: {shown}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
