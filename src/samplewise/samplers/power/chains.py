"""Power sampling by chains: Metropolis-Hastings over complete responses at a fixed horizon.

The target is p(x)^alpha exp(lambda L) over whole responses of at most T tokens, those that the horizon T cut included;
`kernel` has the step and what must be proved of it. Every step of a chain is the same kernel, wherever the chain began.
So a chain that begins in its target stays there; at alpha 1 and temperature 1 every chain does. Whatever a step can
decide without the model is decided at once. The requests of all chains make one step of the loop, which the engine
answers together.

The number of steps is fixed before a chain begins; a budget in tokens is turned into steps by a forecast from pilots,
at which no chain begins. A chain that ends when something has happened (the first acceptance, a number of changes, no
tokens left) has another distribution. After n steps a response is close to p^alpha, not from it; the start wears off
with the steps.

Cost: a start for each chain, and at most `tries` requests for each step, most of which end early or are never sent.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from samplewise.core.checks import check_count, check_number
from samplewise.core.errors import UsageError
from samplewise.core.keys import Key
from samplewise.core.types import Capability, Completion, Generate, Json, Pool, Sampling
from samplewise.samplers.base import Sampler, Step, Variant, deal, draws_of_arm, sampler_of
from samplewise.samplers.infos import MoveInfo, TargetInfo, arms_info, to_json
from samplewise.samplers.power.cuts import CUT_KINDS, CutKind
from samplewise.samplers.power.kernel import (
    MOVES,
    Kernel,
    Move,
    MoveProposal,
    MoveResult,
    decide_move,
    expected_tokens,
    move_asks,
    propose_move,
)
from samplewise.samplers.power.random_choices import KeyChoices, MakeChoices
from samplewise.samplers.power.requests import (
    CHAINS_NEED,
    logz_exponents,
    proposal_sampling,
    proposal_temperatures,
    single_temperature,
    start_response,
    whole_response_ask,
)
from samplewise.samplers.power.response import (
    DrawnResponse,
    continuation_of,
    log_ratio_terms,
    response_candidate,
    splice,
)

MAX_STEPS = 100_000  # of a forecast
FORECAST_SHARE = 0.8  # of a budget: proposals can be longer than the pilots that it is forecast from
NUM_PILOTS = 2  # draws that set lambda, or that the number of steps is forecast from; no chain begins at one


def power(
    alpha: float = 4.0,
    steps: int = 20,
    chains: int = 1,
    *,
    temperature: float | None = None,
    temperatures: tuple[float, ...] = (),
    max_tokens: int = 512,
    cuts: CutKind = "uniform",
    move: Move = "mh",
    tries: int | None = None,
    length_preference: float | Literal["auto"] = 0.0,
    starts: int | None = None,
    blocks: int = 1,
    block_steps: int | None = None,
    budget_tokens: int | None = None,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    jump: bool = True,
    early: bool = True,
) -> Sampler[ChainsState]:
    """Sample approximately from p(x)^alpha over whole responses: `chains` Markov chains of `steps` steps each.

    The last response of each chain is a candidate. A step redraws the response from a cut, which `cuts` draws (uniform,
    recent, entropy), at `temperature` (1 / alpha unless given) or at one of several `temperatures`, drawn for each
    step. `move` is mh, or mtm or isir with `tries` proposals a step (2). With top_k, top_p or min_p the target is
    p^alpha on what they can reach. `length_preference` is lambda of p^alpha exp(lambda L), in nats per token; "auto"
    offsets the brevity of p^alpha to first order, by two plain pilot draws.

    With more `starts` than chains each chain begins at one of them, drawn by its importance weight (see `sir`).
    `blocks` grows the horizon evenly to `max_tokens`; all stages but the last, with `block_steps` steps each (`steps`
    unless given), only make a better start. The published schedule is power(4, 10, max_tokens=3072, blocks=16).
    `budget_tokens` is turned into a number of steps by a forecast from two pilot draws, and `steps` is ignored.

    `jump` and `early` save tokens and leave the distribution as it is; switch them off to measure that.
    """
    return chain_sampler(
        ChainSettings(
            alpha=alpha,
            steps=check_count("steps", steps),
            chains=chains,
            temperature=temperature,
            temperatures=temperatures,
            max_tokens=max_tokens,
            cuts=cuts,
            move=move,
            tries=tries,
            length_preference=length_preference,
            starts=starts,
            blocks=blocks,
            block_steps=block_steps,
            budget_tokens=budget_tokens,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            jump=jump,
            early=early,
        )
    )


def greedy(
    steps: int = 20,
    chains: int = 1,
    *,
    temperature: float = 0.5,
    max_tokens: int = 512,
    jump: bool = True,
) -> Sampler[ChainsState]:
    """Climb to likely responses: accept a proposal that is at least as likely. An optimizer, not a sampler.

    It is power sampling as alpha grows without bound, with proposals at `temperature`.
    """
    return chain_sampler(
        ChainSettings(
            alpha=math.inf,
            steps=check_count("steps", steps),
            chains=chains,
            temperature=temperature,
            max_tokens=max_tokens,
            jump=jump,
            early=False,
        )
    )


# ------------------------------------------------------------------------------------------------ settings and state


@dataclass(frozen=True, kw_only=True)
class ChainSettings:
    """The arguments of `power`, checked: ValueError if one is out of range or does not fit another.

    An infinite `alpha` climbs, `steps` 0 draws the starts alone, and the proofs replace `make_choices`.
    """

    alpha: float = 4.0
    steps: int = 20
    chains: int = 1
    temperature: float | None = None
    temperatures: tuple[float, ...] = ()
    max_tokens: int = 512
    cuts: CutKind = "uniform"
    move: Move = "mh"
    tries: int | None = None
    length_preference: float | Literal["auto"] = 0.0
    starts: int | None = None
    blocks: int = 1
    block_steps: int | None = None
    budget_tokens: int | None = None
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    jump: bool = True
    early: bool = True
    make_choices: MakeChoices = KeyChoices

    def __post_init__(self) -> None:
        alpha = self.alpha if self.alpha == math.inf else check_number("alpha", self.alpha, 1.0)
        check_count("chains", self.chains)
        check_count("max_tokens", self.max_tokens)
        if self.cuts not in CUT_KINDS:
            raise ValueError(f"cuts must be one of {', '.join(CUT_KINDS)}, got {self.cuts!r}")
        if self.move not in MOVES:
            raise ValueError(f"move must be one of {', '.join(MOVES)}, got {self.move!r}")
        if self.move == "mh" and self.tries not in (None, 1):
            raise ValueError(f'several tries go with move="mtm" or "isir", got tries={self.tries!r}')
        if self.tries is not None:
            check_count("tries", self.tries)
        temperatures = self.kernel.temperatures
        if self.cuts == "entropy" and (alpha == 1.0 or any(not math.isclose(alpha * tau, 1.0) for tau in temperatures)):
            raise ValueError(
                "entropy cuts need temperature 1 / alpha, and alpha above 1: that is where terms are entropies"
            )
        if self.starts is not None and check_count("starts", self.starts) < self.chains:
            raise ValueError(f"every chain needs a start: {self.starts} starts for {self.chains} chains")
        if check_count("blocks", self.blocks) > self.max_tokens:
            raise ValueError(f"{self.max_tokens} tokens cannot be split into {self.blocks} blocks")
        if self.num_starts > self.chains and self.blocks > 1:
            raise ValueError("starts drawn by weight are whole responses: they go with one block")
        if self.block_steps is not None:
            check_count("block_steps", self.block_steps)
        if self.budget_tokens is not None:
            check_count("budget_tokens", self.budget_tokens)
            if self.blocks > 1:
                raise ValueError("a budget in tokens goes with one block")

    @property
    def name(self) -> str:
        return "greedy" if self.alpha == math.inf else "power"

    @property
    def num_starts(self) -> int:
        return self.chains if self.starts is None else self.starts

    @functools.cached_property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """Return (horizon, steps) of each stage. The last has the full horizon and alone carries the guarantee."""
        block_steps = self.steps if self.block_steps is None else self.block_steps
        growing = [(-(-block * self.max_tokens // self.blocks), block_steps) for block in range(1, self.blocks)]
        return (*growing, (self.max_tokens, self.steps))

    @functools.cached_property
    def kernel(self) -> Kernel:
        """Return the kernel of the full horizon. Each chain sets horizon and its arm's sampling."""
        temperature = single_temperature(self.temperature, self.temperatures)
        sampling = proposal_sampling(self.alpha, temperature, self.top_k, self.top_p, self.min_p)
        temperatures = proposal_temperatures(sampling, self.temperatures)
        preference = 0.0 if self.length_preference == "auto" else self.length_preference
        return Kernel(
            alpha=float(self.alpha),
            horizon=self.max_tokens,
            cuts=self.cuts,
            sampling=sampling,
            temperatures=temperatures,
            mix=(1.0 / len(temperatures),) * len(temperatures),
            length_preference=check_number("length_preference", preference),
            move=self.move,
            tries=1 if self.move == "mh" else 2 if self.tries is None else self.tries,
            jump=bool(self.jump),
            early=bool(self.early),
        )


