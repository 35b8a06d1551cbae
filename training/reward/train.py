"""Train the tiny reward model: `python -m training.reward.train`.

It begins as the first layers of the tiny model, which know the arithmetic, and learns to say at the end of a response
whether it is right. A second head, thrown away afterwards, learns which steps are sound; it only helps the first one.

The blocks are those of Llama with LayerNorm in the place of RMSNorm, `StableLmForSequenceClassification`: the norm
before the score has a bias, so a fitted calibration, a scale and a bias, can be folded into the weights. The weights of
the tiny model carry over exactly but for one direction of 128, the mean, which LayerNorm takes out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, StableLmConfig, StableLmForSequenceClassification

from samplewise.core.numerics import Floats
from samplewise.models import TINY
from training.tiny import tokenizer as language
from training.tiny.train import optimisers, schedule

from .data import WORK, Draw, load, split_of
from .rows import PAD, Batch, batches, collate, example

BUNDLED = TINY.parent / "reward"
LAYERS = 3
STEPS_WEIGHT = 0.5  # of the loss of the second head


def cut(layers: int = LAYERS) -> StableLmForSequenceClassification:
    """The first layers of the tiny model with a score of 0 on top."""
    tiny = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    old = tiny.config
    config = StableLmConfig(  # type: ignore[call-arg]
        vocab_size=old.vocab_size,
        hidden_size=old.hidden_size,
        intermediate_size=old.intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=old.num_attention_heads,
        num_key_value_heads=old.num_key_value_heads,
        max_position_embeddings=old.max_position_embeddings,
        layer_norm_eps=old.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
        bos_token_id=old.bos_token_id,
        eos_token_id=old.eos_token_id,
        pad_token_id=old.pad_token_id,
        num_labels=1,
        use_cache=False,
    )
    model: StableLmForSequenceClassification = StableLmForSequenceClassification(config)  # type: ignore[no-untyped-call]
    known = {name: weight for name, weight in tiny.state_dict().items() if name in model.state_dict()}
    for name, weight in known.items():
        if name.endswith("embed_tokens.weight"):
            known[name] = weight - weight.mean(dim=1, keepdim=True)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            known[name] = weight - weight.mean(dim=0, keepdim=True)
    model.load_state_dict(known, strict=False)
    nn.init.zeros_(model.score.weight)
    return model


def loss_of(model: StableLmForSequenceClassification, steps: nn.Linear, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy (nats) of the verdicts, and of the soundness of the steps."""
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
    last = batch.ids.ne(PAD).sum(dim=1) - 1
    logits = model.score(hidden[torch.arange(len(last)), last])[:, 0]
    verdict = F.binary_cross_entropy_with_logits(logits, batch.right)
    sound = steps(hidden[batch.rows, batch.places])[:, 0]
    return verdict, F.binary_cross_entropy_with_logits(sound, batch.sound)


@torch.inference_mode()
def logits_of(model: StableLmForSequenceClassification, draws: Sequence[Draw], rows: int = 512) -> Floats:
    """The raw score (N,) of every draw."""
    examples = [example(draw) for draw in draws]
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))
    found = np.empty(len(examples))
    for at in range(0, len(order), rows):
        part = order[at : at + rows]
        batch = collate([examples[i] for i in part])
        found[part] = model(input_ids=batch.ids, attention_mask=batch.ids.ne(PAD).long()).logits[:, 0].numpy()
    return found


# --------------------------------------------------------------------------------------------------------- calibration


def platt(logits: Floats, right: Floats) -> tuple[float, float]:
    """The scale and bias with which sigmoid(scale * logit + bias) has the least cross-entropy."""

    def loss(parameters: Floats) -> float:
        z = parameters[0] * logits + parameters[1]
        return float(np.mean(np.logaddexp(0.0, z) - right * z))

    scale, bias = minimize(loss, np.array([1.0, 0.0]), method="BFGS").x
    return float(scale), float(bias)


@torch.no_grad()
def fold(model: StableLmForSequenceClassification, scale: float, bias: float) -> None:
    """Put scale and bias into the weights: the score becomes scale * score + bias.

    The score's layer has no bias of its own, so it goes into the bias of the norm before it, along the score's weights.
    """
    weight = model.score.weight
    weight.mul_(scale)
    model.model.norm.bias.add_(weight[0] * (bias / float(weight.square().sum())))


# ------------------------------------------------------------------------------------------------------------ training


