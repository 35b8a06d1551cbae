"""Read recorded draws from logs of Inspect, as `.eval` files (zip) or JSON: a sample is a draw, an epoch its index.

The input is the question, the target its reference. The first choice of the output is the draw, with its reasoning
and its tokens; a sample without one, or with an error, is no draw. The grade is the score called `grade`, as our own
logs have it. In a log of others, where no sample has that, it is the first score whose values all lie in [0, 1],
Inspect's letters among them (C, P, I, N). Other numbers are scores by name.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from samplewise.core.errors import BadInput
from samplewise.core.types import Json, Message, Problem, Question

from .base import Draw, Recording, text_draw

LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}  # correct, partial, incorrect, no answer
ATTACHED = "attachment://"
FINISH = {"max_tokens": "length", "model_length": "length"}


def is_log(path: Path) -> bool:
    """Return whether a file is a log of Inspect, by its name and how it begins."""
    if path.suffix == ".eval":
        return True
    if path.suffix != ".json":
        return False
    with path.open("rb") as file:
        head = file.read(4096)
    return head.lstrip()[:1] == b"{" and b'"version"' in head and b'"eval"' in head


def read_log(path: Path) -> Recording:
    """Return the draws of a log. Raises BadInput."""
    problems: dict[str, Problem] = {}
    draws: dict[str, list[tuple[int, Draw]]] = {}
    try:
        spec, samples = _samples(path)
        graded = "grade" if "recipe" in (spec.get("metadata") or {}) else _grade_of(samples)  # ours name it so
        for sample in samples:
            sample = _attached(sample, sample.get("attachments") or {})
            question = str(sample["id"])
            messages = _messages(sample["input"])
            target = sample.get("target")
            reference = [str(text) for text in target] if isinstance(target, list) else str(target or "") or None
            problems.setdefault(question, Problem(Question(question, messages), reference))
            entries = draws.setdefault(question, [])
            if (draw := _draw(sample, messages, graded)) is not None:
                entries.append((int(sample.get("epoch", 1)), draw))
    except NotImplementedError:
        advice = "pip install zipfile-zstd, or convert it: inspect log convert --to json"
        raise BadInput(f"{path}: is packed with zstd, which Python cannot read by itself; {advice}") from None
    except (OSError, zipfile.BadZipFile, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise BadInput(f"{path}: cannot be read as a log of Inspect ({type(error).__name__}: {error})") from None
    if not any(draws.values()):
        raise BadInput(f"{path}: holds no recorded draws")
    ordered = tuple(tuple(draw for _, draw in sorted(each, key=lambda entry: entry[0])) for each in draws.values())
    return Recording(spec.get("task") or path.name, tuple(problems.values()), ordered, source=str(path))


def _samples(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what was evaluated, and the samples in the order in which the task has them."""
    if path.suffix == ".json":
        log = json.loads(path.read_text(encoding="utf-8"))
        return dict(log["eval"]), log.get("samples") or []
    with contextlib.suppress(ImportError):  # teaches zipfile to unpack zstd, which newer releases of Inspect pack with
        importlib.import_module("zipfile_zstd")
    with zipfile.ZipFile(path) as file:
        names = dict.fromkeys(file.namelist())  # a sample that was logged again is the last of its name
        head = json.loads(file.read("header.json" if "header.json" in names else "_journal/start.json"))
        samples = [json.loads(file.read(name)) for name in names if name.startswith("samples/")]
    ids = [str(each) for each in (head["eval"].get("dataset") or {}).get("sample_ids") or ()]
    index_of = {question: index for index, question in enumerate(ids)}
    samples.sort(key=lambda sample: index_of.get(str(sample["id"]), len(index_of)))
    return dict(head["eval"]), samples


def _attached(value: Json, attachments: Mapping[str, str]) -> Json:
    """Return a value with the long texts that a log keeps apart put back."""
    if isinstance(value, str):
        return attachments.get(value.removeprefix(ATTACHED), value) if value.startswith(ATTACHED) else value
    if isinstance(value, dict):
        return {name: _attached(each, attachments) for name, each in value.items() if name != "attachments"}
    return [_attached(each, attachments) for each in value] if isinstance(value, list) else value


def _messages(asked: Json) -> tuple[Message, ...]:
    if isinstance(asked, str):
        return (Message("user", asked),)
    return tuple(Message(str(message["role"]), _text(message["content"])[0]) for message in asked)


def _text(content: Json) -> tuple[str, str]:
    """Return the text and the reasoning of a message."""
    if isinstance(content, str):
        return content, ""

    def joined(kind: str) -> str:
        return "".join(part.get(kind) or "" for part in content if part["type"] == kind)

    return joined("text"), joined("reasoning")


def _scores(sample: Mapping[str, Any]) -> dict[str, float]:
    values = {name: _value(score.get("value")) for name, score in (sample.get("scores") or {}).items()}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def _grade_of(samples: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of the score that is the grade, one for the whole log; `grade` where none is fit."""
    scores = [_scores(sample) for sample in samples]
    names = dict.fromkeys(name for each in scores for name in each)
    fit = [name for name in names if all(0.0 <= each.get(name, 0.0) <= 1.0 for each in scores)]
    return "grade" if "grade" in names or not fit else fit[0]


def _draw(sample: Mapping[str, Any], messages: tuple[Message, ...], graded: str) -> Draw | None:
    output = sample.get("output") or {}
    if sample.get("error") or not output.get("choices"):
        return None
    choice = output["choices"][0]
    text, reasoning = _text(choice["message"]["content"])
    usage = output.get("usage") or {}
    known = _scores(sample)
    draw = text_draw(
        messages,
        text,
        prompt_tokens=_prompt_tokens(usage),
        completion_tokens=usage.get("output_tokens"),
        grade=known.get(graded, math.nan),
        scores={name: value for name, value in known.items() if name != graded},
    )
    completion = draw.completion._replace(finish=FINISH.get(choice.get("stop_reason"), "stop"))  # type: ignore[arg-type]
    return draw._replace(completion=completion._replace(reasoning=reasoning) if reasoning else completion)


def _prompt_tokens(usage: Mapping[str, Any]) -> int | None:
    """Return the tokens of a prompt, None where they are not known. Inspect counts those of a cache apart."""
    cached = (usage.get(f"input_tokens_cache_{what}") or 0 for what in ("read", "write"))
    return None if usage.get("input_tokens") is None else int(usage["input_tokens"]) + sum(cached)


def _value(value: Json) -> float:
    if isinstance(value, bool | int | float):
        return float(value)
    return LETTERS.get(value, math.nan) if isinstance(value, str) else math.nan
