"""Recorded pools: one JSONL a benchmark, one line a method and question, no texts.

A line holds, for the N draws of a question: answers, grades, tokens drawn, log-probabilities (nats), what each draw
cost (tokens, its prompt's included), and where they are not all alike arms, log-weights, and scores by name. A
program's answer is the name of its syntax tree, and its score `outputs` the name of what it does: what it returned on
inputs shared by all draws of the question. A line with
`sittings` says how long a method was drawn for. From these files every table is decided again, without a model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from samplewise.core.numerics import Floats
from samplewise.core.types import Candidate, Question
from samplewise.runs.orders import StoredPool
from samplewise.select.base import Graded

FOLDER = Path(__file__).parent / "pools"
JOINT = "joint outputs"  # what programs do, numbered across the rows of a question: see `joint_name`
INDEPENDENT = ("plain", "plain, more", "temperature .25", "temperature .6", "min-p")  # methods that only draw


class Row(NamedTuple):
    """The N draws of a question by a method. `helpers` are tokens before the first draw, `rest` after the last."""

    method: str
    question: str
    answers: tuple[str | None, ...]
    grades: tuple[float, ...]
    tokens: tuple[int, ...]
    costs: tuple[float, ...]
    logps: tuple[float | None, ...]
    helpers: float = 0.0
    rest: float = 0.0
    arms: tuple[str, ...] = ()  # () where all are direct
    log_weights: tuple[float, ...] = ()  # () where all are 0
    scores: Mapping[str, tuple[float | None, ...]] = {}
    figures: Mapping[str, float] = {}  # what the sampler or the policy measured of itself

    @property
    def all_arms(self) -> tuple[str, ...]:
        """The arm of each draw."""
        return self.arms or ("direct",) * len(self.answers)

    def some(self, indices: Sequence[int]) -> Row:
        """Return the row with some of its draws alone; helpers are paid all the same."""

        def kept(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(values[i] for i in indices) if values else ()

        columns = ("answers", "grades", "tokens", "costs", "logps", "arms", "log_weights")
        fields: dict[str, Any] = {name: kept(getattr(self, name)) for name in columns}
        return self._replace(**fields, scores={name: kept(values) for name, values in self.scores.items()})


class Sitting(NamedTuple):
    """A time in which a method was drawn: seconds on the clock, of processors, and tokens drawn."""

    method: str
    questions: int
    seconds: float
    processor_s: float
    tokens: int
    engine: str = ""  # its name, precision and processor


class Pace(NamedTuple):
    """Processor seconds of a drawn token, and of the helpers of one question."""

    token: float
    helpers: float


class Pools(NamedTuple):
    """A benchmark's recorded draws."""

    rows: Mapping[tuple[str, str], Row]  # by method and question
    sittings: tuple[Sitting, ...]

    def of(self, method: str) -> list[Row]:
        """Return a method's rows, in the order of the questions' ids."""
        return [row for (name, _), row in sorted(self.rows.items()) if name == method]

    @property
    def methods(self) -> list[str]:
        """The methods that have draws."""
        return list(dict.fromkeys(name for name, _ in self.rows))

    def pace(self, method: str) -> Pace:
        """Return a method's processor seconds for each token of its recorded draws, and for a question's helpers.

        nan where nothing is known. What a chain drew on the way is in its tokens' seconds: all that was paid for is
        shared out. Arms are at the rate of what was paid for, since runs of one store share their direct draws; at that
        rate helpers are paid before the first draw.
        """
        rows = self.of(method)
        drawn = sum(sum(row.tokens) for row in rows)
        if not drawn:
            return Pace(math.nan, math.nan)
        paid = sum(sitting.tokens for sitting in self.sittings if sitting.method == method)
        has_arms = any(row.arms for row in rows)
        rate = self.seconds(method) / (paid if has_arms and paid else drawn)
        return Pace(rate, rate * float(np.mean([row.figures.get("helper_tokens", 0.0) for row in rows])))

    def seconds(self, method: str) -> float:
        """Return the processor seconds of drawing a method, as on the engine that drew `plain`.

        What another precision or processor drew is scaled by what independent draws took on both; nan where it has
        drawn none.
        """
        home = next((sitting.engine for sitting in self.sittings if sitting.method == "plain"), None)
        seconds = 0.0
        for sitting in self.sittings:
            if sitting.method == method:
                is_home = sitting.engine == home or home is None
                seconds += sitting.processor_s * (1.0 if is_home else self._pace(home) / self._pace(sitting.engine))
        return seconds

    def _pace(self, engine: str | None) -> float:
        """Return the processor seconds of an independent draw's token; nan where an engine drew none."""
        own = [sitting for sitting in self.sittings if sitting.engine == engine and sitting.method in INDEPENDENT]
        tokens = sum(sitting.tokens for sitting in own)
        return sum(sitting.processor_s for sitting in own) / tokens if tokens else math.nan

    def models(self, method: str) -> set[str]:
        """Return the models, with their precisions, that a method was drawn from."""
        return {sitting.engine.rpartition(", ")[0] for sitting in self.sittings if sitting.method == method}


