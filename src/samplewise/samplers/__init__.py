"""How responses are drawn: pure samplers that yield asks. One file each; `base` has the protocol, `infos` the trace."""

from samplewise.samplers.base import Sampler, Step, Variant, candidate, deal, direct
from samplewise.samplers.repeat import repeat

__all__ = ["Sampler", "Step", "Variant", "candidate", "deal", "direct", "repeat"]
