"""Measure a checkpoint on held-out Game of 24 puzzles: `python -m training.tiny.evaluate`.

Prints pass@k without bias, averaged over puzzles, each with a 95 % interval from a bootstrap over puzzles.
"""

from __future__ import annotations

import argparse
import json
import random  # noqa: TID251 - only seeded instances
import re
import time
from collections import Counter
from collections.abc import Sequence
from itertools import combinations_with_replacement
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from samplewise.core.types import Candidate
from samplewise.engines.local.forward import cache_argument
from samplewise.tasks.game24 import puzzle_question as question
from samplewise.verify.puzzle import puzzle

from .puzzles import ADJECTIVES, ASKED, FIRST, GOAL, NOUNS, OPS, REMARKS, REPHRASE, ROLES, SPOKEN, STYLES, ask, solvable

BUNDLED = Path(__file__).parents[2] / "src" / "samplewise" / "models" / "tiny"
KS = (1, 4, 16, 64, 100)
STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
VERIFY = puzzle()
FAMILIES = (
    "plain",
    *(f"prefer {op}" for op in OPS),
    "start with",
    "remark",
    *ASKED.values(),
    "repetition",
    "system",
)


def held_out() -> list[tuple[int, ...]]:
    """Every solvable Game of 24 puzzle: 1,362 of them."""
    return [numbers for numbers in combinations_with_replacement(range(1, 14), 4) if solvable(numbers)]


def check(numbers: Sequence[int], response: str, target: int = GOAL) -> str:
    """A strict reading: `right`, or the first fault: `format`, `number`, `arithmetic`, `unused`, `target`."""
    for op, spoken in SPOKEN.items():
        response = response.replace(f" {spoken} ", f" {op} ")
    response = re.sub(r" \( left [\d ]*\)", "", response.replace(" is ", " = ").replace(", then ", ", "))
    left = list(numbers)
    for part in response.split(" , "):
        match = STEP.fullmatch(part)
        if not match:
            return "format"
        a, b, result = int(match[1]), int(match[3]), int(match[4])
        for operand in (a, b):
            if operand not in left:
                return "number"
            left.remove(operand)
        exact = {"+": a + b == result, "-": a - b == result, "*": a * b == result, "/": b * result == a and b != 0}
        if not exact[match[2]]:
            return "arithmetic"
        left.append(result)
    if len(left) > 1:
        return "unused"
    return "right" if left == [target] else "target"


def is_right(numbers: Sequence[int], response: str) -> bool:
    """The verdict of the package's own checker."""
    return VERIFY(question(tuple(numbers)), Candidate(response)).value == 1.0


def style(response: str) -> str:
    """Which of the three styles a response is in."""
    return "left" if " left " in response else "words" if " is " in response else "brief"


def messages(family: str, numbers: Sequence[int], rng: random.Random) -> list[dict[str, str]]:
    """The chat of one puzzle under one family of hints; a first step is drawn without looking at solutions."""
    plain = ask(numbers, GOAL)

    def filled(templates: Sequence[str]) -> str:
        text = rng.choice(templates).replace("{t}", "today")
        return re.sub(r"\{.\}", lambda place: rng.choice(NOUNS if place[0] == "{n}" else ADJECTIVES), text)

    if family == "system":
        return [{"role": "system", "content": filled(ROLES)}, {"role": "user", "content": plain}]
    if family == "start with":
        a, b = sorted(rng.sample(list(numbers), 2), reverse=True)
        hint = f"start with {a} {rng.choice('+-*/' if a % b == 0 else '+-*')} {b}"
    else:
        hint = {"plain": "", "remark": filled(REMARKS), "repetition": plain}.get(family, family)
    if family in (FIRST, REPHRASE):
        return [{"role": "user", "content": f"{family} {plain}"}]
    return [{"role": "user", "content": f"{plain} . {hint}" if hint else plain}]


@torch.inference_mode()
def draw(
    model: Any, prompts: torch.Tensor, temperature: float, generator: torch.Generator, limit: int = 56
) -> torch.Tensor:
    """Sampled continuations of prompts of one length, padded once they end; rows that ended leave the batch."""
    eos, pad = model.config.eos_token_id, model.config.pad_token_id
    out = torch.full((len(prompts), limit), pad)
    rows = torch.arange(len(prompts))
    cached, cache, step = cache_argument(model), DynamicCache(config=model.config), prompts
    for at in range(limit):
        logits = model(input_ids=step, use_cache=True, logits_to_keep=1, **{cached: cache}).logits[:, -1]
        step = torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=generator)
        out[rows, at] = step[:, 0]
        alive = out[rows, at] != eos
        if not alive.any():
            break
        if alive.float().mean() < 0.9:
            keep = alive.nonzero()[:, 0]
            rows, step = rows[keep], step[keep]
            cache.batch_select_indices(keep)
    ended = (out == eos).cumsum(dim=1) - (out == eos).int() > 0
    return out.masked_fill(ended, pad)


