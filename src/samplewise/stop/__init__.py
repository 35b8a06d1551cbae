"""Stop rules: pure folds over a scored pool. The advised ones; `samplewise.stop.published` holds the rest."""

from samplewise.stop.base import StopRule
from samplewise.stop.budget import blend_asc
from samplewise.stop.certified import vote_e
from samplewise.stop.confident import deepconf
from samplewise.stop.consistency import asc, esc
from samplewise.stop.either import either, first_of
from samplewise.stop.first_pass import passed
from samplewise.stop.fixed import cap, lead
from samplewise.stop.optscale import optscale
from samplewise.stop.plan_table import learned_vote_prior
from samplewise.stop.reward import beacon, pandora
from samplewise.stop.sequential import sprt
from samplewise.stop.waves import vote_plan

__all__ = [
    "StopRule",
    "asc",
    "beacon",
    "blend_asc",
    "cap",
    "deepconf",
    "either",
    "esc",
    "first_of",
    "lead",
    "learned_vote_prior",
    "optscale",
    "pandora",
    "passed",
    "sprt",
    "vote_e",
    "vote_plan",
]
