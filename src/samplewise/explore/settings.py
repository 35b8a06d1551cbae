"""The settings of token policies, as frozen data: `esamp(beta=0.5, learner=ridge)`, `lss`, `css(min_cosine=0.8)`.

    esamp        Exploratory Sampling (arXiv 2604.24927)
    css          clustered stratified sampling: one stratified draw for all draws in similar contexts
    lss          latent stratified sampling: css with a memory of the group's earlier draws
    arithmetic   arithmetic sampling (Vilnis and others, 2023)
    consensus    one answer decoded from all reasoning traces of a group (arXiv 2605.28142)

The controls, which are there only to compare with, are in `explore.controls`.

`str` of the settings is their canonical text. It names what differs from the defaults and is part of every request of
a group, so equal texts mean equal policies. Settings check their own values. They name the class of their policy,
which needs torch; `explore.policies` imports it when the first group opens. A plugin's settings subclass
`ExploreSettings`.

The draws of a group depend on one another: the first k draws of a group of n are not a group of k. Defaults are the
published ones where there are any; each deviation is a named option.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, get_args

Control = Literal["none", "zero", "frozen", "noise"]
LearnerName = Literal["adam", "ridge"]
Compensate = Literal["none", "entropy", "gate", "full"]
AsyncMode = Literal["no", "wait", "drop"]


class ExploreSettings:
    """A dataclass that says how the draws of a group depend on one another.

    `str` is its canonical spec: its `word`, and the fields that differ from their defaults.
    """

    __slots__ = ()
    word: ClassVar[str] = ""
    policy_class: ClassVar[str] = ""  # "module:Class" of its TokenPolicy, made from the settings and a head

    @property
    def reads_shallow(self) -> bool:
        """Whether the policy reads the states after the first block."""
        return False

    @property
    def reads_prompt(self) -> bool:
        """Whether the policy reads the prompt's own states, for one more pass over the prompt a group."""
        return False

    @property
    def meets_at(self) -> str:
        """The text at whose end a draw waits until every draw of its group has come to it; "" where none waits."""
        return ""

    @property
    def tokens_after(self) -> int:
        """How many tokens a draw has from where its group met; with fewer left, it does not wait and is not met."""
        return 0

    def __str__(self) -> str:
        settings: Any = self
        values = [(f.name, getattr(self, f.name), f.default) for f in fields(settings)]
        changed = [f"{name}={value!r}" for name, value, default in values if value != default]
        return f"{self.word}({', '.join(changed)})" if changed else self.word