class Chain(NamedTuple):
    """One chain. `response` None: not started, or its start failed."""

    response: DrawnResponse | None = None
    stage: int = 0
    done: int = 0  # steps within the stage
    proposal: MoveProposal | None = None
    growing: bool = False  # to the next stage's horizon
    finished: bool = False


class ChainsState(NamedTuple):
    """All chains. `phase` names what was asked for last."""

    variants: tuple[Variant, ...]
    chains: tuple[Chain, ...]
    phase: Literal["nothing", "pilots", "starts", "steps"] = "nothing"
    length_preference: float = math.nan
    num_steps: int = 0  # of the last stage
    tokens: int = 0  # drawn so far
    num_failed: int = 0


class ChainTurn(NamedTuple):
    """A chain after a step of the sampler, what it asks for, and the moves that it made."""

    chain: Chain
    asks: tuple[Generate, ...]
    moves: tuple[MoveInfo, ...]


# ------------------------------------------------------------------------------------------------------- the sampler


def chain_sampler(settings: ChainSettings) -> Sampler[ChainsState]:
    """Return the sampler of these settings."""
    needs = CHAINS_NEED | ({Capability.LOGZ} if len(settings.kernel.temperatures) > 1 else set())
    return sampler_of(settings, settings.name, needs, _init, _step, _pool, stepwise=True)


