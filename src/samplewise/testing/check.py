"""Check a sampler, or every registered one, against all the sampler laws."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence

from samplewise.core.keys import Key
from samplewise.core.registry import build, factory, names
from samplewise.core.types import Message, Question
from samplewise.engines.toy import Toy
from samplewise.testing.laws import LAWS
from samplewise.testing.play import Case, LogTarget, MakeSampler
from samplewise.vary.base import Arm, PlainArm
from samplewise.vary.temperature import ladder

# Specs that stand for a registered sampler, where a call with plain arguments is not enough.
EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "repeat": ("repeat(6, max_tokens=4)", "repeat(7, max_tokens=4, wave=3, top_k=2, stop='b')"),
    "adaptive": ("adaptive(4, 2, 3, answers='text', max_tokens=4)",),
    "greedy": ("greedy(4, 2, max_tokens=4)",),
    "power": (
        "power(4, 5, 2, max_tokens=4)",
        "power(2, 3, 2, max_tokens=4, move='isir', temperatures=(0.5, 1.0), cuts='recent', length_preference='auto')",
        "power(2, 3, max_tokens=4, move='mtm', starts=3, top_k=2, budget_tokens=40)",
        "power(3, 3, max_tokens=4, blocks=2, cuts='recent')",
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
    make: MakeSampler,
    *,
    arms: Sequence[Arm | PlainArm] = (ladder(0.5, 1.5),),
    engine: Toy | None = None,
    key: Key | None = None,
    log_target: LogTarget | None = None,
) -> None:
    """Check every law on a sampler. Raise AssertionError naming the first law that is broken.

    `make` builds the sampler afresh, with small settings: half a dozen draws of at most four tokens. `log_target` is
    the log of the unnormalized distribution (nats) that a weighted sampler aims at. Takes about a second.
    """
    question = Question("conformance", (Message("user", "spell a word"),), {"letters": 2})
    case = Case(make, question, engine or Toy(2, seed=3), tuple(arms), key or Key(7), log_target)
    for name, check in LAWS.items():
        try:
            check(case)
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error


def examples(sampler: str | None = None) -> list[str]:
    """Return the specs that stand for the registered samplers, or for one of them.

    They are those of `EXAMPLES`, else a call with 6 for every argument without a default, and `max_tokens=4` if there
    is such an argument.
    """
    specs: list[str] = []
    for name in names("sampler") if sampler is None else (sampler,):
        parameters = inspect.signature(factory("sampler", name)).parameters.values()
        required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        args = [f"{p.name}=6" if p.kind is p.KEYWORD_ONLY else "6" for p in required if p.name != "max_tokens"]
        args += ["max_tokens=4" for p in parameters if p.name == "max_tokens"]
        specs += EXAMPLES.get(name, (f"{name}({', '.join(args)})",))
    return specs


def check_registered() -> None:
    """Check every law on every registered sampler, plugins included."""
    for spec in examples():
        check_sampler(functools.partial(build, "sampler", spec))
