"""Selectors on recorded draws of real models, each beside the ceiling (the share of questions with a right draw).

    math_qwen   Qwen2.5-Math, 8 draws, with the scores of its reward model
    humaneval   CodeGen-16B, 100 programs: agreement on tests that the same model wrote, on every fourth problem (40);
                1.5 minutes on two quiet cores, or about 6 with `--humaneval 164`; each program and test has its limit
    mmlu_pro    28 models, one letter each: every model an arm
    otis_aime   models with at least 8 answers each to 45 problems, averaged over models
    llmbar      65 judge prompts, both orders: every judge an arm, votes over judges, and position bias
    worlds      the simulated worlds of votes over six arms, where the truth is known (16 draws an arm)

Selectors that learn from labels are fitted on other questions than those they choose for (five folds). `shuffled` is
the control: arm labels, or scores, are shuffled within each question.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.about import about, rounded
from samplewise.core.files import data_folder, read_table
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.core.types import Candidate, Pool
from samplewise.measure import mean_interval
from samplewise.recorded import Recording, load_recording
from samplewise.select.arms import arm_vote, log_pool, only
from samplewise.select.base import Round, Selector
from samplewise.select.best import best
from samplewise.select.fit import fitted
from samplewise.select.learned import dawid_skene, learned
from samplewise.select.ranked import bom, borda, mob
from samplewise.select.votes import first, vote, weighted
from samplewise.tasks.recorded import recorded_task
from samplewise.verify.codet import codet_scores, read_tests, who_passes

SEED = 0
KEY = Key(SEED).fold("bench", "select")
ARMS = {
    "vote": vote(),
    "arm_vote": arm_vote(),
    "log_pool": log_pool(),
    "dawid_skene": dawid_skene(),
    "learned": learned(),
}
NUM_SIMULATED = 400  # questions of each world
WORLDS = {  # fidelity of the arms, a common attractor, published: direct, pooled, one vote an arm, log-pool
    "clean, shared": ((1.0,) * 6, True, (0.568, 0.581, 0.584, 0.577)),
    "clean, per arm": ((1.0,) * 6, False, (0.570, 0.791, 0.705, 0.901)),
    "harmful, shared": ((1.0, *(0.6,) * 5), True, (0.573, 0.345, 0.325, 0.345)),
    "harmful, per arm": ((1.0, *(0.6,) * 5), False, (0.568, 0.679, 0.537, 0.820)),
    "mixed, shared": ((1.0, 0.95, 0.9, 0.9, 0.35, 0.2), True, (0.574, 0.388, 0.407, 0.359)),
    "mixed, per arm": ((1.0, 0.95, 0.9, 0.9, 0.35, 0.2), False, (0.583, 0.685, 0.614, 0.819)),
}


def rounds_of(recording: Recording, score: str | None = None) -> list[Round]:
    """Return a recording's draws, read and graded by our own code. Draws without our grade keep their authors'."""
    task = recorded_task(recording.name)
    rounds = []
    for problem, draws in zip(recording.problems, recording.draws, strict=True):
        texts = [draw.completion.text for draw in draws]
        known = {text: task.read(problem.question, text) for text in dict.fromkeys(texts)}
        graded = {answer: task.grade(problem, answer).value for answer in set(known.values())}
        candidates = tuple(
            Candidate(draw.completion.text, scores={} if score is None else {"score": draw.scores[score]})
            for draw in draws
        )
        answers = tuple(known[text] for text in texts)
        rounds.append(Round(Pool(candidates), answers, tuple(graded[answer] for answer in answers)))
    return rounds


def chosen(selector: Selector, rounds: Sequence[Round], name: str) -> Floats:
    """Return grades (R,) of the selector's choices."""
    grades = []
    for number, (each, choosing) in enumerate(zip(rounds, fitted(selector, rounds, KEY.fold(name)), strict=True)):
        position = choosing.choose(KEY.fold(name, number), each.pool, each.answers).position
        grades.append(0.0 if position is None or each.grades is None else each.grades[position])
    return np.array(grades)


