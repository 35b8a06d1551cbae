"""Measure the local engine on real models: `make bench NAME=engine_real`.

**Throughput.** 16 questions of GSM8K, 8 samples of each at temperature 1, at most 200 new tokens, float32 on the CPU.
Prompts and responses are of different lengths, and a response ends where the model ends it. New tokens are counted on
every side up to and with the end token. Sides take turns in one run, and every round has other questions:

- `ours`: all 128 asks at once;
- `generate_batch`: one `model.generate` of transformers over the 128 rows, padded on the left;
- `generate_each`: one `generate` for each question with 8 return sequences, as research code does it, for `--each` of
  the round's questions, since its rate does not depend on their number;
- `vllm`: vLLM on the CPU in an environment of its own (`make test-vllm` makes it), all questions with n = 8 at once.

A ratio is the median over rounds with the lowest and the highest. `matmul_share` is 2 floating-point operations for
each weight and each new token, over the time, as a share of what `torch.mm` reaches on large float32 squares in this
run (prompts are not counted as work, but their time is). `sampling_share` is the share of a step's time that goes into
turning logits into tokens.

**Exploring.** The same asks, cut at `--explore-tokens`, plainly and under each policy, in turn, prompts kept from
before: the share of plain throughput.

**Power sampling.** 8 questions, 10 steps of `power(4)` over 64 tokens: seconds of ours, against an implementation in
the published style written for bench/power_cost.py: one chain, `generate` for every proposal. It takes one question
after another, so `--each` of them are timed and stand for all. `power_over_published` is the last model's.

Models are folders; the default ones are looked for under `$SAMPLEWISE_MODELS` or ~/.cache/samplewise-models.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from samplewise.models import SPIN_COUNT

os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # before torch is loaded

import torch
import transformers

from bench import power_cost
from bench.about import about, rounded
from bench.engine import Run, matmul_rate, padded, ratio, useful
from bench.power_cost import apart
from samplewise.core.keys import Key
from samplewise.core.types import Generate, Sampling
from samplewise.engines.local import local
from samplewise.tasks.arithmetic import gsm8k

ROOT = Path(__file__).parents[1]
VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
MODELS = ("smollm2", "qwen-coder")
POLICIES = ("css", "lss", "esamp(learner='ridge')", "esamp")
SIDES = ("ours", "generate_batch", "generate_each", "vllm")
POWER_QUESTIONS = 8
hugging: Any = transformers
Questions = list[Any]


class Settings(NamedTuple):
    rounds: int
    questions: int
    samples: int
    tokens: int
    each: int  # questions of a round that `generate_each` gets, and `generate` for power sampling
    explore_tokens: int
    seed: int
    sides: tuple[str, ...]


# --------------------------------------------------------------------------------------------------------------- sides


def asks_of(questions: Questions, settings: Settings, key: Key, max_tokens: int, explore: str = "") -> list[Generate]:
    """Return an ask for each sample of each question; the samples of a question that explore are a group."""
    return [
        Generate(
            question.messages,
            sampling=Sampling(explore=explore),
            max_tokens=max_tokens,
            seed=key.fold(question.id, sample).seed(),
            group=f"{explore} {question.id} {key.seed()}" if explore else "",
            group_size=settings.samples if explore else 0,
            draw=sample,
        )
        for question in questions
        for sample in range(settings.samples)
    ]


def ours(engine: Any, asks: Sequence[Generate]) -> Run:
    async def collect() -> int:
        tokens = 0
        async for arrival in engine.answer(asks):
            if arrival.completion.failure is not None:
                raise RuntimeError(arrival.completion.failure.message)
            tokens += arrival.completion.usage.completion_tokens
        return tokens

    started = time.perf_counter()
    tokens = asyncio.run(collect())
    return Run(tokens, time.perf_counter() - started)


def generated(
    model: Any, prompts: Sequence[Sequence[int]], settings: Settings, stops: Sequence[int], per_call: int
) -> Run:
    """Draw with `generate`, `per_call` questions a call."""
    options = hugging.GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=settings.tokens,
        num_return_sequences=settings.samples,
        eos_token_id=list(stops),
        pad_token_id=0,
    )
    started, tokens = time.perf_counter(), 0
    for first in range(0, len(prompts), per_call):
        ids, mask = padded(prompts[first : first + per_call], "cpu")
        new = model.generate(ids, attention_mask=mask, generation_config=options)[:, ids.shape[1] :]
        tokens += useful(new, stops, [settings.tokens] * len(new))
    return Run(tokens, time.perf_counter() - started)


class Vllm:
    """vLLM in a process of its own, which waits while the other sides run."""

    def __init__(self, folder: Path, rows: int) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "GOMP"))}
        self._process = subprocess.Popen(
            [str(VLLM_PYTHON), "-P", str(ROOT / "bench" / "engine_real_vllm.py"), str(folder), str(rows)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._read()

    def run(self, prompts: Sequence[Sequence[int]], settings: Settings, stops: Sequence[int]) -> Run:
        request = {
            "prompts": [list(ids) for ids in prompts],
            "samples": settings.samples,
            "max_tokens": settings.tokens,
            "stops": list(stops),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        figures = self._read()
        return Run(figures["tokens"], figures["seconds"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("FIGURES "):
                return dict(json.loads(line.removeprefix("FIGURES ")))
        raise RuntimeError("vLLM ended; run bench/engine_real_vllm.py by hand to see why")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()


class Clock(NamedTuple):
    """Seconds that the engine's thread spends in whole steps, and in drawing from logits."""

    steps: list[float]
    draws: list[float]

    def share(self) -> float:
        return sum(self.draws) / sum(self.steps)


