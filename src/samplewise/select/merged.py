"""A vote over what answers say, where their wordings differ: by the groups of the verifier `same`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from samplewise.core.checks import check_count
from samplewise.core.keys import Key
from samplewise.core.types import Pool, Selection
from samplewise.select.base import Selector, named_verifier, no_vote
from samplewise.select.votes import vote

SIZE = 16  # as `same` has by default


def merged(engine: str = "", *, size: int = SIZE) -> Selector:
    """Choose by a vote in which answers that say the same are one, as a language model sees it (arXiv 2302.09664).

    For answers of a few words or sentences, whose wordings differ. The wording that comes back is the most frequent one
    of the winning group, and ties are drawn by the key. A weighted pool votes with its weights. `engine` is a member of
    the team by name, by default the solver itself; of more than `size` different answers the others stay apart. Cost:
    that of the verifier `same`, D - 1 to D (D - 1) / 2 short requests for D different answers.
    """
    check_count("size", size, 2)
    verifier = named_verifier("same", engine, size, SIZE)

    def groups_of(pool: Pool, answers: Sequence[str | None]) -> tuple[str | None, ...]:
        """Return the names of the candidates' groups (N,): the answer itself where none is known."""
        numbers = [candidate.scores.get(verifier, math.nan) for candidate in pool.candidates]
        return tuple(
            answer if answer is None or math.isnan(number) else f"group {number:g}"
            for answer, number in zip(answers, numbers, strict=True)
        )

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        groups = groups_of(pool, answers)
        chosen = vote().choose(key, pool, groups)
        if chosen.answer is None:
            return chosen
        members = tuple(a if group == chosen.answer else None for a, group in zip(answers, groups, strict=True))
        worded = vote().choose(key.fold("wording"), pool, members)
        info = {"tied": chosen.info["tied"], "groups": len(set(groups) - {None})}
        return Selection(worded.answer, worded.position, chosen.weights, info)

    def note(pool: Pool, answers: Sequence[str | None]) -> str:
        return no_vote(pool, groups_of(pool, answers))

    return Selector("merged", choose, (verifier,), note=note)
