"""Published collections of recorded draws, each as its authors released it.

A name may go on after a slash: `cruxeval_codellama7b_10x/output`, `otis_aime_8x/<run or model>`. A row that is not as
its authors wrote it is BadInput with the file, the row and the field.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from samplewise.core.errors import BadInput
from samplewise.core.files import read_json, read_table
from samplewise.core.text import as_one_line
from samplewise.core.types import Json, Message, Problem, Question, Sampling

from .base import Kind, Recording, text_draw

MIT = "MIT"
CODEGEN = Sampling(temperature=0.8, top_p=0.95)
CODELLAMA = Sampling(temperature=0.2)
GPT4 = Sampling(temperature=0.7)


@contextlib.contextmanager
def _reading(path: Path, row: int) -> Iterator[None]:
    """Say of which file and row what does not fit is. Rows count from 1."""
    try:
        yield
    except KeyError as error:
        raise BadInput(f"{path}: row {row} has no field {as_one_line(str(error))}") from None
    except (TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise BadInput(f"{path}: row {row} does not fit: {as_one_line(str(error))}") from None


def _of_kind(row: Json, name: Any, kind: type) -> Any:
    """Return a field. KeyError without it, ValueError if it is of another kind."""
    if not isinstance(row, dict):
        raise ValueError(f"expected an object with {name}, got {row!r:.40}")
    if not isinstance(row[name], kind):
        what = {str: "a text", list: "a list", dict: "an object", int: "a whole number"}[kind]
        raise ValueError(f"{name}: expected {what}, got {row[name]!r:.40}")
    return row[name]


def _text(row: Json, name: str) -> str:
    text: str = _of_kind(row, name, str)
    return text


def _texts(row: Json, name: str) -> list[str]:
    texts: list[str] = _of_kind(row, name, list)
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise ValueError(f"{name}: expected texts, got {wrong[0]!r:.40}")
    return texts


def _count(value: Json) -> int:
    """Return a number of tokens."""
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError(f"expected a number of tokens, got {value!r:.40}")
    return value


def _number(value: Json) -> float:
    if value is None:
        return math.nan
    if not isinstance(value, bool | int | float) or not math.isfinite(value):
        raise ValueError(f"expected a number, got {value!r:.40}")
    return float(value)


def _grade(value: Json) -> float:
    grade = _number(value)
    if not 0 <= grade <= 1 and not math.isnan(grade):
        raise ValueError(f"expected a grade from 0 to 1, got {value!r:.40}")
    return grade


def _user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def _part(name: str, part: str, parts: tuple[str, ...]) -> str:
    """Return the part that is named, the first by default. Raises BadInput for an unknown one."""
    if part and part not in parts:
        raise BadInput(f"{name} has the parts {', '.join(parts)}; got {part!r}")
    return part or parts[0]


def read_math_qwen(folder: Path, part: str) -> Recording:
    """Read Qwen2.5-Math on 100 MATH problems, 8 responses each, with the authors' verdicts and Qwen2.5-Math-RM scores.

    Each draw has the reward model's score of its last step.
    """
    problems, draws = [], []
    path = folder / "math_cot_100_with_rm_scores.jsonl.gz"
    for number, row in enumerate(read_table(path), start=1):
        with _reading(path, number):
            messages = (Message("system", _text(row, "system")), Message("user", _text(row, "question")))
            question = Question(f"math_qwen/{_of_kind(row, 'idx', int)}", messages, {"level": _text(row, "level")})
            problems.append(Problem(question, _text(row, "gt")))
            rated = zip(_texts(row, "code"), row["score"], row["pred_score"], strict=True)
            draws.append(
                tuple(
                    text_draw(messages, text, grade=_grade(ok), scores={"reward": _number(steps[-1])})
                    for text, ok, steps in rated
                )
            )
    return Recording("math_qwen_rm_8x", tuple(problems), tuple(draws), "maths", "QwenLM/Qwen2.5-Math, evaluation", MIT)


def read_humaneval(folder: Path, part: str) -> Recording:
    """Read CodeGen-Mono-16B on HumanEval, prompts without examples: 100 solutions or 100 test texts per problem."""
    part = _part("humaneval_codegen16b_100x", part, ("solutions", "tests"))
    stem = "HumanEval_codegen16B_temp0.8_topp0.95_num100_max300"
    kinds = {"solutions": "code_solution", "tests": "test_case"}
    path, tasks = folder / f"{stem}_{kinds[part]}.jsonl.gz", _benchmark(folder, "HumanEval.jsonl.gz")
    rows, official = read_table(path), []
    for number, task in enumerate(read_table(tasks), start=1):
        with _reading(tasks, number):
            official.append(tuple(_text(task, name) for name in ("task_id", "entry_point", "test")))
    official.sort()  # entry points are not unique; the rows come in the order of the official ids as texts
    if len(rows) != len(official):
        raise BadInput(f"{path}: expected {len(official)} rows, one for each of {tasks.name}, got {len(rows)}")
    problems, draws = [], []
    for number, (row, (name, entry, test)) in enumerate(zip(rows, official, strict=True), start=1):
        with _reading(path, number):
            prompt = _text(row, "prompt")
            if f"def {entry}(" not in prompt:
                raise ValueError(f"the prompt of {name} does not define {entry}")
            facts: dict[str, Json] = {"prompt": prompt, "entry_point": entry}
            question = Question(name, _user(prompt), facts)
            tests = f"{test}\n\ncheck({entry})\n"
            reference = {"tests": tests, "level": "apart"} if part == "solutions" else None
            problems.append(Problem(question, reference))
            draws.append(tuple(text_draw(question.messages, text, sampling=CODEGEN) for text in _texts(row, "samples")))
    name = f"humaneval_codegen16b_100x/{part}"
    kind: Kind = "code" if part == "solutions" else "auto"
    return Recording(name, tuple(problems), tuple(draws), kind, "microsoft/CodeT", MIT)


def read_game24(folder: Path, part: str) -> Recording:
    """Read GPT-4 on the published Game of 24 test set, 100 draws per problem, with chain of thought or direct."""
    part = _part("game24_gpt4_100x", part, ("cot", "direct"))
    stem = {"cot": "naive_cot", "direct": "naive_standard"}[part]
    ranked, puzzles = _benchmark(folder, "game24_24.csv"), []
    for number, row in enumerate(read_table(ranked), start=1):
        with _reading(ranked, number):
            puzzles.append(tuple(int(n) for n in _text(row, "Puzzles").split()))
    path = folder / f"gpt-4_0.7_{stem}_sample_100_start900_end1000.json.gz"
    problems, draws, used_before = [], [], (0, 0)
    for number, row in enumerate(read_table(path), start=1):
        with _reading(path, number):
            index, ys = _of_kind(row, "idx", int), _texts(row, "ys")
            if not 0 <= index < len(puzzles):
                raise ValueError(f"idx: expected the index of one of {len(puzzles)} puzzles, got {index}")
            numbers = puzzles[index]
            question = Question(
                f"game24/{'-'.join(map(str, sorted(numbers)))}",
                _user(f"make 24 from {' '.join(map(str, numbers))}"),
                {"numbers": list(numbers), "target": 24},
            )
            problems.append(Problem(question))
            usage = _of_kind(row, "usage_so_far", dict)
            used = (_count(usage["prompt_tokens"]), _count(usage["completion_tokens"]))
            if min(total - total_before for total, total_before in zip(used, used_before, strict=True)) < 0:
                used_before = (0, 0)  # the authors went on in a new process, which counts from 0
            prompt_tokens, completion_tokens = (
                _count(round((total - total_before) / max(1, len(ys))))
                for total, total_before in zip(used, used_before, strict=True)
            )
            used_before = used
            grades = [info["r"] for info in _of_kind(row, "infos", list)] if part == "cot" else row["accs"]
            draws.append(
                tuple(
                    text_draw(
                        question.messages,
                        y,
                        prompt_tokens=prompt_tokens,
                        completion_tokens=completion_tokens,
                        sampling=GPT4,
                        grade=_grade(g),
                    )
                    for y, g in zip(ys, grades, strict=True)
                )
            )
    name = f"game24_gpt4_100x/{part}"
    source = "princeton-nlp/tree-of-thought-llm"
    return Recording(name, tuple(problems), tuple(draws), "puzzle", source, MIT)


def read_cruxeval(folder: Path, part: str) -> Recording:
    """Read CodeLlama-7B on CRUXEval, 10 draws per problem: an input that gives the output, or an input's output."""
    part = _part("cruxeval_codellama7b_10x", part, ("input", "output"))
    scored_path, path = folder / f"sample_scored_codellama-7b_temp0.2_{part}.json.gz", folder / "cruxeval.jsonl.gz"
    with _reading(scored_path, 1):
        scored = read_json(scored_path)
        texts, grades = (_of_kind(scored, name, dict) for name in ("raw_generations", "raw_scored_generations"))
    problems, draws = [], []
    for number, row in enumerate(read_table(path), start=1):
        with _reading(path, number):
            reference = {name: _text(row, name) for name in ("code", "input", "output")}
            code, given, output = reference.values()
            asked = f"assert f(??) == {output}" if part == "input" else f"assert f({given}) == ??"
            name = _text(row, "id")
            question = Question(f"cruxeval-{part}/{name}", _user(f"{code}\n{asked}"), {"task": part})
            if name not in texts or name not in grades:
                raise ValueError(f"{scored_path.name} has no draws of {name!r:.40}")
            problems.append(Problem(question, reference))
            rated = zip(_texts(texts, name), _of_kind(grades, name, list), strict=True)
            draws.append(
                tuple(text_draw(question.messages, text, sampling=CODELLAMA, grade=_grade(ok)) for text, ok in rated)
            )
    name = f"cruxeval_codellama7b_10x/{part}"
    return Recording(name, tuple(problems), tuple(draws), "value", "facebookresearch/cruxeval", MIT)


