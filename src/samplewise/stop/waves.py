"""Stop a vote by a plan that counts rounds: how many draws to send next, and when to stop, at given prices.

A rule that looks after each draw has few draws and many rounds, and a fixed number of draws has one round. Where a
round has a price, the best plan sends waves: several draws at once while the vote is open, fewer where a few will tell,
none once more of them are not worth their price. `samplewise.stop.plan_table` computes it.

The rule looks at the end of each wave alone. `at_least` is what is left of the wave, so the loop has the whole of it in
flight at once, and nothing is sent that the rule does not see.
"""

from __future__ import annotations

from typing import NamedTuple

from samplewise.core.checks import check_count, check_number
from samplewise.core.types import Candidate, Json, Question, Stop, Usage
from samplewise.stop.base import StopRule
from samplewise.stop.budget import expected_fall
from samplewise.stop.plan_table import MAX_CAP, VOTE_PRIOR, PlanTable, plan_table
from samplewise.stop.votes import Votes, count_vote, settled, vote_evidence

MAX_PRIOR = 1e6  # draws that a prior may weigh as much as


class PlannedVotes(NamedTuple):
    """The tally, the number of draws at which the current wave ends, and which wave it is, from 1."""

    votes: Votes
    wave_end: int
    rounds: int = 1


def vote_plan(
    price_round: float = 0.01,
    price_draw: float = 0.005,
    cap: int = 32,
    *,
    prior: tuple[float, float] = VOTE_PRIOR,
) -> StopRule[PlannedVotes]:
    """Draw in waves of 1, 2, 4 or 8, and stop once more draws are not worth their price.

    An answer is worth 1 if it is the one that `cap` draws would give, and prices are in that unit. By default a draw
    pays if it makes that half a point likelier, and a round, for which a user waits, costs as much as two draws: four
    draws that agree are then enough, as for `asc(0.95)`. Give `cap` as many draws as the sampler makes.

    `prior=(a, b)` are pseudo-votes, a for each of the three leading answers and b for all other draws;
    `learned_vote_prior` finds them from the votes of past questions. The plan is optimal if the probabilities of a
    question's answers are Dirichlet(a, a, a, b) and no answer wins that is not among the three that lead. An unreadable
    draw counts as one of the others. The reason to stop is "settled" where the leader would probably stay until `cap`,
    else "futile". Cost: a table of about 10 ms once, then microseconds a draw. Raises ValueError for a price below 0.
    """
    check_count("cap", cap, most=MAX_CAP)
    prices = check_number("price_round", price_round, 0), check_number("price_draw", price_draw, 0)
    a, b = (check_number("prior", number, 0, MAX_PRIOR, above=True) for number in prior)

    def table() -> PlanTable:  # made when the first draw is planned, and kept
        return plan_table(*prices, cap, (a, b))

    def start(question: Question) -> PlannedVotes:
        return PlannedVotes(Votes(), table().wave[0][0])

    def see(state: PlannedVotes, candidate: Candidate, answer: str | None) -> PlannedVotes:
        votes = count_vote(state.votes, candidate, answer)
        if votes.draws < state.wave_end:
            return PlannedVotes(votes, state.wave_end, state.rounds)
        more = 0 if votes.draws >= cap else table().wave[votes.draws][table().position(votes.counts.values())]
        return PlannedVotes(votes, votes.draws + more, state.rounds + (more > 0))

    def decide(state: PlannedVotes, spent: Usage) -> Stop | None:
        votes = state.votes
        if votes.draws < state.wave_end:
            return None
        rounds: dict[str, Json] = {"rounds": state.rounds}
        if votes.draws >= cap:
            return Stop("cap", {**vote_evidence(votes), **rounds})
        plan, position = table(), table().position(votes.counts.values())
        same, go_on = (float(layers[votes.draws][position]) for layers in (plan.same, plan.go_on))
        stop = settled(votes, same, go_on, **rounds)
        return stop if same > 0.5 else stop._replace(reason="futile")

    def at_least(state: PlannedVotes) -> int:
        return max(1, state.wave_end - state.votes.draws)

    def expected_gain(state: PlannedVotes) -> float:
        return expected_fall(state.votes)

    return StopRule("vote_plan", start, see, decide, (), "model-based", "mode", at_least, expected_gain)
