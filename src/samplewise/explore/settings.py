"""What a user writes to explore, as frozen settings: `esamp(beta=0.5, learner=ridge)`, `lss`, `css(min_cosine=0.8)`.

A policy's canonical text (`str`) names what differs from the defaults and stands in every request of its group, so
equal texts are equal policies. Settings know what can go wrong in them; the policy itself, which needs torch, is made
late. A plugin's settings need the same three things: `__str__`, `shallow` and `policy`.

A group's draws depend on one another: k of a group of n is not a group of k. Defaults are the published ones where
there are any; a deviation is a named option.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

if TYPE_CHECKING:
    from .base import Head, Policy

Control = Literal["none", "zero", "frozen", "noise"]
Learner = Literal["adam", "ridge"]
Compensate = Literal["none", "entropy", "gate", "full"]
Aside = Literal["no", "wait", "drop"]


@runtime_checkable
class Settings(Protocol):
    """How a group explores. `str` of it is canonical; `shallow`: it looks at the first block's output."""

    @property
    def shallow(self) -> bool: ...

    def policy(self, head: Head) -> Policy:
        """The policy of every group with these settings; groups are opened in it."""
        ...


class _Text:
    """The canonical text of a dataclass: its name and the fields that differ from their defaults."""

    __slots__ = ()
    word: ClassVar[str] = ""

    def __str__(self) -> str:
        own: Any = self
        changed = [(f.name, getattr(self, f.name)) for f in fields(own) if getattr(self, f.name) != f.default]
        return f"{self.word}({', '.join(f'{name}={value!r}' for name, value in changed)})" if changed else self.word


def _within(name: str, value: float, low: float, high: float = math.inf, *, above: bool = False) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not (good and (value > low if above else value >= low) and value <= high):
        least = f"above {low:g}" if above else f"at least {low:g}"
        raise ValueError(f"{name} must be {least}{'' if high == math.inf else f' and at most {high:g}'}, got {value!r}")


