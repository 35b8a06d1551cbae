"""A power for each question, by whether likely responses agree: an adaptive vote, never samples of p^alpha.

How much sharpening helps is the covariance of correctness and log p under the present law, and where no reference is at
hand agreement stands for correctness: with v_i the share of the other responses that have the answer of response i, and
z_i its standardised log p,

    g = mean_i (v_i - mean v) z_i        alpha <- clip(alpha + rate g, 1, cap)

The responses that alpha is tuned on are those that are voted over, so the pool has no stated law. It ends when all
agree, when g is as good as 0, when hardly a step changes anything, or after `rounds`; where g is not above 0 twice
running, sharpening is not what this question needs, and the plain draws are the pool.

Proposals are at temperature 1 throughout, so that records serve every alpha. Cost: N draws, then at most N `steps`
requests a round.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from samplewise.keys import Key
from samplewise.samplers.base import Sampler, Step, Variant
from samplewise.samplers.power.chains import Chain, ChainsState, Plan, chains, pool
from samplewise.samplers.power.cuts import Cuts
from samplewise.samplers.power.kernel import Kernel
from samplewise.samplers.power.settings import CHAINS_NEED, number
from samplewise.samplers.repeat import count
from samplewise.types import Completion, Json, Sampling

Answers = Literal["number", "line", "text"]
ANSWERS: tuple[Answers, ...] = get_args(Answers)
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
LEAST_GAIN = 0.005  # |g| below which alpha is left alone
LEAST_ACCEPTANCE = 0.02  # of redraws that differ, below which a round changes too little to learn from


class AdaptiveState(NamedTuple):
    inner: ChainsState
    plain: tuple[Chain, ...] = ()  # the draws before any sharpening
    alpha: float = 1.0
    round: int = 0
    falling: int = 0  # rounds running in which g was not above 0
    asked: int = 0  # in this round: redraws that differed from the record
    accepted: int = 0


def adaptive(
    num_chains: int = 8,
    rounds: int = 3,
    steps: int = 10,
    *,
    alpha: float = 1.25,
    cap: float = 4.0,
    rate: float = 4.0,
    answers: Answers = "number",
    max_tokens: int = 512,
) -> Sampler[AdaptiveState]:
    """Sharpen each question as far as its likely responses agree.

    `num_chains` plain draws, then `rounds` of `steps` steps of chains whose alpha begins at `alpha` and follows the
    agreement of the answers, up to `cap`.
    What counts as the answer of a response is its last number, its last line or its whole text, by `answers`.
    """
    for name, value in (("num_chains", num_chains), ("rounds", rounds), ("steps", steps), ("max_tokens", max_tokens)):
        count(name, value)
    alpha, cap = number("alpha", alpha, 1.0), number("cap", cap, 1.0)
    rate = number("rate", rate, 0.0)
    if answers not in ANSWERS:
        raise ValueError(f"answers must be one of {', '.join(ANSWERS)}, got {answers!r}")
    kernel = Kernel(
        alpha=1.0,
        horizon=max_tokens,
        cuts=Cuts("uniform", 0),
        sampling=Sampling(),
        temperatures=(1.0,),
        mix=(1.0,),
    )
    base = Plan("power", CHAINS_NEED, kernel, "uniform", ((max_tokens, 0),), num_chains, num_chains)

    def init(variants: tuple[Variant, ...]) -> AdaptiveState:
        return AdaptiveState(chains(base).init(variants))

    def judged(state: AdaptiveState) -> tuple[AdaptiveState, bool, Json]:
        """The state of the next round, whether there is one, and what to tell."""
        drawn = [chain.record for chain in state.inner.chains if chain.record is not None]
        read = [answer_of(record.text, answers) for record in drawn]
        gain = agreement_gain(read, [math.fsum(record.logp) for record in drawn])
        told = {"adaptive": True, "round": state.round, "alpha": state.alpha, "gain": gain}
        if state.round == 0:
            state = state._replace(plain=state.inner.chains)
        if len(drawn) < 2 or len(set(read)) == 1:
            return state, False, {**told, "ended": "agreed" if drawn else "failed"}
        falling = 0 if gain > 0 else state.falling + 1
        if falling >= 2:
            inner = state.inner._replace(chains=state.plain)
            return state._replace(inner=inner, alpha=1.0), False, {**told, "ended": "sharpening does not help"}
        small = state.round > 0 and state.accepted < LEAST_ACCEPTANCE * max(1, state.asked)
        if state.round == rounds or small or (state.round > 0 and abs(gain) < LEAST_GAIN):
            return state, False, {**told, "ended": "rounds" if state.round == rounds else "nothing moves"}
        risen = alpha if state.round == 0 else min(cap, max(1.0, state.alpha + rate * gain))
        fresh = tuple(
            chain._replace(stage=0, done=0, planned=None, over=chain.record is None) for chain in state.inner.chains
        )
        inner = state.inner._replace(chains=fresh, num_steps=steps)
        state = AdaptiveState(inner, state.plain, risen, state.round + 1, falling)
        return state, True, told

    def step(key: Key, state: AdaptiveState, completions: Sequence[Completion]) -> tuple[AdaptiveState, Step]:
        told: list[Json] = []
        moves: list[Json] = []
        while True:
            plan_ = base._replace(kernel=kernel._replace(alpha=state.alpha))
            made = chains(plan_)
            inner, following = made.step(key.fold("adaptive", state.round), state.inner, completions)
            new = following.info.get("moves", []) if following.info else []
            tried = [move["outcome"] for move in new if move["outcome"] in ("accepted", "rejected", "aborted")]
            state = state._replace(
                inner=inner, asked=state.asked + len(tried), accepted=state.accepted + tried.count("accepted")
            )
            moves += [{**move, "stage": state.round} for move in new]
            if following.asks:
                return state, Step(following.asks, {"moves": moves, "rounds": told})
            state, goes_on, words = judged(state)
            told.append(words)
            completions = ()
            if not goes_on:
                return state, Step((), {"moves": moves, "rounds": told})

    return Sampler(name="adaptive", needs=CHAINS_NEED, init=init, step=step, pool=lambda state: pool(state.inner))


def answer_of(text: str, answers: Answers) -> str:
    """What a response answers, as far as that can be seen without the task: equal answers give equal strings."""
    if answers == "number" and (found := NUMBER.findall(text)):
        return str(found[-1].replace(",", ""))
    if answers == "text":
        return text.strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def agreement_gain(answers: Sequence[str], log_probs: Sequence[float]) -> float:
    """g: the covariance of agreement and standardised log p over responses (N,); 0 where either does not vary."""
    num = len(answers)
    if num < 2:
        return 0.0
    counts = Counter(answers)
    share = [(counts[answer] - 1) / (num - 1) for answer in answers]
    mean, centre = math.fsum(share) / num, math.fsum(log_probs) / num
    spread = math.sqrt(math.fsum((each - centre) ** 2 for each in log_probs) / num)
    if spread == 0.0:
        return 0.0
    return math.fsum((v - mean) * (lp - centre) / spread for v, lp in zip(share, log_probs, strict=True)) / num
