"""A ladder of powers: chains at several alphas whose neighbours may change places.

The rungs a_1 < ... < a_K share one horizon and one set of reachable responses. A round is one step of every rung by its
own kernel, all requests together, then a sweep over the pairs of neighbours from the lowest up:

    change places with odds min(1, exp((a_{k+1} - a_k) (log p(x_k) - log p(x_{k+1}))))        no request

The joint law, the product of the rungs' p^{a_k} exp(lambda L), is left as it is by either. The rungs are fixed before
the run; tune them (swap rates of .15 to .6) on other questions. Cost: K starts, and at most K requests a round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from samplewise.keys import Key
from samplewise.samplers.base import Sampler, Step, Variant, deal
from samplewise.samplers.power.chains import told
from samplewise.samplers.power.cuts import Cuts
from samplewise.samplers.power.dice import Dice, KeyDice, Roll
from samplewise.samplers.power.kernel import Kernel, Planned, asks, decide, plan
from samplewise.samplers.power.record import Record, candidate_of
from samplewise.samplers.power.settings import CHAINS_NEED, number, proposal, started, whole
from samplewise.samplers.repeat import count
from samplewise.types import Capability, Completion, Generate, Json, Pool


class TemperingState(NamedTuple):
    """`records`, `planned` and `walkers` are by ladder, then by rung, the lowest power first."""

    variants: tuple[Variant, ...]
    records: tuple[Record | None, ...] = ()
    planned: tuple[Planned | None, ...] = ()
    walkers: tuple[int, ...] = ()  # which start a rung's record has come from, to see round trips
    near: int = 0
    round: int = -2  # before the starts, then -1 while they are drawn
    num_failed: int = 0


def tempering(
    alphas: tuple[float, ...] = (1.5, 2.0, 3.0, 4.0),
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
    """Replica exchange over p(x)^alpha: chains at rising `alphas` that change places, `rounds` times.

    Each rung proposes at temperature 1 / alpha of its own, or all at one `temperature`, which top_k, top_p and min_p
    need. The last record of the highest power of each ladder is a candidate; keep="all" adds the other rungs.
    """
    return _tempering(
        alphas,
        rounds,
        ladders,
        temperature=temperature,
        max_tokens=max_tokens,
        length_preference=length_preference,
        cuts=cuts,
        keep=keep,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
    )


def _tempering(
    alphas: tuple[float, ...],
    rounds: int,
    ladders: int,
    *,
    temperature: float | None = None,
    max_tokens: int = 512,
    length_preference: float = 0.0,
    cuts: Literal["uniform", "recent"] = "uniform",
    keep: Literal["coldest", "all"] = "coldest",
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    roll: Roll = KeyDice,
) -> Sampler[TemperingState]:
    """`tempering`, with other dice where the proofs want them."""
    rungs = tuple(number("alpha", alpha, 1.0) for alpha in alphas)
    if len(rungs) < 2 or any(low >= high for low, high in pairwise(rungs)):
        raise ValueError(f"a ladder has two or more powers, each above the one before, got {alphas}")
    for name, value in (("rounds", rounds), ("ladders", ladders), ("max_tokens", max_tokens)):
        count(name, value)
    if cuts not in ("uniform", "recent"):
        raise ValueError(f'cuts must be "uniform" or "recent", got {cuts!r}')
    if keep not in ("coldest", "all"):
        raise ValueError(f'keep must be "coldest" or "all", got {keep!r}')
    shared = proposal(rungs[0], temperature, top_k, top_p, min_p)
    if temperature is None and (top_k, top_p, min_p) != (0, 1.0, 0.0):
        raise ValueError("top_k, top_p and min_p need one temperature for all rungs: give temperature=")
    taus = (shared.temperature,) if temperature is not None else tuple(1.0 / alpha for alpha in rungs)
    kernels = tuple(
        Kernel(
            alpha=alpha,
            horizon=max_tokens,
            cuts=Cuts(cuts, 0),
            sampling=shared,
            temperatures=taus,
            mix=tuple(float(rung == min(row, len(taus) - 1)) for rung in range(len(taus))),
            length_preference=number("length_preference", length_preference, -math.inf),
        )
        for row, alpha in enumerate(rungs)
    )
    powers = tuple(1.0 / tau for tau in taus) if len(taus) > 1 else ()
    size = len(rungs)

    def arm_of(state: TemperingState, place: int) -> Variant:
        # An arm's own temperature is left out: it would cut a ladder's rungs apart.
        return deal(state.variants, place // size)._replace(sampling={})

    def starts(key: Key, state: TemperingState) -> tuple[Generate, ...]:
        return tuple(
            whole(
                key.fold("start", place % size),
                arm_of(state, place),
                kernels[place % size].drawn_at(min(place % size, len(taus) - 1)),
                max_tokens,
                place // size,
                powers,
            )._replace(draw=place)
            for place in range(ladders * size)
        )

    def begun(state: TemperingState, completions: Sequence[Completion]) -> TemperingState:
        """A rung whose start failed begins where another of its ladder does: any start will do."""
        drawn = [started(completion, taus, max_tokens) for completion in completions]
        records: list[Record | None] = []
        for ladder in range(ladders):
            own = drawn[ladder * size : (ladder + 1) * size]
            spare = next((record for record in own if record is not None), None)
            records += [spare if record is None else record for record in own]
        near = max((len(record.tokens) for record in records if record is not None), default=0)
        places = range(ladders * size)
        return state._replace(records=tuple(records), walkers=tuple(places), planned=(None,) * len(places), near=near)

    def kernel_of(state: TemperingState, place: int) -> Kernel:
        return kernels[place % size]._replace(cuts=Cuts(cuts, state.near))

    def dice(key: Key, state: TemperingState, place: int, what: str) -> Dice:
        return roll(key.fold("rung", place, state.round, what))

    def planned(key: Key, state: TemperingState) -> tuple[TemperingState, tuple[Generate, ...]]:
        plans: list[Planned | None] = []
        requests: list[Generate] = []
        for place, record in enumerate(state.records):
            if record is None:
                plans.append(None)
                continue
            kernel, variant = kernel_of(state, place), arm_of(state, place)
            made = plan(kernel, record, dice(key, state, place, "plan"))
            seed = key.fold("rung", place, state.round, "draw").seed()
            requests += asks(kernel, record, made, variant.messages, (seed,), variant.group)
            plans.append(made)
        return state._replace(planned=tuple(plans)), tuple(requests)

    def decided(
        key: Key, state: TemperingState, completions: Sequence[Completion]
    ) -> tuple[TemperingState, list[Json]]:
        waiting = iter(completions)
        records = list(state.records)
        moves: list[Json] = []
        for place, (record, made) in enumerate(zip(state.records, state.planned, strict=True)):
            if record is None or made is None:
                continue
            answers = [next(waiting) for _ in range(made.num_asks)]
            moved = decide(kernel_of(state, place), record, made, answers, dice(key, state, place, "decide"))
            records[place] = moved.record
            moves.append({"chain": place, "stage": 0, "step": state.round, **told(made, moved)})
        return state._replace(records=tuple(records), planned=(None,) * len(records)), moves

    def exchanged(key: Key, state: TemperingState) -> tuple[TemperingState, list[Json]]:
        records, walkers = list(state.records), list(state.walkers)
        swaps: list[Json] = []
        for ladder in range(ladders):
            for rung in range(size - 1):
                low = ladder * size + rung
                one, other = records[low], records[low + 1]
                if one is None or other is None:
                    continue
                log_odds = swap_log_odds(rungs[rung], rungs[rung + 1], one, other)
                swapped = dice(key, state, low, "swap").log_uniform() <= log_odds
                if swapped:
                    records[low], records[low + 1] = other, one
                    walkers[low], walkers[low + 1] = walkers[low + 1], walkers[low]
                swaps.append({"ladder": ladder, "rung": rung, "round": state.round, "swapped": swapped})
        return state._replace(records=tuple(records), walkers=tuple(walkers)), swaps

    def step(key: Key, state: TemperingState, completions: Sequence[Completion]) -> tuple[TemperingState, Step]:
        key = key.fold("tempering")
        failed = sum(completion.finish == "error" for completion in completions)
        state = state._replace(num_failed=state.num_failed + failed)
        if state.round == -2:
            return state._replace(round=-1), Step(starts(key, state), {"alphas": list(rungs)})
        moves: list[Json] = []
        swaps: list[Json] = []
        if state.round == -1:
            state = begun(state, completions)._replace(round=0)
        elif any(made is not None for made in state.planned):
            state, moves, swaps = turned(key, state, completions)
        requests: tuple[Generate, ...] = ()
        while state.round < rounds and any(record is not None for record in state.records):
            state, requests = planned(key, state)
            if requests:
                break
            state, more, changed = turned(key, state, ())
            moves, swaps = moves + more, swaps + changed
        return state, Step(requests, {"moves": moves, "swaps": swaps, "walkers": list(state.walkers)})

    def turned(
        key: Key, state: TemperingState, completions: Sequence[Completion]
    ) -> tuple[TemperingState, list[Json], list[Json]]:
        """The end of a round."""
        state, moves = decided(key, state, completions)
        state, swaps = exchanged(key, state)
        return state._replace(round=state.round + 1), moves, swaps

    def pool(state: TemperingState) -> Pool:
        shown = [
            ladder * size + rung
            for ladder in range(len(state.records) // size)
            for rung in (reversed(range(size)) if keep == "all" else (size - 1,))
        ]
        made = [(state.records[place], arm_of(state, place).arm) for place in shown]
        candidates = tuple(candidate_of(record, arm) for record, arm in made if record is not None)
        return Pool(candidates, state.num_failed)

    return Sampler(
        name="tempering",
        needs=CHAINS_NEED | ({Capability.LOGZ} if powers else set()),
        init=lambda variants: TemperingState(variants),
        step=step,
        pool=pool,
    )


def swap_log_odds(low: float, high: float, at_low: Record, at_high: Record) -> float:
    """log of the odds (nats, above 0 for sure) that the records of two neighbours change places."""
    return (high - low) * (math.fsum(at_low.logp) - math.fsum(at_high.logp))
