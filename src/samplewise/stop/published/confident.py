"""Published rules that weigh each vote by a verifier's confidence, for comparison.

    cges   posterior over answers from calibrated confidences (arXiv 2511.02603, formula from a summary)
    reasc  one confident draw, or Adaptive-Consistency on weighted votes (arXiv 2601.02970, likewise)
    ias    as many draws as one success needs (arXiv 2506.09338)

`cges` and `ias` read the score as a probability. It must be calibrated on graded questions kept apart, with the same
model, verifier and prompt. A draw without a score is paid for. It changes nothing in `cges` and `ias`, and votes like
an average one in `reasc`. O(number of different answers) a draw.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from typing import NamedTuple

from samplewise.core.checks import check_fraction
from samplewise.core.errors import SetupError
from samplewise.core.types import Candidate, Json, Question, Stop, Usage
from samplewise.stop.base import StopRule
from samplewise.stop.votes import Votes, count_vote, settled, vote_evidence

NO_WEIGHTS: Mapping[str, float] = {}
SUREST = 1e-6  # no single draw is believed to be wrong, or right, with less than this
RANGE = 1e-4  # of a chance of success that a number of draws is computed from


class ScoredVotes(NamedTuple):
    """The tally, the scored votes by answer, and the log odds (nats) that each answer's votes add up to."""

    votes: Votes = Votes()
    scored: Mapping[str, int] = {}
    log_odds: Mapping[str, float] = NO_WEIGHTS


def cges(verifier: str, confidence: float = 0.95, *, answers: int | None = None) -> StopRule[ScoredVotes]:
    """Stop once one answer has this posterior probability, if `verifier` gives each draw its probability c of being
    right.

    A draw is right with probability c, else any of the M - 1 other answers. M is `answers`, or one more than were seen;
    unseen answers keep their mass, as "none of these". The answer it settles on is in the evidence.
    """
    check_fraction("confidence", confidence)
    if answers is not None and answers < 2:
        raise ValueError(f"answers must be at least 2 possible answers, got {answers}")

    def start(question: Question) -> ScoredVotes:
        return ScoredVotes()

    def see(state: ScoredVotes, candidate: Candidate, answer: str | None) -> ScoredVotes:
        votes = count_vote(state.votes, candidate, answer)
        score = probability_of("cges", verifier, candidate)
        if answer is None or math.isnan(score):
            return state._replace(votes=votes)
        confidence_of_draw = min(max(score, SUREST), 1 - SUREST)
        scored = {**state.scored, answer: state.scored.get(answer, 0) + 1}
        odds = state.log_odds.get(answer, 0.0) + math.log(confidence_of_draw) - math.log1p(-confidence_of_draw)
        return ScoredVotes(votes, scored, {**state.log_odds, answer: odds})

    def decide(state: ScoredVotes, spent: Usage) -> Stop | None:
        if not state.scored:
            return None
        probabilities, none = posterior(state, answers)
        answer = max(probabilities, key=lambda answer: probabilities[answer])
        if probabilities[answer] < confidence:
            return None
        return settled(state.votes, probabilities[answer], confidence, answer=answer, none_of_these=none)

    return StopRule("cges", start, see, decide, (verifier,), "model-based", "truth")


class Posterior(NamedTuple):
    """Probabilities by answer, and of all unseen answers; they sum to 1."""

    probabilities: Mapping[str, float]
    none: float


def posterior(state: ScoredVotes, answers: int | None = None) -> Posterior:
    """Return P(answer), proportional to the product of c over its own votes and (1 - c) / (M - 1) over all others.

    Divided by that of an answer without a vote, only its own votes remain.
    """
    possible = max(len(state.scored) + 1 if answers is None else answers, len(state.scored), 2)
    log_others = math.log(possible - 1)
    logs = {answer: state.log_odds[answer] + count * log_others for answer, count in state.scored.items()}
    top = max(0.0, *logs.values())
    weights = {answer: math.exp(value - top) for answer, value in logs.items()}
    none = (possible - len(logs)) * math.exp(-top)
    total = math.fsum([none, *weights.values()])
    return Posterior({answer: weight / total for answer, weight in weights.items()}, none / total)


class WeightedVotes(NamedTuple):
    """The state of `reasc`.

    It holds the tally, the sum of the scores by answer and over all, how many are scored, how many votes are unscored
    by answer, and the score of the first draw.
    """

    votes: Votes = Votes()
    sums: Mapping[str, float] = NO_WEIGHTS
    total: float = 0.0
    known: int = 0
    unscored: Mapping[str, int] = {}
    first_score: float = math.nan


