"""Stop rules where the truth is known: laws of scores, and laws of answers.

Scores: a rule attains what it says if the best score reaches the target in that share of the questions. Beside each
stands the fixed number of draws that one would need who knew the law (`oracle_samples`, at most the cap), and for the
first pass what theory gives, (1 - F^N) / (1 - F) draws. Answers: a rule is right if the answer that leads when it stops
is the mode of the law; the oracle is the smallest fixed number of votes whose plurality is right often enough.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tests.support.worlds import ANSWER_DISTRIBUTIONS, VERIFIER, exact_first_pass, follow, score_worlds

from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.core.registry import build
from samplewise.core.types import Candidate, Usage
from samplewise.stop.base import NOBODY, StopRule

LEVEL, CAP, VOTES = 0.95, 64, 400
MANY, FEW = 2000, 120  # questions a world: for rules of a microsecond, and for those that fit a law
SHAPES = "((0.7, 0.2, 0.1), (0.5, 0.3, 0.2), (0.4, 0.3, 0.3), (0.26, 0.25, 0.25, 0.24))"
VOTE_RULES = (  # spec, error that it names; None: it names none
    ("asc(0.95)", 0.05),
    ("asc(0.99)", 0.01),
    ("asc_dirichlet(0.95)", 0.05),
    ("vote_share(0.8)", None),
    ("entropy(0.75)", None),
    ("esc(5)", None),
    ("lead(3)", None),
    ("sprt", 0.05),
    ("bayes_factor(10)", None),
    (f"bayes_l3({SHAPES})", 0.05),
    ("mmc(0.1)", 0.1),
    ("ppr_1v1({labels})", 0.05),
    ("vote_e(0.05)", 0.05),
)


def score_rules(target: float, oracle: int) -> dict[str, tuple[StopRule[Any], int, bool]]:
    """Each rule of scores for a world: the rule, on how many questions, whether it promises `LEVEL`."""

    def made(more: str) -> StopRule[Any]:
        rule: StopRule[Any] = build("stop", f"optscale({LEVEL}, {VERIFIER}, target={target}, cap={CAP}{more})")
        return rule

    return {
        "fixed oracle": (build("stop", f"cap({oracle})"), MANY, True),
        "better, oracle cap": (
            build("stop", f"optscale({LEVEL}, {VERIFIER}, target={target}, cap={oracle})"),
            MANY,
            True,
        ),
        "better": (made(""), MANY, True),
        "better, futile below .05": (made(", price=0.05"), MANY, False),
        "paper": (made(", mode='paper'"), FEW, False),
        "code, peek 5": (made(", mode='code', peek=5"), FEW, False),
        "code, peek 5, prior (.8, .2)": (made(", mode='code', peek=5, prior=(0.8, 0.2)"), FEW, False),
        "ucb_pandora": (build("stop", f"ucb_pandora({VERIFIER}, price=0.005, cap={CAP})"), FEW, False),
        "beacon": (build("stop", f"beacon({VERIFIER}, price=0.005, cap={CAP})"), FEW, False),
    }


def needed(chance: Floats, level: float) -> int:
    """Draws that a question with this chance needs, at most the cap; of the mean chance where questions differ."""
    for num in range(1, CAP + 1):
        if float(np.mean(1 - (1 - chance) ** num)) >= level:
            return num
    return CAP


def scores(console: Console, key: Key) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for world in score_worlds().values():
        drawn = world.play(key, MANY, CAP)
        oracle = needed(drawn.probability, LEVEL)
        within = float(np.mean(1 - (1 - drawn.probability) ** CAP))
        table = Table(f"{world.name}, target {world.target:g}", "attained", "draws", "", box=None)
        rows: dict[str, Any] = {}
        for name, (rule, questions, promised) in score_rules(world.target, oracle).items():
            found = follow(rule, drawn.scores[:questions])
            attained = found.attained(world.target)
            error = math.sqrt(max(attained * (1 - attained), 0.25 / questions) / questions)
            nominal = min(LEVEL, within) if promised else LEVEL
            rows[name] = {
                "attained": attained,
                "attained_low": attained - 1.96 * error,
                "attained_high": attained + 1.96 * error,
                "nominal": nominal,
                "samples": float(found.draws.mean()),
                "oracle_samples": oracle,
            }
            kept = "" if not promised or not world.independent or attained >= nominal - 3 * error else "UNDER"
            table.add_row(name, f"{attained:.3f}", f"{found.draws.mean():.1f}", kept)
        exact = [exact_first_pass(float(p), oracle) for p in drawn.probability]
        rows["better, oracle cap"]["theory_attained"] = float(np.mean([each.attained for each in exact]))
        rows["better, oracle cap"]["theory_samples"] = float(np.mean([each.draws for each in exact]))
        theory = rows["better, oracle cap"]["theory_samples"]
        table.add_row("first pass in theory", "", f"{theory:.1f}", f"{theory / oracle:.0%} of the oracle's {oracle}")
        console.print(table, "")
        figures[world.name] = rows
    return figures


def first_pass_shares(console: Console, key: Key) -> dict[str, Any]:
    """Draws of the first pass over those of the smallest fixed number, as passes get rarer, at equal attainment."""
    table = Table("chance of a draw", *[f"confidence {level}" for level in (0.9, 0.95, 0.99)], box=None)
    figures: dict[str, Any] = {}
    rng = key.fold("shares").generator()
    for chance in (0.2, 0.05, 0.01):
        row = {}
        for level in (0.9, 0.95, 0.99):
            fixed = math.ceil(math.log1p(-level) / math.log1p(-chance) - 1e-12)
            rule = build("stop", f"optscale({level}, {VERIFIER}, target=1.0, cap={fixed})")
            found = follow(rule, (rng.random((MANY // 2, fixed)) < chance).astype(np.float64))
            row[str(level)] = {
                "share": float(found.draws.mean()) / fixed,
                "theory": exact_first_pass(chance, fixed).draws / fixed,
            }
        figures[str(chance)] = row
        table.add_row(f"{chance}", *[f"{each['share']:.3f} (theory {each['theory']:.3f})" for each in row.values()])
    console.print(table, "")
    return figures


def votes(console: Console, key: Key, questions: int = 300) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    labels = [Candidate(str(label)) for label in range(12)]
    for law in ANSWER_DISTRIBUTIONS:
        p = np.array(law) / sum(law)
        name = "answers " + " ".join(f"{x:g}" for x in law[:4]) + (" ..." if len(law) > 4 else "")
        drawn = key.fold("votes", name).generator().choice(len(p), size=(questions, VOTES), p=p)
        counts = (drawn[:, :, None] == np.arange(len(p))).cumsum(axis=1)
        strict = (counts[:, :, 0:1] > counts[:, :, 1:]).all(axis=2)
        enough = np.flatnonzero(strict.mean(axis=0) >= LEVEL)
        oracle = int(enough[0]) + 1 if len(enough) else VOTES
        table = Table(name, "right of the stopped", "stopped", "votes", "", box=None)
        rows: dict[str, Any] = {}
        for spec, error in VOTE_RULES:
            rule = build("stop", spec.format(labels=len(p)))
            made, stopped, right = np.full(questions, VOTES), np.zeros(questions, bool), np.zeros(questions, bool)
            for row, answers in enumerate(drawn.tolist()):
                state = rule.start(NOBODY)
                for place, answer in enumerate(answers):
                    state = rule.see(state, labels[answer], str(answer))
                    if rule.decide(state, Usage()) is not None:
                        made[row], stopped[row] = place + 1, True
                        break
                tally = np.bincount(drawn[row, : made[row]], minlength=len(p))
                right[row] = tally[0] == tally.max() and (tally == tally.max()).sum() == 1
            wrong = float((stopped & ~right).mean())
            rows["bayes_l3" if spec.startswith("bayes_l3") else spec.format(labels=len(p))] = {
                "attained": float(right[stopped].mean()) if stopped.any() else math.nan,
                "nominal": math.nan if error is None else 1 - error,
                "samples": float(made.mean()),
                "oracle_samples": oracle,
                "stopped": float(stopped.mean()),
                "wrong_of_all": wrong,
            }
            over = ""
            if rule.guarantee == "anytime-valid" and error is not None:
                over = "OVER" if wrong > error + 3 * math.sqrt(error / questions) else "kept"
            share = float(right[stopped].mean()) if stopped.any() else math.nan
            table.add_row(spec[:24], f"{share:.3f}", f"{stopped.mean():.2f}", f"{made.mean():.1f}", over)
        table.add_row("oracle, fixed", f"{LEVEL}", "", str(oracle), "")
        console.print(table, "")
        figures[name] = rows
    return figures


def worlds(console: Console, key: Key) -> dict[str, Any]:
    return {**scores(console, key), **votes(console, key)}
