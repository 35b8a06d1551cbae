"""Published collections of recorded draws, each in the form in which its authors released it.

A name may go on after a slash: `cruxeval_codellama7b_10x/output`, `otis_aime_8x/<run or model>`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from samplewise.errors import BadInput
from samplewise.files import read, read_json
from samplewise.types import Json, Message, Problem, Question, Sampling

from .base import Kind, Recording, text_draw

MIT = "MIT"
CODEGEN = Sampling(temperature=0.8, top_p=0.95)
CODELLAMA = Sampling(temperature=0.2)
GPT4 = Sampling(temperature=0.7)


def _user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def _part(name: str, part: str, known: tuple[str, ...]) -> str:
    """The part asked for; the first one where none is named."""
    if part and part not in known:
        raise BadInput(f"{name} has the parts {', '.join(known)}; got {part!r}")
    return part or known[0]


def math_qwen(folder: Path, part: str) -> Recording:
    """Qwen2.5-Math on 100 MATH problems, 8 responses each, with the authors' verdicts and Qwen2.5-Math-RM scores."""
    problems, draws = [], []
    for row in read(folder / "math_cot_100_with_rm_scores.jsonl.gz"):
        messages = (Message("system", row["system"]), Message("user", row["question"]))
        question = Question(f"math_qwen/{row['idx']}", messages, {"level": row["level"]})
        problems.append(Problem(question, row["gt"]))
        rated = zip(row["code"], row["score"], row["pred_score"], strict=True)
        draws.append(
            tuple(text_draw(messages, text, grade=float(ok), scores={"reward": s[-1]}) for text, ok, s in rated)
        )
    return Recording("math_qwen_rm_8x", tuple(problems), tuple(draws), "maths", "QwenLM/Qwen2.5-Math, evaluation", MIT)


def humaneval(folder: Path, part: str) -> Recording:
    """CodeGen-Mono-16B on HumanEval, prompts without their examples: 100 solutions, or 100 texts of tests, each."""
    part = _part("humaneval_codegen16b_100x", part, ("solutions", "tests"))
    stem = "HumanEval_codegen16B_temp0.8_topp0.95_num100_max300"
    kinds = {"solutions": "code_solution", "tests": "test_case"}
    rows = read(folder / f"{stem}_{kinds[part]}.jsonl.gz")
    # entry points are not unique; the rows come in the order of the official ids as texts
    official = sorted(read(_benchmark(folder, "HumanEval.jsonl.gz")), key=lambda row: str(row["task_id"]))
    problems, draws = [], []
    for row, task in zip(rows, official, strict=True):
        entry = task["entry_point"]
        if f"def {entry}(" not in row["prompt"]:
            raise BadInput(f"{folder}: the prompt of {task['task_id']} does not define {entry}")
        facts: dict[str, Json] = {"prompt": row["prompt"], "entry_point": entry}
        question = Question(task["task_id"], _user(row["prompt"]), facts)
        tests = f"{task['test']}\n\ncheck({entry})\n"
        reference = {"tests": tests, "level": "apart"} if part == "solutions" else None
        problems.append(Problem(question, reference))
        draws.append(tuple(text_draw(question.messages, text, sampling=CODEGEN) for text in row["samples"]))
    name = f"humaneval_codegen16b_100x/{part}"
    kind: Kind = "code" if part == "solutions" else "auto"
    return Recording(name, tuple(problems), tuple(draws), kind, "microsoft/CodeT", MIT)


