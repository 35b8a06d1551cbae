"""How reliable the graders are, on real answers with known verdicts, and what a grade costs.

    math500     the reference answers against the answers read from the set's own worked solutions: right of 500
    gsm8k       5,276 solutions of four published systems against their authors' labels of right and wrong
    math        800 answers of Qwen2.5-Math to 100 MATH problems, against recorded labels and against each other
    aime        answers of 126 model runs to 45 AIME problems, against recorded labels; a model gave part, and errs
    choice      reference letters, stated in several wordings, read back
    hostile     answers made to hang, to be evaluated or to be right by accident: how many were called right (must be 0)
    cost        microseconds of a plain grade, milliseconds of a symbolic one, seconds to start a child

`split_pairs` of `math` are answers that the grader calls equal but that get different keys, and so would not vote
together: pairs among the eight answers to a problem, and of each with the reference. `rewritten` is the same for the
references of MATH-500 in other spellings. Every disagreement is printed. Parts without local data (SAMPLEWISE_DATA) are
left out and null.
"""

from __future__ import annotations

import gzip
import json
import math
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

from bench.about import about
from samplewise.core.errors import SetupError
from samplewise.core.files import data_folder
from samplewise.core.types import Problem, Question
from samplewise.tasks.arithmetic import gsm8k
from samplewise.tasks.math500 import math500
from samplewise.tasks.multiple import aqua, mmlu_pro
from samplewise.verify.exact import grade_number
from samplewise.verify.maths import canonical_maths, child_counts, equal_maths, grade_maths, pool, read_maths
from samplewise.verify.readers import read_number

SEED = 0  # nothing is drawn
SYSTEMS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
WORDINGS = (
    "The answer is ({})",
    "the answer is {}.",
    "**{}**",
    "{}",
    r"\boxed{{{}}}",
    "Answer: {}",
    "So option {} it is",
)
STRUCTURED = set(",=_[]%xtmu$^")  # what cannot be put into a formula, roughly
REWRITINGS: tuple[Callable[[str], str], ...] = (
    lambda text: f"$ {text} $",
    lambda text: rf"\boxed{{{text}}}",
    lambda text: text.replace(r"\frac", r"\dfrac"),
    lambda text: text.replace("+", " + ").replace("-", " - "),
    lambda text: f"0+{text}" if text[:1].isdigit() and not STRUCTURED & set(text) else text,
    lambda text: rf"\frac{{2({text})}}{{2}}" if text[:1] not in "(" and not STRUCTURED & set(text) else text,
)
HOSTILE = (
    "",
    " ",
    "10**10**10",
    "9^{9^{9^{9}}}",
    "(9^{9999})^{9999}",
    "99999!",
    "(" * 500 + "1" + ")" * 500,
    "{" * 50_000 + "}" * 50_000,
    r"\frac{" * 200,
    r"\sqrt{" * 20 + "2" + "}" * 20,
    "__import__('os').system('true')",
    r"\text{__import__('os').system('true')}",
    "}{",
    "x" * 100_000,
    "\x00",
    "٥",
    "𝟝",
    r"\input{/etc/passwd}",
    '{"do": "key"}\n',
    r"\int_0^{10^9} x^x dx",
    r"\sum_{n=1}^{10^9} \frac{1}{n^{n}}",
    r"\lim_{x \to 0} \frac{1}{x}",
    r"\frac{1}{0}",
    r"\infty",
)


def recorded(name: str) -> Iterator[Any]:
    """Return the rows of a local file, none if it is missing."""
    folder = data_folder()
    path = None if folder is None else folder / name
    if path is not None and path.is_file():
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from map(json.loads, file)


def of_math500() -> dict[str, Any]:
    rows = list(recorded("benchmarks/math500.jsonl.gz"))
    right = rewritten = split = 0
    for row, problem in zip(rows, math500().problems, strict=True):
        answer = read_maths(problem.question, row["solution"])
        right += (verdict := grade_maths(problem, answer)).value == 1.0
        if verdict.value != 1.0:
            print(f"math500: {problem.question.id}: {verdict.reason}; read {answer!r} from its solution")
        for rewrite in REWRITINGS:
            if equal_maths(problem.reference, other := rewrite(problem.reference)):
                rewritten += 1
                split += canonical_maths(other) != canonical_maths(problem.reference)
                keys = canonical_maths(problem.reference), canonical_maths(other)
                if keys[0] != keys[1]:
                    print(f"math500: equal, but keys {keys[0]!r} and {keys[1]!r}")
            else:
                print(f"math500: {problem.reference!r} and {other!r} are not called equal")
    return {"right": right, "of": len(rows), "rewritten": rewritten, "rewritten_split": split}


def of_gsm8k() -> dict[str, Any]:
    agreed = dict.fromkeys(SYSTEMS, 0)
    total = 0
    for row, problem in zip(
        recorded("benchmarks/gsm8k_example_model_solutions.jsonl.gz"), gsm8k().problems, strict=True
    ):
        total += 1
        for system in SYSTEMS:
            answer = read_number(problem.question, row[system]["solution"])
            same = (grade_number(problem, answer).value == 1.0) == row[system]["is_correct"]
            agreed[system] += same
            if not same:
                print(f"gsm8k: {problem.question.id}, {system}: read {answer!r}, reference {problem.reference!r}")
    return {"agreed": agreed, "of": total, "agreement": sum(agreed.values()) / (total * len(SYSTEMS))}