def shuffled(rounds: Sequence[Round], field: str) -> list[Round]:
    """Return the same rounds with arms, or scores, shuffled within each."""
    made = []
    for number, each in enumerate(rounds):
        kept = [getattr(candidate, field) for candidate in each.pool.candidates]
        order = KEY.fold("shuffle", number).generator().permutation(len(kept)).tolist()
        candidates = [c._replace(**{field: kept[place]}) for c, place in zip(each.pool.candidates, order, strict=True)]
        made.append(each._replace(pool=Pool(tuple(candidates))))
    return made


def report(console: Console, title: str, rounds: Sequence[Round], selectors: Mapping[str, Selector]) -> dict[str, Any]:
    """Report the accuracy of each selector with its interval, of a single draw, and the ceiling."""
    table = Table(title, "accuracy", "", box=None)
    graded = [np.nan_to_num(np.array(each.grades or (0.0,))) for each in rounds]
    values: dict[str, Floats] = {"one draw": np.array([grades.mean() for grades in graded])}
    values |= {name: chosen(selector, rounds, name) for name, selector in selectors.items()}
    values["coverage"] = np.array([grades.max() for grades in graded])
    figures: dict[str, Any] = {}
    for name, grades in values.items():
        estimate = mean_interval(np.nan_to_num(grades))
        table.add_row(name, f"{estimate.value:.3f}", f"[{estimate.low:.3f}, {estimate.high:.3f}]")
        figures |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    console.print(table)
    return figures


def math_qwen(console: Console, options: argparse.Namespace) -> dict[str, Any]:
    rounds = rounds_of(load_recording("math_qwen_rm_8x"), "reward")
    scored = {"best": best("score"), "weighted": weighted("score"), "mob": mob("score"), "borda": borda("score")}
    selectors = {"first": first(), "vote": vote(), **scored, "bom": bom("score")}
    figures = report(console, "math_qwen, 100 x 8", rounds, selectors)
    control = chosen(best("score"), shuffled(rounds, "scores"), "control").mean()
    console.print(f"control: best of shuffled scores {control:.3f}, one draw {figures['one draw']:.3f}\n")
    return {**figures, "best of shuffled scores": control}


