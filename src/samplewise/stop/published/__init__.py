"""Published stop rules, kept for comparison. The rules to use are in `samplewise.stop`."""

from samplewise.stop.published.confident import cges, ias, reasc
from samplewise.stop.published.consistency import agreement, entropy, vote_share
from samplewise.stop.published.dirichlet import asc_dirichlet, bayes_factor
from samplewise.stop.published.e_values import certify, mmc, ppr_1v1
from samplewise.stop.published.shapes import bayes_l3, learned_shapes
from samplewise.stop.published.ucb_pandora import ucb_pandora

__all__ = [
    "agreement",
    "asc_dirichlet",
    "bayes_factor",
    "bayes_l3",
    "certify",
    "cges",
    "entropy",
    "ias",
    "learned_shapes",
    "mmc",
    "ppr_1v1",
    "reasc",
    "ucb_pandora",
    "vote_share",
]
