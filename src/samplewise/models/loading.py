"""Load a checkpoint with `transformers`: a folder or a name on the Hub becomes a model and its tokenizer.

Two kinds are loaded: causal language models and reward models. Whatever cannot be used raises SetupError in one line.
A language model is never accepted as a reward model: its scores would be random numbers.

Imports torch, so import this module late.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import transformers
from torch.overrides import TorchFunctionMode

from samplewise.core.errors import SetupError
from samplewise.core.files import is_file, is_folder

from . import REWARD, TINY
from .ends import end_tokens

CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
OUTCOME, PROCESS = "ForSequenceClassification", "ForTokenClassification"
UNBOUNDED = 10**9  # tokenizers without a limit report a far larger one
CHECKPOINT_FILES = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.model", "*.txt", "chat_templates/*")

hugging: Any = transformers  # its functions are only partly typed


@dataclass(frozen=True, slots=True)
class CausalCheckpoint:
    """A causal language model, on its device and ready to run."""

    name: str
    digest: str  # sha256 over the names and contents of its files
    model: Any
    tokenizer: Any
    vocab_size: int  # ids that can be fed
    num_parameters: int  # those that are shared count once
    dtype: str  # as it is run: "float32", "int8"
    max_context: int | None  # tokens
    stops: tuple[int, ...]  # ids that end a response


@dataclass(frozen=True, slots=True)
class CheckpointText:
    """The part of a causal language model that is text: all but its weights, which another program loads."""

    name: str
    source: str  # a folder, or a name on the Hub
    digest: str  # sha256 over the names and contents of its files
    tokenizer: Any
    vocab_size: int  # ids that can be fed
    stops: tuple[int, ...]  # ids that end a response


@dataclass(frozen=True, slots=True)
class RewardCheckpoint:
    """A reward model, on its device and ready to run."""

    name: str
    kind: Literal["outcome", "process"]
    model: Any
    tokenizer: Any
    num_labels: int
    calibrated: bool  # sigmoid(logit) is a probability
    max_context: int | None  # tokens
    pad: int | None  # token id that fills short rows up; None: rows are scored one by one


def load_causal_model(source: str, device: str | None, dtype: str | None) -> CausalCheckpoint:
    """Load a causal language model from a folder or the Hub; "tiny" is the bundled one. Raises SetupError.

    `dtype` defaults to float32 on a CPU, and on CUDA to the type that the checkpoint was saved in. With "int8" the
    weights are loaded in float32; the engine rounds them.
    """
    source, name = _locate(source, TINY)
    chosen = _device(device, "the local engine")
    wanted = dtype or ("float32" if chosen.type == "cpu" else "auto")
    floats = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    dtypes = {**floats, "int8": torch.float32, "auto": "auto"}
    if wanted not in dtypes:
        raise SetupError(f"dtype must be one of {', '.join(dtypes)}, got {dtype!r}")

    def auto_class(config: Any) -> Any:
        architectures = _architectures(config)
        is_causal = not architectures or any(kind in arch for arch in architectures for kind in CAUSAL)
        if config.is_encoder_decoder or not is_causal:
            described = ", ".join(architectures) or config.model_type
            raise SetupError(f"{name} is not a causal language model but {described}")
        return hugging.AutoModelForCausalLM

    model, tokenizer = _load(source, name, "a causal language model", chosen, dtypes[wanted], auto_class)
    return CausalCheckpoint(
        name=name,
        digest=_digest(source, name),
        model=model,
        tokenizer=tokenizer,
        vocab_size=int(model.get_input_embeddings().num_embeddings),
        num_parameters=sum(weight.numel() for weight in model.parameters()),
        dtype=wanted if wanted == "int8" else str(model.dtype).removeprefix("torch."),
        max_context=getattr(model.config.get_text_config(), "max_position_embeddings", None),
        stops=end_tokens(source, tokenizer),
    )


def load_checkpoint_text(source: str) -> CheckpointText:
    """Load the tokenizer of a causal language model from a folder or the Hub; "tiny" is the bundled one.

    Raises SetupError.
    """
    source, name = _locate(source, TINY)
    with quiet():
        try:
            config = hugging.AutoConfig.from_pretrained(source)
            tokenizer = hugging.AutoTokenizer.from_pretrained(source)
        except Exception as error:  # transformers, its tokenizers and the Hub raise anything
            raise SetupError(f"cannot load the tokenizer of {name}: {_first_line(error)}") from error
    return CheckpointText(
        name=name,
        source=source,
        digest=_digest(source, name),
        tokenizer=tokenizer,
        vocab_size=int(config.get_text_config().vocab_size),
        stops=end_tokens(source, tokenizer),
    )


def load_reward_model(source: str, device: str | None) -> RewardCheckpoint:
    """Load a reward model from a folder or the Hub; "tiny" is the bundled one. Raises SetupError."""
    source, name = _locate(source, REWARD)
    chosen = _device(device, "a reward model")

    def auto_class(config: Any) -> Any:
        is_outcome = _reward_kind(config, name) == "outcome"
        return hugging.AutoModelForSequenceClassification if is_outcome else hugging.AutoModelForTokenClassification

    dtype = torch.float32 if chosen.type == "cpu" else "auto"
    model, tokenizer = _load(source, name, "a reward model", chosen, dtype, auto_class)
    text = model.config.get_text_config()
    limits = (getattr(text, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None))
    return RewardCheckpoint(
        name=name,
        kind=_reward_kind(model.config, name),
        model=model,
        tokenizer=tokenizer,
        num_labels=int(model.config.num_labels),
        calibrated=bool(getattr(model.config, "calibrated", False)),
        max_context=min((limit for limit in limits if limit and 0 < limit < UNBOUNDED), default=None),
        pad=_pad(text, tokenizer),
    )


class _Loaded(NamedTuple):
    model: Any
    tokenizer: Any


def _load(
    source: str, name: str, what: str, device: torch.device, dtype: Any, auto_class: Callable[[Any], Any]
) -> _Loaded:
    """Load a model, as the class that `auto_class` picks from its config, and its tokenizer."""
    with quiet():
        try:
            config = hugging.AutoConfig.from_pretrained(source)
            model, info = _from_pretrained(auto_class(config), source, config=config, dtype=dtype)
            tokenizer = hugging.AutoTokenizer.from_pretrained(source)
        except SetupError:
            raise
        except Exception as error:  # transformers, its tokenizers and the Hub raise anything
            raise SetupError(f"cannot load {name} as {what}: {_first_line(error)}") from error
    if missing := info["missing_keys"]:
        raise SetupError(f"the files of {name} lack {len(missing)} of its weights, such as {min(missing)}")
    try:
        model = model.to(device).eval().requires_grad_(False)
    except RuntimeError as error:
        raise SetupError(f"cannot put {name} on {device}: {_first_line(error)}") from error
    return _Loaded(model, tokenizer)


def _from_pretrained(kind: Any, source: str, **settings: Any) -> tuple[Any, dict[str, Any]]:
    """Return a model and what was found while it was loaded. The compiler is not imported for it where that can be."""
    if "torch._dynamo" not in sys.modules:
        # A model that does not take this is loaded as ever, and what is wrong with its files is said there.
        with contextlib.suppress(Exception), _WithoutCompiler():
            return kind.from_pretrained(source, **settings, output_loading_info=True)  # type: ignore[no-any-return]
    return kind.from_pretrained(source, **settings, output_loading_info=True)  # type: ignore[no-any-return]


class _WithoutCompiler(TorchFunctionMode):
    """Load a model without `torch._dynamo`, which takes seconds to import.

    A model is made on the device "meta", without values, and gets its weights then. Some operations there are written
    in Python and import the compiler: random values, which are not kept, and ranges of positions, which a CPU counts.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        settings = kwargs or {}
        if func is torch.arange and torch.device(settings.get("device") or "cpu").type == "meta":
            return func(*args, **{**settings, "device": "cpu"})
        if getattr(func, "__module__", None) == "torch.nn.init":
            tensor = args[0] if args else settings.get("tensor")
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **settings)


