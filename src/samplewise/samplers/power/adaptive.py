"""A power for each question, by whether likely responses agree: an adaptive vote, never samples of p^alpha.

How much sharpening helps is the covariance of correctness and log p under the present distribution. Without a
reference, agreement stands for correctness: with v_i the share of the other responses that have the answer of response
i, and z_i its standardized log p,

    g = mean_i (v_i - mean v) z_i        alpha <- clip(alpha + rate g, 1, cap)

The responses that alpha is tuned on are those that are voted over, so the pool has no stated distribution. It ends when
all agree, when g is as good as 0, when a round changes hardly anything, or after `rounds`. If g is not above 0 twice in
a row, sharpening does not help this question, and the plain draws are the pool.

Proposals are at temperature 1 throughout, so responses serve every alpha. Cost: N draws, then at most N `steps`
requests a round.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from samplewise.core.checks import check_count, check_number
from samplewise.core.keys import Key
from samplewise.core.types import Completion, Pool
from samplewise.samplers.base import Sampler, Step, Variant, deal, sampler_of
from samplewise.samplers.infos import MoveInfo, RoundInfo, arms_info, read_trace, to_json
from samplewise.samplers.power.chains import Chain, ChainSettings, ChainsState, chain_sampler
from samplewise.samplers.power.requests import CHAINS_NEED

AnswerKind = Literal["number", "line", "text"]
ANSWER_KINDS: tuple[AnswerKind, ...] = get_args(AnswerKind)
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
LEAST_GAIN = 0.005  # |g| below which alpha is left alone
LEAST_ACCEPTANCE = 0.02  # acceptance rate below which a round changes too little to learn from


def adaptive(
    num_chains: int = 8,
    rounds: int = 3,
    steps: int = 10,
    *,
    alpha: float = 1.25,
    cap: float = 4.0,
    rate: float = 4.0,
    answers: AnswerKind = "number",
    max_tokens: int = 512,
) -> Sampler[AdaptiveState]:
    """Sharpen each question as far as its likely responses agree.

    Make `num_chains` plain draws, then `rounds` of `steps` steps of chains whose alpha begins at `alpha` and follows
    the agreement of the answers, up to `cap`. The answer of a response is its last number, its last line or its whole
    text, by `answers`.
    """
    settings = AdaptiveSettings(
        num_chains=num_chains,
        rounds=rounds,
        steps=steps,
        alpha=alpha,
        cap=cap,
        rate=rate,
        answers=answers,
        max_tokens=max_tokens,
    )
    return sampler_of(settings, "adaptive", CHAINS_NEED, _init, _step, _pool, stepwise=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveSettings:
    """The arguments of `adaptive`, checked: ValueError if one is out of range."""

    num_chains: int
    rounds: int
    steps: int
    alpha: float
    cap: float
    rate: float
    answers: AnswerKind
    max_tokens: int

    def __post_init__(self) -> None:
        for name in ("num_chains", "rounds", "steps", "max_tokens"):
            check_count(name, getattr(self, name))
        check_number("alpha", self.alpha, 1.0)
        if check_number("cap", self.cap, 1.0) < self.alpha:
            raise ValueError(f"alpha must be at most cap, got {self.alpha} and {self.cap}")
        check_number("rate", self.rate, 0.0)
        if self.answers not in ANSWER_KINDS:
            raise ValueError(f"answers must be one of {', '.join(ANSWER_KINDS)}, got {self.answers!r}")


class AdaptiveState(NamedTuple):
    """The chains, and how the rounds went so far."""

    inner: ChainsState
    plain: tuple[Chain, ...] = ()  # the draws before any sharpening
    alpha: float = 1.0
    round: int = 0
    falling: int = 0  # rounds in a row in which g was not above 0
    asked: int = 0  # proposals of this round that differed from the response
    accepted: int = 0


@functools.lru_cache(maxsize=64)
def _chains(num_chains: int, max_tokens: int, alpha: float) -> Sampler[ChainsState]:
    """Return the chains of a round. They take no steps of their own: the state says how many."""
    return chain_sampler(ChainSettings(alpha=alpha, steps=0, chains=num_chains, temperature=1.0, max_tokens=max_tokens))


def _init(settings: AdaptiveSettings, variants: tuple[Variant, ...]) -> AdaptiveState:
    return AdaptiveState(_chains(settings.num_chains, settings.max_tokens, 1.0).init(variants))


def _pool(settings: AdaptiveSettings, state: AdaptiveState) -> Pool:
    return _chains(settings.num_chains, settings.max_tokens, state.alpha).pool(state.inner)


def _step(
    settings: AdaptiveSettings, key: Key, state: AdaptiveState, completions: Sequence[Completion]
) -> tuple[AdaptiveState, Step]:
    moves: list[MoveInfo] = []
    rounds: list[RoundInfo] = []
    while True:
        chains = _chains(settings.num_chains, settings.max_tokens, state.alpha)
        inner, inner_step = chains.step(key.fold("adaptive", state.round), state.inner, completions)
        new_moves = read_trace([inner_step.info]).moves
        differing = [move for move in new_moves if move.differed]
        state = state._replace(
            inner=inner,
            asked=state.asked + len(differing),
            accepted=state.accepted + sum(move.outcome == "accepted" for move in differing),
        )
        moves += [move._replace(stage=state.round) for move in new_moves]
        if not inner_step.asks:
            state, info = _next_round(settings, state)
            rounds.append(info)
        if inner_step.asks or rounds[-1].ended is not None:
            arms = [] if state.round else [deal(inner.variants, index).arm for index in range(settings.num_chains)]
            listed = {"moves": [to_json(move) for move in moves], "rounds": [to_json(info) for info in rounds]}
            trace = {**listed, **arms_info(arms)}
            return state, Step(inner_step.asks, trace)
        completions = ()


def _next_round(settings: AdaptiveSettings, state: AdaptiveState) -> tuple[AdaptiveState, RoundInfo]:
    """End a round: return the state of the next one, or why there is none (`ended`)."""
    responses = [chain.response for chain in state.inner.chains if chain.response is not None]
    answers = [answer_of(response.text, settings.answers) for response in responses]
    gain = agreement_gain(answers, [math.fsum(response.logp) for response in responses])
    info = RoundInfo(adaptive=True, round=state.round, alpha=state.alpha, gain=gain)
    if state.round == 0:
        state = state._replace(plain=state.inner.chains)
    if len(responses) < 2 or len(set(answers)) == 1:
        return state, info._replace(ended="agreed" if responses else "failed")
    falling = 0 if gain > 0 else state.falling + 1
    if falling >= 2:
        inner = state.inner._replace(chains=state.plain)
        return state._replace(inner=inner, alpha=1.0), info._replace(ended="sharpening does not help")
    if state.round == settings.rounds:
        return state, info._replace(ended="rounds")
    stuck = state.accepted < LEAST_ACCEPTANCE * max(1, state.asked)
    if state.round > 0 and (stuck or abs(gain) < LEAST_GAIN):
        return state, info._replace(ended="nothing moves")
    alpha = float(settings.alpha)
    if state.round > 0:
        alpha = min(float(settings.cap), max(1.0, state.alpha + settings.rate * gain))
    chains = tuple(
        chain._replace(stage=0, done=0, proposal=None, finished=chain.response is None) for chain in state.inner.chains
    )
    inner = state.inner._replace(chains=chains, num_steps=settings.steps)
    return AdaptiveState(inner, state.plain, alpha, state.round + 1, falling), info


def answer_of(text: str, answers: AnswerKind) -> str:
    """Return what a response answers, as far as the text alone shows: equal answers give equal strings."""
    if answers == "number" and (numbers := NUMBER.findall(text)):
        return str(numbers[-1].replace(",", ""))
    if answers == "text":
        return text.strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def agreement_gain(answers: Sequence[str], log_probs: Sequence[float]) -> float:
    """Return g, the covariance of agreement and standardized log p over responses (N,); 0 if either is constant."""
    num = len(answers)
    if num < 2:
        return 0.0
    counts = Counter(answers)
    share = [(counts[answer] - 1) / (num - 1) for answer in answers]
    mean_share, mean_logp = math.fsum(share) / num, math.fsum(log_probs) / num
    spread = math.sqrt(math.fsum((logp - mean_logp) ** 2 for logp in log_probs) / num)
    if spread == 0.0:
        return 0.0
    return math.fsum((v - mean_share) * (lp - mean_logp) / spread for v, lp in zip(share, log_probs, strict=True)) / num
