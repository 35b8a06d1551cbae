"""Voting over what programs do, where their texts all differ."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from samplewise.core.checks import check_count
from samplewise.core.keys import Key
from samplewise.core.types import Candidate, Pool, Selection
from samplewise.select.base import Selector, choose_class
from samplewise.select.votes import pool_weights

NUM_INPUTS = 16  # as `outputs` has by default


def behaviour(inputs: int = NUM_INPUTS) -> Selector:
    """Choose among programs by a vote over what they do: the likeliest program of the largest group with equal outputs.

    Programs run in the sandbox on `inputs` shared inputs (the verifier `outputs`): the question's examples, then
    generated ones. Those that return the same everywhere are one class. The likeliest member is the one with the
    highest log-probability, the first where draws come without. Ties between groups are drawn by the key. Programs that
    return nothing win only where no program returns anything: then the likeliest is taken. A weighted pool votes with
    its weights. Cost: no request, no token; one run in the sandbox for each different program, of `inputs` calls.
    """
    check_count("inputs", inputs, most=1_000)
    verifier = "outputs" if inputs == NUM_INPUTS else f"outputs({inputs})"

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        groups: list[str | None] = []
        for candidate, answer in zip(pool.candidates, answers, strict=True):
            number = candidate.scores.get(verifier, math.nan)
            groups.append(None if answer is None or math.isnan(number) else f"{number:g}")
        num_groups = len({group for group in groups if group is not None})
        if not num_groups:
            groups = [None if answer is None else "" for answer in answers]
        mass: dict[str, float] = defaultdict(float)
        for group, weight in zip(groups, pool_weights(pool), strict=True):
            if group is not None:
                mass[group] += weight
        chosen = choose_class(key, pool, tuple(groups), mass)
        if chosen.answer is None:
            return chosen
        members = [position for position, group in enumerate(groups) if group == chosen.answer]
        position = members[int(np.argmax([_likelihood(pool.candidates[member]) for member in members]))]
        info = {"tied": chosen.info["tied"], "groups": num_groups, "members": len(members)}
        return Selection(answers[position], position, chosen.weights, info)

    def note(pool: Pool, answers: Sequence[str | None]) -> str:
        num = sum(answer is not None for answer in answers)
        numbers = [
            candidate.scores.get(verifier, math.nan)
            for candidate, answer in zip(pool.candidates, answers, strict=True)
            if answer is not None
        ]
        groups = [number for number in numbers if not math.isnan(number)]
        if num and not groups:
            return f"{num} programs, and none returns anything on shared inputs: the likeliest was taken"
        if len(groups) > 1 and len(set(groups)) == len(groups):
            return f"{len(groups)} programs do {len(groups)} different things: nothing to vote on; use best(...)"
        return ""

    return Selector("behaviour", choose, (verifier,), note=note)


def _likelihood(candidate: Candidate) -> float:
    return -math.inf if math.isnan(candidate.logp_sum) else candidate.logp_sum