def read_otis_aime(folder: Path, part: str) -> Recording:
    """Read one model's run on 45 OTIS Mock AIME problems: extracted answers with a grader's labels, a few wrong."""
    path = folder / "otis_mock_aime_runs.jsonl.gz"
    rows, runs = read_table(path), {}
    for number, row in enumerate(rows, start=1):
        with _reading(path, number):
            runs[_text(row, "run")] = _text(row, "model")
    chosen = [run for run, model in runs.items() if part in (run, model)]
    if len(chosen) != 1:
        some = ", ".join(sorted(set(runs.values()))[:3])
        problem = "names no run" if not chosen else f"names the runs {', '.join(chosen)}"
        raise BadInput(
            f"otis_aime_8x holds {len(runs)} runs, and {part!r} {problem}; give one after a slash: {some} ..."
        )
    problems, draws = [], []
    for number, row in enumerate(rows, start=1):
        if row["run"] != chosen[0]:
            continue
        with _reading(path, number):
            question = Question(_text(row, "problem"), _user(_text(row, "problem")))
            problems.append(Problem(question, _text(row, "gold")))
            answers = [answer or "" for answer in _of_kind(row, "answers", list)]
            counts = [None] * len(answers) if row.get("output_tokens") is None else row["output_tokens"]
            rated = zip(_texts({"answers": answers}, "answers"), row["correct"], counts, strict=True)
            draws.append(
                tuple(
                    text_draw(
                        question.messages,
                        answer,
                        completion_tokens=None if num is None else _count(num),
                        grade=_grade(ok),
                    )
                    for answer, ok, num in rated
                )
            )
    source = "Epoch AI Benchmarking Hub"
    return Recording(f"otis_aime_8x/{chosen[0]}", tuple(problems), tuple(draws), "number", source, "CC BY 4.0")