def require_within(name: str, value: float, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Raise ValueError unless `value` is a number in [low, high], or in (low, high] with `above`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not (is_number and (value > low if above else value >= low) and value <= high):
        least = f"above {low:g}" if above else f"at least {low:g}"
        raise ValueError(f"{name} must be {least}{'' if high == math.inf else f' and at most {high:g}'}, got {value!r}")


def _require_whole(name: str, value: int, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}")


def _require_one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


@dataclass(frozen=True, slots=True)
class Esamp(ExploreSettings):
    """Exploratory Sampling: raise the tokens whose states a small network, trained on the group, fails to predict."""

    word: ClassVar[str] = "esamp"
    policy_class: ClassVar[str] = "samplewise.explore.esamp:EsampPolicy"
    beta: float = 0.25  # strength of the guidance
    learner: LearnerName = "adam"
    compensate: Compensate = "none"
    forking: float = 1.0  # share of the group's rows that is guided: those of the highest entropy
    control: Control = "none"
    rate: float = 4e-4  # adam: learning rate
    eps: float = 1e-4
    clip: float = 0.5  # largest norm of a group's gradient
    steps: int = 1  # gradient steps for each decoding step
    loss: Literal["sum", "mean"] = "sum"  # over the entries of a state
    width: int = 384
    input_norm: bool = True
    features: int = 0  # ridge: random features of the shallow state; 0: the state itself, or 256 where it is wider
    penalty: float = 1.0  # ridge
    forget: float = 1.0  # ridge: 1 keeps everything
    warm_start: bool = False  # first learn from the prompt's own states: one more pass over the prompt a group
    aside: AsyncMode = "no"  # learn beside the engine; wait for a late step, or drop it (draws then vary)

    def __post_init__(self) -> None:
        require_within("beta", self.beta, 0.0)
        _require_one_of("learner", self.learner, get_args(LearnerName))
        _require_one_of("compensate", self.compensate, get_args(Compensate))
        _require_one_of("control", self.control, get_args(Control))
        _require_one_of("loss", self.loss, ("sum", "mean"))
        _require_one_of("aside", self.aside, get_args(AsyncMode))
        require_within("forking", self.forking, 0.0, 1.0, above=True)
        for name in ("rate", "eps", "clip", "penalty"):
            require_within(name, getattr(self, name), 0.0, above=True)
        require_within("forget", self.forget, 0.0, 1.0, above=True)
        for name in ("steps", "width"):
            _require_whole(name, getattr(self, name), 1)
        _require_whole("features", self.features, 0)

    @property
    def reads_shallow(self) -> bool:
        return self.control in ("none", "frozen", "noise")

    @property
    def reads_prompt(self) -> bool:
        return self.warm_start


@dataclass(frozen=True, slots=True)
class Css(ExploreSettings):
    """Clustered stratified sampling: rows in similar contexts share one stratified draw. Every draw on its own has
    exactly the plain distribution."""

    word: ClassVar[str] = "css"
    policy_class: ClassVar[str] = "samplewise.explore.css:CssPolicy"
    min_cosine: float = 0.9  # of two contexts in one cluster
    candidates: int = 64
    order: Literal["chain", "vocabulary"] = "chain"
    width: int = 0  # dimensions that contexts are compared in; 0: all
    centre: bool = False

    def __post_init__(self) -> None:
        require_within("min_cosine", self.min_cosine, -1.0, 1.0)
        _require_whole("candidates", self.candidates, 1)
        _require_whole("width", self.width, 0)
        _require_one_of("order", self.order, ("chain", "vocabulary"))


@dataclass(frozen=True, slots=True)
class Lss(ExploreSettings):
    """Latent stratified sampling: lower the tokens that the group drew too often in similar contexts, and raise those
    that it drew too seldom."""

    word: ClassVar[str] = "lss"
    policy_class: ClassVar[str] = "samplewise.explore.lss:LssPolicy"
    strength: float = 4.0
    sigma: float = 0.05  # bandwidth of context similarity; an upper limit, see `background`
    count: float = 0.5  # prior count of every token
    limit: float = 3.0  # largest change of a token's log-odds, nats
    safe: float = 0.0  # share of draws from the plain distribution
    candidates: int = 64
    memory: int = 2048  # draws remembered a group
    width: int = 32
    centre: bool = False
    lag: bool = False  # control: the rows of one step do not see each other
    background: float = 0.01  # sigma shrinks until the median earlier draw weighs at most this; 0: it never shrinks

    def __post_init__(self) -> None:
        require_within("strength", self.strength, 0.0)
        for name in ("sigma", "count", "limit"):
            require_within(name, getattr(self, name), 0.0, above=True)
        require_within("safe", self.safe, 0.0, 1.0)
        require_within("background", self.background, 0.0, 0.5)
        for name in ("candidates", "memory"):
            _require_whole(name, getattr(self, name), 1)
        _require_whole("width", self.width, 0)


@dataclass(frozen=True, slots=True)
class Arithmetic(ExploreSettings):
    """Arithmetic sampling: spread the draws evenly over the distribution of whole responses."""

    word: ClassVar[str] = "arithmetic"
    policy_class: ClassVar[str] = "samplewise.explore.arithmetic:ArithmeticPolicy"


@dataclass(frozen=True, slots=True)
class Consensus(ExploreSettings):
    """Decode one answer from a group: draws reason apart up to `start`, then share tokens, by their mean ** `gamma`."""

    word: ClassVar[str] = "consensus"
    policy_class: ClassVar[str] = "samplewise.explore.consensus:ConsensusPolicy"
    gamma: float = 2.0  # 1: the mean itself; above 1 it is sharpened
    start: str = "The answer is"  # the text in a response after which its answer begins
    answer_tokens: int = 64  # most tokens of an answer; a draw that comes to `start` with fewer left answers alone

    def __post_init__(self) -> None:
        require_within("gamma", self.gamma, 0.0, above=True)
        if not isinstance(self.start, str) or not self.start.strip():
            raise ValueError(f"start must be a text that is not blank, got {self.start!r}")
        _require_whole("answer_tokens", self.answer_tokens, 1)

    @property
    def meets_at(self) -> str:
        return self.start

    @property
    def tokens_after(self) -> int:
        return self.answer_tokens


esamp, css, lss, arithmetic, consensus = Esamp, Css, Lss, Arithmetic, Consensus
