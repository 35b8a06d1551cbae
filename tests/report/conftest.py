"""Reports to draw: a small one with exact figures, one of realistic shape, and an empty one."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pytest

from samplewise.measure import Estimate, mean_interval, sign_test
from samplewise.report.data import CurvePoint, DrawView, MethodRow, PoolView, ProblemView, Report, Series

NAN = float("nan")
TEXT = (
    "First we note that the product of both numbers is even, so we may divide by two and try again. Let us check each "
    "case in turn: adding gives a sum that is too large, subtracting leaves a remainder. Therefore we combine the "
    "remaining pair and multiply. Wait, that is not an integer; go back one step. Hence the value follows."
)
WORDS = TEXT.split()


class MakeReport(Protocol):
    def __call__(self, *, problems: int = 100, draws: int = 64, words: int = 40, methods: int = 8) -> Report: ...


def estimate(value: float, half: float, num: int = 100, unscored: int = 0) -> Estimate:
    return Estimate(value, value - half, value + half, half / 2, num, unscored)


@pytest.fixture
def small() -> Report:
    """Three methods: the baseline, a better one, and one that could not be graded."""
    base, vote = estimate(0.4, 0.05), estimate(0.5125, 0.0525)
    unknown = Estimate(NAN, NAN, NAN, NAN, 0, 100)
    methods = (
        MethodRow("direct", "repeat(1)", 1, 120.5, base, base, None, NAN),
        MethodRow(
            "direct | vote", "repeat(8) | vote", 8, 1000, vote, estimate(0.7, 0.05), estimate(0.1125, 0.06), 0.0002
        ),
        MethodRow("judge", "repeat(8) | best(judge)", 8, 1000, unknown, estimate(0.7, 0.05), unknown, NAN),
    )
    draw = DrawView("6 * 4 = 24", "24", 1.0, "direct", 8, -3.25, "stop", {"reward": 0.5, "judge": NAN})
    wrong = DrawView("6 + 4 = 10", None, NAN, "idea 1", 7, NAN, "length", {})
    pool = PoolView("repeat(2) | vote", (draw, wrong), {"vote": 0, "judge": None})
    return Report(
        title="Game of 24",
        facts={"engine": "tiny", "seed": "7", "command": "samplewise compare --seed 7"},
        tokens=1000,
        baseline="direct",
        methods=methods,
        series=(
            Series(
                "direct | vote", "accuracy", (CurvePoint(1, 125, 0.4, 0.35, 0.45), CurvePoint(8, 1000, NAN, NAN, NAN))
            ),
        ),
        views=(ProblemView("p1", "4 6 1 1", [24, NAN], (pool,)),),
        notes=("3 answers could not be read",),
    )


@pytest.fixture
def empty() -> Report:
    return Report("Nothing", {}, NAN, "direct", (), (), ())


@pytest.fixture
def make_report() -> MakeReport:
    return realistic


NAMES = (
    ("direct", "repeat({n}) | first", 0.0, 0.0),
    ("low temperature", "temperature(0.3) | repeat({n}) | vote", 0.02, 0.02),
    ("temperature ladder", "ladder(0.3, 1.2) | repeat({n}) | vote", 0.05, 0.03),
    ("majority vote", "repeat({n}) | vote", 0.07, 0.03),
    ("reward, best of n", "repeat({n}) | best(reward)", 0.09, 0.04),
    (
        "roles and ideas, weighted vote",
        "vary(role, ideas) | repeat({n}) | until(optscale(0.95)) | vote(reward)",
        0.15,
        0.07,
    ),
    ("power sampling", "power(alpha=4, steps=10) | vote", 0.12, -0.02),
    ("explore", "esamp(beta=0.1) | repeat({n}) | vote", 0.1, 0.09),
    ("explore, best of n", "esamp(beta=0.1) | repeat({n}) | best(reward)", 0.11, 0.08),
)
COUNTS = (1, 2, 4, 8, 16, 32, 64)


def realistic(*, problems: int = 100, draws: int = 64, words: int = 40, methods: int = 8) -> Report:
    """Made-up figures with the shape of real ones: rising curves, intervals from problems, long texts."""
    rng = np.random.default_rng(20)
    skill = rng.normal(-0.6, 1.6, problems)  # (P,)
    names = NAMES[:methods]
    rows, curves = [], []
    base = None
    for name, recipe, gain, reach in names:
        accuracy, ceiling = [], []
        for i, n in enumerate(COUNTS):
            cost = 118.0 * n * (1.6 if "explore" in name else 1) + (300 if "power" in name else 0)
            right = 1 / (1 + np.exp(-(skill + gain * (2 + 0.9 * i))))
            drawn = rng.random(problems) < right
            covered = 1 - (1 - np.clip(right * (0.55 + reach), 0, 1)) ** (n**0.62)
            one, many = (
                mean_interval(drawn.astype(float) * 0.3 + right * 0.7),
                mean_interval(np.maximum(covered, right)),
            )
            accuracy.append(CurvePoint(n, cost, *one[:3]))
            ceiling.append(CurvePoint(n, cost, *many[:3]))
            if n == 16:
                values = drawn.astype(float)
                base = values if base is None else base
                difference = None if values is base else mean_interval(values - base, support=(-1.0, 1.0))
                p = NAN if difference is None else sign_test(values, base).p_value
                count = int(1900 / cost * n)
                rows.append(
                    MethodRow(
                        name,
                        recipe.format(n=count),
                        count,
                        min(cost, 1888),
                        mean_interval(values),
                        many,
                        difference,
                        p,
                        cost / 900,
                    )
                )
        kept = accuracy[:1] if name == "direct" else accuracy
        curves += [Series(name, "accuracy", tuple(kept)), Series(name, "coverage", tuple(ceiling))]
    pools = [
        "repeat(64)",
        "vary(role, ideas) | repeat(64)",
        "esamp(beta=0.1) | repeat(64)",
        "power(alpha=4)",
        "ladder(0.3, 1.2)",
    ]
    views = tuple(_view(rng, p, skill[p], pools, draws, words) for p in range(problems))
    facts = {
        "engine": "local, samplewise/tiny (4.1 M parameters, float32)",
        "task": f"game24, held-out split, {problems} problems",
        "seed": "20",
        "version": "samplewise 0.1.0",
        "machine": "2 cores, x86_64, Python 3.11",
        "command": "samplewise compare 'repeat(16) | vote' 'vary(role, ideas) | repeat(16) | vote(reward)' "
        "--task game24 --limit 100 --seed 20",
    }
    notes = (
        "Tokens of the reward model are counted; it was run on every draw.",
        "3 answers of 6,400 could not be read and count as wrong.",
    )
    return Report("Game of 24 on the bundled model", facts, 1888, "direct", tuple(rows), tuple(curves), views, notes)


def _view(rng: np.random.Generator, p: int, skill: float, pools: list[str], num: int, words: int) -> ProblemView:
    answers = [str(a) for a in rng.integers(2, 400, 9)]
    numbers = " ".join(map(str, rng.integers(1, 14, 4)))
    views = []
    for q, recipe in enumerate(pools):
        right = rng.random(num) < 1 / (1 + np.exp(-(skill + 0.2 * q)))
        draws = []
        for i in range(num):
            answer = answers[0] if right[i] else answers[1 + int(8 * rng.random() ** 2)]
            answer_read = None if rng.random() < 0.03 else answer
            length = int(rng.integers(words // 2, words * 3 // 2))
            text = " ".join(rng.choice(WORDS, length)) + f"\nThe answer is {answer}."
            grade = NAN if rng.random() < 0.01 else float(right[i] and answer_read is not None)
            arm = "direct" if q != 1 else f"role: {['chemist', 'judge', 'tailor'][i % 3]}"
            scores = {
                "reward": float(np.tanh(rng.normal(0.8 * right[i]))),
                "judge": NAN if i % 9 == 0 else float(rng.random()),
            }
            finish = "length" if rng.random() < 0.04 else "stop"
            draws.append(DrawView(text, answer_read, grade, arm, length * 2, -float(rng.gamma(9, 3)), finish, scores))
        read = [s.answer for s in draws if s.answer is not None]
        winner = max(sorted(set(read)), key=read.count, default=None)
        vote = next((i for i, s in enumerate(draws) if s.answer == winner), None) if read else None
        best = int(np.argmax([s.scores["reward"] for s in draws]))
        views.append(PoolView(recipe, tuple(draws), {"vote": vote, "best(reward)": best}))
    prompt = (
        f"Use each of the numbers {numbers} exactly once, with + - * / and parentheses, to make 24. "
        "Show your work, and give the expression at the end."
    )
    return ProblemView(f"game24-{p:03d}", prompt, answers[0], tuple(views))
