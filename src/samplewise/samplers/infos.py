"""What samplers write to the trace: one named tuple per kind of info, plain JSON on the wire.

`to_json(info)` gives the mapping that a `Step` carries; `read_trace(trace)` reads a run's infos back, typed. Reports
read these types and share no dictionary keys with the samplers. Fields whose default is None are left out while they
are None; all others are always present. Log-probabilities are in nats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, cast

from samplewise.core.types import Json

Outcome = Literal["behind", "same", "accepted", "rejected", "aborted", "failed"]
T = TypeVar("T")

WIRE = {"position": "at", "saved": "kept"}  # fields whose JSON key is another word


class TargetInfo(NamedTuple):
    """The distribution that chains aim at, and how. `alpha` None: infinite; `length_preference` None: not set yet."""

    alpha: float | None
    length_preference: float | None
    temperatures: tuple[float, ...]
    restricted_support: bool  # top-k, top-p or min-p cut the proposal, and the target with it
    horizon: int
    stages: tuple[tuple[int, int], ...]  # (horizon, steps) of each
    cuts: str
    move: str
    tries: int
    chains: int


class MoveInfo(NamedTuple):
    """One step of one chain."""

    chain: int
    stage: int  # which horizon; of `adaptive`, which round
    step: int
    cut: int
    position: int  # where the proposal first differs from the response; -1: nowhere
    outcome: Outcome
    log_ratio: float | None  # None: not known, or not needed
    tokens: int  # drawn in this step
    saved: int  # tokens of the response that the jump reused instead of drawing them
    length: int  # tokens of the response after the step
    logp: float  # of the response after the step
    ended: bool  # whether the response ends with a stop token
    requests: int | None = None  # of the step; None: one, or none where nothing differed
    unused: int | None = None  # tokens drawn that are in no proposal; None: none

    @property
    def num_requests(self) -> int:
        """Requests of the step."""
        return int(self.outcome not in ("behind", "same")) if self.requests is None else self.requests

    @property
    def differed(self) -> bool:
        """Whether a proposal that differed from the response was decided on."""
        return self.outcome in ("accepted", "rejected", "aborted")


class SwapInfo(NamedTuple):
    """A swap between rung `rung` of a ladder and the one above it, proposed in a round."""

    ladder: int
    rung: int
    round: int
    swapped: bool


class RoundInfo(NamedTuple):
    """A round of `adaptive`: the power it ran at, the agreement gain after it, and why it was the last."""

    adaptive: bool
    round: int
    alpha: float
    gain: float
    ended: str | None = None


class WeightInfo(NamedTuple):
    """How evenly `num` importance weights are spread, and the log of the estimated normalizer."""

    num: int
    ess: float
    log_z: float


class BlockInfo(NamedTuple):
    """SMC after one block. The log normalizers, of this sweep and of the one that is kept, come with its last block."""

    sweep: int
    block: int
    num: int
    ess: float
    resampled: bool
    ancestors: int | None = None
    log_z: float | None = None
    kept_log_z: float | None = None


class GroupInfo(NamedTuple):
    """What a group of diverse draws reports when it ends: policy, number of draws, figures by name, what went wrong."""

    arm: str
    policy: str
    samples: int
    numbers: Mapping[str, float]
    problem: str = ""


class Trace(NamedTuple):
    """Every info of one run or of several, by kind, in order."""

    moves: tuple[MoveInfo, ...]
    swaps: tuple[SwapInfo, ...]
    walkers: tuple[tuple[int, ...], ...]  # after each ladder step: which start each rung's response came from
    rounds: tuple[RoundInfo, ...]
    weights: tuple[WeightInfo, ...]
    blocks: tuple[BlockInfo, ...]
    groups: tuple[GroupInfo, ...]
    logp: tuple[float | None, ...]  # of each draw of a group under the model; None: unknown
    logq: tuple[float | None, ...]  # of the same draws under the distribution drawn from
    arms: tuple[str, ...] = ()  # of each chain or ladder, where there are several


def arms_info(arms: Sequence[str]) -> dict[str, Json]:
    """Return the arm of each chain or ladder, as a part of an info; nothing where there is one arm."""
    return {"chain_arms": list(arms)} if len(set(arms)) > 1 else {}


def to_json(info: NamedTuple) -> dict[str, Json]:
    """Return an info as a plain mapping."""
    defaults = info._field_defaults
    fields = info._asdict().items()
    return {WIRE.get(k, k): v for k, v in fields if not (v is None and k in defaults)}


def from_json(kind: type[T], data: Mapping[str, Json]) -> T:
    """Return an info of this kind out of a plain mapping."""
    fields = cast(Any, kind)._fields
    return kind(**{name: data[key] for name in fields if (key := WIRE.get(name, name)) in data})


def read_trace(trace: Sequence[Json]) -> Trace:
    """Return the infos of a trace by kind. Infos of other samplers are passed over."""
    infos = [info for info in trace if isinstance(info, Mapping)]

    def listed(kind: type[T], name: str) -> tuple[T, ...]:
        return tuple(from_json(kind, data) for info in infos for data in info.get(name, ()))

    return Trace(
        moves=listed(MoveInfo, "moves"),
        swaps=listed(SwapInfo, "swaps"),
        walkers=tuple(tuple(info["walkers"]) for info in infos if "walkers" in info),
        rounds=listed(RoundInfo, "rounds"),
        weights=tuple(from_json(WeightInfo, info["weights"]) for info in infos if "weights" in info),
        blocks=tuple(from_json(BlockInfo, info) for info in infos if "sweep" in info and "ess" in info),
        groups=listed(GroupInfo, "explored"),
        logp=tuple(value for info in infos if "explored" in info for value in info["logp"]),
        logq=tuple(value for info in infos if "explored" in info for value in info["logq"]),
        arms=next((tuple(info["chain_arms"]) for info in infos if "chain_arms" in info), ()),
    )