@contextmanager
def clocked(engine: Any) -> Iterator[Clock]:
    """Time the steps of an engine's batch while the block runs; joins, with their prompts, are not counted."""
    clock, batch = Clock([], []), engine._batch
    whole, drawing, inside = batch.step, batch._draw, [False]

    def step() -> Any:
        started, inside[0] = time.perf_counter(), True
        try:
            return whole()
        finally:
            inside[0] = False
            clock.steps.append(time.perf_counter() - started)

    def draw(*given: Any) -> Any:
        started = time.perf_counter()
        try:
            return drawing(*given)
        finally:
            if inside[0]:
                clock.draws.append(time.perf_counter() - started)

    batch.step, batch._draw = step, draw
    try:
        yield clock
    finally:
        del batch.step, batch._draw


# ------------------------------------------------------------------------------------------------------------- measures


def throughput(folder: Path, engine: Any, model: Any, settings: Settings, ceiling: float) -> dict[str, Any]:
    """Return tokens per second of each side, and the ratios of ours."""
    stops, key = engine.checkpoint.stops, Key(settings.seed).fold("engine_real")
    problems = [problem.question for problem in gsm8k().problems]
    order = key.fold("questions").generator().permutation(len(problems)).tolist()
    with_vllm = VLLM_PYTHON.exists() and "vllm" in settings.sides
    vllm = Vllm(folder, settings.questions * settings.samples) if with_vllm else None
    runs: dict[str, list[Run]] = {side: [] for side in SIDES}
    shares = []
    try:
        for number in range(-1, settings.rounds):  # the first one is short and warms up
            now = settings if number >= 0 else settings._replace(questions=2, samples=2, tokens=8, each=1)
            chosen = [problems[order.pop()] for _ in range(now.questions)]
            prompts = [engine._language.prompt(question.messages) for question in chosen]
            asks = asks_of(chosen, now, key.fold(number + 1), now.tokens)
            sides: dict[str, Callable[..., Run]] = {
                "ours": lambda asks=asks: ours(engine, asks),
                "generate_batch": lambda p=prompts, s=now: generated(model, p, s, stops, len(p)),
                "generate_each": lambda p=prompts, s=now: generated(model, p[: s.each], s, stops, 1),
            }
            if vllm is not None:
                sides["vllm"] = lambda p=prompts, s=now: vllm.run(p, s, stops)
            names = [name for name in sides if name in settings.sides]
            for name in names[number % len(names) :] + names[: number % len(names)]:
                with clocked(engine) as clock:
                    run = apart(sides[name])
                if number < 0:
                    continue
                runs[name].append(run)
                if name == "ours":
                    shares.append(clock.share())
                say(f"  round {number + 1} {name:14} {run.tokens:6} tokens {run.seconds:7.1f} s {run.rate:7.1f}/s")
    finally:
        if vllm is not None:
            vllm.close()
    rates = {name: statistics.median(run.rate for run in each) if each else None for name, each in runs.items()}
    over = {
        name: ratio(runs["ours"], runs[other])._asdict() if runs[other] else None
        for name, other in (("over_batch", "generate_batch"), ("over_each", "generate_each"), ("over_vllm", "vllm"))
    }
    assert rates["ours"] is not None
    return {
        **rates,
        **over,
        "matmul_share": 2 * engine.checkpoint.num_parameters * rates["ours"] / ceiling,
        "sampling_share": statistics.median(shares),
        "path": engine.checked.path,
    }


