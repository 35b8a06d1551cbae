"""samplewise inside vLLM on a CPU: the same tokens as the local engine, and what it costs. `make bench NAME=vllm`.

Runs in .venv-vllm, which `make test-vllm` makes, with one thread. Both vLLM engines, with the bridge and stock, are in
this process and take turns on the same work. Rates are tokens per second of processor time, because other programs may
run here; rates by the clock stand beside them. A ratio is the median over rounds, and its interval the lowest and the
highest of them; of six rounds or more, these hold the median ratio between them with 97 %.

- asks: the 59 of tests/vllm/inside: plain, temperature, filters, greedy, prefix and bound, forbidden first token, css,
  lss, esamp with both learners.
- idle: requests without guided draws, every one of the same length, to vLLM's own engine class.
- policies: groups of 8 through the engine, over plain draws through the same engine. `guided` is a plain draw whose
  log q is wanted, `bound` one at a low temperature with a rejection bound that it never reaches.

For a machine with a GPU there is bench/vllm_gpu.py.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from samplewise.core.registry import build
from samplewise.core.types import Completion, Generate, Message, RejectionBound, Sampling

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
SEED = 0
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
NUM_TOKENS, NUM_GROUPS, GROUP = 48, 6, 8
PUZZLES = ("make 24 from 4 6 7 8", "make 24 from 3 5 7 9", "make 24 from 2 2 6 12")
POLICIES = ("css", "lss", "esamp(beta=0.5)", "esamp(learner='ridge')")


class Rate(NamedTuple):
    """Tokens per second, of processor time and by the clock."""

    cpu: float
    clock: float


def measured(work: Callable[[], int]) -> Rate:
    """Return the rate of work that returns how many tokens it drew."""
    clock, cpu = time.perf_counter(), time.process_time()
    num = work()
    return Rate(num / (time.process_time() - cpu), num / (time.perf_counter() - clock))


def ratio_of(name: str, sides: Sequence[tuple[Rate, Rate]], by_clock: bool) -> dict[str, float]:
    """Return the median ratio of the first side over the second, and its interval."""
    clocks = [one.clock / other.clock for one, other in sides]
    ratios = sorted(clocks if by_clock else [one.cpu / other.cpu for one, other in sides])
    clock = statistics.median(clocks)
    return {
        name: statistics.median(ratios),
        f"{name}_low": ratios[0],
        f"{name}_high": ratios[-1],
        f"{name}_clock": clock,
    }


async def answers(engine: Any, asks: Sequence[Generate]) -> list[Completion]:
    found = {arrival.position: arrival.completion async for arrival in engine.answer(asks)}
    return [found[position] for position in range(len(asks))]


def largest(mine: Sequence[Completion], theirs: Sequence[Completion], array: str) -> float:
    """Return the largest difference of per-token log-probs of draws with the same tokens."""
    pairs = [
        abs(x - y)
        for one, other in zip(mine, theirs, strict=True)
        if one.tokens == other.tokens
        for x, y in zip(getattr(one, array), getattr(other, array), strict=True)
    ]
    return max(pairs, default=float("nan"))


def fixed_length(engine: Any, num: int, first: int) -> int:
    """Draw `num` requests of NUM_TOKENS tokens with an `LLMEngine`. Return how many tokens came."""
    vllm = importlib.import_module("vllm")
    params = vllm.SamplingParams(temperature=1.0, max_tokens=NUM_TOKENS, ignore_eos=True, detokenize=False)
    for index in range(num):
        engine.add_request(f"r{first + index}", {"prompt_token_ids": [14 + index % 200, 15, 16, 17, 18, 19]}, params)
    total = 0
    while engine.has_unfinished_requests():
        total += sum(len(output.outputs[0].token_ids) for output in engine.step() if output.finished)
    return total


def groups(explore: str, seed: int) -> list[Generate]:
    """Return NUM_GROUPS groups that explore; with `explore` "" plain asks, "guided" or "bound" guided ones."""
    asks = []
    for group in range(NUM_GROUPS):
        messages = (Message("user", PUZZLES[group % len(PUZZLES)]),)
        for draw in range(GROUP):
            ask = Generate(messages, max_tokens=60, seed=seed + 100 * group + draw, want=("tokens",))
            if explore in ("guided", "bound"):
                ask = ask._replace(want=("tokens", "logp", "logq"))
            if explore == "bound":
                ask = ask._replace(sampling=Sampling(0.25), reject_below=RejectionBound(4.0, -1e6))
            if explore not in ("", "guided", "bound"):
                name = f"{explore}{seed}-{group}"
                ask = ask._replace(sampling=Sampling(explore=explore), group=name, draw=draw, group_size=GROUP)
            asks.append(ask)
    return asks


def inside(rounds: int, model: str, num_requests: int) -> dict[str, Any]:
    from bench.about import about, rounded

    asks: list[Generate] = importlib.import_module("tests.vllm.inside.asks").ASKS
    started = time.monotonic()
    version = importlib.import_module("vllm").__version__
    engine_class = importlib.import_module("vllm.v1.engine.llm_engine").LLMEngine
    engine_args = importlib.import_module("vllm").EngineArgs
    options = f"max_model_len=256, enforce_eager=True, max_num_seqs={num_requests}"
    bridged = build("engine", f"vllm({model!r}, in_process=True, {options})")
    local = build("engine", f"local({model!r})")
    with asyncio.Runner() as runner:
        runner.run(bridged.open())
        stock_options = {
            name: value
            for name, value in bridged._options.items()
            if name not in ("worker_cls", "logits_processors", "additional_config")
        }
        stock = engine_class.from_engine_args(engine_args(**stock_options))
        mine, theirs = runner.run(answers(bridged, asks)), runner.run(answers(local, asks))
        same = sum(
            (one.tokens, one.finish) == (other.tokens, other.finish) for one, other in zip(mine, theirs, strict=True)
        )
        print(f"vLLM {version}: the same tokens on {same} of {len(asks)} asks")
        idle: list[tuple[Rate, Rate]] = []
        ours = bridged._client._engine
        for number in range(rounds + 1):
            sides: dict[str, Rate] = {}
            for name in ("ours", "stock") if number % 2 else ("stock", "ours"):
                side, first = (ours, stock)[name == "stock"], number * num_requests
                sides[name] = measured(lambda side=side, first=first: fixed_length(side, num_requests, first))  # type: ignore[misc]
            if number:  # the first round warms up
                idle.append((sides["ours"], sides["stock"]))
        shares: dict[str, list[tuple[Rate, Rate]]] = {}

        def drawn(explore: str, seed: int) -> int:
            completions = runner.run(answers(bridged, groups(explore, seed)))
            assert not any(completion.failure for completion in completions), completions[0].failure
            return sum(completion.usage.completion_tokens for completion in completions)

        for number in range(rounds + 1):
            plain = measured(lambda number=number: drawn("", 10_000 * number))  # type: ignore[misc]
            for policy in ("guided", "bound", *POLICIES):
                rate = measured(lambda policy=policy, number=number: drawn(policy, 10_000 * number))  # type: ignore[misc]
                if number:
                    shares.setdefault(policy, []).append((rate, plain))
        runner.run(bridged.close())
        runner.run(local.close())
    policies = {policy: ratio_of("ratio", sides, by_clock=False) for policy, sides in shares.items()}
    figures = {
        **about("vllm", SEED, started),
        "asks": len(asks),
        "same_tokens": same,
        "dlogp_max": largest(mine, theirs, "logp"),
        "dlogq_max": largest(mine, theirs, "logq"),
        **ratio_of("idle_ratio", idle, by_clock=False),
        "idle_tokens_per_s": statistics.median(one.clock for one, _ in idle),
        "policies": {policy: values["ratio"] for policy, values in policies.items()},
        "policies_low": {policy: values["ratio_low"] for policy, values in policies.items()},
        "policies_high": {policy: values["ratio_high"] for policy, values in policies.items()},
        "rounds": rounds,
        "model": model,
        "runs": bridged.runtime()["runs"],
        "versions": [version],
    }
    exact = {name: figures[name] for name in ("dlogp_max", "dlogq_max")}
    return {**rounded(figures), **{name: float(f"{value:.2e}") for name, value in exact.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--model", default="tiny", help="a folder, or a name on the Hugging Face Hub")
    parser.add_argument("--requests", type=int, default=64, help="requests at once while the bridge is idle")
    arguments = parser.parse_args()
    if importlib.util.find_spec("vllm") is None:
        if not PYTHON.exists():
            sys.exit("vLLM is not installed in .venv-vllm: make test-vllm installs it")
        environment = {**os.environ, **SETTINGS, "PYTHONPATH": str(ROOT / "src")}
        os.chdir(ROOT)
        os.execve(str(PYTHON), [str(PYTHON), "-m", "bench.vllm", *sys.argv[1:]], environment)
    os.environ.update(SETTINGS)
    figures = inside(arguments.rounds, arguments.model, arguments.requests)
    print(f"largest difference: logp {figures['dlogp_max']:.1e}, logq {figures['dlogq_max']:.1e} nats")
    print(f"idle bridge over stock vLLM: {figures['idle_ratio']:.3f}")
    for policy, ratio in figures["policies"].items():
        print(f"{policy:24} {ratio:.2f} of plain draws")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
