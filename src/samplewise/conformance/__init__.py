"""The sampler laws, as a check that plugin authors call from their own tests.

    from samplewise.conformance import check_sampler

    def test_my_sampler_keeps_the_laws():
        check_sampler(lambda: my_sampler(6, max_tokens=4))

A law that is broken raises AssertionError with its number, its name and what was seen. Everything runs on the toy
engine, at fixed keys, without a file or a socket, in about a second.

    1 same key, same run; a different key, a different run
    2 `step` and `pool` are pure: equal inputs give equal outputs, and inputs are left as they were
    3 state and info are plain data and survive a JSON round trip
    4 the pool is valid after every step, whatever the budget (the anytime law)
    5 no ask occurs twice within a run
    6 spending never passes the budget, of any kind and any size
    7 any subset of failed completions is tolerated
    8 an exchangeable sampler: permuting completions permutes the pool
    9 replay from the store calls the engine zero times and ends in an equal result
    10 parameters are called `key`, `state`, `completions` (and `variants`)
    11 the pool follows the law it should, as the toy model's enumeration has it
    12 a splittable step handed over one completion at a time ends where it ends when handed over whole

Law 11 for an exchangeable sampler is a chi-square test of its draws against the laws of its own asks; a right sampler
fails it at a fresh key with odds of 1e-6, and the keys are fixed. For a weighted sampler the target is the caller's to
say (`log_target`), and the log weights are absolute: the mean over a pool of exp(log_weight) f(candidate) must be
unbiased for the sum over responses of target f. The plain weighted mean is biased at finite N, so it is not tested.

The samplers of the registry are found by name (`examples`), so a new one is covered without new test code.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence

from samplewise.conformance.laws import LAWS
from samplewise.conformance.play import Case, LogTarget, Make, Moment, Watched, play
from samplewise.engines.toy import Toy
from samplewise.keys import Key
from samplewise.spec import build, factory, names
from samplewise.types import Message, Question
from samplewise.vary.base import Arm, PlainArm
from samplewise.vary.temperature import ladder

__all__ = [
    "EXAMPLES",
    "LAWS",
    "Case",
    "LogTarget",
    "Make",
    "Moment",
    "Watched",
    "check_registered",
    "check_sampler",
    "examples",
    "play",
]

# What stands for a sampler when the registry is checked, where `example` would not do or one is not enough.
EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "repeat": ("repeat(6, max_tokens=4)", "repeat(7, max_tokens=4, wave=3, top_k=2, stop='b')"),
    "adaptive": ("adaptive(4, 2, 3, answers='text', max_tokens=4)",),
    "greedy": ("greedy(4, 2, max_tokens=4)",),
    "power": (
        "power(4, 5, 2, max_tokens=4)",
        "power(2, 3, 2, max_tokens=4, move='isir', temperatures=(0.5, 1.0), cuts='own', length_preference='auto')",
        "power(2, 3, max_tokens=4, move='mtm', starts=3, top_k=2, budget_tokens=40)",
        "power(3, 3, max_tokens=4, blocks=2, cuts='entropy')",
    ),
    "sir": ("sir(6, 2, max_tokens=4)", "sir(5, 2, max_tokens=4, wave=2, temperatures=(0.5, 1.0))"),
    "smc": (
        "smc(5, 2, max_tokens=4, block=1)",
        "smc(4, 2, max_tokens=4, block=2, ramp=3, scheme='chopthin', sweeps=2, threshold=0.9)",
    ),
    "tempering": (
        "tempering((1.5, 3), 3, max_tokens=4)",
        "tempering((2, 3), 3, max_tokens=4, temperature=0.5, top_k=2)",
    ),
}


def check_sampler(
    make: Make,
    *,
    arms: Sequence[Arm | PlainArm] = (ladder(0.5, 1.5),),
    engine: Toy | None = None,
    key: Key | None = None,
    log_target: LogTarget | None = None,
) -> None:
    """Check every law. Raises AssertionError with the first that is broken."""
    question = Question("conformance", (Message("user", "spell a word"),), {"letters": 2})
    case = Case(make, question, engine or Toy(2, seed=3), tuple(arms), key or Key(7), log_target)
    for name, law in LAWS.items():
        try:
            law(case)
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error


def examples(sampler: str | None = None) -> list[str]:
    """The specs that stand for the registered samplers, or for one of them: those of `EXAMPLES`, else a call with 6 for
    every argument without a default, and `max_tokens=4` where there is such an argument."""
    found: list[str] = []
    for name in names("sampler") if sampler is None else (sampler,):
        parameters = inspect.signature(factory("sampler", name)).parameters.values()
        required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        args = [f"{p.name}=6" if p.kind is p.KEYWORD_ONLY else "6" for p in required if p.name != "max_tokens"]
        args += ["max_tokens=4" for p in parameters if p.name == "max_tokens"]
        found += EXAMPLES.get(name, (f"{name}({', '.join(args)})",))
    return found


def check_registered() -> None:
    """Check every law on every registered sampler, plugins included."""
    for spec in examples():
        check_sampler(functools.partial(build, "sampler", spec))