def humaneval(console: Console, options: argparse.Namespace) -> dict[str, Any]:
    """Choose among programs by the generated tests that they pass. Grading and the pass matrix need the sandbox."""
    solutions, texts = load_recording("humaneval_codegen16b_100x"), load_recording("humaneval_codegen16b_100x/tests")
    step = max(1, len(solutions.problems) // options.humaneval)
    kept = list(range(0, len(solutions.problems), step))[: options.humaneval]
    part = solutions._replace(
        problems=tuple(solutions.problems[i] for i in kept), draws=tuple(solutions.draws[i] for i in kept)
    )
    started, rounds = time.monotonic(), []
    for each, place in zip(rounds_of(part), kept, strict=True):
        written = [draw.completion.text for draw in texts.draws[place]]
        entry_point = str(solutions.problems[place].question.facts["entry_point"])
        passed = who_passes([answer or "" for answer in each.answers], read_tests(written, entry_point), entry_point)
        scored = zip(each.pool.candidates, codet_scores(passed).tolist(), strict=True)
        candidates = tuple(candidate._replace(scores={"score": score}) for candidate, score in scored)
        rounds.append(each._replace(pool=Pool(candidates)))
        if len(rounds) % 10 == 0:
            console.print(f"humaneval: {len(rounds)} of {len(kept)} in {time.monotonic() - started:.0f} s", style="dim")
    figures = report(console, f"humaneval, {len(rounds)} x 100", rounds, {"vote": vote(), "codet": best("score")})
    console.print()
    return {**figures, "problems": len(rounds)}


def mmlu_pro(console: Console, options: argparse.Namespace) -> dict[str, Any]:
    """Choose among models, each an arm with one draw, so log-pool is plurality; the weights make the difference."""
    recording = load_recording("mmlu_pro_28_models")
    folder = data_folder()
    assert folder is not None
    row = read_table(folder / "recorded" / "mmlu_pro_28_models" / "preds.csv.gz")[0]
    models = [name for name in row if name not in ("question_id", "category", "n_options", "answer")]
    rounds = []
    for problem, draws in list(zip(recording.problems, recording.draws, strict=True))[:: options.mmlu_step]:
        letters = [draw.completion.text for draw in draws]
        candidates = tuple(Candidate(letter, arm=model) for letter, model in zip(letters, models, strict=True))
        answers = tuple(letter or None for letter in letters)
        rounds.append(Round(Pool(candidates), answers, tuple(float(a == problem.reference) for a in answers)))
    by_model = {model: np.mean([(e.grades or ())[i] for e in rounds]) for i, model in enumerate(models)}
    strongest = max(by_model, key=lambda model: by_model[model])
    selectors = {
        "vote": vote(),
        "dawid_skene": dawid_skene(),
        "learned": learned_models(),
        "strongest": only(strongest),
    }
    figures = report(console, f"mmlu_pro, {len(rounds)} x 28 models", rounds, selectors)
    control = chosen(dawid_skene(), shuffled(rounds, "arm"), "control").mean()
    console.print(f"strongest model: {strongest}; control: dawid_skene over shuffled labels {control:.3f}\n")
    return {**figures, "dawid_skene shuffled": control, "strongest_model": strongest}


def learned_models() -> Selector:
    """Vote with weights of arms learned from labels, without the choice among other rules."""
    from samplewise.select.arms import by_share
    from samplewise.select.learned import label_weights

    return Selector("learned", vote().choose, fit=lambda r: by_share(label_weights(r), "learned"), needs_labels=True)


def otis_aime(console: Console, options: argparse.Namespace) -> dict[str, Any]:
    folder = data_folder()
    assert folder is not None
    rows = read_table(folder / "recorded" / "otis_aime_8x" / "otis_mock_aime_runs.jsonl.gz")
    runs = sorted({row["run"] for row in rows if row["n"] >= 8})
    means: dict[str, list[float]] = {"one draw": [], "first": [], "vote": [], "coverage": []}
    for run in runs:
        rounds = rounds_of(load_recording(f"otis_aime_8x/{run}"))
        means["one draw"].append(float(np.mean([np.mean(each.grades or (0.0,)) for each in rounds])))
        means["coverage"].append(float(np.mean([max(each.grades or (0.0,)) for each in rounds])))
        for name, selector in (("first", first()), ("vote", vote())):
            means[name].append(float(chosen(selector, rounds, name).mean()))
    table = Table(f"otis_aime, {len(runs)} runs x 45", "mean over runs", box=None)
    for name, values in means.items():
        table.add_row(name, f"{np.mean(values):.3f}")
    console.print(table, "")
    return {**{name: float(np.mean(values)) for name, values in means.items()}, "runs": len(runs)}


def llmbar(console: Console, options: argparse.Namespace) -> dict[str, Any]:
    """Take a pair as a question, and a judge's two verdicts (one for each order) as the draws of its arm."""
    folder = data_folder()
    assert folder is not None
    rows = read_table(folder / "recorded" / "llmbar_judges" / "llmbar_419_pairs_judge_verdicts.jsonl.gz")
    rounds = []
    for row in rows:
        votes = [(judge, verdict) for judge, both in row["judges"].items() for verdict in both]
        candidates = tuple(Candidate(verdict, arm=judge) for judge, verdict in votes)
        answers = tuple(verdict if verdict in ("1", "2") else None for _, verdict in votes)
        grades = tuple(float(answer == str(row["label"])) for answer in answers)
        rounds.append(Round(Pool(candidates), answers, grades))
    judges = sorted(rows[0]["judges"])
    accuracy = {j: np.mean([[v == str(r["label"]) for v in r["judges"][j]] for r in rows]) for j in judges}
    strongest = max(accuracy, key=lambda judge: accuracy[judge])
    selectors = {**ARMS, "learned": learned_models(), "strongest": only(strongest)}
    figures = report(console, f"llmbar, {len(rounds)} pairs, {len(judges)} judges x 2 orders", rounds, selectors)
    disagree, lean = {}, {}
    for judge in judges:
        both = [
            r["judges"][judge] for r in rows if len(r["judges"][judge]) == 2 and set(r["judges"][judge]) <= {"1", "2"}
        ]
        disagree[judge] = float(np.mean([one != other for one, other in both])) if both else math.nan
        lean[judge] = float(np.mean([(one == "1") + (other == "2") for one, other in both]) / 2) if both else math.nan
    control = chosen(dawid_skene(), shuffled(rounds, "arm"), "control").mean()
    table = Table("judge", "accuracy", "orders disagree", "first shown is chosen", box=None)
    for judge in sorted(judges, key=lambda j: -accuracy[j])[:5]:
        table.add_row(judge, f"{accuracy[judge]:.3f}", f"{disagree[judge]:.3f}", f"{lean[judge]:.3f}")
    console.print(table)
    biased = sum(value > 0.4 for value in disagree.values())
    console.print(f"orders disagree in more than .4 of pairs: {biased} of {len(judges)} judges; use those pointwise\n")
    return {
        **figures,
        "best_judge": float(accuracy[strongest]),
        "best_judge_disagreement": disagree[strongest],
        "median_disagreement": float(np.nanmedian(list(disagree.values()))),
        "median_first_shown": float(np.nanmedian(list(lean.values()))),
        "judges_over_.4": biased,
        "dawid_skene shuffled": control,
    }


def worlds(console: Console, options: argparse.Namespace) -> dict[str, Any]:
    """Simulate six arms and ten answers; answer 0 is right. .65 of an arm's wrong mass is on one attractor."""
    figures: dict[str, Any] = {}
    table = Table("world", "direct", *ARMS, "published: direct, pooled, arm vote, log-pool", box=None)
    for name, (fidelity, shared, published) in WORLDS.items():
        rng = KEY.fold("world", name).generator()
        rounds = []
        for _ in range(NUM_SIMULATED):
            ease, common = rng.beta(1.2, 1.2), int(rng.integers(1, 10))
            drawn: list[tuple[str, str]] = []
            for arm in range(6):
                right = min(1.0, ease * fidelity[arm] * rng.uniform(0.7, 1.2))
                law = np.concatenate([[0.0], 0.35 * rng.dirichlet([0.3] * 9)])
                law[common if shared else int(rng.integers(1, 10))] += 0.65
                law *= 1 - right
                law[0] = right
                label = "direct" if arm == 0 else f"arm {arm}"
                drawn += [(label, str(a)) for a in rng.choice(10, size=16, p=law / law.sum()).tolist()]
            candidates = tuple(Candidate(answer, arm=arm) for arm, answer in drawn)
            answers = tuple(answer for _, answer in drawn)
            rounds.append(Round(Pool(candidates), answers, tuple(float(a == "0") for a in answers)))
        found = {label: float(chosen(s, rounds, label).mean()) for label, s in {"direct": only(), **ARMS}.items()}
        figures[name] = {**found, "published": list(published)}
        table.add_row(name, *(f"{value:.3f}" for value in found.values()), " ".join(f"{p:.3f}" for p in published))
    console.print(table)
    console.print("the published direct column has 96 draws of the direct arm, ours 16\n")
    return figures


PARTS = {
    "math_qwen": math_qwen,
    "humaneval": humaneval,
    "mmlu_pro": mmlu_pro,
    "otis_aime": otis_aime,
    "llmbar": llmbar,
    "worlds": worlds,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--humaneval", type=int, default=40, help="problems, evenly spread over the 164")
    parser.add_argument("--mmlu-step", type=int, default=6, help="every so many of the 12,032 questions")
    options = parser.parse_args()
    started, console = time.monotonic(), Console(width=130)
    figures = {name: PARTS[name](console, options) if name in options.only else None for name in PARTS}
    print(json.dumps({**about("select", SEED, started), **rounded(figures)}))


if __name__ == "__main__":
    main()