def _init(settings: ChainSettings, variants: tuple[Variant, ...]) -> ChainsState:
    for variant in variants if settings.cuts == "entropy" else ():
        temperature = variant.sampled(settings.kernel.sampling).temperature
        if not math.isclose(settings.kernel.alpha * temperature, 1.0):
            raise UsageError(
                f"entropy cuts need temperature 1 / alpha for every arm, and {variant.arm} sets {temperature:g}: "
                'give cuts="uniform", or leave the arm out'
            )
    return ChainsState(variants, (Chain(),) * settings.chains)


def _pool(settings: ChainSettings, state: ChainsState) -> Pool:
    candidates = tuple(
        response_candidate(chain.response, deal(state.variants, index).arm)
        for index, chain in enumerate(state.chains)
        if chain.response is not None
    )
    return Pool(candidates, state.num_failed)


def _step(
    settings: ChainSettings, key: Key, state: ChainsState, completions: Sequence[Completion]
) -> tuple[ChainsState, Step]:
    key = key.fold(settings.name)
    drawn = sum(completion.usage.completion_tokens for completion in completions)
    failed = sum(completion.finish == "error" for completion in completions)
    state = state._replace(tokens=state.tokens + drawn, num_failed=state.num_failed + failed)
    if state.phase == "nothing" and (asks := _pilot_asks(settings, key, state)):
        return state._replace(phase="pilots"), Step(asks, _target_info(settings, state))
    if state.phase in ("nothing", "pilots"):
        state = _plan(settings, state, completions)
        return state, Step(_start_asks(settings, key, state), _target_info(settings, state))
    if state.phase == "starts":
        state = _begin(settings, key, state, completions)
        completions = ()
    arrivals = iter(completions)
    turns = [_advance(settings, key, state, index, arrivals) for index in range(len(state.chains))]
    asks = tuple(ask for turn in turns for ask in turn.asks)
    moves = [to_json(move) for turn in turns for move in turn.moves]
    return state._replace(chains=tuple(turn.chain for turn in turns)), Step(asks, {"moves": moves})