def game24(folder: Path, part: str) -> Recording:
    """GPT-4 on the published Game of 24 test set, 100 samples each, by chain of thought or directly."""
    part = _part("game24_gpt4_100x", part, ("cot", "direct"))
    stem = {"cot": "naive_cot", "direct": "naive_standard"}[part]
    ranked = read(_benchmark(folder, "game24_24.csv"))
    puzzles = [tuple(int(n) for n in row["Puzzles"].split()) for row in ranked]
    problems, draws, before = [], [], (0, 0)
    for row in read_json(folder / f"gpt-4_0.7_{stem}_sample_100_start900_end1000.json.gz"):
        numbers = puzzles[row["idx"]]
        question = Question(
            f"game24/{'-'.join(map(str, sorted(numbers)))}",
            _user(f"make 24 from {' '.join(map(str, numbers))}"),
            {"numbers": list(numbers), "target": 24},
        )
        problems.append(Problem(question))
        used = (row["usage_so_far"]["prompt_tokens"], row["usage_so_far"]["completion_tokens"])
        per_draw = [round((now - then) / len(row["ys"])) for now, then in zip(used, before, strict=True)]
        before = used
        grades = [info["r"] for info in row["infos"]] if part == "cot" else row["accs"]
        draws.append(
            tuple(
                text_draw(
                    question.messages,
                    y,
                    prompt_tokens=per_draw[0],
                    completion_tokens=per_draw[1],
                    sampling=GPT4,
                    grade=float(g),
                )
                for y, g in zip(row["ys"], grades, strict=True)
            )
        )
    name = f"game24_gpt4_100x/{part}"
    source = "princeton-nlp/tree-of-thought-llm"
    return Recording(name, tuple(problems), tuple(draws), "puzzle", source, MIT)


def cruxeval(folder: Path, part: str) -> Recording:
    """CodeLlama-7B on CRUXEval, 10 generations each: an input that gives the output, or the output of an input."""
    part = _part("cruxeval_codellama7b_10x", part, ("input", "output"))
    scored = read_json(folder / f"sample_scored_codellama-7b_temp0.2_{part}.json.gz")
    problems, draws = [], []
    for row in read(folder / "cruxeval.jsonl.gz"):
        asked = f"assert f(??) == {row['output']}" if part == "input" else f"assert f({row['input']}) == ??"
        question = Question(f"cruxeval-{part}/{row['id']}", _user(f"{row['code']}\n{asked}"), {"task": part})
        problems.append(Problem(question, {key: row[key] for key in ("code", "input", "output")}))
        rated = zip(scored["raw_generations"][row["id"]], scored["raw_scored_generations"][row["id"]], strict=True)
        draws.append(
            tuple(text_draw(question.messages, text, sampling=CODELLAMA, grade=float(ok)) for text, ok in rated)
        )
    name = f"cruxeval_codellama7b_10x/{part}"
    return Recording(name, tuple(problems), tuple(draws), "value", "facebookresearch/cruxeval", MIT)


def otis_aime(folder: Path, part: str) -> Recording:
    """One model's run on 45 OTIS Mock AIME problems: extracted answers, and a grader's label (it errs now and then)."""
    rows = read(folder / "otis_mock_aime_runs.jsonl.gz")
    runs = {row["run"]: row["model"] for row in rows}
    chosen = [run for run, model in runs.items() if part in (run, model)]
    if len(chosen) != 1:
        some = ", ".join(sorted(set(runs.values()))[:3])
        what = "names no run" if not chosen else f"names the runs {', '.join(chosen)}"
        raise BadInput(f"otis_aime_8x holds {len(runs)} runs, and {part!r} {what}; give one after a slash: {some} ...")
    problems, draws = [], []
    for row in rows:
        if row["run"] != chosen[0]:
            continue
        question = Question(row["problem"], _user(row["problem"]))
        problems.append(Problem(question, row["gold"]))
        counts = row.get("output_tokens") or [None] * len(row["answers"])
        rated = zip(row["answers"], row["correct"], counts, strict=True)
        draws.append(
            tuple(
                text_draw(question.messages, str(a or ""), completion_tokens=n, grade=_number(ok)) for a, ok, n in rated
            )
        )
    source = "Epoch AI Benchmarking Hub"
    return Recording(f"otis_aime_8x/{chosen[0]}", tuple(problems), tuple(draws), "number", source, "CC BY 4.0")


