"""Universal self-consistency as a selector: the choice by the verifier `consistent` (arXiv 2311.17311)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from samplewise.core.checks import check_count
from samplewise.core.keys import Key
from samplewise.core.types import Pool, Selection
from samplewise.select.base import Selector, choose_class, named_verifier, no_vote

SIZE = 16  # as `consistent` has by default


def usc(engine: str = "", *, size: int = SIZE) -> Selector:
    """Choose the response that a language model names as agreeing most with the others (arXiv 2311.17311).

    For open answers, whose texts all differ. All responses are shown in one prompt, or in rounds of at most `size`, in
    an order drawn by the key (the verifier `consistent`). Where no response was named, a vote among those that are
    equal decides, then the key; a note says so. `engine` is a member of the team by name, by default the solver itself.
    Cost: one request of the question, all responses and about 80 tokens, counted with the verifiers' tokens.
    """
    check_count("size", size, 2)
    verifier = named_verifier("consistent", engine, size, SIZE)

    def leading(pool: Pool, answers: Sequence[str | None]) -> list[int]:
        """Return the positions of the readable candidates with the highest score; all of them without any score."""
        readable = [position for position, answer in enumerate(answers) if answer is not None]
        scores = {position: pool.candidates[position].scores.get(verifier, math.nan) for position in readable}
        top = max((score for score in scores.values() if not math.isnan(score)), default=math.nan)
        return [position for position in readable if scores[position] == top] or readable

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        leaders = leading(pool, answers)
        among = tuple(answer if position in leaders else None for position, answer in enumerate(answers))
        votes = {answer: float(num) for answer, num in Counter(a for a in among if a is not None).items()}
        return choose_class(key, pool, among, votes)

    def note(pool: Pool, answers: Sequence[str | None]) -> str:
        leaders = [answers[position] for position in leading(pool, answers)]
        if len(set(leaders)) < 2:
            return ""
        how = "by chance" if no_vote(pool, leaders) else "by a vote"
        return f"no response was named as the most consistent: one of {len(leaders)} was chosen {how}"

    return Selector("usc", choose, (verifier,), note=note)
