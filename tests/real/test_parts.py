"""Every part of the registry on a real model: nothing fails, and what it drew has the model's own probabilities.

A part that is registered and has no line here fails `test_every_part_has_a_line`.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch")

from samplewise import asolve  # noqa: E402
from samplewise.core.registry import Kind, names  # noqa: E402
from samplewise.core.spec import parse_spec  # noqa: E402
from samplewise.core.types import Completion, Generate  # noqa: E402
from samplewise.engines.base import Arrival  # noqa: E402
from samplewise.verify.extract import read_code  # noqa: E402

pytestmark = pytest.mark.real

QUESTIONS = (
    "What is 17 + 25? Answer with the number alone.",
    "Tom has 3 boxes of 4 pens and gives 5 pens away. How many pens are left? Answer with the number alone.",
)
POOL = "repeat(6, max_tokens=12, certainty=True)"  # drawn once, for all stop rules and selectors

SAMPLERS: Mapping[str, Sequence[str]] = {
    "adaptive": ["adaptive(2, 2, 2, max_tokens=8)"],
    "greedy": ["greedy(2, 2, max_tokens=8)"],
    "power": ["power(4, 3, 2, max_tokens=8)", "power(4, 2, 2, temperature=0.5, top_p=0.9, max_tokens=8)"],
    "repeat": [POOL, "repeat(4, temperature=0.7, top_k=50, top_p=0.9, min_p=0.01, max_tokens=8)"],
    "sir": ["sir(4, max_tokens=8)", "sir(4, top_k=20, max_tokens=8)"],
    "smc": ["smc(4, block=3, max_tokens=8)"],
    "tempering": ["tempering((1.5, 2.0, 3.0), 2, max_tokens=8)", "tempering('qwen3-gpqa', 2, max_tokens=8)"],
}
EXPLORE: Mapping[str, Sequence[str]] = {
    "arithmetic": ["arithmetic"],
    "cold": ["cold"],
    "consensus": ["consensus(start='1', answer_tokens=2)"],
    "css": ["css"],
    "esamp": ["esamp", "esamp(learner='ridge')"],
    "frozen": ["frozen"],
    "hot": ["hot"],
    "lss": ["lss"],
    "noise": ["noise"],
    "reshape": ["reshape(0.8, sigmas=2.0)"],
    "top_entropy": ["top_entropy"],
    "top_sigma": ["top_sigma"],
    "zero": ["zero"],
}
STOPS: Mapping[str, str] = {
    "agreement": "agreement(2)",
    "asc": "asc",
    "asc_dirichlet": "asc_dirichlet",
    "bayes_factor": "bayes_factor",
    "bayes_l3": "bayes_l3(((0.6, 0.3, 0.1), (0.5, 0.5)))",
    "beacon": "beacon(logp, price=0.01, first=3, cap=6)",
    "blend_asc": "blend_asc(2)",
    "cap": "cap(3)",
    "certify": "certify('42')",
    "cges": "cges(judge(samples=1))",
    "deepconf": "deepconf(warm_up=3)",
    "either": "either(lead(3), cap(5))",
    "entropy": "entropy",
    "esc": "esc(2)",
    "ias": "ias(judge(samples=1))",
    "lead": "lead(2)",
    "mmc": "mmc",
    "optscale": "optscale(0.9, logp, target=-0.5, cap=6)",
    "pandora": "pandora(logp, price=0.01, distribution=(-0.5, 0.3), cap=6)",
    "passed": "passed(logp, score=-0.3, cap=6)",
    "ppr_1v1": "ppr_1v1(4)",
    "reasc": "reasc(self_certainty)",
    "sprt": "sprt",
    "ucb_pandora": "ucb_pandora(reward, price=0.01, first=3, cap=6)",
    "vote_e": "vote_e",
    "vote_plan": "vote_plan(cap=6)",
    "vote_share": "vote_share",
}
SELECTORS: Mapping[str, str] = {
    "arm_vote": "arm_vote",
    "behaviour": "behaviour(8)",
    "best": "best(logp)",
    "bom": "bom(logp)",
    "borda": "borda(self_certainty)",
    "dawid_skene": "dawid_skene",
    "first": "first",
    "learned": "learned",
    "log_pool": "log_pool",
    "merged": "merged",
    "mob": "mob(likelihood)",
    "only": "only",
    "sharpened": "sharpened",
    "softsat": "softsat",
    "usc": "usc",
    "vote": "vote",
    "weighted": "weighted(judge(samples=1))",
}
NUMBERS, NOTHING = "numbers", "nothing"  # what a verifier says of responses to QUESTIONS
VERIFIERS: Mapping[str, tuple[str, str]] = {
    "codet": ("codet(texts=2, max_tokens=8)", NOTHING),  # of programs
    "consistent": ("consistent", NUMBERS),
    "judge": ("judge(samples=2)", NUMBERS),
    "knockout": ("knockout", NUMBERS),
    "likelihood": ("likelihood", NUMBERS),
    "listwise": ("listwise", NUMBERS),
    "logp": ("logp", NUMBERS),
    "outputs": ("outputs(8)", NUMBERS),
    "pivot": ("pivot(pivots=2)", NUMBERS),
    "public_tests": ("public_tests", NOTHING),  # of programs
    "puzzle": ("puzzle", NOTHING),
    "reward": ("reward", NUMBERS),
    "same": ("same", NUMBERS),
    "self_certainty": ("self_certainty", NUMBERS),
}
OF_PROGRAMS = ("behaviour", "outputs")  # parts that refuse a question without a program
PROGRAMS = (
    "Write a Python function f(n) that returns the square of n, so that f(3) returns 9. Reply with the function alone.",
    "Write a Python function f(s) that returns the text s backwards, so that f('ab') returns 'ba'. Reply with code.",
)
PROGRAM_POOL = "repeat(6, temperature=0.5, max_tokens=64)"
NOT_TRIED: Mapping[tuple[Kind, str], str] = {
    ("verifier", "deepconf"): "needs the likeliest tokens of every position, which this engine does not return",
    ("verifier", "recorded"): "scores recorded draws, and nothing is recorded of this model",
    ("verifier", "reward_server"): "needs a server with a reward model; tests/vllm has one",
}


@pytest.mark.parametrize(
    ("kind", "lines"),
    [("sampler", SAMPLERS), ("explore", EXPLORE), ("stop", STOPS), ("selector", SELECTORS), ("verifier", VERIFIERS)],
)
def test_every_part_has_a_line(kind: Kind, lines: Mapping[str, Any]) -> None:
    untried = {name for of, name in NOT_TRIED if of == kind}
    assert {*lines} | untried == set(names(kind)), f"add a line for each {kind} of the registry"
    assert not {*lines} & untried


class Drawn(NamedTuple):
    ask: Generate
    completion: Completion


@pytest.fixture
def drawn(engine: Any, monkeypatch: pytest.MonkeyPatch) -> list[Drawn]:
    """What the engine draws during a test."""
    kept: list[Drawn] = []
    answer = engine.answer

    async def recorded(asks: Sequence[Any]) -> AsyncIterator[Arrival]:
        async for arrival in answer(asks):
            if isinstance(asks[arrival.position], Generate):
                kept.append(Drawn(asks[arrival.position], arrival.completion))
            yield arrival

    monkeypatch.setattr(engine, "answer", recorded)
    return kept


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("store") / "draws.db")


def solved(engine: Any, recipe: str, questions: Sequence[str] = QUESTIONS, **changes: Any) -> list[Any]:
    """The results of a recipe on questions, which share the engine's batch."""

    async def both() -> list[Any]:
        return list(await asyncio.gather(*(asolve(q, engine=engine, recipe=recipe, **changes) for q in questions)))

    results = asyncio.run(both())
    for result in results:
        assert result.pool.candidates
        assert all(math.isfinite(c.log_weight) for c in result.pool.candidates)
        assert result.spent.completion_tokens > 0
        assert 0 < len(result.answers) == len(result.pool.candidates)
    return results


