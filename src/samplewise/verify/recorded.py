"""A verifier that says again what was said of a draw when it was recorded. No tokens."""

from __future__ import annotations

import math

from samplewise.errors import UnknownName
from samplewise.recorded import load
from samplewise.types import Candidate, Question, Score, Verifier


def recorded(recording: str, score: str = "reward") -> Verifier:
    """The score that came with a recorded draw; nan for a response that was not recorded.

    It is found by question and text, so draws of one text share the mean of their scores. Raises UnknownName where the
    recording has no such score.
    """
    found: dict[tuple[str, str], list[float]] = {}
    names: set[str] = set()
    source = load(recording)
    for problem, draws in zip(source.problems, source.draws, strict=True):
        for draw in draws:
            names |= draw.scores.keys()
            if score in draw.scores:
                found.setdefault((problem.question.id, draw.completion.text), []).append(draw.scores[score])
    if score not in names:
        raise UnknownName("score of " + recording, score, names)

    def verify(question: Question, candidate: Candidate) -> Score:
        values = found.get((question.id, candidate.text))
        return Score(math.nan, "not recorded") if values is None else Score(math.fsum(values) / len(values))

    return verify