def mmlu_pro(folder: Path, part: str) -> Recording:
    """28 models' letters for 12,032 MMLU-Pro questions: one draw of each model, or a single model's."""
    texts = {str(row["question_id"]): row for row in read(folder / "sample_280_questions.jsonl.gz")}
    problems, draws = [], []
    models: list[str] = []
    for row in read(folder / "preds.csv.gz"):
        models = models or [name for name in row if name not in ("question_id", "category", "n_options", "answer")]
        if part and part not in models:
            raise BadInput(f"mmlu_pro_28_models holds {', '.join(models)}; got {part!r}")
        known = texts.get(row["question_id"])
        asked = f"MMLU-Pro question {row['question_id']}"
        if known is not None:
            options = "\n".join(f"({chr(65 + i)}) {option}" for i, option in enumerate(known["options"]))
            asked = f"{known['question']}\n{options}"
        question = Question(f"mmlu_pro/{row['question_id']}", _user(asked), {"category": row["category"]})
        problems.append(Problem(question, row["answer"]))
        letters = [row[part]] if part else [row[model] for model in models]
        draws.append(
            tuple(
                text_draw(question.messages, letter, completion_tokens=1, grade=float(letter == row["answer"]))
                for letter in letters
            )
        )
    name = f"mmlu_pro_28_models/{part}" if part else "mmlu_pro_28_models"
    return Recording(name, tuple(problems), tuple(draws), "answer", "TIGER-AI-Lab/MMLU-Pro", "Apache-2.0")


def aqua_codex(folder: Path, part: str) -> Recording:
    """Codex programs for 253 AQuA problems, 30 each. A program leaves a number that is near one of the options; who
    wrote them let a model say which, and that is not recorded for each draw: so there is a reference, but no grade."""
    problems, draws = [], []
    for number, row in enumerate(read(folder / "aqua_sc_codex.jsonl.gz"), start=1):
        if "question" not in row:
            continue
        question = Question(
            f"aqua_codex/{number}",
            _user(row["question"] + "\n" + "\n".join(row["options"])),
            {"options": row["options"]},
        )
        problems.append(Problem(question, row["answer"]))
        draws.append(tuple(text_draw(question.messages, program) for program in row["generated"]))
    return Recording("aqua_codex_30x", tuple(problems), tuple(draws), "answer", "TIGER-AI-Lab/Program-of-Thoughts", MIT)


def noveltybench(folder: Path, part: str) -> Recording:
    """Gemini 1.5 Pro on 100 open prompts, 10 generations each, with their class of equivalent ones and its utility."""
    problems, draws = [], []
    for row in read(folder / "gemini-1.5-pro_nb-curated_scores.jsonl.gz"):
        question = Question(row["id"], _user(row["prompt"]))
        problems.append(Problem(question))
        rated = zip(row["generations"], row["partition"], row["generation_scores"], strict=True)
        draws.append(
            tuple(
                text_draw(question.messages, text, scores={"class": float(group), "utility": _number(utility)})
                for text, group, utility in rated
            )
        )
    return Recording("noveltybench_gemini", tuple(problems), tuple(draws), "answer", "novelty-bench/novelty-bench", MIT)


def _number(value: Json) -> float:
    return math.nan if value is None else float(value)


def _benchmark(folder: Path, file: str) -> Path:
    """A benchmark's own file, beside the folder of the recordings."""
    return folder.parents[1] / "benchmarks" / file


FOLDERS: Mapping[str, Callable[[Path, str], Recording]] = {
    "aqua_codex_30x": aqua_codex,
    "cruxeval_codellama7b_10x": cruxeval,
    "game24_gpt4_100x": game24,
    "humaneval_codegen16b_100x": humaneval,
    "math_qwen_rm_8x": math_qwen,
    "mmlu_pro_28_models": mmlu_pro,
    "noveltybench_gemini": noveltybench,
    "otis_aime_8x": otis_aime,
}
