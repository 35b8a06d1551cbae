"""What exploring costs: the engine's throughput with and without it.

Tokens per second of the same asks in turn, in ABBA order, on the bundled model and on random Llamas. The ratio is the
median over pairs, by the clock and by processor time (which a busy machine disturbs less), with its quartiles and a
bootstrap interval. Each policy runs as in bench/explore_game24.py. Besides: where the time of a step goes (`by parts`:
the share of a step that is not exploring, both of the same steps, which a busy machine disturbs least), and what a step
of the engine spends on exploring while nobody explores. `ratio` of a model is the lowest of CSS, LSS and ESamp with the
closed-form learner; the published learner stands beside them.

A block counts only if every row sampled was seen, and trained on where the policy learns. `--alone`: the policies
without an engine (bench/explore_alone.py).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.about import about, rounded
from bench.explore_alone import GROUPS, alone_tables
from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.core.types import Generate, Sampling
from samplewise.engines.local import exploring as exploring_room
from samplewise.explore import controls, esamp, learn
from samplewise.explore import settings as explore
from samplewise.explore.explorer import Explorer
from samplewise.explore.settings import ExploreSettings
from samplewise.models import TINY

SEED = 0
POLICIES: dict[str, ExploreSettings] = {
    "temperature": controls.hot(1.25),
    "css": explore.css(),
    "css, vocabulary order": explore.css(order="vocabulary"),
    "lss": explore.lss(),
    "arithmetic": explore.arithmetic(),
    "esamp, frozen": controls.frozen_distiller(0.25),
    "esamp, Adam": explore.esamp(0.25),
    "esamp, Adam, forks only": explore.esamp(0.25, forking=0.25),
    "esamp, ridge": explore.esamp(0.25, learner="ridge"),
    "esamp, ridge 256, forks only": explore.esamp(0.25, learner="ridge", features=256, forking=0.25),
}
MEASURED = ("css", "lss", "esamp, ridge", "esamp, Adam")  # in the engine, where none are named
AIMED = ("css", "lss", "esamp, ridge")  # at most 5 % on the largest model
SHAPES = ((8, 16), (1, 64))  # groups x samples


class Size(NamedTuple):
    """A random Llama and how long it is measured. Its vocabulary is the bundled model's, so the head is cheap."""

    dim: int
    inner: int
    layers: int
    heads: int
    steps: int  # of a block
    pairs: int


SIZES = {
    "tiny": Size(0, 0, 0, 0, 256, 12),  # as it ships
    "25M": Size(512, 1408, 8, 8, 64, 8),
    "150M": Size(1024, 2816, 12, 16, 32, 6),
}


def random_model(size: Size, folder: Path) -> str:
    """A checkpoint with random weights and the bundled model's tokenizer, in `folder`."""
    from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer, own = AutoTokenizer.from_pretrained(TINY), AutoConfig.from_pretrained(TINY)
    config = LlamaConfig(
        vocab_size=own.vocab_size,
        hidden_size=size.dim,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=1024,
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator()
    generator.manual_seed(Key(SEED).fold("weights", *size).seed())
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.04, generator=generator)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


class Work(NamedTuple):
    """What a block draws."""

    groups: int
    samples: int
    steps: int

    def asks(self, explore_by: str, block: int) -> list[Generate]:
        """Groups of one prompt each. Seeds and lengths do not hang on whether they explore."""
        problems = build("task", f"game24(split='dev', limit={self.groups})").problems
        return [
            Generate(
                problem.question.messages,
                sampling=Sampling(explore=explore_by),
                max_tokens=self.steps,
                seed=Key(SEED).fold(block, group, sample).seed(),
                draw=sample,
                group=f"{block}/{group}" if explore_by else "",
                group_size=self.samples if explore_by else 0,
            )
            for group, problem in enumerate(problems)
            for sample in range(self.samples)
        ]


class Block(NamedTuple):
    wall: float  # tokens a second
    processor: float  # tokens a second of processor time


