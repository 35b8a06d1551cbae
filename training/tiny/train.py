"""Train the tiny model from random weights: `python -m training.tiny.train --out DIR`.

Matrices inside the blocks are trained by Muon, everything else by AdamW; the loss is on response tokens only.
The same seed gives the same rows in the same order, and on the same machine the same weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from . import tokenizer as language
from .puzzles import rows

BUNDLED = Path(__file__).parents[2] / "src" / "samplewise" / "models" / "tiny"
IGNORE = -100
BUCKETS = (24, 30, 36, 48, 72)  # padded lengths; a batch has rows of one length class
CHUNK = 32_768  # rows generated at a time


def build(hidden: int = 128, layers: int = 6, heads: int = 4, inner: int = 384) -> LlamaForCausalLM:
    """A model with random weights; what writes into the residual stream starts at zero."""
    vocab = language.vocabulary()
    config = LlamaConfig(  # type: ignore[call-arg]
        vocab_size=len(vocab),
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=256,
        rope_theta=10_000.0,
        tie_word_embeddings=False,
        bos_token_id=vocab["<s>"],
        eos_token_id=vocab["</s>"],
        pad_token_id=vocab["<pad>"],
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.zeros_(weight)
    return model


# ---------------------------------------------------------------------------------------------------------------- data


def batches(seed: int, tokens: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of (inputs, labels) without end, about `tokens` tokens each, beginning with batch `start`."""
    vocab = language.vocabulary()
    pad = vocab["<pad>"]
    chunk = number = 0
    while True:
        rng = np.random.default_rng([seed, chunk, 1])
        by_length: dict[int, list[tuple[list[int], int]]] = {length: [] for length in BUCKETS}
        for row in rows(CHUNK, (seed, chunk)):
            ids, prompt = language.encode(row, vocab)
            fitting = [length for length in BUCKETS if length >= len(ids) - 1]
            if fitting:
                by_length[fitting[0]].append((ids, prompt))
        plan = []
        for length, examples in by_length.items():
            size = max(1, tokens // length)
            plan += [(length, examples[i : i + size]) for i in range(0, len(examples) - size + 1, size)]
        for i in rng.permutation(len(plan)):
            number += 1
            if number <= start:
                continue
            length, examples = plan[i]
            full = np.full((len(examples), length + 1), pad, dtype=np.int64)
            labels = np.full((len(examples), length), IGNORE, dtype=np.int64)
            for r, (ids, prompt) in enumerate(examples):
                full[r, : len(ids)] = ids
                labels[r, prompt - 1 : len(ids) - 1] = ids[prompt:]
            yield torch.from_numpy(full[:, :-1].copy()), torch.from_numpy(labels)
        chunk += 1


# ----------------------------------------------------------------------------------------------------------- optimiser


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearly the closest orthogonal matrix to each of a stack, by a Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.size(-2) > matrices.size(-1)
    x: Tensor = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, for matrices; equal shapes are handled as one stack."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.01) -> None:
        shapes: dict[torch.Size, list[nn.Parameter]] = {}
        for param in params:
            shapes.setdefault(param.shape, []).append(param)
        super().__init__(
            [{"params": group} for group in shapes.values()], {"lr": lr, "momentum": momentum, "decay": decay}
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every matrix."""
        for group in self.param_groups:
            params, lr, momentum = group["params"], group["lr"], group["momentum"]
            grads = torch.stack([param.grad for param in params])
            state = self.state[params[0]]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(grads)
            average = state["momentum"].lerp_(grads, 1 - momentum)
            update = orthogonal(grads.lerp(average, momentum))
            scale = max(1.0, update.size(-2) / update.size(-1)) ** 0.5
            for param, change in zip(params, update, strict=True):
                param.mul_(1 - lr * group["decay"]).add_(change, alpha=-lr * scale)


def optimisers(model: nn.Module, muon: float, adam: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings, head and norms."""
    inside = [p for name, p in model.named_parameters() if "layers." in name and p.ndim == 2]
    chosen = {id(p) for p in inside}
    outside = [p for p in model.parameters() if id(p) not in chosen]
    return [Muon(inside, muon), torch.optim.AdamW(outside, adam, betas=(0.9, 0.95), weight_decay=0.0)]


def schedule(step: int, steps: int, warmup: int = 60, flat: float = 5 / 12) -> float:
    """Learning-rate factor: a short rise, a plateau, a straight line down to zero."""
    rise = min(1.0, (step + 1) / warmup)
    return rise * min(1.0, (steps - step) / (steps * (1 - flat)))


# ------------------------------------------------------------------------------------------------------------ training


def response_loss(model: LlamaForCausalLM) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean cross-entropy of response tokens, as a function of a batch."""

    def loss(inputs: Tensor, labels: Tensor) -> Tensor:
        logits = model(input_ids=inputs, use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)

    return loss


def export(model: LlamaForCausalLM, out: Path) -> None:
    """Write the checkpoint as a Hugging Face folder, file by file atomically."""
    fresh = out.parent / f".{out.name}.writing"
    shutil.rmtree(fresh, ignore_errors=True)
    model.config.architectures = ["LlamaForCausalLM"]
    model.save_pretrained(fresh, safe_serialization=True)
    tokenizer = language.build()
    tokenizer.save_pretrained(fresh)
    settings = json.loads((fresh / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name that every version of transformers knows
    settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    settings.pop("backend", None)
    (fresh / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        max_new_tokens=64,
    ).save_pretrained(fresh)
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(fresh.iterdir()):
        path.chmod(0o644)
        path.replace(out / path.name)
    fresh.rmdir()


def train(
    model: LlamaForCausalLM,
    out: Path,
    *,
    steps: int,
    seed: int = 24,
    tokens: int = 7_680,
    muon: float = 0.02,
    adam: float = 4e-3,
    compiled: bool = True,
    save_every: int = 200,
    resume: bool = False,
) -> list[float]:
    """Train the model and write it to `out`; returns the loss of every step done here."""
    optimizers = optimisers(model, muon, adam)
    saved, start, spent, seen = out / "training.pt", 0, 0.0, 0
    if resume and saved.exists():
        state = torch.load(saved)
        model.load_state_dict(state["model"])
        for optimizer, part in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(part)
        start, spent, seen = state["step"], state["spent"], state["seen"]
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    if resume and start:
        peaks = [[muon] * len(optimizers[0].param_groups), [adam]]
    loss_of = response_loss(model)
    if compiled:
        loss_of = torch.compile(loss_of, dynamic=False)
    losses: list[float] = []
    began = time.perf_counter()
    data = batches(seed, tokens, start)
    for step in range(start, steps):
        inputs, labels = next(data)
        loss = loss_of(inputs, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        factor = schedule(step, steps)
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seen += inputs.numel()
        if (step + 1) % 25 == 0 or step + 1 == steps:
            wall = spent + time.perf_counter() - began
            recent = float(np.mean(losses[-25:]))
            print(f"step {step + 1}/{steps}  loss {recent:.4f}  tokens {seen}  wall {wall:.0f} s", flush=True)
        if (step + 1) % save_every == 0 and step + 1 < steps:
            out.mkdir(parents=True, exist_ok=True)
            state = {
                "model": model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": step + 1,
                "spent": spent + time.perf_counter() - began,
                "seen": seen,
            }
            torch.save(state, saved.with_suffix(".writing"))
            saved.with_suffix(".writing").replace(saved)
            export(model, out)
    export(model, out)
    saved.unlink(missing_ok=True)
    return losses


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=BUNDLED, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=2_400)
    parser.add_argument("--seed", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=7_680, help="tokens of one batch")
    parser.add_argument("--muon", type=float, default=0.02, help="learning rate of the matrices")
    parser.add_argument("--adam", type=float, default=4e-3, help="learning rate of the rest")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved step")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)  # noqa: TID251 - transformers draws first weights from the global generator
    model = build()
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    train(
        model,
        args.out,
        steps=args.steps,
        seed=args.seed,
        tokens=args.tokens,
        muon=args.muon,
        adam=args.adam,
        compiled=not args.no_compile,
        resume=args.resume,
    )


if __name__ == "__main__":
    main()