def _target_info(settings: ChainSettings, state: ChainsState) -> Json:
    kernel, preference = settings.kernel, state.length_preference
    target = TargetInfo(
        alpha=kernel.alpha if math.isfinite(kernel.alpha) else None,
        length_preference=None if math.isnan(preference) else preference,
        temperatures=kernel.temperatures,
        restricted_support=kernel.sampling[1:] != Sampling()[1:],
        horizon=settings.max_tokens,
        stages=settings.stages,
        cuts=settings.cuts,
        move=kernel.move,
        tries=kernel.tries,
        chains=settings.chains,
    )
    arms = [deal(state.variants, index).arm for index in range(settings.chains)]
    return {"target": to_json(target), **arms_info(arms)}


# -------------------------------------------------------------------------------------------------- pilots and starts


def _pilot_asks(settings: ChainSettings, key: Key, state: ChainsState) -> tuple[Generate, ...]:
    """Return the requests for pilots: plain ones if they set lambda, then those that a budget's forecast needs."""
    kernel = settings.kernel
    plain = kernel.sampling._replace(temperature=1.0)
    exponents = logz_exponents(kernel.temperatures)
    asks: list[Generate] = []
    for index in range(NUM_PILOTS if settings.length_preference == "auto" else 0):
        variant = deal(state.variants, index)._replace(sampling={})  # plain, whatever an arm sets
        asks.append(whole_response_ask(key.fold("pilot"), variant, plain, settings.max_tokens, index))
    for index in range(NUM_PILOTS if settings.budget_tokens is not None else 0):
        variant, sampling = _variant(settings, state, index), kernel.sampling_at(0)
        ask = whole_response_ask(key.fold("forecast"), variant, sampling, settings.max_tokens, index, exponents)
        asks.append(ask)
    return tuple(asks)


def _plan(settings: ChainSettings, state: ChainsState, pilots: Sequence[Completion]) -> ChainsState:
    """Fix lambda and the number of steps, both before any start is drawn."""
    num_plain = NUM_PILOTS if settings.length_preference == "auto" else 0
    plain, forecast = pilots[:num_plain], pilots[num_plain:]
    preference = settings.kernel.length_preference
    if num_plain:
        preference = _neutral_preference(settings.kernel.alpha, plain)
    state = state._replace(phase="starts", length_preference=preference)
    return state._replace(num_steps=_num_steps(settings, state, forecast))


def _neutral_preference(alpha: float, completions: Sequence[Completion]) -> float:
    """Return lambda = (alpha - 1) times the mean surprisal of a pilot's token; 0 if no pilot came back.

    To first order this prefers neither long nor short responses.
    """
    logp = [value for completion in completions for value in completion.logp or ()]
    return (alpha - 1.0) * -math.fsum(logp) / len(logp) if logp else 0.0


def _start_asks(settings: ChainSettings, key: Key, state: ChainsState) -> tuple[Generate, ...]:
    kernel, horizon = settings.kernel, settings.stages[0][0]
    exponents = logz_exponents(kernel.temperatures)
    return tuple(
        whole_response_ask(key, _variant(settings, state, i), kernel.sampling_at(0), horizon, i, exponents)
        for i in range(settings.num_starts)
    )