def export(model: StableLmForSequenceClassification, out: Path) -> None:
    """Write the checkpoint in half precision as a Hugging Face folder, file by file atomically."""
    fresh = out.parent / f".{out.name}.writing"
    shutil.rmtree(fresh, ignore_errors=True)
    model.config.architectures = ["StableLmForSequenceClassification"]
    model.config.calibrated = True  # what tells a reader of scores that sigmoid(score) is a probability
    model.to(torch.float16).save_pretrained(fresh, safe_serialization=True)  # type: ignore[arg-type]
    model.to(torch.float32)  # type: ignore[arg-type]
    language.build().save_pretrained(fresh)
    settings = json.loads((fresh / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name that every version of transformers knows
    settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    settings.pop("backend", None)
    (fresh / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(fresh.iterdir()):
        path.chmod(0o644)
        path.replace(out / path.name)
    fresh.rmdir()


def train(
    model: StableLmForSequenceClassification,
    draws: Sequence[Draw],
    *,
    steps: int,
    seed: int = 24,
    tokens: int = 4_096,
    muon: float = 0.01,
    adam: float = 2e-3,
    saved: Path | None = None,
    save_every: int = 200,
    resume: bool = False,
) -> list[float]:
    """Train the model in place; the loss of the verdicts at every step done here. The run saves itself in `saved`, and
    goes on from there with `resume`: as if it had not been cut, if `steps` is still the same."""
    head = nn.Linear(model.config.hidden_size, 1)
    nn.init.zeros_(head.weight)
    both = nn.ModuleDict({"reward": model, "steps": head})
    optimizers = optimisers(both, muon, adam)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    start = 0
    if resume and saved is not None and saved.exists():
        state = torch.load(saved)
        both.load_state_dict(state["both"])
        for optimizer, part in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(part)
        start = state["step"]
    data = islice(batches(draws, seed, tokens), start, None)
    losses: list[float] = []
    began = time.perf_counter()
    for step in range(start, steps):
        verdict, sound = loss_of(model, head, next(data))
        (verdict + STEPS_WEIGHT * sound).backward()  # type: ignore[no-untyped-call]
        factor = schedule(step, steps)
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(verdict.item())
        if (step + 1) % 25 == 0 or step + 1 == steps:
            wall = time.perf_counter() - began
            print(
                f"step {step + 1}/{steps}  loss {np.mean(losses[-25:]):.4f}  steps {sound.item():.4f}  {wall:.0f} s",
                flush=True,
            )
        if saved is not None and (step + 1) % save_every == 0:
            state = {"both": both.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step + 1}
            torch.save(state, saved.with_suffix(".writing"))
            saved.with_suffix(".writing").replace(saved)
    return losses


def calibrate(model: StableLmForSequenceClassification, draws: Sequence[Draw]) -> tuple[float, float]:
    """Round the weights to half precision, fit scale and bias on draws that were not trained on, and fold them in."""
    model.to(torch.float16).to(torch.float32)  # type: ignore[arg-type]
    model.train(False)
    scale, bias = platt(logits_of(model, draws), np.array([draw.right for draw in draws], dtype=np.float64))
    fold(model, scale, bias)
    return scale, bias


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=Path, default=WORK, help="folder of the draws, made by training.reward.data")
    parser.add_argument("--out", type=Path, default=BUNDLED, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--seed", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=4_096, help="tokens of one batch")
    parser.add_argument("--muon", type=float, default=0.01, help="learning rate of the matrices")
    parser.add_argument("--adam", type=float, default=2e-3, help="learning rate of the rest")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="go on from the last saved step")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    splits: dict[str, list[Draw]] = {"train": [], "dev": [], "test": []}
    for draw in load(args.draws):
        splits[split_of(draw.numbers, draw.target)].append(draw)
    print({name: len(draws) for name, draws in splits.items()}, flush=True)
    model = cut(args.layers)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    train(
        model,
        splits["train"],
        steps=args.steps,
        seed=args.seed,
        tokens=args.tokens,
        muon=args.muon,
        adam=args.adam,
        saved=args.draws / "training.pt",
        resume=args.resume,
    )
    scale, bias = calibrate(model, splits["dev"])
    print(f"scale {scale:.4f}, bias {bias:.4f}, from {len(splits['dev'])} draws", flush=True)
    export(model, args.out)


if __name__ == "__main__":
    main()
