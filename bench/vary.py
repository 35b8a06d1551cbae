"""What varying the prompt is worth on the bundled model: the three experiments of arXiv 2502.11027, at equal tokens.

(a) relevance: one arm of each of the five levels, from an unrelated remark to the question once more;
(b) each arm and the mix against direct draws, low temperature and the temperature ladder, at k = 1, 8, 32, 100;
(c) what a checker, a reward model, votes and log-pool make of direct draws and of the mix.

k counts direct draws. Every other method gets the tokens of k direct draws, its prompts and its helper's tokens
inside, and so fewer draws. pass@k is the unbiased estimator for stratified draws (each arm its share, direct first).
Intervals are over puzzles, differences paired. The mix was chosen on the `dev` puzzles, which are not scored here
(`--choose` shows how).

Controls: `copies` are arms that change nothing (no gain to be had), and log-pool over shuffled arm labels.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.about import about, rounded
from samplewise.cli.progress import Bar
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.core.registry import build
from samplewise.core.spec import Spec
from samplewise.core.types import Pool, Question
from samplewise.measure import mean_interval, paired_difference
from samplewise.measure.powers import failure_power
from samplewise.measure.shortlist import SIZE as SHORTLIST
from samplewise.measure.shortlist import shortlist_at
from samplewise.recipe import Recipe, parse_choice, recipe
from samplewise.runs.arrays import load_outcomes
from samplewise.runs.redecide import rescore
from samplewise.runs.run import run_task
from samplewise.samplers.base import Variant
from samplewise.store.database import Store
from samplewise.vary.base import vary

SEED = 0
KS = (1, 8, 32, 100)
DRAWS = 128
MIX = "vary(permute(16) + ladder(0.5))"
LEVELS = {
    "1 remark": "vary(remark(4))",
    "2 prefer": "vary(prefer)",
    "3 step": "vary(step(4))",
    "4 permute": "vary(permute(4))",
    "5 again": "vary(again)",
}
METHODS = {
    "direct": "repeat({n})",
    "temperature 0.6": "repeat({n}, temperature=0.6)",
    "temperature 0.25": "repeat({n}, temperature=0.25)",
    "ladder": "vary(ladder) | repeat({n})",
    **{f"level {name}": f"{line} | repeat({{n}})" for name, line in LEVELS.items()},
    "random step": "vary(random_step(4)) | repeat({n})",
    "mix": f"{MIX} | repeat({{n}})",
    "copies": "",  # made below: no recipe needs such arms
}
CANDIDATES = (  # of the mix, on the dev puzzles
    "vary(ladder(0.25, 0.5))",
    "vary(permute(8))",
    "vary(permute(8), step(4))",
    "vary(permute(8), step(4), prefer)",
    "vary(permute(16) + ladder(0.25))",
    MIX,
    "vary(permute(16) + ladder(0.75))",
    "vary(permute(8) + ladder(0.25, 0.75))",
)
SELECTORS = {"reward": "best(reward)", "majority": "vote", "log_pool": "log_pool"}


class Drawn(NamedTuple):
    """The draws of one method for P puzzles. `arms` (P, N) numbers the arms of each puzzle by their first draw."""

    run: str
    grades: Floats  # (P, N)
    arms: NDArray[np.int64]  # (P, N)
    helper: float  # tokens a puzzle before the first draw
    per_draw: float  # tokens a draw


def copies() -> Recipe:
    """Return a mix of four arms that leave the question unchanged: the control for a gain from nothing."""

    def arm(question: Question) -> tuple[Variant, ...]:
        return tuple(Variant(f"copy/{i}", question.messages) for i in range(1, 5))

    plain = recipe(f"repeat({DRAWS}) | first")
    stages = plain.stages._replace(vary=Spec("vary", (Spec("copies"),)))
    return dataclasses.replace(plain, stages=stages, vary=vary(arm))


def draw(store: Store, task: Any, engine: Any, method: str, line: str) -> Drawn:
    """Draw a method, or find its draws in the store."""
    parsed = recipe(f"{line.format(n=DRAWS)} | first") if line else copies()
    with Bar(method) as bar:
        summary = asyncio.run(run_task(task, parsed, engine, store, seed=SEED, on_event=bar))
    found = load_outcomes(store, summary.run)
    arms = np.zeros(found.graded.grades.shape, dtype=np.int64)
    for row, record in enumerate(store.records(summary.run)):
        codes: dict[str, int] = {}
        arms[row] = [codes.setdefault(candidate.arm, len(codes)) for candidate in record.pool.candidates]
    bills = [record.bill for record in store.records(summary.run)]
    helper = sum(bill.helpers.tokens for bill in bills if bill is not None) / len(task.problems)
    total = float(found.tokens.sum()) / len(task.problems)
    return Drawn(summary.run, found.graded.grades, arms, helper, (total - helper) / DRAWS)


def draws_for(found: Drawn, tokens: float) -> int:
    """Return how many draws this many tokens per puzzle pay for, at least one."""
    return max(1, min(DRAWS, int((tokens - found.helper) / found.per_draw + 1e-9)))


def passed(found: Drawn, num: int) -> Floats:
    """Return pass@num (P,) of stratified draws: 1 - the product over arms of the probability that all of its draws
    fail."""
    value = np.zeros(len(found.grades))
    for row, (grades, arms) in enumerate(zip(found.grades, found.arms, strict=True)):
        drawn = np.bincount(arms)
        failed = drawn - np.bincount(arms, weights=grades).astype(np.int64)
        share = num // len(drawn) + (np.arange(len(drawn)) < num % len(drawn))
        value[row] = 1.0 - float(np.prod(failure_power(failed, drawn, np.minimum(share, drawn))))
    return value


def chosen(store: Store, found: Drawn, selector: str, num: int, shuffle: Key | None = None) -> Floats:
    """Return grades (P,) of what a selector chooses from the first `num` draws; with a key, arm labels are shuffled."""
    _, choosing, verifiers = parse_choice(selector)
    rescore(store, found.run, verifiers)
    outcomes = load_outcomes(store, found.run, scores=choosing.verifiers)
    grades = np.zeros(len(outcomes.questions))
    for row, record in enumerate(store.records(found.run)):
        candidates = list(record.pool.candidates[:num])
        for name in choosing.verifiers:
            values = outcomes.graded.scores[name][row].tolist()
            candidates = [
                each._replace(scores={**each.scores, name: value})
                for each, value in zip(candidates, values, strict=False)
            ]
        if shuffle is not None:
            order = shuffle.fold(row).generator().permutation(len(candidates)).tolist()
            candidates = [
                each._replace(arm=candidates[place].arm) for each, place in zip(candidates, order, strict=True)
            ]
        key = Key(SEED).fold("select", record.problem.question.id)
        position = choosing.choose(key, Pool(tuple(candidates)), record.answers[:num]).position
        grades[row] = 0.0 if position is None else record.grades[position]
    return grades


def shortlisted(store: Store, found: Drawn, num: int) -> Floats:
    """Return the probability (P,) that the 10 best-scored of `num` draws hold a right one."""
    outcomes = load_outcomes(store, found.run, scores=("reward",))
    scores, grades = outcomes.graded.scores["reward"][:, :num], outcomes.graded.grades[:, :num]
    return shortlist_at(scores, grades, min(SHORTLIST, num))


def interval(values: Floats) -> str:
    estimate = mean_interval(values)
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def difference(values: Floats, baseline: Floats) -> str:
    estimate = paired_difference(values, baseline)
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def coverage(console: Console, drawn: dict[str, Drawn]) -> tuple[dict[str, list[Floats]], dict[str, Any]]:
    """Report pass@k of every method at the tokens of k direct draws: per puzzle, and as a table."""
    direct = drawn["direct"]
    values = {name: [passed(found, draws_for(found, k * direct.per_draw)) for k in KS] for name, found in drawn.items()}
    table = Table("method", "tokens a draw", *(f"pass@{k}" for k in KS), f"over direct at {KS[-1]}", box=None)
    for name, found in drawn.items():
        at = [f"{each.mean():.3f}" for each in values[name]]
        table.add_row(name, f"{found.per_draw:.1f}", *at, difference(values[name][-1], values["direct"][-1]))
    console.print(table)
    mix, ladder, plain = (values[name][-1] for name in ("mix", "ladder", "direct"))
    over_direct, over_ladder = paired_difference(mix, plain), paired_difference(mix, ladder)
    figures = {
        "direct": [each.mean() for each in values["direct"]],
        "low_temperature": [each.mean() for each in values["temperature 0.25"]],
        "temperature_0.6": [each.mean() for each in values["temperature 0.6"]],
        "ladder": [each.mean() for each in values["ladder"]],
        "mix": [each.mean() for each in values["mix"]],
        "arms": {name: [each.mean() for each in at] for name, at in values.items()},
        "mix_over_direct": mix.mean() / plain.mean() - 1,
        "mix_over_direct_by_k": [m.mean() / d.mean() - 1 for m, d in zip(values["mix"], values["direct"], strict=True)],
        "mix_minus_direct": [over_direct.value, over_direct.low, over_direct.high],
        "mix_over_ladder": mix.mean() / ladder.mean() - 1,
        "mix_minus_ladder": [over_ladder.value, over_ladder.low, over_ladder.high],
        "copies_over_direct": values["copies"][-1].mean() / plain.mean() - 1,
        "relevance": [values[f"level {name}"][2].mean() for name in LEVELS],
    }
    return values, figures


def choice(console: Console, store: Store, drawn: dict[str, Drawn], k: int) -> dict[str, Any]:
    """Report what each selector achieves on direct draws and on the mix, at the tokens of k direct draws."""
    tokens = k * drawn["direct"].per_draw
    num = {name: draws_for(drawn[name], tokens) for name in ("direct", "mix")}
    values: dict[str, dict[str, Floats]] = {"oracle": {name: passed(drawn[name], num[name]) for name in num}}
    for name, selector in SELECTORS.items():
        values[name] = {side: chosen(store, drawn[side], selector, num[side]) for side in num}
    values["judge"] = {side: shortlisted(store, drawn[side], num[side]) for side in num}
    chance = {side: passed(drawn[side], min(SHORTLIST, num[side])).mean() for side in num}
    shuffled = chosen(store, drawn["mix"], "log_pool", num["mix"], Key(SEED).fold("shuffle"))
    table = Table("chosen by", f"direct, {num['direct']} draws", f"mix, {num['mix']} draws", "difference", box=None)
    for name, sides in values.items():
        table.add_row(
            name, interval(sides["direct"]), interval(sides["mix"]), difference(sides["mix"], sides["direct"])
        )
    table.add_row("log_pool, labels shuffled", "", interval(shuffled), "")
    console.print(table)
    console.print(f"judge: a right one among the reward model's best {SHORTLIST}; {SHORTLIST} at random have one with "
                  f"{chance['direct']:.3f} (direct) and {chance['mix']:.3f} (mix)")  # fmt: skip
    pooled = max(("direct", "mix"), key=lambda side: values["majority"][side].mean())
    against = paired_difference(values["log_pool"]["mix"], values["majority"][pooled])
    return {
        **{name: {side: each.mean() for side, each in sides.items()} for name, sides in values.items()},
        "draws": num,
        "judge_chance": chance,
        "log_pool_shuffled": shuffled.mean(),
        "log_pool_minus_better_vote": [against.value, against.low, against.high],
    }


def choose_mix(console: Console, store: Store, engine: Any, puzzles: int) -> None:
    """Report pass@k of the candidates for the mix on dev puzzles, at equal tokens."""
    task = build("task", f"game24('dev', limit={puzzles})")
    direct = draw(store, task, engine, "direct", METHODS["direct"])
    table = Table("mix, on dev puzzles", *(f"pass@{k}" for k in KS), box=None)
    table.add_row("direct", *(f"{passed(direct, k).mean():.3f}" for k in KS))
    for line in ("vary(ladder)", *CANDIDATES):
        found = draw(store, task, engine, line, f"{line} | repeat({{n}})")
        at = (passed(found, draws_for(found, k * direct.per_draw)).mean() for k in KS)
        table.add_row(line, *(f"{value:.3f}" for value in at))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--puzzles", type=int, default=200)
    parser.add_argument("--choose", action="store_true", help="compare mixes on dev puzzles instead")
    parser.add_argument("--store", type=Path, help="keep the draws here, and go on from there")
    options = parser.parse_args()
    started, console = time.monotonic(), Console(width=130)
    with tempfile.TemporaryDirectory() as folder, Store(options.store or Path(folder) / "vary.db") as store:
        engine = build("engine", "tiny")
        if options.choose:
            choose_mix(console, store, engine, options.puzzles)
            return
        task = build("task", f"game24(limit={options.puzzles})")
        drawn = {name: draw(store, task, engine, name, line) for name, line in METHODS.items()}
        _, figures = coverage(console, drawn)
        console.print(f"relevance, pass@{KS[2]} by level 1 to 5: {[round(x, 3) for x in figures['relevance']]}")
        rescore(store, drawn["direct"].run, parse_choice("best(reward)")[2])
        rescore(store, drawn["mix"].run, parse_choice("best(reward)")[2])
        by_choice = {k: choice(console, store, drawn, k) for k in KS[2:]}
        asyncio.run(engine.close())
    figures = {"puzzles": options.puzzles, "k": list(KS), **figures, "choice": by_choice[KS[-1]]}
    figures["choice_at_32"] = by_choice[KS[2]]
    print(json.dumps({**about("vary", SEED, started), **rounded(figures)}))


if __name__ == "__main__":
    main()
