"""Train a branching-paths model from random weights: `python -m training.branches.train --seed 1 --out FOLDER`.

A Llama of .39M parameters, 1,600 batches of 64 responses, AdamW with a cosine, one thread: about a minute on a quiet
core. The same seed on the same machine gives the same weights. The seed makes the world as well as the weights, so a
bench can choose settings in one world and score them in others.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from samplewise.core.keys import Key

from .world import LENGTH, PROMPTS, VOCAB, entropy_bound, rows, world

BATCHES, SIZE, RATE, WARM_UP = 1600, 64, 2e-3, 50


def build(seed: int) -> Any:
    """A model with random weights, drawn from a generator of its own."""
    config = LlamaConfig(  # type: ignore[call-arg]
        vocab_size=VOCAB,
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LENGTH + 4,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(Key(seed).fold("weights").seed())
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.02, generator=generator)
    return model


def train(seed: int, batches: int = BATCHES, quiet: bool = False) -> tuple[Any, float]:
    """A trained model in evaluation mode, and its mean loss over the last 50 batches (nats a token)."""
    model, place = build(seed), world(seed)
    rng = Key(seed).fold("rows").generator()
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    last: list[float] = []
    for batch in range(batches):
        rate = RATE * min(1.0, (batch + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * batch / batches))
        for group in optimiser.param_groups:
            group["lr"] = rate
        tokens = torch.from_numpy(rows(place, rng, SIZE))
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        last = [*last[-49:], float(loss.detach())]
        if not quiet and batch % 200 == 0:
            print(f"batch {batch:5d}  loss {last[-1]:.3f}  (no less than {entropy_bound(place):.3f})", flush=True)
    model.train(False)
    return model, sum(last) / len(last)


def made(seed: int, folder: Path) -> Any:
    """The model of a seed from `folder`, trained and saved there where it is not."""
    path = folder / f"branches-{seed}"
    if not (path / "made.json").exists():
        started = time.monotonic()
        model, loss = train(seed)
        model.save_pretrained(path)
        about = {"seed": seed, "loss": loss, "bound": entropy_bound(world(seed)), "prompts": PROMPTS}
        (path / "made.json").write_text(json.dumps({**about, "seconds": round(time.monotonic() - started, 1)}))
    return LlamaForCausalLM.from_pretrained(path).train(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the folder that branches-SEED goes into")
    args = parser.parse_args()
    torch.set_num_threads(1)
    made(args.seed, args.out)
    print((args.out / f"branches-{args.seed}" / "made.json").read_text())


if __name__ == "__main__":
    main()
