"""The factories of chain samplers: what is set, checked; the work is in `chains`."""

from __future__ import annotations

import math
from typing import Literal

from samplewise.samplers.base import Sampler
from samplewise.samplers.power.chains import ChainsState, Plan, chains
from samplewise.samplers.power.cuts import KINDS, Cuts, Kind
from samplewise.samplers.power.dice import KeyDice, Roll
from samplewise.samplers.power.kernel import MOVES, Kernel, Move
from samplewise.samplers.power.settings import CHAINS_NEED, number, proposal, temperatures_of
from samplewise.samplers.repeat import count
from samplewise.types import Capability


def power(
    alpha: float = 4.0,
    steps: int = 20,
    chains: int = 1,
    *,
    temperature: float | None = None,
    temperatures: tuple[float, ...] = (),
    max_tokens: int = 512,
    cuts: Kind = "uniform",
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
    """Approximate samples of p(x)^alpha over whole responses: `chains` Markov chains of `steps` steps each.

    The last record of each chain is a candidate. A step redraws the response from a cut, which `cuts` draws (uniform,
    recent, own, entropy), at `temperature` (1 / alpha unless given) or at one of several `temperatures`, drawn for each
    step. `move` is mh, or mtm or isir with `tries` redraws a step (2). With top_k, top_p or min_p the target is
    p^alpha on what they can reach. `length_preference` is lambda of p^alpha exp(lambda L), in nats per token; "auto"
    offsets the brevity of p^alpha to first order, by two plain pilot draws.

    With more `starts` than chains each chain begins at one of them, drawn by its importance weight (see `sir`).
    Of `blocks` horizons that grow evenly to `max_tokens` all but the last, with `block_steps` steps each (`steps`
    unless given), make a better start. The published schedule is power(4, 10, max_tokens=3072, blocks=16).
    `budget_tokens` turns into a number of steps by a forecast from the starts, and `steps` does not count.

    `jump` and `early` save tokens and change no law; they can be switched off to measure that.
    """
    return _power(
        alpha,
        steps,
        chains,
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


def greedy(
    steps: int = 20,
    chains: int = 1,
    *,
    temperature: float = 0.5,
    max_tokens: int = 512,
    jump: bool = True,
) -> Sampler[ChainsState]:
    """Climb to likely responses: a redraw is kept if it is at least as likely. An optimiser, not a sampler.

    It is power sampling as alpha grows without bound, with proposals at `temperature`.
    """
    return _power(math.inf, steps, chains, temperature=temperature, max_tokens=max_tokens, jump=jump, early=False)


def _power(
    alpha: float,
    steps: int,
    num_chains: int,
    *,
    temperature: float | None = None,
    temperatures: tuple[float, ...] = (),
    max_tokens: int = 512,
    cuts: Kind = "uniform",
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
    roll: Roll = KeyDice,
) -> Sampler[ChainsState]:
    """`power`, with other dice where the proofs want them, and the infinite alpha of `greedy`."""
    climbing = alpha == math.inf
    if not climbing:
        alpha = number("alpha", alpha, 1.0)
    count("steps", steps)
    count("chains", num_chains)
    count("max_tokens", max_tokens)
    if cuts not in KINDS:
        raise ValueError(f"cuts must be one of {', '.join(KINDS)}, got {cuts!r}")
    if move not in MOVES:
        raise ValueError(f"move must be one of {', '.join(MOVES)}, got {move!r}")
    if move == "mh" and tries not in (None, 1):
        raise ValueError(f'several tries go with move="mtm" or "isir", got tries={tries!r}')
    num_tries = 1 if move == "mh" else count("tries", 2 if tries is None else tries)
    sampling = proposal(alpha, temperature, top_k, top_p, min_p)
    taus = temperatures_of(sampling, temperatures)
    if cuts == "entropy" and (alpha == 1.0 or any(not math.isclose(alpha * tau, 1.0) for tau in taus)):
        raise ValueError("entropy cuts need temperature 1 / alpha, and alpha above 1: the entropy is read off there")
    auto = length_preference == "auto"
    shift = 0.0 if length_preference == "auto" else number("length_preference", length_preference, -math.inf)
    num_starts = num_chains if starts is None else count("starts", starts)
    if num_starts < num_chains:
        raise ValueError(f"every chain needs a start: {num_starts} starts for {num_chains} chains")
    if num_starts > num_chains and blocks > 1:
        raise ValueError("starts drawn by weight are whole responses: they go with one block")
    if count("blocks", blocks) > max_tokens:
        raise ValueError(f"{max_tokens} tokens cannot be cut into {blocks} blocks")
    in_blocks = steps if block_steps is None else count("block_steps", block_steps)
    grown = [(-(-block * max_tokens // blocks), in_blocks) for block in range(1, blocks)]
    if budget_tokens is not None:
        count("budget_tokens", budget_tokens)
        if blocks > 1 or cuts in ("own", "entropy"):
            raise ValueError("a budget in tokens goes with one block and cuts that do not look at the record")
    needs = set(CHAINS_NEED) | ({Capability.LOGZ} if len(taus) > 1 else set())
    kernel = Kernel(
        alpha=alpha,
        horizon=max_tokens,
        cuts=Cuts(cuts, 0),
        sampling=sampling,
        temperatures=taus,
        mix=(1.0 / len(taus),) * len(taus),
        length_preference=shift,
        move=move,
        tries=num_tries,
        jump=bool(jump),
        early=bool(early),
    )
    made = Plan(
        name="greedy" if climbing else "power",
        needs=frozenset(needs),
        kernel=kernel,
        kind=cuts,
        stages=(*grown, (max_tokens, steps)),
        num_chains=num_chains,
        num_starts=num_starts,
        auto_length=auto,
        budget_tokens=budget_tokens,
        roll=roll,
    )
    return chains(made)
