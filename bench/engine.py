"""Tokens per second of the local engine beside `model.generate` of transformers: `python bench/engine.py`.

Asks: 64 questions, 16 samples of each. Useful tokens are counted on every side: those up to and with the end token, or
up to the ask's own `max_tokens`. Sides take turns within one process, on the same questions, which are new ones in each
round. A ratio is the median over rounds, and its interval the lowest and the highest of them; of six rounds or more,
these hold the median ratio between them with 97 %.

- `batch`: one `generate` over all 1024 rows, padded on the left, up to the longest `max_tokens`.
- `each`: one `generate` per question with 16 return sequences, as research code does it.
- tiny: the bundled model on Game of 24 puzzles; it ends its responses itself.
- llama25m: a Llama of 25 million random weights. It has no natural end, so each ask has its own `max_tokens`, 8 to 40,
  and prompts are 6 to 24 tokens long; `generate` runs every row to 40.

`matmul_share` is 2 floating-point operations for each weight of a matrix and each new token, over the time, as a share
of what `torch.mm` reaches on large float32 squares in this run.

Each side runs in a thread that ends with it, and libgomp's threads spin as briefly as the engine would have it (see
engines/local): both keep a busy machine from slowing down either side by much more than its share.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from samplewise.engines.local import local
from samplewise.models import SPIN_COUNT

os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # before torch is loaded

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from samplewise.core.keys import Key
from samplewise.core.types import Generate, Message
from samplewise.models import TINY
from samplewise.tasks.game24 import game24

QUESTIONS, SAMPLES = 64, 16
TINY_TOKENS = 64
SHORTEST, LONGEST = 8, 40
WORDS = 2048
hugging: Any = transformers


class Run(NamedTuple):
    tokens: int  # useful ones
    seconds: float

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


class Ratio(NamedTuple):
    median: float
    low: float
    high: float


class Side(NamedTuple):
    """The same questions as every side gets them."""

    asks: list[Generate]
    prompts: list[list[int]]  # one a question


def ours(engine: Any, side: Side) -> Run:
    async def collect() -> int:
        return sum([arrival.completion.usage.completion_tokens async for arrival in engine.answer(side.asks)])

    start = time.perf_counter()
    tokens = asyncio.run(collect())
    return Run(tokens, time.perf_counter() - start)


def padded(prompts: Sequence[Sequence[int]], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    return ids, mask


def generated(model: Any, side: Side, stops: Sequence[int], per_call: int, device: str) -> Run:
    """`generate` for `per_call` questions at a time, 16 sequences of each."""
    longest = max(ask.max_tokens for ask in side.asks)
    settings = hugging.GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=longest,
        num_return_sequences=SAMPLES,
        eos_token_id=list(stops) or None,
        pad_token_id=0,
    )
    start = time.perf_counter()
    tokens = 0
    for first in range(0, len(side.prompts), per_call):
        prompts = side.prompts[first : first + per_call]
        ids, mask = padded(prompts, device)
        new = model.generate(ids, attention_mask=mask, generation_config=settings)[:, ids.shape[1] :]
        asks = side.asks[first * SAMPLES : (first + len(prompts)) * SAMPLES]
        tokens += useful(new, stops, [ask.max_tokens for ask in asks])
    return Run(tokens, time.perf_counter() - start)


def useful(new: torch.Tensor, stops: Sequence[int], limits: Sequence[int]) -> int:
    ended = torch.isin(new, torch.tensor(list(stops), dtype=new.dtype, device=new.device))
    before = ended.long().cumsum(1) - ended.long()
    counts = (before == 0).sum(1).cpu()
    return int(torch.minimum(counts, torch.tensor(limits)).sum())


def ratio(over: Sequence[Run], under: Sequence[Run]) -> Ratio:
    values = sorted(a.rate / b.rate for a, b in zip(over, under, strict=True))
    return Ratio(statistics.median(values), values[0], values[-1])


def matmul_rate(device: str, size: int = 2048) -> float:
    """Floating-point operations a second of a large float32 product: the best of ten."""
    a, b = torch.randn(2, size, size, device=device)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        float((a @ b)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def matrix_weights(model: Any) -> int:
    looked_up = model.get_input_embeddings().weight
    tied = model.get_output_embeddings().weight is looked_up
    return sum(p.numel() for p in model.parameters() if p.ndim > 1 and (p is not looked_up or tied))


# ------------------------------------------------------------------------------------------------------- two models


def puzzles(engine: Any, round_: int) -> Side:
    problems = game24("all").problems
    chosen = [problems[(round_ * QUESTIONS + i) % len(problems)].question for i in range(QUESTIONS)]
    asks = [
        Generate(q.messages, max_tokens=TINY_TOKENS, seed=Key(round_).fold(q.id, s).seed())
        for q in chosen
        for s in range(SAMPLES)
    ]
    tokenizer = engine.checkpoint.tokenizer
    prompts = [encoded(tokenizer, q.messages) for q in chosen]
    return Side(asks, prompts)


def encoded(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    turns = [{"role": m.role, "content": m.content} for m in messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def ragged(engine: Any, round_: int) -> Side:
    rng = Key(round_).fold("ragged").generator()
    prompts = [rng.integers(1, WORDS, size=rng.integers(6, 25)).tolist() for _ in range(QUESTIONS)]
    limits = rng.integers(SHORTEST, LONGEST + 1, size=QUESTIONS * SAMPLES).tolist()
    limits[-1] = LONGEST
    asks = [
        Generate((Message("user", " ".join(f"w{i}" for i in prompts[n // SAMPLES])),), max_tokens=limit, seed=n)
        for n, limit in enumerate(limits)
    ]
    return Side(asks, prompts)


def write_llama(folder: Path) -> None:
    config = hugging.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=7,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    hugging.utils.logging.disable_progress_bar()
    hugging.LlamaForCausalLM(config).save_pretrained(folder)
    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    hugging.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="w0", unk_token="w0").save_pretrained(folder)


class Figures(NamedTuple):
    over_batch: Ratio
    over_each: Ratio | None
    rate: float
    share: float
    weights: int


def compare(source: str, sides: Any, rounds: int, device: str, ceiling: float, each: bool) -> Figures:
    engine = local(source, device=device)
    place = str(TINY) if source == "tiny" else source
    dtype = engine.checkpoint.model.dtype
    with ThreadPoolExecutor(1) as apart:
        loading = apart.submit(hugging.AutoModelForCausalLM.from_pretrained, place, dtype=dtype)
        model = loading.result().to(device).eval()
    stops = engine.checkpoint.stops
    runs: dict[str, list[Run]] = {"ours": [], "batch": [], "each": []}
    for number in range(-1, rounds):  # the first round warms up
        side = sides(engine, number + 1)
        take = {
            "ours": lambda side=side: ours(engine, side),
            "batch": lambda side=side: generated(model, side, stops, QUESTIONS, device),
        }
        if each:
            take["each"] = lambda side=side: generated(model, side, stops, 1, device)
        names = list(take)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            with ThreadPoolExecutor(1) as apart:
                run = apart.submit(take[name]).result()
            if number >= 0:
                runs[name].append(run)
                print(f"  round {number + 1} {name:6} {run.tokens:7} tokens {run.seconds:7.2f} s {run.rate:9.0f}/s")
                sys.stdout.flush()
    asyncio.run(engine.close())
    weights = matrix_weights(model)
    rate = statistics.median(run.rate for run in runs["ours"])
    return Figures(
        over_batch=ratio(runs["ours"], runs["batch"]),
        over_each=ratio(runs["ours"], runs["each"]) if each else None,
        rate=rate,
        share=2 * weights * rate / ceiling,
        weights=weights,
    )


def measure(device: str, rounds: int) -> dict[str, Any]:
    with ThreadPoolExecutor(1) as apart:
        ceiling = apart.submit(matmul_rate, device).result()
    print(f"{device}: matrix products reach {ceiling / 1e9:.0f} GFLOP/s in float32")
    print("tiny:")
    tiny = compare("tiny", puzzles, rounds, device, ceiling, each=True)
    print(f"llama25m, max_tokens {SHORTEST} to {LONGEST} by ask, generate to {LONGEST}:")
    with tempfile.TemporaryDirectory() as folder:
        write_llama(Path(folder))
        llama = compare(folder, ragged, rounds, device, ceiling, each=False)
    assert tiny.over_each is not None
    found = {
        **named("tiny_over_batch", tiny.over_batch),
        **named("tiny_over_each", tiny.over_each),
        **named("llama25m_over_batch", llama.over_batch),
        "tiny_tokens_per_s": round(tiny.rate),
        "llama25m_tokens_per_s": round(llama.rate),
        "matmul_share": round(llama.share, 3),
        "tiny_matmul_share": round(tiny.share, 3),
        "matmul_gflops": round(ceiling / 1e9, 1),
        "llama25m_weights": llama.weights,
    }
    print(f"tiny: {tiny.rate:.0f} tokens/s, {text(tiny.over_batch)} times one generate over the batch,")
    print(f"      {text(tiny.over_each)} times one generate per question; {tiny.share:.0%} of the matmul ceiling")
    print(f"llama25m: {llama.rate:.0f} tokens/s, {text(llama.over_batch)} times one generate over the batch;")
    print(f"      {llama.share:.0%} of the matmul ceiling")
    return found


def named(name: str, value: Ratio) -> dict[str, float]:
    return {name: round(value.median, 2), f"{name}_low": round(value.low, 2), f"{name}_high": round(value.high, 2)}


def text(value: Ratio) -> str:
    return f"{value.median:.2f} ({value.low:.2f} to {value.high:.2f})"


def machine() -> dict[str, Any]:
    names = [platform.processor()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "cpu": names[0] if names else "", "gpu": gpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    start = time.perf_counter()
    found = measure("cpu", arguments.rounds)
    gpu = measure("cuda", arguments.rounds) if torch.cuda.is_available() else None
    report = {
        "bench": "engine",
        "seed": 0,
        **found,
        "gpu": gpu,
        "rounds": arguments.rounds,
        "seconds": round(time.perf_counter() - start, 1),
        "machine": machine(),
        "version": importlib.metadata.version("samplewise"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
