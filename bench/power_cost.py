"""Measure the cost of power sampling: `python -m bench.power_cost`.

**Tokens.** Tokens decoded for each step of a Metropolis-Hastings chain at a fixed horizon, by the plain corrected
kernel (every proposal drawn from its cut to its end) and by the same kernel with early rejection and the jump. The
chain has the same distribution; as a check, the mean log-probability of the last responses is compared, in standard
errors. 24 questions, one chain each, over powers and proposal temperatures, on two models: the bundled one (Game of 24
puzzles) and one of 260,000 parameters that tells stories, which few stories end within the horizon of 64. Intervals are
95 % by bootstrap over questions.

`acceptance` is that of the plain kernel's proposals, including those that repeat the response, which are always
accepted; `acceptance_of_moves` that of proposals that differ from the response, which alone change anything.
`forwarded` is what goes through the model for each step: decoded tokens, context that is not kept, positions evaluated
without a draw, and a tenth of the chain's prompt and start.

**Time.** The product's sampler on the local engine, 48 questions at once, against an implementation in the style of the
published one, written for this bench: one chain, one question at a time, `model.generate` for every proposal with all
scores and logits stacked, nothing kept from one call to the next (within a call, generate has its cache). Same model,
questions, number of steps, cut distribution and target. The sides take turns; the ratio is the median over rounds, with
the lowest and the highest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from samplewise.engines.local import local
from samplewise.models import SPIN_COUNT

os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # before torch is loaded

import numpy as np
import torch
import transformers

from bench import stories
from bench.about import about, rounded
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.core.types import Completion, Message
from samplewise.samplers.base import Sampler, Variant
from samplewise.samplers.infos import MoveInfo, read_trace
from samplewise.samplers.power import power
from samplewise.tasks.game24 import game24

QUESTIONS, TIMED, STEPS, HORIZON = 24, 48, 10, 64
CURVE = ((1.5, 1 / 1.5), (2.0, 0.5), (4.0, 0.25), (8.0, 0.125), (4.0, 0.5), (4.0, 1.0))  # power, temperature
hugging: Any = transformers
Prompts = Sequence[tuple[Message, ...]]


class Spent(NamedTuple):
    """What the chains of all questions did; arrays (P,) by question."""

    tokens: Floats  # decoded in steps
    logp: Floats  # of the last response
    live: int  # steps that had something to redraw
    accepted: int  # of these, including proposals equal to the response
    changed: int  # accepted proposals that differ
    differing: int  # proposals that differ
    forwarded: int  # tokens that went through the model, prompts and starts too
    seconds: float

    @property
    def per_step(self) -> float:
        return float(self.tokens.mean()) / STEPS


# ------------------------------------------------------------------------------------------------------------ our side


async def chain(
    engine: Any, sampler: Sampler[Any], messages: tuple[Message, ...], key: Key
) -> tuple[Any, list[MoveInfo]]:
    """Return the state that a chain ends in and its moves, as the loop drives it."""
    state = sampler.init((Variant("direct", messages),))
    moves: list[MoveInfo] = []
    completions: tuple[Completion, ...] = ()
    while True:
        state, step = sampler.step(key, state, completions)
        moves += read_trace([step.info]).moves
        if not step.asks:
            return state, moves
        found = {arrival.position: arrival.completion async for arrival in engine.answer(step.asks)}
        completions = tuple(found[i] for i in range(len(step.asks)))


async def chains(engine: Any, sampler: Sampler[Any], prompts: Prompts, key: Key) -> list[tuple[Any, list[MoveInfo]]]:
    return await asyncio.gather(*(chain(engine, sampler, m, key.fold(i)) for i, m in enumerate(prompts)))


def ours(
    engine: Any, prompts: Prompts, alpha: float, temperature: float, key: Key, jump: bool = True, early: bool = True
) -> Spent:
    sampler = power(alpha, STEPS, temperature=temperature, max_tokens=HORIZON, jump=jump, early=early)
    engine._batch.prefixes.clear()  # of what ran before
    before, start = engine._forward.num_forwarded, time.perf_counter()
    ended = asyncio.run(chains(engine, sampler, prompts, key))
    seconds = time.perf_counter() - start
    moves = [move for _, chain_moves in ended for move in chain_moves]
    outcomes = [move.outcome for move in moves if move.outcome != "behind"]
    tokens = np.array([float(sum(move.tokens for move in chain_moves)) for _, chain_moves in ended])
    return Spent(
        tokens=tokens,
        logp=np.array([sampler.pool(state).candidates[0].logp_sum for state, _ in ended]),
        live=len(outcomes),
        accepted=sum(outcome in ("accepted", "same") for outcome in outcomes),
        changed=outcomes.count("accepted"),
        differing=len(outcomes) - outcomes.count("same"),
        forwarded=engine._forward.num_forwarded - before,
        seconds=seconds,
    )


# ------------------------------------------------------------------------------------------------- the published style


class Drawn(NamedTuple):
    tokens: list[int]
    logp: Floats  # (T,) at temperature 1
    logq: Floats  # (T,) of the proposal


def generated(model: Any, ids: Sequence[int], num: int, temperature: float, stops: Sequence[int]) -> Drawn:
    """Make one call of generate for one response of at most `num` tokens."""
    settings = hugging.GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=num,
        eos_token_id=list(stops),
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )
    given = torch.tensor([list(ids)])
    out = model.generate(given, attention_mask=torch.ones_like(given), generation_config=settings)
    new = out.sequences[0, len(ids) :]
    logp, logq = (
        torch.log_softmax(torch.stack(rows)[:, 0].double(), -1).gather(1, new[:, None])[:, 0].numpy()
        for rows in (out.logits, out.scores)
    )
    return Drawn(new.tolist(), logp, logq)


def published(
    model: Any, prompts: Sequence[Sequence[int]], stops: Sequence[int], alpha: float, temperature: float, key: Key
) -> tuple[float, Floats]:
    """Return seconds, and log-probabilities (P,) of the last responses."""
    start, ends = time.perf_counter(), []
    for number, prompt in enumerate(prompts):
        rng = key.fold(number).generator()
        now = generated(model, prompt, HORIZON, temperature, stops)
        for _ in range(STEPS):
            cut = int(rng.integers(len(now.tokens)))
            new = generated(model, [*prompt, *now.tokens[:cut]], HORIZON - cut, temperature, stops)
            gain = (alpha * new.logp - new.logq).sum() - (alpha * now.logp - now.logq)[cut:].sum()
            gain += math.log(len(now.tokens) / (cut + len(new.tokens)))
            if math.log(1 - rng.random()) <= gain:
                now = Drawn(
                    now.tokens[:cut] + new.tokens,
                    np.concatenate([now.logp[:cut], new.logp]),
                    np.concatenate([now.logq[:cut], new.logq]),
                )
        ends.append(float(now.logp.sum()))
    return time.perf_counter() - start, np.array(ends)


# ---------------------------------------------------------------------------------------------------------- comparisons


def tokens_of(source: str, prompts: Prompts, key: Key) -> list[dict[str, Any]]:
    """Return a line for each power and temperature."""
    engine = local(source, device="cpu")
    lines = []
    for row, (alpha, temperature) in enumerate(CURVE):

        def side(
            name: str, jump: bool, early: bool, alpha: float = alpha, tau: float = temperature, row: int = row
        ) -> Spent:
            spent: Spent = apart(ours, engine, prompts, alpha, tau, key.fold(row, name), jump, early)
            return spent

        plain, quick = side("plain", False, False), side("quick", True, True)
        low, high = interval(plain.tokens, quick.tokens, key.fold(row))
        spread = math.sqrt((plain.logp.var(ddof=1) + quick.logp.var(ddof=1)) / len(prompts))
        line = {
            "alpha": alpha,
            "temperature": temperature,
            "acceptance": plain.accepted / plain.live,
            "acceptance_of_moves": quick.changed / max(1, quick.differing),
            "plain": plain.per_step,
            "accelerated": quick.per_step,
            "ratio": plain.per_step / quick.per_step,
            "ratio_low": low,
            "ratio_high": high,
            "forwarded": quick.forwarded / len(prompts) / STEPS,
            "plain_forwarded": plain.forwarded / len(prompts) / STEPS,
            "difference_se": float(plain.logp.mean() - quick.logp.mean()) / spread,
        }
        if (alpha, temperature) == (4.0, 0.25):
            line["early_alone"] = plain.per_step / side("early", False, True).per_step
            line["jump_alone"] = plain.per_step / side("jump", True, False).per_step
        lines.append(line)
        print(
            f"  alpha {alpha:4.1f} temperature {temperature:5.3f}: {line['plain']:6.2f} tokens a step,"
            f" accelerated {line['accelerated']:6.2f}, ratio {line['ratio']:5.2f} ({low:.2f} to {high:.2f});"
            f" acceptance {line['acceptance']:.2f}, of moves {line['acceptance_of_moves']:.2f};"
            f" {line['difference_se']:+.1f} s.e."
        )
        sys.stdout.flush()
    asyncio.run(engine.close())
    return lines


def fits(line: dict[str, Any]) -> bool:
    """Return whether the proposal is at temperature 1 / alpha, the default."""
    return math.isclose(line["alpha"] * line["temperature"], 1.0)


def interval(plain: Floats, quick: Floats, key: Key) -> tuple[float, float]:
    """Return the middle 95 % of the ratio of means over resampled questions."""
    picks = key.generator().integers(0, len(plain), size=(2000, len(plain)))
    low, high = np.quantile(plain[picks].mean(1) / quick[picks].mean(1), [0.025, 0.975])
    return float(low), float(high)


def times(prompts: Prompts, rounds: int, key: Key) -> dict[str, Any]:
    """Return the seconds of both sides, and of ours without the accelerations."""
    from samplewise.models import TINY

    alpha, temperature = 4.0, 0.25
    engine = local("tiny", device="cpu")
    model = apart(hugging.AutoModelForCausalLM.from_pretrained, TINY, dtype=torch.float32).eval()
    ids = [engine._language.prompt(messages) for messages in prompts]
    stops = engine.checkpoint.stops
    seconds: dict[str, list[float]] = {"ours": [], "plain": [], "published": []}
    ends: dict[str, list[Floats]] = {"ours": [], "published": []}
    apart(ours, engine, prompts[:8], alpha, temperature, key.fold("warm"))
    apart(published, model, ids[:1], stops, alpha, temperature, key.fold("warm"))
    for number in range(rounds):
        quick = apart(ours, engine, prompts, alpha, temperature, key.fold(number, "ours"))
        took, logp = apart(published, model, ids, stops, alpha, temperature, key.fold(number, "published"))
        plain = apart(ours, engine, prompts, alpha, temperature, key.fold(number, "plain"), False, False)
        for name, value in (("ours", quick.seconds), ("plain", plain.seconds), ("published", took)):
            seconds[name].append(value)
        ends["ours"].append(quick.logp)
        ends["published"].append(logp)
        print(
            f"  round {number + 1}: ours {quick.seconds:.2f} s, without accelerations {plain.seconds:.2f} s,"
            f" published style {took:.2f} s: {took / quick.seconds:.1f} times"
        )
        sys.stdout.flush()
    asyncio.run(engine.close())
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["published"], strict=True)]
    batched = [b / a for a, b in zip(seconds["plain"], seconds["published"], strict=True)]
    mine, other = (np.concatenate(ends[name]) for name in ("ours", "published"))
    spread = math.sqrt(mine.var(ddof=1) / len(mine) + other.var(ddof=1) / len(other))
    return {
        "wall_ratio": statistics.median(ratios),
        "wall_ratio_low": min(ratios),
        "wall_ratio_high": max(ratios),
        "wall_ratio_without_accelerations": statistics.median(batched),
        "wall_difference_se": float(mine.mean() - other.mean()) / spread,
        "seconds_ours": statistics.median(seconds["ours"]),
        "seconds_published": statistics.median(seconds["published"]),
    }


def apart(work: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """Run in a thread that ends with the work, as its pool of torch's threads does (see engines/local)."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *given, **named).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison by time")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="of the comparison by tokens")
    parser.add_argument("--timed", type=int, default=TIMED, help="questions of the comparison by time")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started, key = time.monotonic(), Key(arguments.seed).fold("power_cost")
    every = [problem.question.messages for problem in game24("all").problems]
    puzzles, timed = every[: arguments.questions], every[: arguments.timed]
    print(f"time: tiny, alpha 4, {STEPS} steps, {len(timed)} questions")
    found = times(timed, arguments.rounds, key.fold("times"))
    print("tokens: tiny")
    curves = {"tiny": tokens_of("tiny", puzzles, key.fold("tiny"))}
    if (source := stories.folder()) is None:
        print("tokens: stories260K is not at hand, see samplewise.core.files.data_folder")
    else:
        print("tokens: stories260K")
        with tempfile.TemporaryDirectory() as place:
            stories.write(source, Path(place))
            told = stories.beginnings()[: arguments.questions]
            curves["stories260K"] = tokens_of(place, told, key.fold("stories"))
    own = {model: {f"{x['alpha']:g}": x for x in lines if fits(x)} for model, lines in curves.items()}
    report = {
        **about("power_cost", arguments.seed, started),
        "tokens_ratio": {model: {name: x["ratio"] for name, x in lines.items()} for model, lines in own.items()},
        **{
            what: {model: {name: x[what] for name, x in lines.items()} for model, lines in own.items()}
            for what in ("acceptance", "acceptance_of_moves")
        },
        **found,
        "questions": len(puzzles),
        "timed": len(timed),
        "steps": STEPS,
        "horizon": HORIZON,
        "rounds": arguments.rounds,
        "curve": curves,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps(rounded(report)))


if __name__ == "__main__":
    main()
