"""What exploring costs: the work of each policy alone, and the engine's throughput with and without it.

(a) Policies alone: microseconds of processor time a step on synthetic states, one thread, beside what a plain draw of
    the same rows takes (log-softmax in float64, running sum, search: what the local engine does). In the first step all
    rows of a group stand at the same prompt; later they are apart, a quarter of them at forks, half of these in pairs.
(b) The engine, on against off (`--models tiny,25M,150M`): ratios of tokens per second, paired, in ABBA order, by the
    clock and by processor time, which a busy machine disturbs less.

A block counts only if every row sampled was seen, and trained on where the policy learns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.about import about, rounded
from samplewise.explore import settings as explore
from samplewise.explore.base import Head, Ints, Step
from samplewise.explore.explorer import Explorer
from samplewise.explore.settings import Settings
from samplewise.keys import Key
from samplewise.models import TINY
from samplewise.spec import build
from samplewise.types import Generate, Sampling

SEED = 0
GROUPS, STEPS, WARM = 8, 12, 3
POLICIES: dict[str, Settings] = {
    "hot": explore.hot(1.25),
    "css": explore.css(),
    "css, vocabulary order": explore.css(order="vocabulary"),
    "lss": explore.lss(),
    "arithmetic": explore.arithmetic(),
    "esamp, frozen": explore.frozen(0.25),
    "esamp, Adam": explore.esamp(0.25),
    "esamp, Adam, forks only": explore.esamp(0.25, forking=0.25),
    "esamp, ridge 256, forks only": explore.esamp(0.25, learner="ridge", features=256, forking=0.25),
}


class Bed(NamedTuple):
    """Synthetic steps of R rows."""

    head: Head
    steps: list[Step]


def bed(size: int, dim: int, vocab: int, min_p: float) -> Bed:
    """`STEPS` steps of GROUPS groups of `size` rows."""
    generator = torch.Generator()
    generator.manual_seed(Key(SEED).fold("bed", size, dim, vocab).seed())
    head = Head(torch.randn(vocab, dim, generator=generator) / dim**0.5)
    rows = GROUPS * size
    group, sample = np.repeat(np.arange(GROUPS), size), np.tile(np.arange(size), GROUPS)
    steps = []
    for at in range(STEPS):
        sharpness = torch.where(torch.rand(rows, generator=generator) < 0.25, 3.0, 12.0)  # a quarter are forks
        deep = torch.randn(rows, dim, generator=generator) * sharpness[:, None]
        if at == 0:
            deep = (torch.randn(GROUPS, dim, generator=generator) * 3.0).repeat_interleave(size, 0)
        else:
            deep[1::4] = deep[::4]  # pairs that stand at the same place
        shallow = torch.randn(rows, dim, generator=generator)
        logits = deep @ head.weight.T
        law = torch.log_softmax(logits.double(), -1)
        if min_p:
            law = law.masked_fill(law < law.amax(-1, keepdim=True) + np.log(min_p), -torch.inf)
            law = torch.log_softmax(law, -1)
        position = np.full(rows, at)
        steps.append(Step(group, sample, position, torch.ones(rows), logits, law, deep, shallow, bool(min_p)))
    return Bed(head, steps)


def plain(step: Step) -> Tensor:
    """What the engine does without a policy."""
    law = torch.log_softmax(step.logits, -1, dtype=torch.float64)
    upto = law.exp().cumsum_(-1)
    return torch.searchsorted(upto, upto[:, -1:] * 0.5)[:, 0]


def timed(work: Callable[[Step], object], steps: list[Step]) -> list[float]:
    """Microseconds of processor time of each step: the machine may be busy with something else."""
    found = []
    for step in steps:
        started = time.process_time()
        work(step)
        found.append((time.process_time() - started) * 1e6)
    return found


def alone(found: Bed, settings: Settings) -> dict[str, float]:
    """A policy's own microseconds: the step at the prompt, and the median of the later ones."""
    best: list[list[float]] = []
    for _ in range(WARM):
        explorer = Explorer(found.head)
        names = [str(group) for group in found.steps[0].group.tolist()]
        numbers = np.array([explorer.open(name, settings, 1 + int(name)) for name in names])
        tokens = torch.zeros(len(names), dtype=torch.int64)

        def work(step: Step, explorer: Explorer = explorer, numbers: Ints = numbers, tokens: Tensor = tokens) -> None:
            for advice in explorer.advise(step._replace(group=numbers)):
                if advice.tokens is not None:
                    tokens.index_copy_(0, advice.rows, advice.tokens)
            explorer.took(tokens)

        best.append(timed(work, found.steps))
        for number in sorted(set(numbers.tolist())):
            report = explorer.close(number, sum(numbers == number) * STEPS)
            assert not report.problem, report.problem
    least = np.array(best).min(0)
    return {"first_us": float(least[0]), "later_us": float(np.median(least[1:]))}


class Size(NamedTuple):
    """A random Llama. Its vocabulary is the bundled model's, so the head is cheap."""

    dim: int
    inner: int
    layers: int
    heads: int


SIZES = {"25M": Size(512, 1408, 8, 8), "150M": Size(1024, 2816, 12, 16)}


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


def asks(explore_by: str, num_samples: int, num_steps: int, block: int) -> list[Generate]:
    """A block's asks: groups of one prompt each. Seeds and lengths do not hang on whether they explore."""
    problems = build("task", f"game24(split='dev', limit={GROUPS})").problems
    return [
        Generate(
            problem.question.messages,
            sampling=Sampling(explore=explore_by),
            max_tokens=num_steps,
            seed=Key(SEED).fold(block, group, sample).seed(),
            draw=sample,
            group=f"{block}/{group}" if explore_by else "",
            group_size=num_samples if explore_by else 0,
        )
        for group, problem in enumerate(problems)
        for sample in range(num_samples)
    ]