def _begin(settings: ChainSettings, key: Key, state: ChainsState, completions: Sequence[Completion]) -> ChainsState:
    """Begin the chains at their starts."""
    horizon = settings.stages[0][0]
    starts = [
        start_response(completion, _arm_kernel(settings, state, index).temperatures, horizon)
        for index, completion in enumerate(completions)
    ]
    if settings.num_starts > settings.chains:
        starts = [_draw_start(settings, key, state, index, starts) for index in range(settings.chains)]
    chains = tuple(Chain(start, finished=start is None) for start in starts)
    return state._replace(phase="steps", chains=chains)


def _draw_start(
    settings: ChainSettings, key: Key, state: ChainsState, index: int, starts: Sequence[DrawnResponse | None]
) -> DrawnResponse | None:
    """Draw one of the starts of the chain's arm by its weight p^alpha exp(lambda L) / q."""
    indices = draws_of_arm(state.variants, index, len(starts))
    of_arm = [start for i in indices if (start := starts[i]) is not None]
    if not of_arm:
        return None
    alpha = _arm_kernel(settings, state, index).alpha
    log_weights = [
        math.fsum(log_ratio_terms(start.logp, start.logq[0], alpha)) + state.length_preference * len(start.tokens)
        for start in of_arm
    ]
    choices = settings.make_choices(key.fold("start", index))
    return of_arm[choices.choose([math.exp(log_weight - max(log_weights)) for log_weight in log_weights])]


def _num_steps(settings: ChainSettings, state: ChainsState, pilots: Sequence[Completion]) -> int:
    """Return the steps of the last stage: as set, or how many the budget is forecast to pay for after the starts.

    The starts have no say in it: a chain that took more steps from a short start than from a long one would leave its
    target. If no pilot came back it is the number that was set.
    """
    responses: list[DrawnResponse] = []
    costs: list[float] = []  # tokens of a step
    for index, completion in enumerate(pilots):
        kernel = _arm_kernel(settings, state, index)
        response = start_response(completion, kernel.temperatures, settings.max_tokens)
        if response is not None:
            responses.append(response)
            costs.append(expected_tokens(kernel, response))
    if settings.budget_tokens is None or not responses:
        return settings.steps
    start_tokens = math.fsum(len(response.tokens) for response in responses) / len(responses)
    left = max(0.0, FORECAST_SHARE * settings.budget_tokens - state.tokens - settings.num_starts * start_tokens)
    step_tokens = settings.chains * math.fsum(costs) / len(costs)
    return min(MAX_STEPS, int(left / step_tokens)) if step_tokens > 0 else MAX_STEPS if left else 0


# --------------------------------------------------------------------------------------------------------- the steps


def _advance(
    settings: ChainSettings, key: Key, state: ChainsState, index: int, arrivals: Iterator[Completion]
) -> ChainTurn:
    """Take one chain's completions and run it until it needs the model again."""
    chain = state.chains[index]
    moves: list[MoveInfo] = []
    if chain.growing:
        chain = _grow(settings, state, index, chain, next(arrivals))
    elif chain.proposal is not None:
        completions = [next(arrivals) for _ in range(chain.proposal.num_asks)]
        chain = _decide(settings, key, state, index, chain, completions, moves)
    while not chain.finished and (response := chain.response) is not None:
        horizon, num_steps = settings.stages[chain.stage]
        last = chain.stage == len(settings.stages) - 1
        kernel = _chain_kernel(settings, state, index, chain)
        if chain.done < (state.num_steps if last else num_steps):
            step_key = _step_key(key, index, chain)
            proposal = propose_move(kernel, response, settings.make_choices(step_key.fold("plan")))
            chain = chain._replace(proposal=proposal)
            if proposal.num_asks:
                variant = deal(state.variants, index)
                seeds = [try_key.seed() for try_key in step_key.fold("draw").split(kernel.tries)]
                asks = move_asks(kernel, response, proposal, variant.messages, seeds, variant.group)
                return ChainTurn(chain, asks, tuple(moves))
            chain = _decide(settings, key, state, index, chain, (), moves)
        elif last:
            chain = chain._replace(finished=True)
        else:
            chain = chain._replace(stage=chain.stage + 1, done=0)
            if not response.ended and len(response.tokens) == horizon < settings.stages[chain.stage][0]:
                ask = _growth_ask(settings, key, state, index, chain, response)
                return ChainTurn(chain._replace(growing=True), (ask,), tuple(moves))
    return ChainTurn(chain, (), tuple(moves))


