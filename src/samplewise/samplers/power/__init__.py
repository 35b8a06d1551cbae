"""Power sampling: responses from p(x)^alpha over whole responses, by chains, weights, particles and ladders.

No reward, no verifier, no training: it needs log-probabilities and the right to continue a prefix. Sharpening a whole
response is not a low temperature, which sharpens token by token: power favors tokens with few but sure futures.

    power        Metropolis-Hastings chains (and multiple tries); greedy is its limit
    sir, smc     importance weights of whole draws; particles that are resampled as they grow
    tempering    a ladder of powers whose rungs swap responses
    adaptive     alpha for each question, by whether likely responses agree

Reference: arXiv 2510.14901 and its successors. The proofs are in tests/samplers/power and samplewise.testing.
"""

from samplewise.samplers.power.adaptive import adaptive
from samplewise.samplers.power.chains import greedy, power
from samplewise.samplers.power.importance import sir
from samplewise.samplers.power.ladder import tempering
from samplewise.samplers.power.report import chain_notes, summarize_chains
from samplewise.samplers.power.smc import smc

__all__ = ["adaptive", "chain_notes", "greedy", "power", "sir", "smc", "summarize_chains", "tempering"]
