"""What the power samplers share before they draw: checked proposals, and requests for whole responses."""

from __future__ import annotations

from collections.abc import Sequence

from samplewise.core.checks import check_number, check_sampling
from samplewise.core.keys import Key
from samplewise.core.types import Capability, Completion, Generate, Sampling
from samplewise.samplers.base import Variant
from samplewise.samplers.power.response import WANT, DrawnResponse, continuation_of, splice

WEIGHTS_NEED = frozenset({Capability.GENERATE, Capability.TOKENS, Capability.LOGP, Capability.LOGQ})
CHAINS_NEED = WEIGHTS_NEED | {Capability.PREFIX, Capability.REJECT_BELOW}


def proposal_sampling(alpha: float, temperature: float | None, top_k: int, top_p: float, min_p: float) -> Sampling:
    """Return the sampling of proposals: at temperature 1 / alpha unless another is given. ValueError out of range."""
    if temperature is None and alpha == 0:
        raise ValueError("alpha=0 needs a temperature: 1 / alpha is none")
    tau = 1.0 / alpha if temperature is None else check_number("temperature", temperature, 0.0, above=True)
    return check_sampling(Sampling(tau, top_k, float(top_p), float(min_p)))


def single_temperature(temperature: float | None, temperatures: Sequence[float]) -> float | None:
    """Return the one temperature that is given, if there is one. ValueError if `temperatures` are given beside it."""
    if temperature is not None and temperatures:
        raise ValueError("give either temperature or temperatures")
    return temperatures[0] if len(temperatures) == 1 else temperature


def proposal_temperatures(sampling: Sampling, temperatures: Sequence[float]) -> tuple[float, ...]:
    """Return the temperatures of a mixture, or the sampling's own if none are given.

    Raise ValueError if a mixture meets filters: log Z is known for the whole distribution only.
    """
    if not temperatures:
        return (sampling.temperature,)
    if sampling[1:] != Sampling()[1:]:
        raise ValueError("several temperatures cannot be combined with top_k, top_p or min_p")
    return tuple(check_number("temperature", tau, 0.0, above=True) for tau in temperatures)


def logz_exponents(temperatures: Sequence[float]) -> tuple[float, ...]:
    """Return the exponents (E,) at which `logz` is needed: one per temperature of a mixture, else none."""
    return tuple(1.0 / tau for tau in temperatures) if len(temperatures) > 1 else ()


def whole_response_ask(
    key: Key, variant: Variant, sampling: Sampling, max_tokens: int, index: int, exponents: tuple[float, ...] = ()
) -> Generate:
    """Return the request for a response from its beginning. `index` tells the draws of one arm apart."""
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


def start_response(completion: Completion, temperatures: Sequence[float], max_tokens: int) -> DrawnResponse | None:
    """Return a whole completion as a response, or None if it failed."""
    continuation = continuation_of(completion, temperatures)
    return None if continuation is None else splice(None, 0, completion, continuation, max_tokens)
