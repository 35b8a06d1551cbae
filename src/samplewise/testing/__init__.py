"""Test tools for plugin authors: the sampler laws, a player that runs a sampler by hand, and a watched engine.

    from samplewise.testing import check_sampler

    def test_my_sampler_keeps_the_laws():
        check_sampler(lambda: my_sampler(6, max_tokens=4))

A broken law raises AssertionError with its number, its name and the evidence. Everything runs on the toy engine, at
fixed keys, without a file or a socket.

    1 same key, same run; a different key, a different run
    2 `step` and `pool` are pure: equal inputs give equal outputs, and inputs are left as they were
    3 state and info are plain data and survive a JSON round trip
    4 the pool is valid after every step, at any budget (the anytime law)
    5 no ask occurs twice within a run
    6 spending never passes the budget, of any kind and any size
    7 any subset of failed completions is tolerated
    8 an exchangeable sampler: permuting completions permutes the pool
    9 replay from the store calls the engine zero times and ends in an equal result
    10 parameters are called `key`, `state`, `completions` (and `variants`)
    11 draws follow the distribution they should, by enumeration of the toy model
    12 a splittable step ends in the same state whether completions come one at a time or together

Law 11 for an exchangeable sampler is a chi-square test of its draws against the distributions of its own asks. A
correct sampler fails it at a fresh key with probability 1e-6, and the keys are fixed. For a weighted sampler the caller
states the target (`log_target`), and log weights are absolute: the mean over a pool of exp(log_weight) f(candidate)
must be unbiased for the sum over responses of target f. The plain weighted mean is biased at finite N, so it is not
tested.

`samplewise.testing.endpoint` is an OpenAI-compatible server with faults on request, for tests of clients.
"""

from samplewise.testing.check import EXAMPLES, check_registered, check_sampler, examples
from samplewise.testing.laws import LAWS, LawCheck
from samplewise.testing.play import Case, LogTarget, MakeSampler, PlayedStep, WatchedEngine, play

__all__ = [
    "EXAMPLES",
    "LAWS",
    "Case",
    "LawCheck",
    "LogTarget",
    "MakeSampler",
    "PlayedStep",
    "WatchedEngine",
    "check_registered",
    "check_sampler",
    "examples",
    "play",
]
