"""The bundled reward model on vLLM, asked by its routes, against the same model in process."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from samplewise.core.types import Candidate
from samplewise.models import REWARD
from samplewise.tasks.game24 import puzzle_question
from samplewise.verify.reward import reward
from samplewise.verify.reward.server import reward_server

from .serve import serving

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

TEXTS = (
    "8 - 7 = 1 , 4 * 1 = 4 , 6 * 4 = 24",
    "8 - 6 = 2 , 7 - 4 = 3 , 3 * 2 = 6",
    "8 minus 7 is 1 , then 4 times 1 is 4 , then 6 times 4 is 24",
    "24",
)
PAIRS = [(puzzle_question(numbers), Candidate(text)) for numbers in ((4, 6, 7, 8), (3, 3, 8, 8)) for text in TEXTS]


def test_scores_are_those_of_the_model_in_process(tmp_path: Path) -> None:
    """The server gives raw numbers; the bundled model's score is their sigmoid."""
    local = reward()
    expected = local.score_all(PAIRS)
    with serving(REWARD, "reward", tmp_path / "log", "--runner", "pooling", "--max-model-len", "256") as url:
        for route in ("pooling", "classify"):
            verifier = reward_server(url, model="reward", route=route)  # type: ignore[arg-type]
            scores = [1 / (1 + math.exp(-value)) for value in verifier.score_all(PAIRS)]
            assert scores == pytest.approx(expected, abs=2e-3), route
            assert max(abs(value) for value in verifier.score_all(PAIRS)) > 1, "raw numbers, not probabilities"
        for question, candidate in PAIRS:
            assert verifier.tokens_of(question, candidate) == local.tokens_of(question, candidate)
        with pytest.raises(Exception, match="check that it serves another"):
            reward_server(url, model="another")(*PAIRS[0])
        # longer than the context: unknown, and no other score is lost
        long = (PAIRS[0][0], Candidate("8 - 7 = 1 , " * 100))
        values = verifier.score_all([PAIRS[0], long])
        assert math.isnan(values[1])
        assert not math.isnan(values[0])
