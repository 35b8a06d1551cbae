"""A ladder of powers: chains at several alphas whose neighbors may swap responses (replica exchange).

The rungs a_1 < ... < a_K share one horizon and one set of reachable responses. A round is one step of every rung by its
own kernel, all requests together, then a sweep over the pairs of neighbors from the lowest up:

    swap with probability min(1, exp((a_{k+1} - a_k) (log p(x_k) - log p(x_{k+1}))))        no request

Either leaves the joint distribution invariant, the product of the rungs' p^{a_k} exp(lambda L), each over the complete
responses of `kernel`: those that ended, and those that the horizon cut. Swaps are of whole responses, so they stay in
that space. This is parallel power tempering (PPT, arXiv 2609.38104); its rungs have names in `PPT_LADDERS`.

The rungs are fixed before the run; tune them (swap rates of .15 to .6) on other questions. Cost: K starts, and at most
K requests a round.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from samplewise.core.checks import check_count, check_number
from samplewise.core.keys import Key
from samplewise.core.types import Capability, Completion, Generate, Json, Pool, Sampling
from samplewise.samplers.base import Sampler, Step, Variant, deal, sampler_of
from samplewise.samplers.infos import MoveInfo, SwapInfo, arms_info, to_json
from samplewise.samplers.power.chains import move_info
from samplewise.samplers.power.kernel import Kernel, MoveProposal, decide_move, move_asks, propose_move
from samplewise.samplers.power.random_choices import KeyChoices, MakeChoices, RandomChoices
from samplewise.samplers.power.requests import (
    CHAINS_NEED,
    logz_exponents,
    proposal_sampling,
    start_response,
    whole_response_ask,
)
from samplewise.samplers.power.response import DrawnResponse, response_candidate

# The rungs of PPT by class of model and benchmark (arXiv 2609.38104): qwen3 is Qwen3-4B and 8B, qwen3.5 is Qwen3.5-9B.
# Published with 5 to 20 rounds, no filter, and a horizon of 2,048 to 8,192 tokens. Of two of them only the ends are
# known here, 1.8 and 2.4; the rungs between are evenly spaced.
PPT_LADDERS: Mapping[str, tuple[float, ...]] = {
    "qwen3-math500": (2.35, 2.5, 2.7, 2.9),
    "qwen3-aime": (1.8, 2.0, 2.2, 2.4),
    "qwen3-livecodebench": (1.8, 2.0, 2.2, 2.4),
    "qwen3-humaneval": (1.5, 1.6, 1.8),
    "qwen3-gpqa": (1.15, 1.3, 1.5),
    "qwen3.5-aime": (1.25, 1.4, 1.6),
    "qwen3.5-livecodebench": (1.1, 1.25, 1.4),
    "qwen3.5-gpqa": (1.05, 1.1, 1.25),
}


def tempering(
    alphas: tuple[float, ...] | str = (1.5, 2.0, 3.0, 4.0),
    rounds: int = 20,
    ladders: int = 1,
    *,
    temperature: float | None = None,
    max_tokens: int = 512,
    length_preference: float = 0.0,
    cuts: Literal["uniform", "recent"] = "uniform",
    keep: Literal["coldest", "all"] = "coldest",
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Sampler[TemperingState]:
    """Sample p(x)^alpha by replica exchange: chains at rising `alphas` that swap responses, for `rounds` rounds.

    Each rung proposes at its own temperature 1 / alpha, or all at one `temperature`, which top_k, top_p and min_p need.
    The last response of each ladder's highest power is a candidate; keep="all" adds the other rungs. `alphas` may be
    the name of a published ladder, "qwen3-math500" (see `PPT_LADDERS`). ValueError where an argument is out of range.
    """
    return ladder_sampler(
        LadderSettings(
            alphas=named_ladder(alphas),
            rounds=rounds,
            ladders=ladders,
            temperature=temperature,
            max_tokens=max_tokens,
            length_preference=length_preference,
            cuts=cuts,
            keep=keep,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
        )
    )


def named_ladder(alphas: tuple[float, ...] | str) -> tuple[float, ...]:
    """Return the rungs that a name of `PPT_LADDERS` stands for, or the rungs themselves. ValueError if unknown."""
    if not isinstance(alphas, str):
        return alphas
    if alphas not in PPT_LADDERS:
        raise ValueError(f"no ladder is called {alphas!r}; give powers, or one of {', '.join(PPT_LADDERS)}")
    return PPT_LADDERS[alphas]


@dataclass(frozen=True, kw_only=True)
class LadderSettings:
    """The arguments of `tempering`, checked: ValueError if one is out of range. The proofs replace `make_choices`."""

    alphas: tuple[float, ...]
    rounds: int
    ladders: int = 1
    temperature: float | None = None
    max_tokens: int = 512
    length_preference: float = 0.0
    cuts: Literal["uniform", "recent"] = "uniform"
    keep: Literal["coldest", "all"] = "coldest"
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    make_choices: MakeChoices = KeyChoices

    def __post_init__(self) -> None:
        alphas = [check_number("alpha", alpha, 1.0) for alpha in self.alphas]
        if len(alphas) < 2 or any(low >= high for low, high in pairwise(alphas)):
            raise ValueError(f"a ladder has two or more powers, each above the one before, got {self.alphas}")
        for name in ("rounds", "ladders", "max_tokens"):
            check_count(name, getattr(self, name))
        if self.cuts not in ("uniform", "recent"):
            raise ValueError(f'cuts must be "uniform" or "recent", got {self.cuts!r}')
        if self.keep not in ("coldest", "all"):
            raise ValueError(f'keep must be "coldest" or "all", got {self.keep!r}')
        if self.temperature is None and self.shared_sampling[1:] != Sampling()[1:]:
            raise ValueError("top_k, top_p and min_p need one temperature for all rungs: give temperature=")
        check_number("length_preference", self.length_preference)

    @property
    def num_rungs(self) -> int:
        return len(self.alphas)

    @property
    def num_chains(self) -> int:
        return self.ladders * self.num_rungs

    @functools.cached_property
    def shared_sampling(self) -> Sampling:
        return proposal_sampling(self.alphas[0], self.temperature, self.top_k, self.top_p, self.min_p)

    @functools.cached_property
    def temperatures(self) -> tuple[float, ...]:
        """Return the temperature of each rung, or the one of all (E,)."""
        if self.temperature is not None:
            return (self.shared_sampling.temperature,)
        return tuple(1.0 / float(alpha) for alpha in self.alphas)

    @functools.cached_property
    def kernels(self) -> tuple[Kernel, ...]:
        """Return the kernel of each rung (K,)."""
        return tuple(
            Kernel(
                alpha=float(alpha),
                horizon=self.max_tokens,
                cuts=self.cuts,
                sampling=self.shared_sampling,
                temperatures=self.temperatures,
                mix=tuple(float(e == self.temperature_index(rung)) for e in range(len(self.temperatures))),
                length_preference=float(self.length_preference),
            )
            for rung, alpha in enumerate(self.alphas)
        )

    def temperature_index(self, rung: int) -> int:
        """Return which of the temperatures a rung proposes at."""
        return min(rung, len(self.temperatures) - 1)


class TemperingState(NamedTuple):
    """Chains are in order of ladder, then rung, the lowest power first."""

    variants: tuple[Variant, ...]
    responses: tuple[DrawnResponse | None, ...] = ()
    proposals: tuple[MoveProposal | None, ...] = ()
    walkers: tuple[int, ...] = ()  # which start each rung's response came from, to count round trips
    round: int = -2  # before the starts, then -1 while they are drawn
    num_failed: int = 0


def ladder_sampler(settings: LadderSettings) -> Sampler[TemperingState]:
    """Return the sampler of these settings."""
    needs = CHAINS_NEED | ({Capability.LOGZ} if len(settings.temperatures) > 1 else set())
    return sampler_of(settings, "tempering", needs, _init, _step, _pool, stepwise=True)


def _init(settings: LadderSettings, variants: tuple[Variant, ...]) -> TemperingState:
    return TemperingState(variants)


def _pool(settings: LadderSettings, state: TemperingState) -> Pool:
    top = settings.num_rungs - 1
    rungs = range(top, -1, -1) if settings.keep == "all" else (top,)
    ladders = range(len(state.responses) // settings.num_rungs)
    chains = [ladder * settings.num_rungs + rung for ladder in ladders for rung in rungs]
    candidates = tuple(
        response_candidate(response, _variant(settings, state, chain).arm)
        for chain in chains
        if (response := state.responses[chain]) is not None
    )
    return Pool(candidates, state.num_failed)


def _step(
    settings: LadderSettings, key: Key, state: TemperingState, completions: Sequence[Completion]
) -> tuple[TemperingState, Step]:
    key = key.fold("tempering")
    failed = sum(completion.finish == "error" for completion in completions)
    state = state._replace(num_failed=state.num_failed + failed)
    if state.round == -2:
        alphas = [float(alpha) for alpha in settings.alphas]
        arms = [deal(state.variants, ladder).arm for ladder in range(settings.ladders)]
        return state._replace(round=-1), Step(_start_asks(settings, key, state), {"alphas": alphas, **arms_info(arms)})
    moves: list[MoveInfo] = []
    swaps: list[SwapInfo] = []
    if state.round == -1:
        state = _begin(settings, state, completions)
    elif any(proposal is not None for proposal in state.proposals):
        state = _end_round(settings, key, state, completions, moves, swaps)
    asks: tuple[Generate, ...] = ()
    while state.round < settings.rounds and any(response is not None for response in state.responses):
        state, asks = _propose(settings, key, state)
        if asks:
            break
        state = _end_round(settings, key, state, (), moves, swaps)
    info: Json = {
        "moves": [to_json(move) for move in moves],
        "swaps": [to_json(swap) for swap in swaps],
        "walkers": list(state.walkers),
    }
    return state, Step(asks, info)


def _variant(settings: LadderSettings, state: TemperingState, chain: int) -> Variant:
    # An arm's own temperature is left out: rungs of one ladder must reach the same responses.
    return deal(state.variants, chain // settings.num_rungs)._replace(sampling={})


def _start_asks(settings: LadderSettings, key: Key, state: TemperingState) -> tuple[Generate, ...]:
    exponents = logz_exponents(settings.temperatures)
    asks = []
    for chain in range(settings.num_chains):
        ladder, rung = divmod(chain, settings.num_rungs)
        sampling = settings.kernels[rung].sampling_at(settings.temperature_index(rung))
        variant = _variant(settings, state, chain)
        ask = whole_response_ask(key.fold("start", rung), variant, sampling, settings.max_tokens, ladder, exponents)
        asks.append(ask._replace(draw=chain))
    return tuple(asks)


def _begin(settings: LadderSettings, state: TemperingState, completions: Sequence[Completion]) -> TemperingState:
    """Begin the chains. A rung whose start failed begins where another of its ladder does: any start will do."""
    starts = [start_response(completion, settings.temperatures, settings.max_tokens) for completion in completions]
    responses: list[DrawnResponse | None] = []
    for ladder in range(settings.ladders):
        of_ladder = starts[ladder * settings.num_rungs : (ladder + 1) * settings.num_rungs]
        spare = next((start for start in of_ladder if start is not None), None)
        responses += [spare if start is None else start for start in of_ladder]
    return state._replace(
        responses=tuple(responses),
        proposals=(None,) * settings.num_chains,
        walkers=tuple(range(settings.num_chains)),
        round=0,
    )


def _kernel(settings: LadderSettings, chain: int) -> Kernel:
    return settings.kernels[chain % settings.num_rungs]


def _choices(
    settings: LadderSettings, key: Key, state: TemperingState, chain: int, purpose: Literal["plan", "decide", "swap"]
) -> RandomChoices:
    return settings.make_choices(key.fold("rung", chain, state.round, purpose))


def _propose(settings: LadderSettings, key: Key, state: TemperingState) -> tuple[TemperingState, tuple[Generate, ...]]:
    """Propose a move for every rung of every ladder."""
    proposals: list[MoveProposal | None] = []
    asks: list[Generate] = []
    for chain, response in enumerate(state.responses):
        if response is None:
            proposals.append(None)
            continue
        kernel, variant = _kernel(settings, chain), _variant(settings, state, chain)
        proposal = propose_move(kernel, response, _choices(settings, key, state, chain, "plan"))
        seed = key.fold("rung", chain, state.round, "draw").seed()
        asks += move_asks(kernel, response, proposal, variant.messages, (seed,), variant.group)
        proposals.append(proposal)
    return state._replace(proposals=tuple(proposals)), tuple(asks)


def _end_round(
    settings: LadderSettings,
    key: Key,
    state: TemperingState,
    completions: Sequence[Completion],
    moves: list[MoveInfo],
    swaps: list[SwapInfo],
) -> TemperingState:
    """Decide on every proposal, then swap neighbors; note both."""
    state = _decide(settings, key, state, completions, moves)
    state = _swap(settings, key, state, swaps)
    return state._replace(round=state.round + 1)


def _decide(
    settings: LadderSettings,
    key: Key,
    state: TemperingState,
    completions: Sequence[Completion],
    moves: list[MoveInfo],
) -> TemperingState:
    arrivals = iter(completions)
    responses = list(state.responses)
    for chain, (response, proposal) in enumerate(zip(state.responses, state.proposals, strict=True)):
        if response is None or proposal is None:
            continue
        answers = [next(arrivals) for _ in range(proposal.num_asks)]
        choices = _choices(settings, key, state, chain, "decide")
        result = decide_move(_kernel(settings, chain), response, proposal, answers, choices)
        responses[chain] = result.response
        moves.append(move_info(chain, 0, state.round, proposal, result))
    return state._replace(responses=tuple(responses), proposals=(None,) * len(responses))


def _swap(settings: LadderSettings, key: Key, state: TemperingState, swaps: list[SwapInfo]) -> TemperingState:
    responses, walkers = list(state.responses), list(state.walkers)
    for ladder in range(settings.ladders):
        for rung, (alpha, alpha_above) in enumerate(pairwise(map(float, settings.alphas))):
            low = ladder * settings.num_rungs + rung
            lower, upper = responses[low], responses[low + 1]
            if lower is None or upper is None:
                continue
            log_probability = swap_log_probability(alpha, alpha_above, lower, upper)
            swapped = _choices(settings, key, state, low, "swap").log_uniform() <= log_probability
            if swapped:
                responses[low], responses[low + 1] = upper, lower
                walkers[low], walkers[low + 1] = walkers[low + 1], walkers[low]
            swaps.append(SwapInfo(ladder, rung, state.round, swapped))
    return state._replace(responses=tuple(responses), walkers=tuple(walkers))


def swap_log_probability(alpha: float, alpha_above: float, lower: DrawnResponse, upper: DrawnResponse) -> float:
    """Return the log of the probability (nats, certain from 0 on) that neighbors swap their responses."""
    return (alpha_above - alpha) * (math.fsum(lower.logp) - math.fsum(upper.logp))
