"""Verifiers that need nothing but what the engine showed of the draw's own law. No tokens beyond generation."""

from __future__ import annotations

import math
from typing import Literal, get_args

from samplewise.types import Candidate, Question, Score, Verifier


def logp() -> Verifier:
    """Mean log-probability per token (nats, at most 0) under the model at temperature 1. nan without log-probs."""

    def verify(question: Question, candidate: Candidate) -> Score:
        if math.isnan(candidate.logp_sum) or candidate.num_tokens == 0:
            return Score(math.nan, "the engine gave no log-probs")
        return Score(candidate.logp_sum / candidate.num_tokens)

    return verify


Part = Literal["mean", "tail", "bottom", "least"]


def deepconf(part: Part = "tail") -> Verifier:
    """How sure the model was (DeepConf), over the whole response, its end, its least sure tenth, or least sure window.

    Needs draws with their likeliest tokens: `repeat(64, top=True)` on an engine that shows them; nan otherwise.
    """
    if part not in get_args(Part):
        raise ValueError(f"part must be one of {', '.join(get_args(Part))}, got {part!r}")

    def verify(question: Question, candidate: Candidate) -> Score:
        value = candidate.scores.get(f"deepconf.{part}", math.nan)
        return Score(
            value, "" if not math.isnan(value) else "drawn without the likeliest tokens: repeat(..., top=True)"
        )

    return verify


def self_certainty() -> Verifier:
    """How far the model's law was from uniform at each token, in the mean (nats, at least 0): self-certainty.

    Kang et al. 2025, arXiv 2502.18581, who vote by its rank: `borda(self_certainty)`. Needs draws that carry it,
    `repeat(64, certainty=True)` on an engine that sees its whole law (local, tiny, toy); nan otherwise.
    """

    def verify(question: Question, candidate: Candidate) -> Score:
        value = candidate.scores.get("self_certainty", math.nan)
        return Score(value, "" if not math.isnan(value) else "drawn without certainty: repeat(..., certainty=True)")

    return verify


def likelihood() -> Verifier:
    """Total log-probability (nats, at most 0) of the response under the model at temperature 1: favours short ones."""

    def verify(question: Question, candidate: Candidate) -> Score:
        return Score(candidate.logp_sum, "" if not math.isnan(candidate.logp_sum) else "the engine gave no log-probs")

    return verify
