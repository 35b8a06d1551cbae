"""Stop rules that weigh each vote by how sure somebody was of it.

    cges      posterior over answers from calibrated confidences (arXiv 2511.02603, its formula from a summary)
    reasc     one sure draw, or Adaptive-Consistency on weighted votes (2601.02970, likewise)
    deepconf  votes of the surest draws alone, until they agree (2508.15260)
    ias       so many draws as one success needs (2506.09338)

A confidence is a verifier's score. `cges` and `ias` read it as a probability: it must have been calibrated on graded
questions kept apart, with the same model, verifier and prompt. A draw without a score is paid for; it moves nothing in
`cges`, `ias` and `deepconf`, and votes like an average one in `reasc`. O(number of different answers) a draw.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from typing import NamedTuple

from samplewise.errors import SetupError
from samplewise.stop.base import StopRule
from samplewise.stop.votes import Votes, count_vote, fraction, settled, tally
from samplewise.types import Candidate, Json, Question, Stop, Usage

NO_WEIGHTS: Mapping[str, float] = {}
SUREST = 1e-6  # no single draw is believed to be wrong, or right, with less than this
RANGE = 1e-4  # of a chance of success that a number of draws is computed from
LEAST = "deepconf.least"  # of samplers/confidence.py, in the scores of draws made with top=True


class Beliefs(NamedTuple):
    """The tally, the scored votes by answer, and the log odds (nats) that each answer's votes add up to."""

    votes: Votes = Votes()
    scored: Mapping[str, int] = {}
    log_odds: Mapping[str, float] = NO_WEIGHTS


def cges(verifier: str, confidence: float = 0.95, *, answers: int | None = None) -> StopRule[Beliefs]:
    """Stop once one answer has this posterior probability, if `verifier` gives each draw its chance c to be right.

    A draw is right with probability c, else any of the M - 1 other answers. M is `answers`, or one more than were seen;
    what was not seen keeps its mass, as "none of these". The answer it settles on stands in the evidence.
    """
    fraction("confidence", confidence)
    if answers is not None and answers < 2:
        raise ValueError(f"answers must be at least 2 possible answers, got {answers}")

    def start(question: Question) -> Beliefs:
        return Beliefs()

    def see(state: Beliefs, candidate: Candidate, answer: str | None) -> Beliefs:
        votes = count_vote(state.votes, candidate, answer)
        score = probability("cges", verifier, candidate)
        if answer is None or math.isnan(score):
            return state._replace(votes=votes)
        sure = min(max(score, SUREST), 1 - SUREST)
        scored = {**state.scored, answer: state.scored.get(answer, 0) + 1}
        odds = state.log_odds.get(answer, 0.0) + math.log(sure) - math.log1p(-sure)
        return Beliefs(votes, scored, {**state.log_odds, answer: odds})

    def decide(state: Beliefs, spent: Usage) -> Stop | None:
        if not state.scored:
            return None
        chances, none = posterior(state, answers)
        answer = max(chances, key=lambda each: chances[each])
        if chances[answer] < confidence:
            return None
        return settled(state.votes, chances[answer], confidence, answer=answer, none_of_these=none)

    return StopRule("cges", start, see, decide, (verifier,), "model-based", "truth")


class Posterior(NamedTuple):
    """Probabilities by answer, and of all that were not seen; they sum to 1."""

    chances: Mapping[str, float]
    none: float


def posterior(state: Beliefs, answers: int | None = None) -> Posterior:
    """P(answer) is proportional to the product of c over its own votes and (1 - c) / (M - 1) over all others. Divided
    by what an answer without a vote has, only its own votes remain."""
    possible = max(len(state.scored) + 1 if answers is None else answers, len(state.scored), 2)
    log_others = math.log(possible - 1)
    logs = {answer: state.log_odds[answer] + own * log_others for answer, own in state.scored.items()}
    top = max(0.0, *logs.values())
    weights = {answer: math.exp(value - top) for answer, value in logs.items()}
    none = (possible - len(logs)) * math.exp(-top)
    total = math.fsum([none, *weights.values()])
    return Posterior({answer: weight / total for answer, weight in weights.items()}, none / total)


