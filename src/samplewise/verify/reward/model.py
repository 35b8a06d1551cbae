"""Loading: a folder or a name on the Hub becomes a reward model and its tokenizer. What is no reward model is refused,
above all a language model, whose score would be random numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from samplewise.errors import SetupError
from samplewise.models import REWARD
from samplewise.models.loading import all_there, find_device, find_place, first_line, hugging, put, quiet

OUTCOME, PROCESS = "ForSequenceClassification", "ForTokenClassification"
UNBOUNDED = 10**9  # what a tokenizer that knows no limit says is far above


@dataclass(frozen=True, slots=True)
class Checkpoint:
    name: str
    kind: Literal["outcome", "process"]
    model: Any
    tokenizer: Any
    num_labels: int
    calibrated: bool  # sigmoid(logit) is a probability
    max_context: int | None  # tokens
    pad: int | None  # token id that fills short rows up; None: rows are scored one by one


def load(source: str, device: str | None) -> Checkpoint:
    """The reward model in a folder, or on the Hub. What cannot be used raises SetupError, in one line."""
    place, name = find_place(source, REWARD)
    chosen = find_device(device, "a reward model")
    with quiet():
        try:
            config = hugging.AutoConfig.from_pretrained(place)
            kind = _kind(config, name)
            make = hugging.AutoModelForSequenceClassification
            if kind == "process":
                make = hugging.AutoModelForTokenClassification
            dtype = torch.float32 if chosen.type == "cpu" else "auto"
            model, info = make.from_pretrained(place, config=config, dtype=dtype, output_loading_info=True)
            tokenizer = hugging.AutoTokenizer.from_pretrained(place)
        except SetupError:
            raise
        except Exception as error:  # transformers, its tokenizers and the Hub raise what they like
            raise SetupError(f"cannot load {name} as a reward model: {first_line(error)}") from error
    all_there(info["missing_keys"], name)
    model = put(model, chosen, name)
    text = model.config.get_text_config()
    limits = (getattr(text, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None))
    return Checkpoint(
        name=name,
        kind=kind,
        model=model,
        tokenizer=tokenizer,
        num_labels=int(config.num_labels),
        calibrated=bool(getattr(config, "calibrated", False)),
        max_context=min((limit for limit in limits if limit and 0 < limit < UNBOUNDED), default=None),
        pad=_pad(text, tokenizer),
    )


def _kind(config: Any, name: str) -> Literal["outcome", "process"]:
    built = tuple(getattr(config, "architectures", None) or ())
    if any(OUTCOME in arch for arch in built):
        if config.num_labels != 1:
            raise SetupError(f"{name} sorts responses into {config.num_labels} classes; a reward model has one label")
        return "outcome"
    if any(PROCESS in arch for arch in built):
        if config.num_labels not in (1, 2):
            raise SetupError(f"{name} has {config.num_labels} labels for a token; a process reward model has 1 or 2")
        return "process"
    raise SetupError(
        f"{name} is {', '.join(built) or config.model_type}; a reward model is {OUTCOME} or {PROCESS}, without code of"
        " its own"
    )


def _pad(config: Any, tokenizer: Any) -> int | None:
    """The id that the model takes for padding: sequence classifiers score the last token that is another."""
    for owner in (config, tokenizer):
        pad = getattr(owner, "pad_token_id", None)
        if pad is not None and pad >= 0:
            config.pad_token_id = int(pad)
            return int(pad)
    return None