def reasc(verifier: str, *, gate: float | None = None, confidence: float = 0.95) -> StopRule[WeightedVotes]:
    """Stop at the first draw if `verifier` scores it `gate` or more; else by Adaptive-Consistency on weighted votes.

    A vote's weight is its score over the mean score, so the weights sum to the number of votes: the scale of the scores
    does not matter, but they must not be negative. `gate` must be tuned on other questions; None: no gate.
    """
    check_fraction("confidence", confidence)

    def start(question: Question) -> WeightedVotes:
        return WeightedVotes()

    def see(state: WeightedVotes, candidate: Candidate, answer: str | None) -> WeightedVotes:
        votes = count_vote(state.votes, candidate, answer)
        score = candidate.scores.get(verifier, math.nan)
        if score < 0:
            raise SetupError(
                f"reasc needs scores of at least 0, but {verifier} gave {score:.4g}; name one that gives confidences"
            )
        first_score = score if votes.draws == 1 and answer is not None else state.first_score
        if answer is None:
            return state._replace(votes=votes, first_score=first_score)
        if math.isnan(score):
            unscored = {**state.unscored, answer: state.unscored.get(answer, 0) + 1}
            return state._replace(votes=votes, unscored=unscored, first_score=first_score)
        sums = {**state.sums, answer: state.sums.get(answer, 0.0) + score}
        return WeightedVotes(votes, sums, state.total + score, state.known + 1, state.unscored, first_score)

    def decide(state: WeightedVotes, spent: Usage) -> Stop | None:
        if gate is not None and state.votes.draws == 1 and state.first_score >= gate:
            return settled(state.votes, state.first_score, gate, by="gate")
        first, second = two_heaviest(state)
        probability = weighted_asc(first, second)
        if probability < confidence - 1e-12:
            return None
        return settled(state.votes, probability, confidence, weights=[first, second])

    return StopRule("reasc", start, see, decide, (verifier,))


def two_heaviest(state: WeightedVotes) -> tuple[float, float]:
    """Return the two largest weights; weights sum to the number of votes."""
    if state.total == 0:  # nothing is known, or all scores are 0: votes count alike
        return float(state.votes.first), float(state.votes.second)
    scale = state.known / state.total
    weights = [state.sums.get(answer, 0.0) * scale + state.unscored.get(answer, 0) for answer in state.votes.counts]
    first, second = sorted([*weights, 0.0, 0.0])[:-3:-1]
    return first, second


def weighted_asc(first: float, second: float) -> float:
    """Return `asc` for weights that need not be whole."""
    from scipy.special import betainc

    return float(betainc(second + 1.0, first + 1.0, 0.5))  # 1 - I_half(first + 1, second + 1)


class ScoreList(NamedTuple):
    """The tally and the scores seen, from small to large."""

    votes: Votes = Votes()
    scores: tuple[float, ...] = ()


def ias(verifier: str, confidence: float = 0.99, *, quantile: float = 0.1) -> StopRule[ScoreList]:
    """Stop after as many draws as hold a right one with this probability, by the probability that `verifier` gives.

    N = ceil(log(1 - confidence) / log(1 - p)), with p the `quantile` of the scores so far, rounded down: 7, 44 or 459
    draws at .5, .1 or .01. The scores must be calibrated probabilities that a draw is right, p a low one of them.
    """
    check_fraction("confidence", confidence)
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must be at least 0 and at most 1, got {quantile}")

    def start(question: Question) -> ScoreList:
        return ScoreList()

    def see(state: ScoreList, candidate: Candidate, answer: str | None) -> ScoreList:
        votes, scores = count_vote(state.votes, candidate, answer), state.scores
        score = probability_of("ias", verifier, candidate)
        if math.isnan(score):
            return ScoreList(votes, scores)
        index = bisect.bisect(scores, score)
        return ScoreList(votes, (*scores[:index], score, *scores[index:]))

    def decide(state: ScoreList, spent: Usage) -> Stop | None:
        if not state.scores:
            return None
        probability = state.scores[int(quantile * (len(state.scores) - 1))]
        enough = draws_for_success(probability, confidence)
        if state.votes.draws < enough:
            return None
        evidence: dict[str, Json] = {"statistic": state.votes.draws, "threshold": enough, "chance": probability}
        return Stop("cap", {**evidence, **vote_evidence(state.votes)})

    return StopRule("ias", start, see, decide, (verifier,), "model-based", "truth")


def draws_for_success(probability: float, confidence: float) -> int:
    """Return how many draws hold a right one with probability `confidence`, if each is right with this probability."""
    probability = min(max(probability, RANGE), 1 - RANGE)
    return math.ceil(math.log1p(-confidence) / math.log1p(-probability) - 1e-9)


def probability_of(rule: str, verifier: str, candidate: Candidate) -> float:
    """Return the verifier's score of a candidate, nan if there is none. Raise SetupError if it is no probability."""
    score = candidate.scores.get(verifier, math.nan)
    if score < 0 or score > 1:
        raise SetupError(
            f"{rule} needs chances to be right, 0 to 1, but {verifier} gave {score:.4g}; name a calibrated verifier"
        )
    return score