class Weighed(NamedTuple):
    """The tally, the sum of the known scores by answer and over all, how many are known, how many votes have none by
    answer, and whether the first draw was sure enough by itself."""

    votes: Votes = Votes()
    sums: Mapping[str, float] = NO_WEIGHTS
    total: float = 0.0
    known: int = 0
    unscored: Mapping[str, int] = {}
    sure: float = math.nan


def reasc(verifier: str, *, gate: float | None = None, confidence: float = 0.95) -> StopRule[Weighed]:
    """Stop at the first draw if `verifier` scores it `gate` or more; else by Adaptive-Consistency on weighted votes.

    A vote's weight is its score over the mean score, so that the weights sum to the number of votes: the scale of the
    scores does not matter, but they must not be negative. `gate` has to be tuned on other questions; None: no gate.
    """
    fraction("confidence", confidence)

    def start(question: Question) -> Weighed:
        return Weighed()

    def see(state: Weighed, candidate: Candidate, answer: str | None) -> Weighed:
        votes = count_vote(state.votes, candidate, answer)
        score = candidate.scores.get(verifier, math.nan)
        if score < 0:
            raise SetupError(
                f"reasc needs scores of at least 0, but {verifier} gave {score:.4g}; name one that gives confidences"
            )
        sure = score if votes.draws == 1 and answer is not None else state.sure
        if answer is None:
            return state._replace(votes=votes, sure=sure)
        if math.isnan(score):
            unscored = {**state.unscored, answer: state.unscored.get(answer, 0) + 1}
            return state._replace(votes=votes, unscored=unscored, sure=sure)
        sums = {**state.sums, answer: state.sums.get(answer, 0.0) + score}
        return Weighed(votes, sums, state.total + score, state.known + 1, state.unscored, sure)

    def decide(state: Weighed, spent: Usage) -> Stop | None:
        if gate is not None and state.votes.draws == 1 and state.sure >= gate:
            return settled(state.votes, state.sure, gate, by="gate")
        first, second = two_heaviest(state)
        chance = weighted_asc(first, second)
        if chance < confidence - 1e-12:
            return None
        return settled(state.votes, chance, confidence, weights=[first, second])

    return StopRule("reasc", start, see, decide, (verifier,))


def two_heaviest(state: Weighed) -> tuple[float, float]:
    """The two largest weights; weights sum to the number of votes."""
    if state.total == 0:  # nothing is known, or all scores are 0: votes count alike
        return float(state.votes.first), float(state.votes.second)
    scale = state.known / state.total
    weights = [state.sums.get(answer, 0.0) * scale + state.unscored.get(answer, 0) for answer in state.votes.counts]
    first, second = sorted([*weights, 0.0, 0.0])[:-3:-1]
    return first, second


def weighted_asc(first: float, second: float) -> float:
    """`asc` of weights that need not be whole."""
    from scipy.special import betainc

    return float(betainc(second + 1.0, first + 1.0, 0.5))  # 1 - I_half(first + 1, second + 1)


class Trusted(NamedTuple):
    """The tally, the first scored draws as (confidence, answer), the confidence that a vote needs (nan while that is
    not known), and the weights of the trusted votes by answer."""

    votes: Votes = Votes()
    warmed: tuple[tuple[float, str | None], ...] = ()
    bar: float = math.nan
    weights: Mapping[str, float] = NO_WEIGHTS


