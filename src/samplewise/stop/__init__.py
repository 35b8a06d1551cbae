"""When enough is enough: pure rules over a scored pool."""

from samplewise.stop.base import StopRule
from samplewise.stop.budget import blend_asc
from samplewise.stop.certified import certify, mmc, ppr_1v1, vote_e
from samplewise.stop.confident import cges, deepconf, ias, reasc
from samplewise.stop.consistency import asc, entropy, esc, share
from samplewise.stop.dirichlet import asc_dirichlet, bayes_factor
from samplewise.stop.either import either, first_of
from samplewise.stop.first_pass import passed
from samplewise.stop.fixed import cap, lead
from samplewise.stop.optscale import optscale
from samplewise.stop.reward import beacon, pandora, ucb_pandora
from samplewise.stop.sequential import sprt
from samplewise.stop.shapes import bayes_l3, learned_shapes

__all__ = [
    "StopRule",
    "asc",
    "asc_dirichlet",
    "bayes_factor",
    "bayes_l3",
    "beacon",
    "blend_asc",
    "cap",
    "certify",
    "cges",
    "deepconf",
    "either",
    "entropy",
    "esc",
    "first_of",
    "ias",
    "lead",
    "learned_shapes",
    "mmc",
    "optscale",
    "pandora",
    "passed",
    "ppr_1v1",
    "reasc",
    "share",
    "sprt",
    "ucb_pandora",
    "vote_e",
]
