"""Choose the forward pass of a model when it is loaded: the fastest that agrees with a plain pass.

The reference is a plain pass over whole sequences: a text and random token ids. A candidate prefills ragged rows,
continues, saves, loads and copies them, decodes, and must give the same distributions at every stage.

**How close is the same?** Rounding depends on the model, its precision and the shape of the batch, so it is measured:
the model's own plain passes at other shapes (alone, cut, beside longer rows) against one another. Averaged over the
positions of a stage, a candidate may be `MULTIPLE` times as far from the reference as that. In any case it may be a
unit in the last place of the logits away, or `HARMLESS`: plain passes that agree to the bit on one processor do not on
another. Distances are taken where there is mass: total variation, and log-probabilities of tokens above `LIKELY`. A
wrong mask, position or cache moves them by whole nats, in half precision too; rounding moves the mean of a stage by
less than twice its measure.

Windows of attention are short while a model is checked, so that short rows reach past them.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from samplewise.core.errors import SetupError
from samplewise.core.keys import Key
from samplewise.core.numerics import Ints

from . import llama
from .forward import BATCHED, Cached, Forward, Masks, Recomputed, register_attention
from .packed import is_packed, pack, unpack

MULTIPLE = 4.0  # how many times the rounding between plain passes is still rounding
HARMLESS = 2e-5  # nats; telling such distributions apart takes 1 / HARMLESS**2 draws, which nobody has
LIKELY = 1e-6  # the probability above which a token's log-probability is compared
ANTICIPATION = 0.1  # how far a change of later tokens may move earlier distributions, relative to later ones
WINDOW = 4  # tokens that a window of attention has during the check
NUM_SHARED, LENGTHS = 5, (10, 6, 8)  # tokens that rows 0 and 2 have in common, and of each row
NUM_AGAIN = 2  # tokens that are computed again after a load
TEXT = "The sum of the first ten odd numbers is one hundred, because each of them adds a border to a square."


class Checked(NamedTuple):
    """What the check at loading found: the way a model is run, and how far that is from a plain pass.

    Distances are means over the positions of a stage; the worst stage counts.
    """

    path: str  # "lean", "cached (batched, packed)", "cached (sdpa)", "recomputed"
    rounding: float  # nats: how far plain passes of this model at different shapes are apart
    total_variation: float  # of the chosen way from a plain pass
    gap: float  # nats: of the chosen way from a plain pass, over tokens above LIKELY
    reasons: tuple[str, ...]  # why faster ways were refused, one line each


class Chosen(NamedTuple):
    forward: Forward
    checked: Checked


class Distance(NamedTuple):
    """How far two distributions are apart: the mean over some positions."""

    nats: float  # of the largest difference of a log-probability, over tokens above LIKELY
    total_variation: float

    def within(self, other: Distance) -> bool:
        """Return whether neither part is larger; False for nan."""
        return self.nats <= other.nats and self.total_variation <= other.total_variation


class Reference(NamedTuple):
    """Rows of token ids, the logits (T, V) of a plain pass after each token, and how far a pass may be from them."""

    rows: list[list[int]]
    logits: list[Tensor]
    rounding: Distance
    bound: Distance


class _Candidate(NamedTuple):
    path: str
    attention: str  # the implementation that the model is set to
    make: Callable[[], Cached]


def choose_forward(model: Any, name: str, vocab_size: int, tokenizer: Any = None, allow_slow: bool = False) -> Chosen:
    """Return the fastest forward pass that is right for this model.

    Raises SetupError if the model is not causal, and, unless `allow_slow`, if only recomputing every prefix is right.
    """
    register_attention()
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # older releases of transformers leave the cap out elsewhere
    loaded = model.config._attn_implementation
    reasons: list[str] = []
    # A warning of a library is no failed pass, even where the caller turns warnings into errors.
    with torch.inference_mode(), warnings.catch_warnings(action="ignore"):
        with short_windows(model.config.get_text_config()) as shortened:
            reference = plain_reference(model, name, check_rows(vocab_size, tokenizer))
            accepted = None
            if not llama.fits(model) and pack(model):
                accepted = _first_right(model, loaded, reference, reasons)
                if accepted is None:
                    unpack(model)
            if accepted is None:
                accepted = _first_right(model, loaded, reference, reasons)
        rounding, refused = reference.rounding.nats, tuple(dict.fromkeys(reasons))
        if accepted is not None:
            forward = accepted.candidate.make() if shortened else accepted.forward
            nats, variation = accepted.distance
            return Chosen(forward, Checked(accepted.candidate.path, rounding, variation, nats, refused))
    if not allow_slow:
        raise SetupError(
            f"{name} cannot reuse keys and values here, so every token would cost a pass over all tokens before it"
            f" ({refused[0]}); say allow_slow=True to run it so"
        )
    return Chosen(Recomputed(model), Checked("recomputed", rounding, 0.0, 0.0, refused))


class _Accepted(NamedTuple):
    candidate: _Candidate
    forward: Forward
    distance: Distance


def _first_right(model: Any, loaded: str, reference: Reference, reasons: list[str]) -> _Accepted | None:
    """Return the first candidate that agrees with the reference. Append to `reasons` why others do not."""
    for candidate in _candidates(model, loaded):
        try:
            model.set_attn_implementation(candidate.attention)
            forward = candidate.make()
            distance = worst(stages(forward, reference).values())
        except Exception as error:  # other people's models raise anything: this way does not work
            line = next(iter(str(error).splitlines()), "")
            reasons.append(f"{candidate.path}: {type(error).__name__}: {line}")
            continue
        if distance.within(reference.bound):
            return _Accepted(candidate, forward, distance)
        reasons.append(_refusal(candidate.path, distance, reference.bound))
    model.set_attn_implementation(loaded)
    return None


def _candidates(model: Any, loaded: str) -> Iterator[_Candidate]:
    """Yield ways to run a model, the fastest first."""
    if llama.fits(model):
        yield _Candidate("lean", loaded, lambda: llama.Lean(model, Masks(model, False)))
    batched = [BATCHED] if model.device.type == "cpu" and model.dtype == torch.float32 else []
    # One mask for each kind of layer where there are kinds. Some models with kinds take one mask for all layers.
    has_kinds = bool(getattr(model.config.get_text_config(), "layer_types", None))
    for attention in dict.fromkeys([*batched, loaded, "eager"]):
        path = f"cached ({'batched' if attention == BATCHED else attention}{', packed' if is_packed(model) else ''})"
        if has_kinds:
            yield _Candidate(path, attention, lambda: Cached(model, Masks(model, True)))
        yield _Candidate(path, attention, lambda: Cached(model, Masks(model, False)))


def _refusal(path: str, distance: Distance, bound: Distance) -> str:
    if not distance.nats <= bound.nats:
        return f"{path}: log-probabilities off by {distance.nats:.1g} nats, where rounding explains {bound.nats:.1g}"
    shares = f"{distance.total_variation:.1g} from a plain pass, where rounding explains {bound.total_variation:.1g}"
    return f"{path}: total variation {shares}"


@contextlib.contextmanager
def short_windows(config: Any) -> Iterator[bool]:
    """Shorten windows and chunks of attention to WINDOW tokens: a model reads them when it makes its masks. Yield
    whether there are any."""
    names = ("sliding_window", "attention_chunk_size")
    long = {name: getattr(config, name, None) for name in names}
    long = {name: size for name, size in long.items() if size is not None and size > WINDOW}
    try:
        for name in long:
            setattr(config, name, WINDOW)
        yield bool(long)
    finally:
        for name, size in long.items():
            setattr(config, name, size)


def check_rows(vocab_size: int, tokenizer: Any = None) -> list[list[int]]:
    """Return ragged rows: a text, random ids, and the beginning of the text with random ids after it."""
    rng = Key(0).fold("check").generator()
    rows: list[list[int]] = [rng.integers(0, vocab_size, size=length).tolist() for length in LENGTHS]
    text = [] if tokenizer is None else list(tokenizer(TEXT)["input_ids"])[: LENGTHS[0]]
    rows[0][: len(text)] = text
    rows[2][:NUM_SHARED] = rows[0][:NUM_SHARED]
    return rows


def plain_reference(model: Any, name: str, rows: list[list[int]]) -> Reference:
    """Run plain passes over rows, and measure what other shapes change. Raises SetupError if it is not causal."""

    def plain(ids: Sequence[Sequence[int]], **mask: Tensor) -> Tensor:
        tokens = torch.tensor(ids, device=model.device)
        logits: Tensor = model(input_ids=tokens, use_cache=False, **mask).logits
        return logits

    # Filled up on the right, where a causal model does not look.
    together = plain([ids + rows[0][len(ids) :] for ids in rows])
    logits = [line[: len(ids)] for line, ids in zip(together, rows, strict=True)]
    before, after = slice(NUM_SHARED), slice(NUM_SHARED, len(rows[2]))
    moved = distance_between(logits[2][before], logits[0][before]).nats
    if not moved <= ANTICIPATION * distance_between(logits[2][after], logits[0][after]).nats:
        raise SetupError(f"{name} is not a causal model: what it says of a token depends on the tokens after it")
    alone = plain([rows[0][: len(rows[1])]])[0]
    begun = plain([ids[:1] for ids in rows])[:, 0]
    distances = [distance_between(alone, logits[0][: len(alone)]), distance_between(begun, together[:, 0])]
    with contextlib.suppress(Exception):  # not every model takes a mask
        padded = [rows[0][: len(rows[2])], rows[1] + rows[0][len(rows[1]) : len(rows[2])]]
        lengths = torch.tensor([[len(rows[2])], [len(rows[1])]], device=model.device)
        shown = torch.arange(len(rows[2]), device=model.device) < lengths
        masked = plain(padded, attention_mask=shown.long())
        distances += [distance_between(masked[i, : int(lengths[i])], logits[i][: int(lengths[i])]) for i in (0, 1)]
    rounding = worst(distances)
    # A unit in the last place of a logit, because passes that agree to the bit here need not do so elsewhere.
    unit = torch.finfo(model.dtype).eps * float(together.abs().amax(-1).double().mean())
    least = max(unit, HARMLESS)
    bound = Distance(max(MULTIPLE * rounding.nats, least), max(MULTIPLE * rounding.total_variation, least / 2))
    return Reference(rows, logits, rounding, bound)


def stages(forward: Forward, reference: Reference) -> dict[str, Distance]:
    """Run rows through everything that an engine does to them. Return how far each stage is from the reference."""
    rows, logits = reference.rows, reference.logits
    device = logits[0].device
    begun = [len(ids) - 2 for ids in rows]
    again, half = begun[0] - NUM_AGAIN, begun[2] // 2
    first = [rows[0][: begun[0]], rows[1][: begun[1]], rows[2][:half]]
    forward.reserve(3, max(begun), 0)
    prefilled = forward.extend(0, [0, 0, 0], first, begun[0])
    saved = forward.save(0, again)
    forward.reserve(4, max(begun) + 2, 3)  # grows in both ways
    forward.load(3, saved, again)  # row 3 is row 0 once more
    new = [rows[2][half : begun[2]], rows[0][again : begun[0]]]
    continued = forward.extend(2, [half, again], new, max(map(len, new)))
    held: Ints = np.array([*begun, begun[0]], dtype=np.int64)
    owner = [0, 1, 2, 0]
    distances = {
        "prefill": distance_between(
            torch.cat([prefilled[i, -len(ids) :] for i, ids in enumerate(first)]),
            torch.cat([logits[i][: len(ids)] for i, ids in enumerate(first)]),
        ),
        "continue": distance_between(
            torch.cat([continued[i, -len(new[i]) :] for i in (0, 1)]),
            torch.cat([logits[2][half : begun[2]], logits[0][again : begun[0]]]),
        ),
    }
    for stage in ("decode", "copy"):
        if stage == "copy":
            to, source = (torch.tensor([i], device=device) for i in (1, 2))
            forward.copy(to, source, int(held[2]))  # row 1 becomes row 2
            owner[1], held[1] = 2, held[2]
        tokens = torch.tensor([rows[i][j] for i, j in zip(owner, held.tolist(), strict=True)], device=device)
        decoded = forward.decode(0, held, tokens)
        plain = torch.stack([logits[i][j] for i, j in zip(owner, held.tolist(), strict=True)])
        distances[stage] = distance_between(decoded, plain)
        held = held + 1
    forward.forget()
    return distances


def distance_between(logits: Tensor, reference: Tensor) -> Distance:
    """Return the distance of distributions (N, V), given by logits, from those of a reference."""
    other, plain = (torch.log_softmax(x, dim=-1, dtype=torch.float64) for x in (logits, reference))
    nats = torch.where(plain > math.log(LIKELY), (other - plain).abs(), 0.0).amax(-1)
    total_variation = (other.exp() - plain.exp()).abs().sum(-1) / 2
    return Distance(float(nats.mean()), float(total_variation.mean()))


def worst(distances: Iterable[Distance]) -> Distance:
    """Return the largest of each part; nan where one is nan."""
    nats, total_variation = np.array(list(distances)).max(axis=0)
    return Distance(float(nats), float(total_variation))
