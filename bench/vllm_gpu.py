"""What samplewise costs inside vLLM on a GPU, and whether it draws the same there: one command.

    python -m bench.vllm_gpu --model Qwen/Qwen3-0.6B        in an environment with vLLM, torch for CUDA and samplewise
    python -m bench.vllm_gpu --cpu                          a rehearsal on a CPU: every part once, tiny; no figures

Without a GPU it says so in one line and ends with status 1. Parts:

- tokens: the asks of tests/vllm/inside, against the local engine on the same GPU in the same precision. In half
  precision some draws take other tokens; then the log-probs that vLLM's draws have under the local engine count.
- idle: requests of one length without a guided draw, to vLLM with the bridge and to stock vLLM. Aim: .995 or more.
- rows: the same requests as guided draws, over plain ones through the same vLLM. `log q` is a draw whose log q is
  wanted, `bound` one at temperature 1/4 with a rejection bound that it never reaches, as power sampling has them.
- policies: groups (8 x 16, unless `--groups` and `--group` say otherwise) with the settings that the quality figures of
  bench/explore.py were drawn with. Aim for lss and esamp in closed form: .99 or more of plain draws.

Every request has `--tokens` tokens whatever it says, sides take turns in both orders, and a ratio is the median over
rounds, of tokens per second by the clock, with the lowest and the highest round. The last line is one JSON object.
`--async-scheduling` measures idle and rows with vLLM's asynchronous scheduling on both sides, without policies.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import importlib.util
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.vllm import PYTHON, SETTINGS, Rate, answers, largest, measured, ratio_of
from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.core.types import Completion, Generate, Likelihood, Message

ROOT = Path(__file__).parents[1]
SEED = 0
# What a row of each kind asks for, by the fields of samplewise.engines.vllm.guided.GuidedDraw.
ROWS: dict[str, dict[str, Any]] = {
    "log q": {},
    "bound": {"temperature": 0.25, "bound": (4.0, -1e9)},
}
POLICIES: dict[str, dict[str, Any]] = {
    "css": {"explore": "css(min_cosine=0.8)", "temperature": 0.85},
    "lss": {"explore": "lss(sigma=0.02)", "temperature": 0.85},
    "esamp, ridge": {"explore": "esamp(learner='ridge', compensate='gate')"},
    "esamp, Adam": {"explore": "esamp"},
}
AIMS = {"idle": 0.995, "lss": 0.99, "esamp, ridge": 0.99}
QUESTIONS = (
    *("Why is the sky blue?", "Tell me a story about a lighthouse.", "How does a steam engine work?"),
    *("Plan a week in Lisbon.", "Prove that there are infinitely many primes.", "What did the Romans eat?"),
    *("Write a poem about rain.", "Explain how a compiler works."),
)


def drawn(engine: Any, ids: Sequence[Sequence[int]], arguments: argparse.Namespace, kind: str, number: int) -> int:
    """Draw requests of a kind, "" for plain ones, with an `LLMEngine`. Return how many tokens came."""
    vllm = importlib.import_module("vllm")
    guided = importlib.import_module("samplewise.engines.vllm.guided")
    fields = {**ROWS, **POLICIES}.get(kind)
    num = arguments.groups * arguments.group
    uids = [f"{kind or 'plain'}-{number}-{row}" for row in range(num)]
    for row, uid in enumerate(uids):
        group, draw = divmod(row, arguments.group)
        prompt = list(ids[group % len(ids)])
        extra_args = None
        if fields is not None:
            own = guided.GuidedDraw(uid, len(prompt), Key(SEED).fold(number, row).seed(), **fields)
            if own.explore:
                own = own._replace(group=f"{kind}-{number}-{group}", draw=draw, group_size=arguments.group)
            extra_args = guided.encode_draw(own)
        params = vllm.SamplingParams(
            temperature=1.0, max_tokens=arguments.tokens, ignore_eos=True, detokenize=False, extra_args=extra_args
        )
        engine.add_request(uid, {"prompt_token_ids": prompt}, params)
    total = 0
    while engine.has_unfinished_requests():
        total += sum(len(output.outputs[0].token_ids) for output in engine.step() if output.finished)
    if fields is not None:
        records = engine.collective_rpc(guided.TAKE, args=(uids,))[0]
        faults = [record["error"] for record in records.values() if record["error"]]
        reports = [record["explored"] for record in records.values() if record["explored"]]
        faults += [report["problem"] for report in reports if report["problem"]]
        if faults or len(records) != num or (fields.get("explore") and len(reports) != arguments.groups):
            raise SystemExit(f"{kind}: {len(records)} of {num} rows, {len(reports)} reports; {faults[:1]}")
    return total


def compared(work: dict[str, Callable[[int], int]], rounds: int) -> dict[str, list[Rate]]:
    """Return the rates of several sides that take turns, after a round to warm up."""
    rates: dict[str, list[Rate]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name in work if number % 2 else reversed(work):
            rate = measured(lambda name=name, number=number: work[name](number))  # type: ignore[misc]
            if number:
                rates[name].append(rate)
    return rates


def ratios(rates: dict[str, list[Rate]], base: str) -> dict[str, dict[str, float]]:
    """Return the ratio of each side over `base`, by the clock."""
    return {
        name: ratio_of("ratio", list(zip(side, rates[base], strict=True)), by_clock=True)
        for name, side in rates.items()
        if name != base
    }


async def against_local(inside: Any, local: Any, num: int) -> dict[str, Any]:
    """Compare draws with those of the local engine. Returns counts, and differences in nats."""
    asks: list[Generate] = importlib.import_module("tests.vllm.inside.asks").ASKS[-num:]
    mine, theirs = await answers(inside, asks), await answers(local, asks)
    if failure := next((c.failure for c in (*mine, *theirs) if c.failure), None):
        raise SystemExit(f"a draw failed: {failure.message}")
    likelihoods = [
        Likelihood(ask.messages, (*ask.prefix, *(c.tokens or ()))) for ask, c in zip(asks, mine, strict=True)
    ]
    scores: list[Completion] = await answers(local, likelihoods)  # type: ignore[arg-type]
    gaps = [
        abs(x - y)
        for one, other in zip(mine, scores, strict=True)
        for x, y in zip(one.logp or (), (other.logp or ())[-len(one.logp or ()) :], strict=True)
    ]
    return {
        "asks": len(asks),
        "same_tokens": sum(one.tokens == other.tokens for one, other in zip(mine, theirs, strict=True)),
        "dlogp_max_same": largest(mine, theirs, "logp"),
        "dlogp_max": max(gaps),
        "dlogp_mean": sum(gaps) / len(gaps),
    }


def main() -> None:
    arguments = parsed()
    if importlib.util.find_spec("vllm") is None and arguments.cpu and PYTHON.exists():
        os.chdir(ROOT)
        environment = {**os.environ, **SETTINGS, "PYTHONPATH": str(ROOT / "src")}
        os.execve(str(PYTHON), [str(PYTHON), "-m", "bench.vllm_gpu", *sys.argv[1:]], environment)
    if why := cannot_run(arguments.cpu):
        sys.exit(why)
    os.environ.update(SETTINGS)
    figures = run(arguments)
    for name, aim in AIMS.items():
        if (ratio := figures["ratios"].get(name)) is not None and not arguments.cpu:
            print(f"{name}: {ratio['ratio']:.4f}, aim {aim}: {'met' if ratio['ratio'] >= aim else 'missed'}")
    print(json.dumps(figures))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="a folder, or a name on the Hugging Face Hub")
    parser.add_argument("--dtype", default="bfloat16", help="of both engines; float32 compares tokens best")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--group", type=int, default=16, help="draws a group")
    parser.add_argument("--tokens", type=int, default=256, help="of each request")
    parser.add_argument("--memory", type=float, default=0.3, help="share of the GPU for each of two vLLM engines")
    parser.add_argument("--asks", type=int, default=59, help="to compare with the local engine")
    parser.add_argument("--async-scheduling", action="store_true")
    parser.add_argument("--cpu", action="store_true", help="rehearse on a CPU, with everything small")
    arguments = parser.parse_args()
    if arguments.cpu:
        small = {"model": "tiny", "dtype": "float32", "rounds": 1, "groups": 2, "group": 4, "tokens": 8, "asks": 8}
        vars(arguments).update(small)
    return arguments


def cannot_run(on_cpu: bool) -> str:
    """Return why this machine cannot do it, "" if it can."""
    if not on_cpu:
        has_torch = importlib.util.find_spec("torch") is not None
        if not has_torch or not importlib.import_module("torch").cuda.is_available():
            return "torch finds no GPU here, and this measures one: add --cpu to rehearse without"
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed here: pip install vllm, or make test-vllm for the one that --cpu uses"
    return ""


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from bench.about import about, rounded

    started = time.monotonic()
    torch = importlib.import_module("torch")
    engine_class = importlib.import_module("vllm.v1.engine.llm_engine").LLMEngine
    engine_args = importlib.import_module("vllm").EngineArgs
    num = arguments.groups * arguments.group
    options: dict[str, Any] = {
        "dtype": arguments.dtype,
        "max_model_len": 256 + (0 if arguments.cpu else arguments.tokens),
        "max_num_seqs": num,
        "async_scheduling": arguments.async_scheduling,
        "enforce_eager": arguments.cpu,
        **({} if arguments.cpu else {"gpu_memory_utilization": arguments.memory}),
    }
    text = ", ".join(f"{name}={value!r}" for name, value in options.items())
    inside = build("engine", f"vllm({arguments.model!r}, in_process=True, {text})")
    with asyncio.Runner() as runner:
        runner.run(inside.open())
        tokens = {}
        if not arguments.async_scheduling:  # some of the asks explore
            device = "cpu" if arguments.cpu else "cuda"
            local = build("engine", f"local({arguments.model!r}, device={device!r}, dtype={arguments.dtype!r})")
            tokens = runner.run(against_local(inside, local, arguments.asks))
            print(f"the same tokens on {tokens['same_tokens']} of {tokens['asks']} asks")
            runner.run(local.close())
            del local  # its memory is for the second vLLM
            gc.collect()
        if not arguments.cpu:
            torch.cuda.empty_cache()
        ours = inside._client._engine
        bridge = ("worker_cls", "logits_processors", "additional_config")
        stock = engine_class.from_engine_args(
            engine_args(**{name: value for name, value in inside._options.items() if name not in bridge})
        )
        ids = [inside._language.prompt((Message("user", text),)) for text in QUESTIONS]
        idle = compared(
            {
                "idle": lambda number: drawn(ours, ids, arguments, "", number),
                "stock": lambda number: drawn(stock, ids, arguments, "", 1000 + number),
            },
            arguments.rounds,
        )
        kinds = ("", *ROWS, *(() if arguments.async_scheduling else POLICIES))
        rates = compared(
            {
                kind: lambda number, kind=kind: drawn(ours, ids, arguments, kind, 2000 + number)  # type: ignore[misc]
                for kind in kinds
            },
            arguments.rounds,
        )
        runner.run(inside.close())
        stock.engine_core.shutdown()
    found = {**ratios(idle, "stock"), **ratios(rates, "")}
    for name, ratio in found.items():
        print(f"{name:14} {ratio['ratio']:.4f} ({ratio['ratio_low']:.4f} to {ratio['ratio_high']:.4f})")
    figures = {
        **about("vllm_gpu", SEED, started),
        "rehearsal": arguments.cpu,
        "gpu": None if arguments.cpu else torch.cuda.get_device_name(),
        "model": arguments.model,
        "runs": inside.runtime()["runs"],
        "vllm": inside.runtime()["vLLM"],
        **{name: getattr(arguments, name) for name in ("rounds", "groups", "group", "tokens", "async_scheduling")},
        "tokens_per_s": sorted(rate.clock for rate in rates[""])[arguments.rounds // 2],
    }
    exact = {name: value if isinstance(value, int) else float(f"{value:.2e}") for name, value in tokens.items()}
    shown = {name: {k: round(v, 5) for k, v in ratio.items() if math.isfinite(v)} for name, ratio in found.items()}
    return {**rounded(figures), "compared": exact, "ratios": shown}


if __name__ == "__main__":
    main()