def expect_the_same_alone(engine: Any, recipe: str, results: Sequence[Any]) -> None:
    """The first question draws the same tokens without the other one in its batch."""
    alone = solved(engine, recipe, QUESTIONS[:1])[0].pool.candidates
    beside = results[0].pool.candidates
    assert [c._replace(logp_sum=0.0, log_weight=0.0, scores={}) for c in alone] == [
        c._replace(logp_sum=0.0, log_weight=0.0, scores={}) for c in beside
    ]
    for a, b in zip(alone, beside, strict=True):
        assert (a.logp_sum, a.log_weight) == pytest.approx((b.logp_sum, b.log_weight), abs=5e-3, nan_ok=True)


def distribution(line: Any, ask: Generate) -> Any:
    """Log-probabilities (V,) under what an ask draws from: `line`, tempered, then filtered."""
    temperature, top_k, top_p, min_p, _ = ask.sampling
    tempered = torch.log_softmax(line / temperature, -1)
    ordered, _ = tempered.sort(descending=True)
    least = ordered[top_k - 1] if top_k else -math.inf
    if top_p < 1:
        before = ordered.exp().cumsum(-1) - ordered.exp()
        least = max(float(least), float(ordered[before < top_p][-1]))
    if min_p:
        least = max(float(least), float(ordered[0]) + math.log(min_p))
    return torch.log_softmax(torch.where(tempered >= least, tempered, -math.inf), -1)


