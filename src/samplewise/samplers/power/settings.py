"""What the power samplers have in common before they draw: settings that are checked, and how whole responses are asked
for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from samplewise.keys import Key
from samplewise.samplers.base import Variant
from samplewise.samplers.power.record import WANT, Part, Record, part_of, spliced
from samplewise.samplers.repeat import checked
from samplewise.types import Capability, Completion, Generate, Sampling

NEEDS = frozenset({Capability.GENERATE, Capability.TOKENS, Capability.LOGP, Capability.LOGQ})
CHAINS_NEED = NEEDS | {Capability.PREFIX, Capability.FLOOR}


def number(name: str, value: float, least: float, *, above: bool = False) -> float:
    """The value as a float, or ValueError where it is no finite number from `least` (or above it)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if value < least or (above and value == least):
        raise ValueError(f"{name} must be {'above' if above else 'at least'} {least}, got {value}")
    return float(value)


def proposal(alpha: float, temperature: float | None, top_k: int, top_p: float, min_p: float) -> Sampling:
    """The law that responses are proposed from: at temperature 1 / alpha unless another is given."""
    tau = 1.0 / alpha if temperature is None else number("temperature", temperature, 0.0, above=True)
    return checked(Sampling(tau, top_k, float(top_p), float(min_p)))


def temperatures_of(sampling: Sampling, temperatures: Sequence[float]) -> tuple[float, ...]:
    """The temperatures of a mixture, or the one of the sampling. Raises ValueError where a mixture meets a cut law: log
    Z is known of the whole law alone."""
    if not temperatures:
        return (sampling.temperature,)
    if sampling[1:] != Sampling()[1:]:
        raise ValueError("several temperatures cannot be had together with top_k, top_p or min_p")
    return tuple(number("temperature", tau, 0.0, above=True) for tau in temperatures)


def whole(
    key: Key, variant: Variant, sampling: Sampling, max_tokens: int, index: int, exponents: tuple[float, ...] = ()
) -> Generate:
    """The request for a response from its beginning. `index` tells those of one arm apart."""
    return Generate(
        messages=variant.messages,
        sampling=variant.sampled(sampling),
        max_tokens=max_tokens,
        seed=key.fold(variant.arm, index).seed(),
        draw=index,
        want=(*WANT, "logz") if exponents else WANT,
        group=variant.group,
        exponents=exponents,
    )


def started(completion: Completion, temperatures: Sequence[float], most: int) -> Record | None:
    """A whole response as a record, or None where it failed."""
    part: Part | None = part_of(completion, temperatures)
    return None if part is None else spliced(None, 0, completion, part, most)