def read_mmlu_pro(folder: Path, part: str) -> Recording:
    """Read the letters of 28 models for 12,032 MMLU-Pro questions: one draw per model, or those of a single model."""
    sample, path = folder / "sample_280_questions.jsonl.gz", folder / "preds.csv.gz"
    texts: dict[str, str] = {}
    for number, row in enumerate(read_table(sample), start=1):
        with _reading(sample, number):
            listed = "\n".join(f"({chr(65 + i)}) {option}" for i, option in enumerate(_texts(row, "options")))
            texts[str(_of_kind(row, "question_id", int))] = f"{_text(row, 'question')}\n{listed}"
    problems, draws = [], []
    models: Sequence[str] = ()
    for number, row in enumerate(read_table(path), start=1):
        models = models or [name for name in row if name not in ("question_id", "category", "n_options", "answer")]
        if part and part not in models:
            raise BadInput(f"mmlu_pro_28_models holds {', '.join(models)}; got {part!r}")
        with _reading(path, number):
            name, answer = row["question_id"], row["answer"]
            asked = texts.get(name, f"MMLU-Pro question {name}")
            question = Question(f"mmlu_pro/{name}", _user(asked), {"category": row["category"]})
            problems.append(Problem(question, answer))
            letters = [row[part]] if part else [row[model] for model in models]
            draws.append(
                tuple(
                    text_draw(question.messages, letter, completion_tokens=1, grade=float(letter == answer))
                    for letter in letters
                )
            )
    name = f"mmlu_pro_28_models/{part}" if part else "mmlu_pro_28_models"
    return Recording(name, tuple(problems), tuple(draws), "answer", "TIGER-AI-Lab/MMLU-Pro", "Apache-2.0")