def expect_exact(engine: Any, plain: Callable[[Sequence[int]], Any], drawn: Sequence[Drawn], tolerance: float) -> int:
    """Compare log-probabilities with those of plain passes. Return how many tokens were compared."""
    num = 0
    for ask, completion in drawn:
        assert completion.finish != "error", completion.failure
        if not completion.tokens:
            continue
        context = (*engine._language.prompt(ask.messages), *ask.prefix)
        lines = plain([*context, *completion.tokens])[len(context) - 1 : -1]
        for i, (line, token) in enumerate(zip(lines, completion.tokens, strict=True)):
            num += 1
            if completion.logp is not None:
                assert completion.logp[i] == pytest.approx(float(line[token]), abs=tolerance)
            if completion.logq is not None and not ask.sampling.explore:
                wanted = float(distribution(line, ask)[token]) if ask.sampling.temperature else 0.0
                if i or ask.forbid_first is None:
                    assert completion.logq[i] == pytest.approx(wanted, abs=tolerance)
    return num


@pytest.mark.parametrize("recipe", list(itertools.chain(*SAMPLERS.values())))
def test_samplers(recipe: str, engine: Any, answer: Any, plain: Any, drawn: list[Drawn], tolerance: float) -> None:
    results = solved(engine, recipe)
    few = [Drawn(a._replace(want=("tokens", "logp", "logq")), c) for a, c in drawn if c.tokens is not None]
    if not few:  # plain draws ask for no arrays: ask again, for the same seeds
        plainly = list(drawn)
        asks = [ask._replace(want=("tokens", "logp", "logq")) for ask, _ in plainly]
        completions = answer(asks)
        assert [c.text for c in completions] == [c.text for _, c in plainly]
        few = [Drawn(*pair) for pair in zip(asks, completions, strict=True)]
    assert expect_exact(engine, plain, few[:: max(1, len(few) // 8)], tolerance) > 20
    expect_the_same_alone(engine, recipe, results)


@pytest.mark.parametrize("explore", list(itertools.chain(*EXPLORE.values())))
def test_token_policies(
    explore: str, engine: Any, answer: Any, plain: Any, drawn: list[Drawn], tolerance: float
) -> None:
    recipe = f"repeat(4, max_tokens=6, explore={explore})"
    results = solved(engine, recipe)
    assert all(len(result.pool.candidates) == 4 for result in results)
    first = sorted(drawn, key=lambda pair: (pair.ask.group, pair.ask.draw))  # they came as they ended
    assert len(first) == 8
    # Each draw of `arithmetic` follows one point through ever smaller intervals, so rounding grows from token to token:
    # another batch shape can end in another text, though every token has its exact probability.
    repeats = explore != "arithmetic"
    if repeats:
        expect_the_same_alone(engine, recipe, results)
    asks = [ask._replace(want=("tokens", "logp", "logq")) for ask, _ in first]
    once = [Drawn(*pair) for pair in zip(asks, answer(asks), strict=True)]
    assert [c.text for _, c in once] == [c.text for _, c in first] or not repeats
    assert expect_exact(engine, plain, once[::2], tolerance) > 10
    assert all(q <= 1e-9 for _, c in once for q in c.logq)


@pytest.mark.parametrize("rule", STOPS.values(), ids=STOPS)
def test_stop_rules(rule: str, engine: Any, store: str) -> None:
    for result in solved(engine, f"{POOL} | until({rule}) | vote", store=store):
        assert 1 <= len(result.pool.candidates) <= 6
        assert result.stop.reason in ("success", "settled", "futile", "cap", "finished")
        if rule == "cap(3)":
            assert len(result.pool.candidates) == 3


def chosen(engine: Any, part: str, selector: str, store: str) -> list[Any]:
    """The results of a selector on the pools of the two questions, or of two questions for programs."""
    if parse_spec(part).name not in OF_PROGRAMS:
        return solved(engine, f"{POOL} | {selector}", store=store)
    facts = {"entry_point": "f"}
    return solved(engine, f"{PROGRAM_POOL} | {selector}", PROGRAMS, store=store, facts=facts, read=read_code)


@pytest.mark.parametrize("selector", SELECTORS.values(), ids=SELECTORS)
def test_selectors(selector: str, engine: Any, store: str) -> None:
    for result in chosen(engine, selector, selector, store):
        readable = [answer for answer in result.answers if answer is not None]
        assert result.answer in readable or (result.answer is None and not readable)


@pytest.mark.parametrize(("verifier", "says"), VERIFIERS.values(), ids=VERIFIERS)
def test_verifiers(verifier: str, says: str, engine: Any, store: str) -> None:
    for result in chosen(engine, verifier, f"best({verifier})", store):
        name = parse_spec(verifier).name
        scores = [score for c in result.pool.candidates for of, score in c.scores.items() if of.startswith(name)]
        assert len(scores) == 6
        assert any(math.isfinite(score) for score in scores) == (says == NUMBERS), scores


def test_a_judge_on_a_scale(engine: Any, store: str, plain: Any, drawn: list[Drawn], tolerance: float) -> None:
    """Its scores are expectations over the letters' probabilities in plain passes of the model."""
    judge = "judge(scale=20)"
    for result in solved(engine, f"{POOL} | best({judge})", QUESTIONS[:1], store=store):
        for candidate in result.pool.candidates:
            assert 0 <= candidate.scores[judge] <= 1
            assert 0 <= candidate.scores[f"{judge}.outside"] <= 1
    asked = [pair for pair in drawn if pair.ask.score_first]
    assert len(asked) == len({pair.ask for pair in asked}) > 4
    for ask, completion in asked[::5]:
        line = plain(engine._language.prompt(ask.messages))[-1]
        (position,) = completion.top
        assert {text for text, _ in position} == set("ABCDEFGHIJKLMNOPQRST")
        tokens = [token for text in ask.score_first for token in engine._language.tokens_of(text)]
        assert [logp for _, logp in position] == pytest.approx([float(line[t]) for t in tokens], abs=tolerance)