async def run_block(engine: Any, work: list[Generate]) -> Block:
    started, used, tokens = time.monotonic(), time.process_time(), 0
    async for _, completion in engine.answer(work):
        assert completion.finish == "length", completion
        tokens += completion.usage.completion_tokens
    return Block(tokens / (time.monotonic() - started), tokens / (time.process_time() - used))


async def engine_pairs(engine: Any, policy: ExploreSettings, num_pairs: int, work: Work) -> dict[str, Any]:
    """Paired ratios of an engine's throughput with `policy` on and off, in ABBA order, one pair to warm up: the median,
    the quartiles, and a 95 % bootstrap interval of the median."""
    batch = engine._batch
    batch._ends[:] = False  # no response ends before its length
    ratios = []
    for pair in range(num_pairs + 1):
        found: dict[bool, Block] = {}
        for on in (True, False) if pair % 2 else (False, True):
            found[on] = await run_block(engine, work.asks(str(policy) if on else "", pair))
        if pair:
            ratios.append([on / off for on, off in zip(found[True], found[False], strict=True)])
    reports = list(batch.exploring.reports)[-work.groups * (num_pairs + 1) :]
    assert len(reports) == work.groups * (num_pairs + 1)
    for report in reports:
        assert not report.problem, report.problem
        assert report.numbers.get("trained", 0.0) in (0.0, work.samples * work.steps)
    told: dict[str, Any] = {"pairs": num_pairs, "steps": work.steps, "rows": work.groups * work.samples}
    for name, column in zip(("wall", "processor"), np.array(ratios).T, strict=True):
        drawn = Key(SEED).fold("bootstrap").generator().integers(0, num_pairs, (2000, num_pairs))
        low, high = np.quantile(np.median(column[drawn], axis=1), (0.025, 0.975))
        lower, median, upper = np.quantile(column, (0.25, 0.5, 0.75))
        told |= {name: median, f"{name}_low": low, f"{name}_high": high, f"{name}_spread": upper - lower}
    told["off_tokens_s"], told["on_tokens_s"] = found[False].wall, found[True].wall
    told["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return told


@contextmanager
def clocked(parts: Mapping[str, tuple[Any, str]]) -> Iterator[dict[str, float]]:
    """Seconds by the clock inside some methods or functions, summed by name, those within others inside them too."""
    spent = dict.fromkeys(parts, 0.0)
    kept = {name: getattr(owner, method) for name, (owner, method) in parts.items()}

    def timed_by(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return kept[name](*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - started

        return call

    for name, (owner, method) in parts.items():
        setattr(owner, method, timed_by(name))
    try:
        yield spent
    finally:
        for name, (owner, method) in parts.items():
            setattr(owner, method, kept[name])


async def parts_of(engine: Any, policy: ExploreSettings, work: Work) -> dict[str, float]:
    """Microseconds a step, by part: the model's pass, and of exploring `advise` (with `predict` and `mix` in it) and
    `took` (with `learn` in it)."""
    made = {"ridge": learn.Ridge, "adam": learn.Adam}[getattr(policy, "learner", "adam")]
    places: dict[str, tuple[Any, str]] = {
        "model": (engine._batch.forward, "decode"),
        "advise": (Explorer, "advise"),
        "took": (Explorer, "took"),
        "predict": (made, "predict"),
        "mix": (esamp, "guided_log_probs"),
        "learn": (made, "learn"),
    }
    unused = {"predict", "mix", "learn"} if not policy.reads_shallow else set()
    with clocked({name: place for name, place in places.items() if name not in unused}) as spent:
        started = time.perf_counter()
        await run_block(engine, work.asks(str(policy), 10**6))
        whole = time.perf_counter() - started
    return {name: seconds / work.steps * 1e6 for name, seconds in {"step": whole, **spent}.items()}


def idle_us(engine: Any, rounds: int = 2000) -> float:
    """Microseconds that a step of an engine that has explored spends on finding that nobody explores now."""
    exploring, count = engine._batch.exploring, engine._batch.columns.num_drawn
    room: Any = exploring_room
    kept, room.draw = room.draw, lambda *args: None
    try:
        started = time.perf_counter()
        for _ in range(rounds):
            exploring.draw(slice(0, 128), count, *[None] * 6)
        return (time.perf_counter() - started) / rounds * 1e6
    finally:
        room.draw = kept


def engines(models: list[str], args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Every model, shape and policy."""
    found: dict[str, Any] = {}
    names = args.policies.split(";") if args.policies else list(MEASURED)
    for model in models:
        size = SIZES[model]
        with tempfile.TemporaryDirectory() as folder:
            source = "tiny" if model == "tiny" else random_model(size, Path(folder))
            engine = build("engine", f"local({source!r}, device='cpu')")
            told: dict[str, Any] = {}
            for groups, samples in SHAPES if not args.size else [(GROUPS, args.size)]:
                work = Work(groups, samples, args.steps or size.steps)
                pairs = args.pairs or size.pairs
                title = f"{model}, {groups} x {samples}: throughput with a policy over that without, {pairs} pairs"
                table = Table(
                    "policy", "clock", "95 %", "processor", "95 %", "by parts", "microseconds a step", title=title
                )
                for name in names:
                    own = asyncio.run(engine_pairs(engine, POLICIES[name], pairs, work))
                    own["parts_us"] = parts = asyncio.run(parts_of(engine, POLICIES[name], work))
                    own["by_parts"] = 1 - (parts["advise"] + parts["took"]) / parts["step"]
                    told.setdefault(name, {})[f"{groups}x{samples}"] = own
                    cells = [
                        cell
                        for kind in ("wall", "processor")
                        for cell in (f"{own[kind]:.4f}", f"{own[f'{kind}_low']:.4f} to {own[f'{kind}_high']:.4f}")
                    ]
                    table.add_row(
                        name,
                        *cells,
                        f"{own['by_parts']:.3f}",
                        " ".join(f"{k} {v:,.0f}" for k, v in own["parts_us"].items()),
                    )
                console.print(table)
            aimed = [each["8x16"] for name, each in told.items() if name in AIMED and "8x16" in each]
            least = min(aimed, key=lambda own: own["wall"], default=None)
            found[model] = {
                "ratio": least and least["wall"],
                "spread": least and least["wall_spread"],
                "idle_us": idle_us(engine),
                "policies": told,
            }
            asyncio.run(engine.close())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=",".join(SIZES))
    parser.add_argument("--policies", default="", help="some of them, split by ;")
    parser.add_argument("--pairs", type=int, default=0, help="0: by model")
    parser.add_argument("--steps", type=int, default=0, help="of a block; 0: by model")
    parser.add_argument("--size", type=int, default=0, help="samples of each of 8 groups; 0: 8 x 16, then 1 x 64")
    parser.add_argument("--threads", type=int, default=0, help="0: as the engine has it")
    parser.add_argument("--alone", action="store_true", help="policies on synthetic states instead, one thread")
    parser.add_argument("--dims", default="128,256,768", help="alone")
    parser.add_argument("--vocabs", default="102,32000", help="alone")
    parser.add_argument("--min-p", type=float, default=0.0, help="alone")
    args = parser.parse_args()
    started, console = time.monotonic(), Console(width=160)
    if args.threads or args.alone:
        torch.set_num_threads(args.threads or 1)
    if args.alone:
        dims, vocabs = ([int(each) for each in column.split(",")] for column in (args.dims, args.vocabs))
        found = {"alone": alone_tables(POLICIES, args.size or 16, dims, vocabs, args.min_p, console)}
    else:
        found = engines(args.models.split(","), args, console)
    print(json.dumps(rounded({**about("explore_cost", SEED, started), **found, "gpu": None})))


if __name__ == "__main__":
    main()