def _locate(source: str, bundled: Path) -> tuple[str, str]:
    """Return where to load from and the name to show."""
    path = bundled if source == "tiny" else Path(source).expanduser()
    if is_folder(path):
        if not (path / "config.json").is_file():
            raise SetupError(f"the folder {path} holds no model: there is no config.json in it")
        return str(path), source if source == "tiny" else path.resolve().name
    if source == "tiny" or path.is_absolute() or source.startswith((".", "~")) or is_file(path):
        raise SetupError(f"there is no model folder {path}")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        raise SetupError(f"{source!r} is neither a folder nor a name on the Hugging Face Hub (owner/model)")
    return source, source


def _device(device: str | None, what: str) -> torch.device:
    """Return the named device, or CUDA where there is one. Raises SetupError; `what` runs on it."""
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise SetupError(f"no such device: {device}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise SetupError(f"{what} runs on cpu and cuda, not on {chosen.type}")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise SetupError(f"this torch sees no CUDA device: got device={device!r}")
    return chosen


def _architectures(config: Any) -> tuple[str, ...]:
    return tuple(getattr(config, "architectures", None) or ())


def _reward_kind(config: Any, name: str) -> Literal["outcome", "process"]:
    architectures = _architectures(config)
    if any(OUTCOME in arch for arch in architectures):
        if config.num_labels != 1:
            raise SetupError(f"{name} sorts responses into {config.num_labels} classes; a reward model has one label")
        return "outcome"
    if any(PROCESS in arch for arch in architectures):
        if config.num_labels not in (1, 2):
            raise SetupError(f"{name} has {config.num_labels} labels for a token; a process reward model has 1 or 2")
        return "process"
    raise SetupError(
        f"{name} is {', '.join(architectures) or config.model_type}; a reward model is {OUTCOME} or {PROCESS}, without"
        " code of its own"
    )


def _pad(config: Any, tokenizer: Any) -> int | None:
    """Return the padding id, and set it in the config: sequence classifiers score the last token that differs."""
    for owner in (config, tokenizer):
        pad = getattr(owner, "pad_token_id", None)
        if pad is not None and pad >= 0:
            config.pad_token_id = int(pad)
            return int(pad)
    return None


def _digest(source: str, name: str) -> str:
    folder = Path(source)
    if not folder.is_dir():
        config = hugging.utils.cached_file(source, "config.json")
        if config is None:
            raise SetupError(f"the files of {name} are not where the Hub's cache should have them")
        folder = Path(config).parent
    total = hashlib.sha256()
    for path in sorted({path for pattern in CHECKPOINT_FILES for path in folder.glob(pattern) if path.is_file()}):
        total.update(f"{path.relative_to(folder)}\0{_file_digest(path)}\n".encode())
    return total.hexdigest()


def _file_digest(path: Path) -> str:
    # The Hub's cache names a large file by its sha256, so its digest is known without reading it.
    stored = path.resolve().name
    if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", stored):
        return stored
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Show no progress bars, advice or warnings while a model is loaded or checked: none of them is a failure."""
    logging = hugging.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