def joint_name(methods: Iterable[str]) -> str:
    """Return the name of the score that numbers what programs do across the rows of these methods.

    Numbers that were given for other methods mean something else, so they have another name.
    """
    return f"{JOINT}: {'; '.join(sorted(set(methods)))}"


def path_of(benchmark: str, folder: Path = FOLDER) -> Path:
    """Return the file of a benchmark's pools."""
    return folder / f"{benchmark}.jsonl"


def read_pools(benchmark: str, folder: Path = FOLDER) -> Pools:
    """Read a benchmark's pools; none where there is no file."""
    path = path_of(benchmark, folder)
    rows: dict[tuple[str, str], Row] = {}
    sittings = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        data = json.loads(line)
        if "processor_s" in data:
            sittings.append(Sitting(**data))
            continue
        scores = {name: tuple(values) for name, values in data.pop("scores", {}).items()}
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        row = Row(**{**fields, "scores": scores})
        rows[row.method, row.question] = row
    return Pools(rows, tuple(sittings))


def write_pools(benchmark: str, pools: Pools, folder: Path = FOLDER) -> None:
    """Write a benchmark's pools: a file beside it first, so that a killed process loses nothing."""
    path = path_of(benchmark, folder)
    lines = [_line(row) for _, row in sorted(pools.rows.items())]
    lines += [_line(sitting) for sitting in pools.sittings]
    beside = path.with_suffix(".new")
    beside.write_text("".join(lines), encoding="utf-8")
    beside.replace(path)


def _line(record: Row | Sitting) -> str:
    """Return a record as a line of JSON, without the fields that have their defaults."""
    defaults = record._field_defaults
    kept = {k: v for k, v in record._asdict().items() if k not in defaults or v != defaults[k]}
    return json.dumps(kept, separators=(",", ":"), ensure_ascii=False) + "\n"


def stored(rows: Iterable[Row]) -> list[StoredPool]:
    """Return rows as pools that stop rules and selectors replay."""
    return [
        StoredPool(
            Question(row.question, ()),
            candidates_of(row),
            row.answers,
            row.grades,
            row.costs,
            row.helpers,
            row.rest,
        )
        for row in rows
    ]


def candidates_of(row: Row) -> tuple[Candidate, ...]:
    """Return a row's candidates. The name of an answer stands for the text, which is empty where there is none.

    Rules and selectors look at answers and scores; some take an empty text for a response that says nothing.
    """
    num = len(row.answers)
    return tuple(
        Candidate(
            row.answers[i] or "",
            arm=row.arms[i] if row.arms else "direct",
            log_weight=row.log_weights[i] if row.log_weights else 0.0,
            num_tokens=row.tokens[i],
            logp_sum=_number(row.logps[i]),
            scores={**{name: _number(v[i]) for name, v in row.scores.items()}, "likelihood": _number(row.logps[i])},
        )
        for i in range(num)
    )


def graded(rows: Sequence[Row]) -> Graded:
    """Return rows (P) of N draws at most as arrays, for a selector's formula."""
    shape = (len(rows), max((len(row.answers) for row in rows), default=0))
    answers, grades = np.full(shape, -1, dtype=np.int64), np.full(shape, np.nan)
    names = sorted({name for row in rows for name in row.scores})
    scores = {name: np.full(shape, np.nan) for name in (*names, "likelihood")}
    for index, row in enumerate(rows):
        codes: dict[str | None, int] = {None: -1}
        num = len(row.answers)
        answers[index, :num] = [codes.setdefault(answer, len(codes) - 1) for answer in row.answers]
        grades[index, :num] = row.grades
        scores["likelihood"][index, :num] = [_number(value) for value in row.logps]
        for name in names:
            if name in row.scores:
                scores[name][index, :num] = [_number(value) for value in row.scores[name]]
    return Graded(answers, grades, scores)


def grades_of(rows: Sequence[Row]) -> Floats:
    """Return grades (P, N) of rows that all have N draws or more, the first N."""
    num = min(len(row.grades) for row in rows)
    return np.array([row.grades[:num] for row in rows], dtype=np.float64)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
