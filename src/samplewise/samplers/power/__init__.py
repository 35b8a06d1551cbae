"""Power sampling: responses from p(x)^alpha over whole responses, by chains, weights, particles and ladders.

No reward, no verifier, no training: log-probabilities and the right to continue a prefix. Sharpening a whole response
is not a low temperature, which sharpens token by token: power favours tokens with few but sure futures.

    power        Metropolis-Hastings chains (and multiple tries); greedy is its limit
    sir, smc     importance weights of whole draws; particles that are resampled as they grow
    tempering    a ladder of powers whose rungs change places
    adaptive     alpha for each question, by whether likely responses agree

Reference: arXiv 2510.14901 and its successors. The proofs are in tests/samplers/power and samplewise.conformance.
"""

from samplewise.samplers.power.adapting import adaptive
from samplewise.samplers.power.importance import sir
from samplewise.samplers.power.ladder import tempering
from samplewise.samplers.power.metropolis import greedy, power
from samplewise.samplers.power.particles import smc
from samplewise.samplers.power.report import notes, summary

__all__ = ["adaptive", "greedy", "notes", "power", "sir", "smc", "summary", "tempering"]