def _decide(
    settings: ChainSettings,
    key: Key,
    state: ChainsState,
    index: int,
    chain: Chain,
    completions: Sequence[Completion],
    moves: list[MoveInfo],
) -> Chain:
    """Decide on the chain's proposal, and note the move."""
    assert chain.response is not None
    assert chain.proposal is not None
    kernel = _chain_kernel(settings, state, index, chain)
    choices = settings.make_choices(_step_key(key, index, chain).fold("decide"))
    result = decide_move(kernel, chain.response, chain.proposal, completions, choices)
    moves.append(move_info(index, chain.stage, chain.done, chain.proposal, result))
    return chain._replace(response=result.response, proposal=None, done=chain.done + 1)


def _growth_ask(
    settings: ChainSettings, key: Key, state: ChainsState, index: int, chain: Chain, response: DrawnResponse
) -> Generate:
    """Return the request that continues a response which reached the last stage's horizon and has not ended."""
    kernel = _chain_kernel(settings, state, index, chain)
    ask = whole_response_ask(
        key.fold("grow", chain.stage),
        _variant(settings, state, index),
        kernel.sampling_at(0),
        kernel.horizon - len(response.tokens),
        index,
        logz_exponents(kernel.temperatures),
    )
    return ask._replace(prefix=response.tokens, want=(*ask.want, "whole"))


def _grow(settings: ChainSettings, state: ChainsState, index: int, chain: Chain, completion: Completion) -> Chain:
    """Continue the chain's response to its stage's horizon. A failure ends the chain with the response it had."""
    assert chain.response is not None
    continuation = continuation_of(completion, _arm_kernel(settings, state, index).temperatures)
    if continuation is None:
        return chain._replace(growing=False, finished=True)
    position = len(chain.response.tokens)
    max_new = settings.stages[chain.stage][0] - position
    response = splice(chain.response, position, completion, continuation, max_new)
    return chain._replace(response=response, growing=False)


def _step_key(key: Key, index: int, chain: Chain) -> Key:
    return key.fold("chain", index, chain.stage, chain.done)


def _variant(settings: ChainSettings, state: ChainsState, index: int) -> Variant:
    """Return the variant of a chain or start. A mixture of temperatures is the proposal, whatever an arm sets."""
    variant = deal(state.variants, index)
    return variant._replace(sampling={}) if len(settings.kernel.temperatures) > 1 else variant


def _arm_kernel(settings: ChainSettings, state: ChainsState, index: int) -> Kernel:
    """Return the kernel with what the chain's arm sets of the proposal."""
    kernel = settings.kernel
    if len(kernel.temperatures) > 1:
        return kernel
    sampling = deal(state.variants, index).sampled(kernel.sampling)
    return kernel._replace(sampling=sampling, temperatures=(sampling.temperature,))


def _chain_kernel(settings: ChainSettings, state: ChainsState, index: int, chain: Chain) -> Kernel:
    """Return the kernel of a chain's next step."""
    return _arm_kernel(settings, state, index)._replace(
        horizon=settings.stages[chain.stage][0],
        length_preference=state.length_preference,
    )


def move_info(chain: int, stage: int, step: int, proposal: MoveProposal, result: MoveResult) -> MoveInfo:
    """Return a step as an info for the trace."""
    return MoveInfo(
        chain=chain,
        stage=stage,
        step=step,
        cut=proposal.cut,
        position=result.position,
        outcome=result.outcome,
        log_ratio=result.log_ratio,
        tokens=result.tokens,
        saved=result.saved,
        length=len(result.response.tokens),
        logp=math.fsum(result.response.logp),
        ended=result.response.ended,
        requests=None if result.requests == int(result.outcome not in ("behind", "same")) else result.requests,
        unused=result.unused or None,
    )
