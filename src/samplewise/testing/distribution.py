"""Law 11: a sampler's draws follow the distribution they should, by enumeration of the toy model.

A chi-square test for exchangeable samplers, an unbiased quantity within four standard errors for weighted ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from samplewise.core.types import Generate, Pool
from samplewise.engines.toy import Toy
from samplewise.samplers.base import direct
from samplewise.testing.play import Case, LogTarget, PlayedStep, broken, play, text_of

FALSE_ALARM = 1e-6  # probability that the chi-square test fails a correct sampler, at fresh keys
NUM_RUNS = 200  # whose draws are pooled
LEAST = 5.0  # expected draws of a cell of the chi-square test; rarer responses share one


def draws_follow_their_distribution(case: Case) -> None:
    """Check law 11, as far as the sampler says what it draws."""
    sampler = case.make()
    if sampler.weighted and case.log_target is not None:
        _weighted(case, case.log_target)
    elif sampler.exchangeable and not sampler.weighted:
        _exchangeable(case)


def _runs(case: Case) -> Iterator[tuple[list[PlayedStep], Pool]]:
    sampler = case.make()
    for i in range(NUM_RUNS):
        steps = play(case._replace(arms=(), key=case.key.fold("law", i)), sampler)
        yield steps, sampler.pool(steps[-1].after)


def _exchangeable(case: Case) -> None:
    from scipy.special import chdtrc

    asked: Counter[Generate] = Counter()
    counts: Counter[str] = Counter()
    for steps, pool in _runs(case):
        for ask in (ask for played in steps for ask in played.step.asks):
            if not isinstance(ask, Generate) or ask.prefix or ask.reject_below or ask.forbid_first is not None:
                message = f"an exchangeable sampler draws whole responses, this one asks {text_of(ask):.300}"
                broken(11, "distribution", message)
            else:
                asked[ask._replace(seed=0)] += 1
        counts.update(candidate.text for candidate in pool.candidates)
    expected: dict[str, float] = {}
    for ask, num in asked.items():
        for text, probability in _texts(case.engine, ask).items():
            expected[text] = expected.get(text, 0.0) + num * probability
    if stray := counts.keys() - expected.keys():
        broken(11, "distribution", f"responses that the toy model cannot give: {sorted(stray)[:5]}")
    cells = [(mean, counts[text]) for text, mean in expected.items() if mean >= LEAST]
    rare = [(mean, counts[text]) for text, mean in expected.items() if mean < LEAST]
    if rare:
        cells.append((math.fsum(mean for mean, _ in rare), sum(count for _, count in rare)))
    statistic = math.fsum((count - mean) ** 2 / mean for mean, count in cells)
    p_value = float(chdtrc(max(len(cells) - 1, 1), statistic))
    if p_value < FALSE_ALARM:
        figures = f"chi-square {statistic:.1f}, p-value {p_value:.1e}"
        broken(11, "distribution", f"the draws do not follow the distributions of their asks: {figures}")


def _texts(engine: Toy, ask: Generate) -> dict[str, float]:
    """Return the probability of every text that an ask for a whole response can give."""
    probability: dict[str, float] = {}
    for tokens, logq in engine.enumerate(ask.messages, ask.max_tokens, ask.sampling).items():
        text = engine.text(tokens)
        cut = min((i for s in ask.stop if (i := text.find(s)) >= 0), default=len(text))
        probability[text[:cut]] = probability.get(text[:cut], 0.0) + math.exp(logq)
    return probability


def _weighted(case: Case, log_target: LogTarget) -> None:
    runs = list(_runs(case))
    asks = [ask for played in runs[0][0] for ask in played.step.asks if isinstance(ask, Generate)]
    longest = max(len(ask.prefix) + ask.max_tokens for ask in asks)
    mass: dict[str, float] = {}
    for tokens, logp in case.engine.enumerate(direct(case.question).messages, longest).items():
        mass[case.engine.text(tokens)] = math.exp(log_target(tokens, logp))
    heaviest = max(mass, key=lambda text: mass[text])
    for what, counted in (("the total mass", set(mass)), (f"the mass of {heaviest!r}", {heaviest})):
        estimates = [
            math.fsum(math.exp(c.log_weight) for c in pool.candidates if c.text in counted) / len(pool.candidates)
            for _, pool in runs
            if pool.candidates
        ]
        mean = math.fsum(estimates) / len(estimates)
        spread = math.fsum((estimate - mean) ** 2 for estimate in estimates)
        error = math.sqrt(spread / (len(estimates) - 1) / len(estimates))
        truth = math.fsum(mass[text] for text in counted)
        if abs(mean - truth) > 4 * error + 1e-9 * truth:
            broken(
                11, "distribution", f"{what} is {truth:.4g}; the weights give {mean:.4g}, standard error {error:.2g}"
            )
