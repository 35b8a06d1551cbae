"""What every format of recorded draws is read into."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from samplewise.errors import BadInput
from samplewise.types import Completion, Json, Message, Problem, Sampling, Usage

# How an answer is read out of a response and graded. "answer": the text is the answer, and must be equal.
Kind = Literal["answer", "auto", "choice", "code", "maths", "number", "puzzle", "value"]

CHARS_PER_TOKEN = 4  # of English text, roughly; only where a recording says no count


class Draw(NamedTuple):
    """A recorded response. `sampling` is the law that it was drawn from, None where that is not known. `grade` and
    `scores` are what those who recorded it say of it; nan: nothing."""

    completion: Completion
    sampling: Sampling | None = None
    grade: float = math.nan
    scores: Mapping[str, float] = {}


class Recording(NamedTuple):
    """Problems and their recorded draws."""

    name: str
    problems: tuple[Problem, ...]  # (P,)
    draws: tuple[tuple[Draw, ...], ...]  # (P, N of each)
    kind: Kind = "auto"
    source: str = ""
    licence: str = ""
    is_exact: bool = False  # recorded by us: `sampling` says all about how a draw was made


def text_draw(
    messages: tuple[Message, ...],
    text: str,
    *,
    prompt_tokens: int | None = None,
    completion_tokens: int | None = None,
    sampling: Sampling | None = None,
    grade: float = math.nan,
    scores: Mapping[str, float] | None = None,
) -> Draw:
    """A draw of which only the text is known. Token counts that were not recorded are estimated, four characters a
    token, so that costs are of the right size."""
    asked = sum(len(message.content) for message in messages)
    prompt = _estimate(asked) if prompt_tokens is None else prompt_tokens
    drawn = _estimate(len(text)) if completion_tokens is None else completion_tokens
    return Draw(Completion(text, "stop", Usage(1, prompt, drawn)), sampling, grade, scores or {})


def _estimate(chars: int) -> int:
    return max(1, math.ceil(chars / CHARS_PER_TOKEN))


def json_of(path: Path) -> Json:
    """A JSON file, gzipped or not."""
    try:
        return json.loads(_bytes(path))
    except ValueError as error:
        raise BadInput(f"{path}: not JSON: {error}") from None


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Json]]]:
    """The objects of a file that has one a line, gzipped or not, with their line numbers."""
    for number, line in enumerate(_bytes(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{path}:{number}: not JSON: {error}; write one object a line") from None
        if not isinstance(found, dict):
            raise BadInput(f"{path}:{number}: expected a JSON object")
        yield number, found


def text_of(path: Path) -> str:
    """A text file, gzipped or not."""
    return _bytes(path).decode("utf-8", errors="replace")


def _bytes(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from None
