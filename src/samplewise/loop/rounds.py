"""What can be drawn in batches: recipes that need few rounds, as each round is a batch that may take a day. Pure."""

from __future__ import annotations

import math
from typing import Any

from samplewise.core.errors import Unsupported, UsageError
from samplewise.core.types import Candidate, Generate, Usage
from samplewise.engines.base import Engine
from samplewise.loop.ledger import Budget
from samplewise.recipe import Recipe
from samplewise.stop.base import NOBODY, StopRule
from samplewise.verify.base import Judge

MAX_ROUNDS = 8  # batches that a question may take in turn because of its stop rule


def check_batch(recipe: Recipe, engine: Engine, budget: Budget) -> None:
    """Raise Unsupported, or UsageError with what to change, unless a batched engine can draw this in a few rounds."""
    if budget.seconds is not None:
        raise UsageError("a batch takes up to a day, so a limit in seconds would end every question: leave it out")
    rule = recipe.stop
    if rule is None:
        return
    for name in rule.verifiers:
        verifier = recipe.verifiers[name]
        if isinstance(verifier, Judge) and verifier.asks:
            judges = verifier.engines or ("",)
            if any(engine.member(Generate((), engine=member)).is_batched for member in judges):
                raise Unsupported(
                    f"until({rule.name}) asks {name} after each draw, which would be a batch each time: "
                    "choose by the judge at the end instead, as in | best(judge), or draw without batches"
                )
    num = recipe.max_draws
    if num is None or recipe.ahead == "idle":
        return
    rounds = most_rounds(rule, num, recipe.ahead)
    if rounds > MAX_ROUNDS:
        ahead = math.ceil(num / MAX_ROUNDS) - 1
        raise UsageError(
            f"until({rule.name}) may decide {rounds} times in turn, and each time would be a batch of up to a day: "
            f"ahead={ahead} sends so many draws beyond need, for at most {MAX_ROUNDS} batches"
        )


def most_rounds(rule: StopRule[Any], num_draws: int, ahead: int) -> int:
    """Return how many waves of draws a rule may take up to `num_draws`.

    Found by playing against it: each draw is the answer that makes it look again soonest without a stop. All answers
    can be read, and no verifier scores them. Cost: three steps of the rule for each draw.
    """
    unscored = dict.fromkeys(rule.verifiers, math.nan)
    state, num_seen, num_waves = rule.start(NOBODY), 0, 0
    while num_seen < num_draws:
        num_waves += 1
        for _ in range(min(max(1, rule.at_least(state)) + ahead, num_draws - num_seen)):
            num_seen += 1
            states = [
                rule.see(state, Candidate(answer, scores=unscored), answer) for answer in ("a", "b", f"new {num_seen}")
            ]
            open_ = [each for each in states if rule.verdict(each, Usage(requests=num_seen)) is None]
            if not open_:
                return num_waves
            state = min(open_, key=rule.at_least)
    return num_waves
