"""Controls: policies that are there only to compare the others with.

    zero, frozen, noise     esamp without what makes it explore: a zero prediction, a network that never learns, an
                            error in a random direction
    hot, cold               plain draws at another temperature
    top_sigma, top_entropy  published truncations (arXiv 2411.07641, 2509.02510)
    reshape                 the temperature and both truncations in one

Plain draws of another shape are independent of one another; the variants of esamp are not. Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from samplewise.explore.settings import Compensate, Esamp, ExploreSettings, LearnerName, require_within


@dataclass(frozen=True, slots=True)
class Reshape(ExploreSettings):
    """Plain draws from a reshaped distribution: `heat` multiplies the temperature, then unlikely tokens are cut."""

    word: ClassVar[str] = "reshape"
    policy_class: ClassVar[str] = "samplewise.explore.controls.reshaping:ReshapePolicy"
    heat: float = 1.0
    sigmas: float = 0.0  # keep the logits within this many standard deviations of the highest; 0: off
    entropy: float = 0.0  # keep the likeliest tokens up to this share of the distribution's entropy; 0: off

    def __post_init__(self) -> None:
        require_within("heat", self.heat, 0.0, above=True)
        require_within("sigmas", self.sigmas, 0.0)
        require_within("entropy", self.entropy, 0.0, 1.0)


reshape = Reshape


def zero(beta: float = 0.25) -> Esamp:
    """Run esamp with a prediction of zero, which lowers the temperature and does nothing else."""
    return Esamp(beta, control="zero")


def frozen_distiller(beta: float = 0.25, *, compensate: Compensate = "none") -> Esamp:
    """Run esamp with a random network that never learns."""
    return Esamp(beta, control="frozen", compensate=compensate)


def noise(
    beta: float = 0.25,
    *,
    learner: LearnerName = "adam",
    rate: float = 4e-4,
    steps: int = 1,
    compensate: Compensate = "none",
) -> Esamp:
    """Run esamp with the prediction error turned into a random direction, its length kept."""
    return Esamp(beta, learner, compensate, control="noise", rate=rate, steps=steps)


def hot(heat: float = 1.5) -> Reshape:
    """Draw plainly at `heat` times the temperature."""
    require_within("heat", heat, 1.0)
    return Reshape(heat)


def cold(heat: float = 0.8) -> Reshape:
    """Draw plainly at `heat` times the temperature, at most 1."""
    require_within("heat", heat, 0.0, 1.0, above=True)
    return Reshape(heat)


def top_sigma(sigmas: float = 1.0, *, heat: float = 1.0) -> Reshape:
    """Keep the logits within `sigmas` standard deviations of the highest (top-n-sigma, arXiv 2411.07641)."""
    require_within("sigmas", sigmas, 0.0, above=True)
    return Reshape(heat, sigmas)


def top_entropy(entropy: float = 0.4, *, heat: float = 1.0) -> Reshape:
    """Keep the likeliest tokens up to this share of the distribution's entropy (top-H, arXiv 2509.02510)."""
    require_within("entropy", entropy, 0.0, 1.0, above=True)
    return Reshape(heat, 0.0, entropy)