def of_math() -> dict[str, Any]:
    agreed = total = reread = pairs = split = 0
    for row in recorded("recorded/math_qwen_rm_8x/math_cot_100_with_rm_scores.jsonl.gz"):
        for answer, label, response in zip(row["pred"], row["score"], row["response"], strict=True):
            total += 1
            agreed += (verdict := equal_maths(row["gt"], answer)) is label
            reread += read_maths(Question("q", ()), response) == canonical_maths(answer)
            if verdict is not label:
                print(f"math: problem {row['idx']}: {answer!r} for {row['gt']!r}: recorded {label}, ours {verdict}")
        for left, right in combinations((row["gt"], *row["pred"]), 2):
            if equal_maths(left, right):
                pairs += 1
                split += canonical_maths(left) != canonical_maths(right)
                if canonical_maths(left) != canonical_maths(right):
                    print(f"math: equal, but keys {canonical_maths(left)!r} and {canonical_maths(right)!r}")
    return {"agreed": agreed, "of": total, "same_reading": reread, "equal_pairs": pairs, "split_pairs": split}


def of_aime() -> dict[str, Any]:
    agreed = accepts = rejects = 0
    for row in recorded("recorded/otis_aime_8x/otis_mock_aime_runs.jsonl.gz"):
        for answer, label in zip(row["answers"], row["correct"], strict=True):
            if answer in (None, "", "None"):
                continue  # the label is of a text that is not in the file
            ours = equal_maths(str(row["gold"]), str(answer)) is True
            if ours != bool(label):
                print(f"aime: {answer!r} for {row['gold']!r}: recorded {bool(label)} ({row['grader']}), ours {ours}")
            agreed += ours == bool(label)
            accepts += bool(label) and not ours
            rejects += ours and not label
    return {"agreed": agreed, "of": agreed + accepts + rejects, "we_reject": accepts, "we_accept": rejects}


def of_choice() -> dict[str, Any]:
    right = total = 0
    for task in (aqua(), mmlu_pro()):
        for problem in task.problems:
            for wording in WORDINGS:
                response = wording.format(problem.reference)
                total += 1
                right += (same := task.read(problem.question, response) == problem.reference)
                if not same:
                    print(f"choice: {problem.question.id}: {response!r} is not read as {problem.reference}")
    return {"right": right, "of": total}


def of_hostile() -> dict[str, Any]:
    called_right, slowest, unknown = 0, 0.0, 0
    before = child_counts()
    for answer in HOSTILE:
        started = time.perf_counter()
        value = grade_maths(Problem(Question("q", ()), r"\sqrt{2}+1"), answer).value
        slowest = max(slowest, time.perf_counter() - started)
        called_right += value == 1.0
        unknown += math.isnan(value)
    after = child_counts()
    return {
        "answers": len(HOSTILE),
        "called_right": called_right,
        "unknown": unknown,
        "hung": after.hung - before.hung,
        "crashed": after.crashed - before.crashed,
        "slowest_s": round(slowest, 2),
    }


def cost() -> dict[str, float]:
    def microseconds(work: Callable[[int], object], num: int) -> float:
        started = time.perf_counter()
        for i in range(num):
            work(i)
        return round((time.perf_counter() - started) / num * 1e6, 1)

    asked = Question("q", ())
    number, letter = Problem(asked, "1234"), Problem(asked, "C")
    problem = Problem(asked, r"\frac{1}{3}")
    task = aqua(1)

    def symbolic(i: int) -> object:
        return grade_maths(Problem(asked, rf"\sqrt{{{i + 2}}}+{i}"), rf"{i}+\sqrt{{{i + 2}}}")

    started = time.perf_counter()
    pool.Child(pool.LIMIT_S, pool.MEMORY_BYTES).close()
    start_s = time.perf_counter() - started
    return {
        "number_us": microseconds(lambda i: grade_number(number, read_number(asked, f"It makes\n#### {i}")), 5000),
        "choice_us": microseconds(
            lambda i: task.grade(letter, task.read(task.questions[0], f"{i}: the answer is (C)")), 5000
        ),
        "maths_plain_us": microseconds(lambda i: grade_maths(problem, rf"\frac{{{i}}}{{3000}}"), 5000),
        "maths_read_plain_us": microseconds(lambda i: read_maths(asked, rf"So $x=\boxed{{{i}}}$."), 5000),
        "maths_symbolic_ms": microseconds(symbolic, 100) / 1000,
        "maths_key_ms": microseconds(lambda i: canonical_maths(rf"{i + 2}x^2+\sqrt{{{i + 2}}}"), 100) / 1000,
        "child_start_s": round(start_s, 2),
    }


def main() -> None:
    started = time.monotonic()
    figures: dict[str, Any] = {}
    for part in (of_math500, of_gsm8k, of_math, of_aime, of_choice, of_hostile, cost):
        name = part.__name__.removeprefix("of_")
        try:
            figures[name] = part()
        except SetupError as error:
            print(f"{name}: left out: {error}")
            figures[name] = None
            continue
        print(f"{name:8} " + "  ".join(f"{what} {value}" for what, value in figures[name].items()), flush=True)
    print(json.dumps({**about("graders", SEED, started), **figures, "children": child_counts()._asdict()}))


if __name__ == "__main__":
    main()
