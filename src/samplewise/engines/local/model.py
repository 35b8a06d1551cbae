"""Loading: a folder or a name on the Hub becomes a model, its tokenizer, and the digest of the files they came from."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from samplewise.errors import SetupError
from samplewise.models import TINY
from samplewise.models.loading import all_there, find_device, find_place, first_line, hugging, put, quiet

READ = (
    "*.safetensors",
    "*.bin",
    "*.json",
    "*.jinja",
    "*.model",
    "*.txt",
    "chat_templates/*",
)  # what a model is made of
CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    name: str
    digest: str  # sha256 over the names and contents of its files
    model: Any
    tokenizer: Any
    vocab_size: int  # ids that can be fed
    max_context: int | None  # tokens
    stops: tuple[int, ...]  # ids that end a response


def load(source: str, device: str | None, dtype: str | None) -> Checkpoint:
    """The checkpoint in a folder, or on the Hub. What cannot be used raises SetupError, in one line."""
    place, name = find_place(source, TINY)
    chosen = find_device(device, "the local engine")
    kind = _dtype(dtype, chosen)
    with quiet():
        try:
            config = hugging.AutoConfig.from_pretrained(place)
            built = tuple(getattr(config, "architectures", None) or ())
            if config.is_encoder_decoder or (built and not any(kind in arch for arch in built for kind in CAUSAL)):
                raise SetupError(f"{name} is not a causal language model but {', '.join(built) or config.model_type}")
            model, info = hugging.AutoModelForCausalLM.from_pretrained(
                place, config=config, dtype=kind, output_loading_info=True
            )
            tokenizer = hugging.AutoTokenizer.from_pretrained(place)
        except SetupError:
            raise
        except Exception as error:  # transformers, its tokenizers and the Hub raise what they like
            raise SetupError(f"cannot load {name} as a causal language model: {first_line(error)}") from error
    all_there(info["missing_keys"], name)
    model = put(model, chosen, name)
    text = model.config.get_text_config()
    return Checkpoint(
        name=name,
        digest=_digest(place, name),
        model=model,
        tokenizer=tokenizer,
        vocab_size=int(model.get_input_embeddings().num_embeddings),
        max_context=getattr(text, "max_position_embeddings", None),
        stops=_stops(model, tokenizer),
    )


def _dtype(dtype: str | None, device: torch.device) -> Any:
    """float32 on a CPU; on CUDA what the checkpoint was saved in."""
    wanted = dtype or ("float32" if device.type == "cpu" else "auto")
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "auto": "auto"}
    if wanted not in known:
        raise SetupError(f"dtype must be one of {', '.join(known)}, got {dtype!r}")
    return known[wanted]


def _stops(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends a response: those of the generation config, else of the config, else of the tokenizer."""
    for owner in (model.generation_config, model.config.get_text_config(), tokenizer):
        ids = getattr(owner, "eos_token_id", None)
        if ids is not None:
            return tuple(sorted({int(i) for i in (ids if isinstance(ids, list | tuple) else [ids])}))
    return ()


def _digest(place: str, name: str) -> str:
    folder = Path(place)
    if not folder.is_dir():
        found = hugging.utils.cached_file(place, "config.json")
        if found is None:
            raise SetupError(f"the files of {name} are not where the Hub's cache should have them")
        folder = Path(found).parent
    total = hashlib.sha256()
    for path in sorted({path for pattern in READ for path in folder.glob(pattern) if path.is_file()}):
        total.update(f"{path.relative_to(folder)}\0{_file_digest(path)}\n".encode())
    return total.hexdigest()


def _file_digest(path: Path) -> str:
    # The Hub's cache names a large file by its sha256, so what it holds is known without reading it.
    stored = path.resolve().name
    if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", stored):
        return stored
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
