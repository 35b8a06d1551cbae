"""Verifiers that use only what an engine gives with a draw: its log-probs. No tokens beyond generation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from samplewise.core.checks import check_choice
from samplewise.core.types import Candidate, Capability, Question, Score, Verifier


@dataclass(frozen=True, slots=True)
class ConfidenceVerifier:
    """A verifier whose score is nan where a draw came without what it `needs`.

    Such draws cannot be scored later either, so a recipe is refused before it draws them. `option` is what `repeat`
    must be given for draws to carry it; "" where they carry it wherever the engine can.
    """

    name: str
    needs: Capability
    rate: Callable[[Candidate], Score]
    option: str = ""

    def __call__(self, question: Question, candidate: Candidate) -> Score:
        """Return the score of a candidate."""
        return self.rate(candidate)


def logp_score() -> Verifier:
    """Score a response by its mean log-probability per token (nats, at most 0) under the model at temperature 1.

    nan without log-probs.
    """

    def rate(candidate: Candidate) -> Score:
        if math.isnan(candidate.logp_sum) or candidate.num_tokens == 0:
            return Score(math.nan, "the engine gave no log-probs")
        return Score(candidate.logp_sum / candidate.num_tokens)

    return ConfidenceVerifier("logp", Capability.LOGP, rate)


ConfidencePart = Literal["mean", "tail", "bottom", "least"]


def deepconf_score(part: ConfidencePart = "tail") -> Verifier:
    """Score a response by the model's confidence (DeepConf).

    `part` is "mean" (the whole response), "tail" (its end), "bottom" (its least confident tenth) or "least" (its least
    confident window).

    Needs draws with their top tokens: `repeat(64, top=True)` on an engine that shows them; otherwise nan.
    """
    check_choice("part", part, get_args(ConfidencePart))

    def rate(candidate: Candidate) -> Score:
        value = candidate.scores.get(f"deepconf.{part}", math.nan)
        return Score(
            value, "" if not math.isnan(value) else "drawn without the likeliest tokens: repeat(..., top=True)"
        )

    return ConfidenceVerifier("deepconf", Capability.TOP, rate, "top=True")


def self_certainty_score() -> Verifier:
    """Score a response by self-certainty: the mean KL(uniform || p) over its tokens (nats, at least 0).

    Kang et al. 2025, arXiv 2502.18581, who vote by its rank: `borda(self_certainty)`. Needs draws that carry it,
    `repeat(64, certainty=True)` on an engine that sees its whole distribution (local, tiny, toy); otherwise nan.
    """

    def rate(candidate: Candidate) -> Score:
        value = candidate.scores.get("self_certainty", math.nan)
        return Score(value, "" if not math.isnan(value) else "drawn without certainty: repeat(..., certainty=True)")

    return ConfidenceVerifier("self_certainty", Capability.CERTAINTY, rate, "certainty=True")


def likelihood_score() -> Verifier:
    """Score a response by its total log-probability (nats, at most 0) under the model at temperature 1.

    This favors short responses. nan without log-probs.
    """

    def rate(candidate: Candidate) -> Score:
        return Score(candidate.logp_sum, "" if not math.isnan(candidate.logp_sum) else "the engine gave no log-probs")

    return ConfidenceVerifier("likelihood", Capability.LOGP, rate)