class Block(NamedTuple):
    wall: float  # tokens a second
    processor: float  # tokens a second of processor time: the machine may be busy with something else


async def run_block(engine: Any, work: list[Generate]) -> Block:
    started, used, tokens = time.monotonic(), time.process_time(), 0
    async for _, completion in engine.answer(work):
        assert completion.finish == "length", completion
        tokens += completion.usage.completion_tokens
    return Block(tokens / (time.monotonic() - started), tokens / (time.process_time() - used))


async def engine_pairs(
    engine: Any, policy: Settings, num_pairs: int, num_samples: int, num_steps: int
) -> dict[str, Any]:
    """Paired ratios of an engine's throughput with `policy` on and off, in ABBA order, one pair to warm up: the median,
    the quartiles, and a 95 % bootstrap interval of the median."""
    batch = engine._batch
    batch._ends[:] = False  # no response ends before its length
    ratios = []
    for pair in range(num_pairs + 1):
        found: dict[bool, Block] = {}
        for on in (True, False) if pair % 2 else (False, True):
            work = asks(str(policy) if on else "", num_samples, num_steps, pair)
            found[on] = await run_block(engine, work)
        if pair:
            ratios.append([on / off for on, off in zip(found[True], found[False], strict=True)])
    reports = list(batch.exploring.reports)[-GROUPS * (num_pairs + 1) :]
    assert len(reports) == GROUPS * (num_pairs + 1)
    for report in reports:
        assert not report.problem, report.problem
        assert report.numbers.get("trained", 0.0) in (0.0, num_samples * num_steps)
    told: dict[str, Any] = {"pairs": num_pairs, "steps": num_steps, "rows": GROUPS * num_samples}
    for name, column in zip(("wall", "processor"), np.array(ratios).T, strict=True):
        drawn = Key(SEED).fold("bootstrap").generator().integers(0, num_pairs, (2000, num_pairs))
        low, high = np.quantile(np.median(column[drawn], axis=1), (0.025, 0.975))
        lower, median, upper = np.quantile(column, (0.25, 0.5, 0.75))
        told |= {name: median, f"{name}_low": low, f"{name}_high": high, f"{name}_quartiles": (lower, upper)}
    told["off_tokens_s"], told["on_tokens_s"] = found[False].wall, found[True].wall
    told["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return told


def engines(models: list[str], args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """(b) for each model and policy."""
    found: dict[str, Any] = {}
    names = [name for name in POLICIES if not args.policies or name in args.policies.split(";")]
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            source = "tiny" if model == "tiny" else random_model(SIZES[model], Path(folder))
            engine = build("engine", f"local({source!r}, device='cpu')")
            title = (
                f"{model}: throughput with a policy, of that without ({GROUPS} x {args.size} rows, {args.pairs} pairs)"
            )
            table = Table("policy", "wall", "95 %", "processor", "95 %", title=title)
            for name in names:
                told = asyncio.run(engine_pairs(engine, POLICIES[name], args.pairs, args.size, args.steps))
                found[f"{model}, {name}"] = told
                cells = [
                    cell
                    for kind in ("wall", "processor")
                    for cell in (f"{told[kind]:.4f}", f"{told[f'{kind}_low']:.4f} to {told[f'{kind}_high']:.4f}")
                ]
                table.add_row(name, *cells)
            console.print(table)
            asyncio.run(engine.close())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=16, help="samples of each of the 8 groups")
    parser.add_argument("--dims", default="128,256,768")
    parser.add_argument("--vocabs", default="102,32000")
    parser.add_argument("--min-p", type=float, default=0.0)
    parser.add_argument("--models", default="", help="engines to measure instead of policies alone: tiny, 25M, 150M")
    parser.add_argument("--policies", default="", help="some of them, split by ;")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=256)
    args = parser.parse_args()
    started, console = time.monotonic(), Console()
    torch.set_num_threads(1)
    if args.models:
        pairs = engines(args.models.split(","), args, console)
        print(json.dumps(rounded({**about("explore_cost", SEED, started), "engines": pairs})))
        return
    found: dict[str, dict[str, float]] = {}
    for vocab in map(int, args.vocabs.split(",")):
        for dim in map(int, args.dims.split(",")):
            steps = bed(args.size, dim, vocab, args.min_p)
            base = float(np.median(timed(plain, steps.steps)))
            table = Table(title=f"{GROUPS * args.size} rows, d = {dim}, V = {vocab}: microseconds a step, one thread")
            for column in ("policy", "at the prompt", "later", "plain draws' time"):
                table.add_column(column, justify="left" if column == "policy" else "right")
            table.add_row("plain draw", "", f"{base:,.0f}", "1.00")
            for name, settings in POLICIES.items():
                own = alone(steps, settings)
                found[f"{name}, d {dim}, V {vocab}"] = {**own, "plain_us": base}
                table.add_row(
                    name, f"{own['first_us']:,.0f}", f"{own['later_us']:,.0f}", f"{own['later_us'] / base:.2f}"
                )
            console.print(table)
    print(json.dumps(rounded({**about("explore_cost", SEED, started), "rows": GROUPS * args.size, "policies": found})))


if __name__ == "__main__":
    main()
