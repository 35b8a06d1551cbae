"""A verifier that returns the score that came with a recorded draw. No tokens."""

from __future__ import annotations

import math

from samplewise.core.errors import UnknownName
from samplewise.core.types import Candidate, Question, Score, Verifier
from samplewise.recorded import load_recording


def recorded_score(recording: str, score: str = "reward") -> Verifier:
    """Score a draw by the score that was recorded with it; nan for a response that was not recorded.

    A draw is looked up by question, reasoning and text, so equal draws share the mean of their scores. UnknownName if
    the recording has no such score.
    """
    scores: dict[tuple[str, str, str], list[float]] = {}
    names: set[str] = set()
    source = load_recording(recording)
    for problem, draws in zip(source.problems, source.draws, strict=True):
        for draw in draws:
            names |= draw.scores.keys()
            if score in draw.scores:
                response = (problem.question.id, draw.completion.text, draw.completion.reasoning)
                scores.setdefault(response, []).append(draw.scores[score])
    if score not in names:
        raise UnknownName("score of " + recording, score, names)

    def verify(question: Question, candidate: Candidate) -> Score:
        values = scores.get((question.id, candidate.text, candidate.reasoning))
        return Score(math.nan, "not recorded") if values is None else Score(math.fsum(values) / len(values))

    return verify