def exploring(engine: Any, settings: Settings) -> dict[str, Any]:
    """Return the share of plain throughput that each policy keeps."""
    key = Key(settings.seed).fold("engine_real", "explore")
    problems = [problem.question for problem in gsm8k().problems][: settings.questions]
    runs: dict[str, list[Run]] = {policy: [] for policy in ("", *POLICIES)}
    apart(ours, engine, asks_of(problems, settings, key.fold("warm"), 1))
    for number in range(settings.rounds):
        names = list(runs)
        for policy in names[number % len(names) :] + names[: number % len(names)]:
            asks = asks_of(problems, settings, key.fold(number), settings.explore_tokens, policy)
            run = apart(ours, engine, asks)
            runs[policy].append(run)
            say(f"  {policy or 'plain':24} {run.tokens:6} tokens {run.seconds:7.1f} s {run.rate:7.1f}/s")
    return {policy: ratio(runs[policy], runs[""])._asdict() for policy in POLICIES}


def powers(engine: Any, model: Any, settings: Settings) -> dict[str, Any]:
    """Return how many times as long the published style takes for the same chains."""
    key = Key(settings.seed).fold("engine_real", "power")
    prompts = [problem.question.messages for problem in gsm8k().problems[:POWER_QUESTIONS]]
    ids = [engine._language.prompt(messages) for messages in prompts]
    some = ids[: settings.each]
    mine, theirs = [], []
    for number in range(settings.rounds):
        spent = apart(power_cost.ours, engine, prompts, 4.0, 0.25, key.fold(number, "ours"))
        took, _ = apart(
            power_cost.published, model, some, engine.checkpoint.stops, 4.0, 0.25, key.fold(number, "published")
        )
        took *= len(ids) / len(some)
        mine.append(spent.seconds)
        theirs.append(took)
        say(f"  power: ours {spent.seconds:.1f} s, published style {took:.1f} s: {took / spent.seconds:.1f} times")
    ratios = sorted(b / a for a, b in zip(mine, theirs, strict=True))
    return {
        "over_published": {"median": statistics.median(ratios), "low": ratios[0], "high": ratios[-1]},
        "seconds": statistics.median(mine),
        "seconds_published": statistics.median(theirs),
    }


# ------------------------------------------------------------------------------------------------------------- the rest


def say(text: str) -> None:
    print(text, flush=True)


def folders(names: Sequence[str]) -> list[Path]:
    """Return the models that are at hand."""
    home = Path(os.environ.get("SAMPLEWISE_MODELS") or Path.home() / ".cache" / "samplewise-models")
    found = []
    for name in names:
        path = Path(name) if Path(name).is_dir() else home / name
        if (path / "config.json").is_file():
            found.append(path)
        else:
            say(f"{name}: not at hand (set SAMPLEWISE_MODELS, or give a folder)")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, help="names or folders, the smallest first")
    parser.add_argument("--parts", default="throughput,explore,power")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--each", type=int, default=4)
    parser.add_argument("--explore-tokens", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sides", default=",".join(SIDES), help="of the throughput, ours among them")
    arguments = parser.parse_args()
    fields = {name: getattr(arguments, name) for name in Settings._fields}
    fields["sides"] = tuple(arguments.sides.split(","))
    settings, parts, started = Settings(**fields), arguments.parts.split(","), time.monotonic()
    hugging.utils.logging.set_verbosity_error()
    hugging.utils.logging.disable_progress_bar()
    report: dict[str, Any] = {}
    folder = None
    for folder in folders(arguments.models):
        ceiling = apart(matmul_rate, "cpu")
        say(f"{folder.name}: matrix products reach {ceiling / 1e9:.0f} GFLOP/s in float32")
        engine = local(str(folder), device="cpu")
        model = apart(hugging.AutoModelForCausalLM.from_pretrained, folder, dtype=torch.float32).eval()
        found = report[folder.name] = {"matmul_gflops": ceiling / 1e9}
        if "throughput" in parts:
            found |= throughput(folder, engine, model, settings, ceiling)
        if "explore" in parts:
            found["explore"] = exploring(engine, settings)
        if "power" in parts:
            found["power"] = powers(engine, model, settings)
        say(json.dumps(rounded({folder.name: found})))
        asyncio.run(engine.close())
        del engine, model
    largest = report.get(folder.name, {}).get("power") if folder else None
    print(
        json.dumps(
            rounded(
                {
                    **about("engine_real", settings.seed, started),
                    "models": report,
                    "power_over_published": largest["over_published"]["median"] if largest else None,
                    **settings._asdict(),
                    "torch": torch.__version__,
                    "transformers": transformers.__version__,
                }
            )
        )
    )


if __name__ == "__main__":
    main()
