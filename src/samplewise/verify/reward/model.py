"""Loading: a folder or a name on the Hub becomes a reward model and its tokenizer. What is no reward model is refused,
above all a language model, whose score would be random numbers."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from samplewise.errors import SetupError
from samplewise.models import TINY

hugging: Any = transformers  # its functions are typed in part only
BUNDLED = TINY.parent / "reward"
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
    place, name = _place(source)
    chosen = _device(device)
    with _quiet():
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
            raise SetupError(f"cannot load {name} as a reward model: {_first_line(error)}") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise SetupError(f"the files of {name} lack {len(missing)} of its weights, such as {missing[0]}")
    try:
        model = model.to(chosen).eval().requires_grad_(False)
    except RuntimeError as error:
        raise SetupError(f"cannot put {name} on {chosen}: {_first_line(error)}") from error
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


def _place(source: str) -> tuple[str, str]:
    """Where to load from, and what to call it."""
    path = BUNDLED if source == "tiny" else Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise SetupError(f"the folder {path} holds no model: there is no config.json in it")
        return str(path), source if source == "tiny" else path.resolve().name
    if source == "tiny" or path.is_absolute() or source.startswith((".", "~")) or path.exists():
        raise SetupError(f"there is no model folder {path}")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        raise SetupError(f"{source!r} is neither a folder nor a name on the Hugging Face Hub (owner/model)")
    return source, source


def _device(device: str | None) -> torch.device:
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise SetupError(f"no such device: {device}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise SetupError(f"reward models run on cpu and cuda, not on {chosen.type}")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise SetupError(f"this torch sees no CUDA device: got device={device!r}")
    return chosen


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice while a model is loaded."""
    logging = hugging.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