def _whole(name: str, value: int, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


@dataclass(frozen=True, slots=True)
class Esamp(_Text):
    """Exploratory Sampling: tokens gain that explain what a small network, trained on the group, fails to predict."""

    word: ClassVar[str] = "esamp"
    beta: float = 0.25
    learner: Learner = "adam"
    compensate: Compensate = "none"
    forking: float = 1.0  # share of the group's rows that is guided, those of the highest entropy
    control: Control = "none"
    rate: float = 4e-4  # adam: learning rate
    eps: float = 1e-4
    clip: float = 0.5  # of the gradient's norm, a group
    steps: int = 1  # gradient steps for each decoding step
    loss: Literal["sum", "mean"] = "sum"  # over the entries of a state
    width: int = 384
    input_norm: bool = True
    features: int = 0  # ridge: random features of the shallow state; 0: the state itself, 256 where it is wider
    penalty: float = 1.0  # ridge
    forget: float = 1.0  # ridge: 1 keeps everything
    warm_start: bool = False  # learn from the prompt's own states first: one more pass over it for each group
    aside: Aside = "no"  # learn beside the engine; what is late is waited for, or dropped (then draws vary)

    def __post_init__(self) -> None:
        _within("beta", self.beta, 0.0)
        _one_of("learner", self.learner, get_args(Learner))
        _one_of("compensate", self.compensate, get_args(Compensate))
        _one_of("control", self.control, get_args(Control))
        _one_of("loss", self.loss, ("sum", "mean"))
        _one_of("aside", self.aside, get_args(Aside))
        _within("forking", self.forking, 0.0, 1.0, above=True)
        for name in ("rate", "eps", "clip", "penalty"):
            _within(name, getattr(self, name), 0.0, above=True)
        _within("forget", self.forget, 0.0, 1.0, above=True)
        for name in ("steps", "width"):
            _whole(name, getattr(self, name), 1)
        _whole("features", self.features, 0)

    @property
    def shallow(self) -> bool:
        return self.control in ("none", "frozen", "noise")

    def policy(self, head: Head) -> Policy:
        from .esamp import EsampPolicy

        return EsampPolicy(self, head)


@dataclass(frozen=True, slots=True)
class Css(_Text):
    """Clustered stratified sampling: rows in like contexts share one stratified draw. Every sample keeps its law."""

    word: ClassVar[str] = "css"
    min_cosine: float = 0.9  # of two contexts in one cluster
    candidates: int = 64
    order: Literal["chain", "vocabulary"] = "chain"
    width: int = 0  # dimensions that contexts are compared in; 0: all
    centre: bool = False

    def __post_init__(self) -> None:
        _within("min_cosine", self.min_cosine, -1.0, 1.0)
        _whole("candidates", self.candidates, 1)
        _whole("width", self.width, 0)
        _one_of("order", self.order, ("chain", "vocabulary"))

    @property
    def shallow(self) -> bool:
        return False

    def policy(self, head: Head) -> Policy:
        from .css import CssPolicy

        return CssPolicy(self, head)


@dataclass(frozen=True, slots=True)
class Lss(_Text):
    """Latent stratified sampling: what siblings took too often in like contexts goes down, too seldom goes up."""

    word: ClassVar[str] = "lss"
    strength: float = 4.0
    sigma: float = 0.05  # how far contexts may be apart; at most, see `background`
    count: float = 0.5  # what every token is taken to have been drawn beforehand
    limit: float = 3.0  # nats that a token's odds may move
    safe: float = 0.0  # share of draws from the plain law
    candidates: int = 64
    memory: int = 2048  # draws remembered a group
    width: int = 32
    centre: bool = False
    lag: bool = False  # control: rows of one step do not see each other
    background: float = 0.01  # at most so much the median earlier draw weighs: sigma shrinks till then; 0: it does not

    def __post_init__(self) -> None:
        _within("strength", self.strength, 0.0)
        for name in ("sigma", "count", "limit"):
            _within(name, getattr(self, name), 0.0, above=True)
        _within("safe", self.safe, 0.0, 1.0)
        _within("background", self.background, 0.0, 0.5)
        for name in ("candidates", "memory"):
            _whole(name, getattr(self, name), 1)
        _whole("width", self.width, 0)

    @property
    def shallow(self) -> bool:
        return False

    def policy(self, head: Head) -> Policy:
        from .lss import LssPolicy

        return LssPolicy(self, head)


@dataclass(frozen=True, slots=True)
class Reshape(_Text):
    """A plain law of another shape: `heat` multiplies the temperature; then what is unlikely is cut."""

    word: ClassVar[str] = "reshape"
    heat: float = 1.0
    sigmas: float = 0.0  # keep logits within so many standard deviations of the highest; 0: off
    entropy: float = 0.0  # keep the likeliest tokens up to this share of the law's entropy; 0: off

    def __post_init__(self) -> None:
        _within("heat", self.heat, 0.0, above=True)
        _within("sigmas", self.sigmas, 0.0)
        _within("entropy", self.entropy, 0.0, 1.0)

    @property
    def shallow(self) -> bool:
        return False

    def policy(self, head: Head) -> Policy:
        from .plain import ReshapePolicy

        return ReshapePolicy(self)


@dataclass(frozen=True, slots=True)
class Arithmetic(_Text):
    """Arithmetic sampling (Vilnis and others, 2023): samples spread evenly over the law of whole responses."""

    word: ClassVar[str] = "arithmetic"

    @property
    def shallow(self) -> bool:
        return False

    def policy(self, head: Head) -> Policy:
        from .plain import ArithmeticPolicy

        return ArithmeticPolicy()


# --- the words --------------------------------------------------------------------------------------------------------

esamp, css, lss, arithmetic, reshape = Esamp, Css, Lss, Arithmetic, Reshape


def zero(beta: float = 0.25) -> Esamp:
    """Control: esamp with a prediction of zero, which is a lower temperature and nothing else."""
    return Esamp(beta, control="zero")


def frozen(beta: float = 0.25, *, compensate: Compensate = "none") -> Esamp:
    """Control: esamp with a random network that never learns."""
    return Esamp(beta, control="frozen", compensate=compensate)


def noise(
    beta: float = 0.25,
    *,
    learner: Learner = "adam",
    rate: float = 4e-4,
    steps: int = 1,
    compensate: Compensate = "none",
) -> Esamp:
    """Control: esamp with the error's direction at random and its length kept."""
    return Esamp(beta, learner, compensate, control="noise", rate=rate, steps=steps)


def hot(heat: float = 1.5) -> Reshape:
    """Control: plain draws at `heat` times the temperature."""
    _within("heat", heat, 1.0)
    return Reshape(heat)


def cold(heat: float = 0.8) -> Reshape:
    """Control: plain draws at `heat` times the temperature, at most 1."""
    _within("heat", heat, 0.0, 1.0, above=True)
    return Reshape(heat)


def top_sigma(sigmas: float = 1.0, *, heat: float = 1.0) -> Reshape:
    """Keep logits within so many standard deviations of the highest (top-n-sigma, arXiv 2411.07641)."""
    _within("sigmas", sigmas, 0.0, above=True)
    return Reshape(heat, sigmas)


def top_entropy(entropy: float = 0.4, *, heat: float = 1.0) -> Reshape:
    """Keep the likeliest tokens up to a share of the law's entropy (top-H, arXiv 2509.02510)."""
    _within("entropy", entropy, 0.0, 1.0, above=True)
    return Reshape(heat, 0.0, entropy)