def read_aqua_codex(folder: Path, part: str) -> Recording:
    """Read Codex programs for 253 AQuA problems, 30 per problem.

    A program computes a number near one of the options. The authors let a model choose the option, and did not record
    that choice per draw, so there is a reference but no grade.
    """
    problems, draws = [], []
    path = folder / "aqua_sc_codex.jsonl.gz"
    for number, row in enumerate(read_table(path), start=1):
        if row.keys() == {"demonstration"}:
            continue
        with _reading(path, number):
            options = _texts(row, "options")
            question = Question(
                f"aqua_codex/{number}",
                _user(_text(row, "question") + "\n" + "\n".join(options)),
                {"options": options},
            )
            problems.append(Problem(question, _text(row, "answer")))
            draws.append(tuple(text_draw(question.messages, program) for program in _texts(row, "generated")))
    return Recording("aqua_codex_30x", tuple(problems), tuple(draws), "answer", "TIGER-AI-Lab/Program-of-Thoughts", MIT)


def read_noveltybench(folder: Path, part: str) -> Recording:
    """Read Gemini 1.5 Pro on 100 open prompts, 10 draws per prompt, each with its equivalence class and utility."""
    problems, draws = [], []
    path = folder / "gemini-1.5-pro_nb-curated_scores.jsonl.gz"
    for number, row in enumerate(read_table(path), start=1):
        with _reading(path, number):
            question = Question(_text(row, "id"), _user(_text(row, "prompt")))
            problems.append(Problem(question))
            rated = zip(_texts(row, "generations"), row["partition"], row["generation_scores"], strict=True)
            draws.append(
                tuple(
                    text_draw(question.messages, text, scores={"class": _number(group), "utility": _number(utility)})
                    for text, group, utility in rated
                )
            )
    return Recording("noveltybench_gemini", tuple(problems), tuple(draws), "answer", "novelty-bench/novelty-bench", MIT)


def _benchmark(folder: Path, file: str) -> Path:
    """Return the path of a benchmark file, in the folder beside that of the recordings."""
    return folder.parents[1] / "benchmarks" / file


FOLDERS: Mapping[str, Callable[[Path, str], Recording]] = {
    "aqua_codex_30x": read_aqua_codex,
    "cruxeval_codellama7b_10x": read_cruxeval,
    "game24_gpt4_100x": read_game24,
    "humaneval_codegen16b_100x": read_humaneval,
    "math_qwen_rm_8x": read_math_qwen,
    "mmlu_pro_28_models": read_mmlu_pro,
    "noveltybench_gemini": read_noveltybench,
    "otis_aime_8x": read_otis_aime,
}