def deepconf(keep: float = 0.1, *, warm_up: int = 16, consensus: float = 0.95) -> StopRule[Trusted]:
    """Stop once the surest draws agree (DeepConf), by votes that are weighted by confidence.

    After `warm_up` draws, those at least as sure as the surest `keep` of these vote, until one answer has the share
    `consensus`.

    How sure a draw is says its least sure window, which draws with their likeliest tokens have: `repeat(64, top=True)`;
    without them it never stops. As published, a draw below the bar is cut short while it is written; here it is written
    and paid to its end. `keep` .1 is the published "low", .9 is "high".
    """
    fraction("keep", keep)
    if warm_up < 1:
        raise ValueError(f"warm_up must be at least 1 draw, got {warm_up}")
    if not 0 < consensus <= 1:
        raise ValueError(f"consensus must be more than 0 and at most 1, got {consensus}")

    def start(question: Question) -> Trusted:
        return Trusted()

    def trust(weights: Mapping[str, float], bar: float, sure: float, answer: str | None) -> Mapping[str, float]:
        return weights if answer is None or sure < bar else {**weights, answer: weights.get(answer, 0.0) + sure}

    def see(state: Trusted, candidate: Candidate, answer: str | None) -> Trusted:
        votes, warmed, bar, weights = count_vote(state.votes, candidate, answer), *state[1:]
        sure = candidate.scores.get(LEAST, math.nan)
        if math.isnan(sure):
            return state._replace(votes=votes)
        if len(warmed) >= warm_up:
            return Trusted(votes, warmed, bar, trust(weights, bar, sure, answer))
        warmed = (*warmed, (sure, answer))
        if len(warmed) == warm_up:
            bar = sorted(each for each, _ in warmed)[-math.ceil(keep * warm_up - 1e-9)]
            for each, own in warmed:
                weights = trust(weights, bar, each, own)
        return Trusted(votes, warmed, bar, weights)

    def decide(state: Trusted, spent: Usage) -> Stop | None:
        total = math.fsum(state.weights.values())
        if total <= 0:
            return None
        agreed = max(state.weights.values()) / total
        return settled(state.votes, agreed, consensus, bar=state.bar) if agreed >= consensus - 1e-12 else None

    def at_least(state: Trusted) -> int:
        return max(1, warm_up - len(state.warmed))

    return StopRule("deepconf", start, see, decide, at_least=at_least)


class Chances(NamedTuple):
    """The tally and the scores seen, from small to large."""

    votes: Votes = Votes()
    scores: tuple[float, ...] = ()


def ias(verifier: str, confidence: float = 0.99, *, quantile: float = 0.1) -> StopRule[Chances]:
    """Stop after as many draws as hold a right one with this probability, by the chance that `verifier` gives.

    N = ceil(log(1 - confidence) / log(1 - p)), with p the `quantile` of the scores so far, rounded down: 7, 44 or 459
    draws at .5, .1 or .01. The scores must be calibrated chances that a draw is right, p on its low side.
    """
    fraction("confidence", confidence)
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must be at least 0 and at most 1, got {quantile}")

    def start(question: Question) -> Chances:
        return Chances()

    def see(state: Chances, candidate: Candidate, answer: str | None) -> Chances:
        votes, scores = count_vote(state.votes, candidate, answer), state.scores
        score = probability("ias", verifier, candidate)
        if math.isnan(score):
            return Chances(votes, scores)
        place = bisect.bisect(scores, score)
        return Chances(votes, (*scores[:place], score, *scores[place:]))

    def decide(state: Chances, spent: Usage) -> Stop | None:
        if not state.scores:
            return None
        chance = state.scores[int(quantile * (len(state.scores) - 1))]
        enough = draws_for_success(chance, confidence)
        if state.votes.draws < enough:
            return None
        said: dict[str, Json] = {"statistic": state.votes.draws, "threshold": enough, "chance": chance}
        return Stop("cap", {**said, **tally(state.votes)})

    return StopRule("ias", start, see, decide, (verifier,), "model-based", "truth")


def draws_for_success(chance: float, confidence: float) -> int:
    """So many draws hold a right one with probability `confidence`, if each is right with `chance`."""
    chance = min(max(chance, RANGE), 1 - RANGE)
    return math.ceil(math.log1p(-confidence) / math.log1p(-chance) - 1e-9)


def probability(rule: str, verifier: str, candidate: Candidate) -> float:
    """The verifier's score of a candidate, nan where there is none, or SetupError where it is no probability."""
    score = candidate.scores.get(verifier, math.nan)
    if score < 0 or score > 1:
        raise SetupError(
            f"{rule} needs chances to be right, 0 to 1, but {verifier} gave {score:.4g}; name a calibrated verifier"
        )
    return score