def respond(
    model: Any,
    tokenizer: Any,
    chats: Sequence[list[dict[str, str]]],
    samples: int,
    temperature: float,
    seed: int,
    rows: int = 1_024,
) -> list[list[str]]:
    """`samples` responses to each chat."""
    prompts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) for chat in chats]
    generator = torch.Generator().manual_seed(seed)
    texts: list[list[str]] = [[] for _ in chats]
    for length in sorted({len(prompt) for prompt in prompts}):
        which = [i for i, prompt in enumerate(prompts) if len(prompt) == length for _ in range(samples)]
        for at in range(0, len(which), rows):
            part = which[at : at + rows]
            ids = draw(model, torch.tensor([prompts[i] for i in part]), temperature, generator)
            for i, text in zip(part, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
                texts[i].append(text)
    return texts


def pass_at(k: int, drawn: int, right: int) -> float:
    """The chance that k of the drawn responses, picked without replacement, hold a right one."""
    return 1.0 - comb(drawn - right, k) / comb(drawn, k)


def interval(values: Sequence[float], seed: int = 0, resamples: int = 2_000) -> tuple[float, float]:
    """95 % interval of a mean, by a bootstrap over puzzles."""
    data = np.asarray(values)
    picks = np.random.default_rng(seed).integers(0, len(data), (resamples, len(data)))
    low, high = np.quantile(data[picks].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def measure(
    model: Any,
    tokenizer: Any,
    puzzles: Sequence[tuple[int, ...]],
    family: str,
    temperature: float,
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """Figures of one family at one temperature."""
    rng = random.Random(seed)
    dealt = [tuple(rng.sample(numbers, 4)) for numbers in puzzles]
    texts = respond(model, tokenizer, [messages(family, numbers, rng) for numbers in dealt], samples, temperature, seed)
    verdicts = [[check(numbers, text) for text in part] for numbers, part in zip(dealt, texts, strict=True)]
    graded = [[is_right(numbers, text) for text in part] for numbers, part in zip(dealt, texts, strict=True)]
    flat = Counter(verdict for part in verdicts for verdict in part)
    styles = Counter(style(text) for part in texts for text in part)
    total = flat.total()
    figures: dict[str, Any] = {
        "family": family,
        "temperature": temperature,
        "puzzles": len(puzzles),
        "samples": samples,
    }
    for k in KS:
        if k <= samples:
            values = [pass_at(k, samples, sum(part)) for part in graded]
            figures[f"pass@{k}"] = (float(np.mean(values)), *interval(values))
    figures["verdicts"] = {name: count / total for name, count in flat.most_common()}
    figures["styles"] = {name: count / total for name, count in styles.most_common()}
    strict = [verdict == "right" for part in verdicts for verdict in part]
    figures["graders agree"] = float(np.mean(np.array(strict) == np.array(graded).ravel()))
    figures["distinct"] = float(np.mean([len(set(part)) / len(part) for part in texts]))
    return figures


def helper(model: Any, tokenizer: Any, puzzles: Sequence[tuple[int, ...]], samples: int, seed: int) -> dict[str, float]:
    """Shares of well-formed first steps and of true permutations."""
    rng = random.Random(seed)
    dealt = [tuple(rng.sample(numbers, 4)) for numbers in puzzles]
    steps = respond(model, tokenizer, [messages(FIRST, numbers, rng) for numbers in dealt], samples, 1.0, seed)
    again = respond(model, tokenizer, [messages(REPHRASE, numbers, rng) for numbers in dealt], samples, 1.0, seed)

    def is_step(numbers: Sequence[int], text: str) -> bool:
        match = re.fullmatch(r"(\d+) [-+*/] (\d+)", text)
        return match is not None and not Counter(map(int, match.groups())) - Counter(numbers)

    def is_permutation(numbers: Sequence[int], text: str) -> bool:
        match = re.fullmatch(rf"make {GOAL} from ([\d ]+)", text)
        return match is not None and sorted(map(int, match[1].split())) == sorted(numbers)

    return {
        "first step well formed": float(
            np.mean([is_step(n, text) for n, part in zip(dealt, steps, strict=True) for text in part])
        ),
        "rephrase is a permutation": float(
            np.mean([is_permutation(n, text) for n, part in zip(dealt, again, strict=True) for text in part])
        ),
    }


def show(figures: dict[str, Any]) -> str:
    """One line of Markdown."""
    cells = [figures["family"], f"{figures['temperature']:g}"]
    for k in KS:
        if f"pass@{k}" in figures:
            mean, low, high = figures[f"pass@{k}"]
            cells.append(f"{mean:.3f} [{low:.3f}, {high:.3f}]")
    cells.append(" / ".join(f"{figures['styles'].get(name, 0):.2f}" for name in STYLES))
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=BUNDLED)
    parser.add_argument("--puzzles", type=int, default=150)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--temperatures", nargs="*", type=float, default=[1.0, 0.6, 0.25], help="of the plain prompt")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write all figures here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.checkpoint)
    model: Any = AutoModelForCausalLM.from_pretrained(args.checkpoint, dtype=torch.float32)
    model.eval()
    every = held_out()
    chosen = random.Random(args.seed).sample(every, min(args.puzzles, len(every)))
    print(f"{len(chosen)} of {len(every)} held-out puzzles, {args.samples} responses each", flush=True)
    head = ["prompt", "T", *(f"pass@{k}" for k in KS if k <= args.samples), "brief / left / words"]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
    record = []
    began = time.perf_counter()
    for family in args.families:
        for temperature in args.temperatures if family == "plain" else [1.0]:
            record.append(measure(model, tokenizer, chosen, family, temperature, args.samples, args.seed))
            print(show(record[-1]), flush=True)
    print(
        f"verdicts of {record[0]['family']}:", {name: round(share, 3) for name, share in record[0]["verdicts"].items()}
    )
    print("strict check agrees with the package's grader:", min(figures["graders agree"] for figures in record))
    print("distinct share:", round(record[0]["distinct"], 3))
    shares = helper(model, tokenizer, chosen, 8, args.seed)
    print("helper:", {name: round(share, 3) for name, share in shares.items()})
    print(f"{time.perf_counter() - began:.0f} s")
    if args.json:
        args.json.write_text(json.dumps({"figures": record, "helper": shares}, indent=1) + "\n")


if __name__ == "__main__":
    main()
