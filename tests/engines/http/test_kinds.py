"""The http engine against endpoints of all kinds, as a user would meet them: what is found, drawn, billed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.engines.http.test_faults import QUESTIONS, TASK

from samplewise.core.errors import SetupError, Unsupported
from samplewise.core.keys import Key
from samplewise.core.prices import FREE
from samplewise.core.types import Capability, Completion, Generate, Message, Sampling
from samplewise.engines.http import http
from samplewise.engines.http.billing import PromptLengths, SentRequest, bill_reply
from samplewise.engines.http.dialect.profile import Profile
from samplewise.engines.http.dialect.replies import parse_reply
from samplewise.engines.http.engine import HttpEngine
from samplewise.engines.http.probe import evidence
from samplewise.engines.toy import LETTERS, Toy
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.recipe import recipe
from samplewise.runs.redecide import redecide
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.testing.endpoint import Endpoint, EndpointSettings

T = TypeVar("T")
PROMPT = (Message("user", "spell a word"),)


def asks(num: int, **fields: Any) -> list[Generate]:
    ask = Generate(PROMPT, max_tokens=30)._replace(**fields)
    return [ask._replace(seed=1000 + 7 * i, draw=i) for i in range(num)]


def used(
    settings: EndpointSettings, use: Callable[[HttpEngine], Awaitable[T]], **options: Any
) -> tuple[T, HttpEngine, Endpoint]:
    """Return what `use(engine)` gives, and both sides. The engine is open, probed unless the options say otherwise."""
    endpoint = Endpoint(settings)

    async def go() -> tuple[T, HttpEngine]:
        async with endpoint as url:
            engine = http("toy", base_url=url, **{"probe": "fresh", **options})
            try:
                await engine.open()
                return await use(engine), engine
            finally:
                await engine.close()

    return *asyncio.run(asyncio.wait_for(go(), 120)), endpoint


def drawing(wanted: list[Generate]) -> Callable[[HttpEngine], Awaitable[list[Completion]]]:
    async def use(engine: HttpEngine) -> list[Completion]:
        return [arrival.completion for arrival in sorted([arrival async for arrival in engine.answer(wanted)])]

    return use


def running(line: str) -> Callable[[HttpEngine], Awaitable[Any]]:
    async def use(engine: HttpEngine) -> Any:
        context = RunContext(engine)
        return await run_question(QUESTIONS[0], recipe(line), context, Key(3), read=TASK.read)

    return use


# --- draws that agree -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", ["auto", "never"])
def test_short_answers_that_agree_are_no_frozen_seed(n: str) -> None:
    """Eight draws of 391, each after 120 other tokens of reasoning: nothing is wrong, and nothing is remembered."""
    settings = EndpointSettings(answer="391", reasoning=True, reasoning_tokens=120)
    wanted = asks(8, max_tokens=200)
    completions, engine, _ = used(settings, drawing(wanted), n=n)
    assert [completion.text for completion in completions] == ["391"] * 8
    assert not [note for note in engine.notes if "same" in note or "alike" in note]
    assert engine.profile.frozen_seed is not True
    _, unprobed, _ = used(settings, drawing(wanted), n=n, probe="never")
    assert unprobed.profile.frozen_seed is None


def test_what_a_run_suspects_is_not_remembered() -> None:
    """A cache before an endpoint may be gone tomorrow: a note, and no finding for 30 days."""
    settings = EndpointSettings(frozen=True, vocab=25, seed=1)  # whose frozen draw has 49 tokens
    probed = Profile(n=True, seed=True, frozen_seed=False)
    _, engine, _ = used(settings, drawing(asks(8, max_tokens=60)), n="never", probe=probed)
    assert any("8 of 8 draws of one prompt are the same text" in note for note in engine.notes)
    assert (engine.profile.seed, engine.profile.frozen_seed) == (True, False)


def test_choices_that_are_alike_are_found_by_the_probe() -> None:
    completions, engine, _ = used(EndpointSettings(frozen_n=True), drawing(asks(32)))
    assert (engine.profile.n, engine.profile.seed, engine.profile.frozen_seed) == (False, True, False)
    assert any('as with n="never"' in note for note in engine.notes)
    assert len({completion.text for completion in completions}) > 16, "one request for each draw"


def test_choices_that_are_alike_are_found_by_the_run() -> None:
    """After one request all others are for one draw each."""
    wanted = [ask._replace(draw=i) for i, ask in enumerate(asks(64))]
    settings = EndpointSettings(frozen_n=True, vocab=26, scale=0.1)
    completions, engine, _ = used(settings, drawing(wanted), max_n=8, probe="never", max_concurrency=1)
    assert any('give n="never"' in note for note in engine.notes)
    assert len({completion.text for completion in completions}) > 32
    assert engine.profile.n is not False, "nor is this remembered"


def test_the_same_list_for_every_request_is_found_by_the_probe() -> None:
    _, engine, _ = used(EndpointSettings(frozen_list=True, vocab=25, seed=1), drawing(asks(4)))
    assert (engine.profile.seed, engine.profile.frozen_seed) == (False, True)
    assert Capability.SEED not in engine.can
    assert any("every request gives the same list of draws" in note for note in engine.notes)


def test_the_same_list_for_every_request_is_found_by_the_run() -> None:
    settings = EndpointSettings(frozen_list=True, vocab=26, scale=0.1)
    _, engine, _ = used(settings, drawing(asks(64)), max_n=8, probe="never", max_concurrency=1)
    assert any('every request gets the same list of draws: try n="never"' in note for note in engine.notes)


# --- n ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probe", ["fresh", "never"])
@pytest.mark.parametrize(
    "words", ["does not support n, logprobs", "n cannot be greater than 1", "Bad request", "only one choice, please"]
)
def test_n_that_is_refused_in_any_words_is_left_out_from_then_on(words: str, probe: str) -> None:
    settings = EndpointSettings(refuses=("n", "logprobs") if "logprobs" in words else ("n",), refusal=words)
    completions, engine, endpoint = used(settings, drawing(asks(12)), probe=probe)
    assert all(completion.failure is None for completion in completions)
    assert engine.profile.n is False
    if probe == "never":
        assert endpoint.tally.requests in (13, 14), "one refusal, and those that were on their way"
    _, _, endpoint = used(settings, drawing(asks(12)), probe=engine.profile)
    assert endpoint.tally.requests == 12


def test_a_prompt_that_is_refused_costs_one_request_more_at_most() -> None:
    """A refusal that names nothing may be about the prompt: then the others are not tried one by one."""
    settings = EndpointSettings(faults={"400": 1.0})
    completions, engine, endpoint = used(settings, drawing(asks(12)), probe="never")
    assert all(c.failure is not None and c.failure.kind == "BadRequest" for c in completions)
    assert endpoint.tally.requests == 2
    assert engine.profile.n is None


# --- log-probs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize(
    ("settings", "raw", "note"),
    [
        ({}, True, ""),
        ({"processed_logprobs": True}, False, "those after the temperature: the model's own at temperature 1 alone"),
        ({"odd_logprobs": -0.2}, None, "neither the model's own nor those of the distribution drawn from"),
        ({"odd_logprobs": -0.2, "processed_logprobs": True}, False, "those after the temperature"),
    ],
    ids=["raw", "tempered", "other", "tempered, not normalized"],
)
def test_whose_log_probs_they_are_is_found(settings: dict[str, Any], raw: bool | None, note: str, api: str) -> None:
    """Over toy models of many kinds: never wrong, and nearly always known."""
    for seed in range(6):
        _, engine, _ = used(EndpointSettings(seed=seed, **settings), drawing([]), api=api)
        assert engine.profile.raw_logprobs is raw
        assert any(note in line for line in engine.notes) or not note


@pytest.mark.parametrize("settings", [{"processed_logprobs": True}, {"odd_logprobs": 0.3}], ids=str)
def test_where_log_probs_are_not_the_model_s_they_are_claimed_at_temperature_1_alone(settings: dict[str, Any]) -> None:
    async def use(engine: HttpEngine) -> None:
        assert {Capability.LOGP, Capability.LOGQ} <= engine.can, "at temperature 1"
        assert Capability.REJECT_BELOW not in engine.can
        assert engine.why_no_logp(Sampling()) == ""
        for sampling in (Sampling(0.5), Sampling(1.0, 5)):
            assert "except at temperature 1, without filters" in engine.why_no_logp(sampling)
        (done,) = await drawing(asks(1, want=("tokens", "logp", "logq")))(engine)
        assert done.logp == done.logq
        with pytest.raises(Unsupported, match="at temperature 1"):
            await running("sir(4, 2, top_k=5, max_tokens=3)")(engine)
        with pytest.raises(Unsupported, match="reject_below"):
            await running("power(2, 4, top_k=5, max_tokens=3)")(engine)

    used(EndpointSettings(**settings), use)


def listed(*values: float) -> list[evidence.ProbeDraw]:
    """Return a draw whose first position lists tokens with these log-probs."""
    first = {f"t{index}": value for index, value in enumerate(values)}
    return [evidence.ProbeDraw((1, 0), "x", None, None, len(values), "length", first=first)]


@pytest.mark.parametrize(
    ("plain", "hot", "found"),
    [
        ((-0.5, -2.0, -4.0), (-0.5, -2.0, -4.0), "raw"),
        ((-0.5, -2.0, -4.0), (-0.51, -2.03, -3.92), "raw"),  # rounding
        ((-0.5, -2.0, -4.0), (-0.75, -1.5, -2.5), "tempered"),
        ((-0.5, -2.0, -4.0), (-0.76, -1.52, -2.47), "tempered"),
        ((-0.5, -2.0, -4.0), (-0.7, -2.2, -4.2), "other"),  # shifted
        ((-0.5, -2.0, -4.0), (-0.6, -2.4, -4.8), "other"),  # at another scale
        ((-0.5, -2.0, -4.0), (-0.9, -1.8, -3.0), "other"),  # at another temperature than 2
        ((-1.1, -1.1, -1.1), (-1.1, -1.1, -1.1), None),  # both: a uniform distribution
        ((-0.7, -0.71), (-0.7, -0.71), None),
        ((-0.5,), (-0.9,), None),  # one token
        ((-0.5,), (), None),
    ],
)
def test_evidence_of_whose_log_probs_they_are(
    plain: tuple[float, ...], hot: tuple[float, ...], found: str | None
) -> None:
    assert evidence.keeps_logp(listed(*plain), listed(*hot)) == found


def test_log_probs_after_the_temperature_are_refused_where_the_model_s_are_needed() -> None:
    line = "sir(400, 2, temperature=0.7, top_k=5, max_tokens=3)"
    with pytest.raises(Unsupported, match="does not give the model's own log-probs except at temperature 1") as caught:
        used(EndpointSettings(processed_logprobs=True), running(line))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("processed", "line"),
    [
        (False, "sir(1500, 2, temperature=0.7, top_k=5, max_tokens=2)"),
        (True, "sir(1500, 2, temperature=1, max_tokens=2)"),
    ],
)
def test_what_is_not_refused_has_the_enumerated_distribution(processed: bool, line: str) -> None:
    """The weights of `sir` must give p ** 2 over what can be drawn; so would a wrong log p or log q show."""
    settings = EndpointSettings(vocab=6, processed_logprobs=processed)
    result, _, _ = used(settings, running(line))
    toy = Toy(settings.vocab, seed=settings.seed, scale=settings.scale)
    question = QUESTIONS[0].messages
    kept: dict[str, float] = {}
    for tokens, logp in toy.enumerate(question, 2).items():
        text = "".join(LETTERS[token] for token in tokens if token != toy.eos)
        kept[text] = kept.get(text, 0.0) + math.exp(2 * logp)
    weights: dict[str, float] = {}
    for candidate in result.pool.candidates:
        weights[candidate.text] = weights.get(candidate.text, 0.0) + math.exp(candidate.log_weight)
    reached = {text: mass for text, mass in kept.items() if text in weights}
    total, mass = math.fsum(weights.values()), math.fsum(reached.values())
    distance = sum(abs(weights[text] / total - reached[text] / mass) for text in reached) / 2
    assert distance < 0.08


def test_log_probs_of_a_draw_are_the_model_s_or_unknown() -> None:
    """Where the endpoint gives others, draws at another temperature have none, rather than a wrong sum."""
    settings = EndpointSettings(processed_logprobs=True)
    warm, _, _ = used(settings, drawing(asks(4, sampling=Sampling(0.5))))
    plain, engine, _ = used(settings, drawing(asks(4, want=("logp",))))
    assert all(math.isnan(completion.logp_sum) for completion in warm)
    assert all(completion.logp_sum < 0 for completion in plain)
    assert engine.why_no_logp(Sampling()) == ""
    assert "except at temperature 1" in engine.why_no_logp(Sampling(0.5))


@pytest.mark.parametrize("line", ["repeat(4) | best(likelihood)", "repeat(4) | weighted(logp)"])
@pytest.mark.parametrize("probe", ["fresh", "never"])
def test_without_log_probs_they_are_not_chosen_by(line: str, probe: str) -> None:
    async def use(engine: HttpEngine) -> int:
        before = endpoint_of[0].tally.requests if endpoint_of else 0
        with pytest.raises(Unsupported, match="needs log-probs of its draws, but http"):
            await running(line)(engine)
        return before

    endpoint_of: list[Endpoint] = []
    settings = EndpointSettings(ignores=("logprobs",))
    _, _, endpoint = used(settings, use, probe=probe)
    if probe == "never":
        assert endpoint.tally.requests == 0


def test_at_another_temperature_they_are_not_chosen_by_either() -> None:
    settings = EndpointSettings(processed_logprobs=True)
    assert used(settings, running("repeat(4) | best(likelihood)"))[0].answer
    for line in ("repeat(4, temperature=0.7) | best(likelihood)", "vary(ladder) | repeat(4) | best(likelihood)"):
        with pytest.raises(Unsupported, match="except at temperature 1"):
            used(settings, running(line))


def test_deciding_again_by_what_was_not_drawn_is_refused(tmp_path: Path) -> None:
    async def use(engine: HttpEngine) -> None:
        with Store(tmp_path / "s.db") as store:
            summary = await run_task(TASK, recipe("repeat(4, max_tokens=8) | vote"), engine, store)
            (run,) = (run for run in store.runs() if run.id == summary.run)
            for selector in ("best(likelihood)", "weighted(logp)", "best(self_certainty)"):
                with pytest.raises(SetupError, match=f"no draw of run {run.id}"):
                    redecide(store, run, selector)
            assert redecide(store, run, "first")

    used(EndpointSettings(ignores=("logprobs",)), use)


@pytest.mark.parametrize("fault", ["logprob huge", "logprob integer", "logprob words"])
def test_log_probs_that_cannot_be_are_none(fault: str) -> None:
    """The draws are kept; their log-probs are unknown."""
    settings = EndpointSettings(faults={fault: 1.0})
    profile = Profile(n=True, logprobs=True, raw_logprobs=True)
    completions, _, endpoint = used(settings, drawing(asks(8)), probe=profile)
    assert all(c.failure is None and math.isnan(c.logp_sum) for c in completions)
    assert endpoint.tally.requests == 1
    wanted, _, _ = used(settings, drawing(asks(2, want=("logp",))), probe=profile)
    assert all(c.failure is not None and "no log-probs, or such that cannot be" in c.failure.message for c in wanted)


# --- greedy -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 10, 20])
def test_greedy_draws_that_differ_now_and_then_obey_the_temperature(start: int) -> None:
    """One token in fifty is another one. Of thirty probes none says that the temperature is not obeyed."""
    profiles = []
    for seed in range(start, start + 10):
        profiles.append(used(EndpointSettings(seed=seed, greedy_noise=0.02), drawing([]))[1].profile)
    assert all(profile.temperature is not False for profile in profiles)
    assert sum(profile.temperature is True for profile in profiles) >= 8
    assert any("greedy draws differ" in note for profile in profiles for note in profile.notes)


def test_a_recipe_at_another_temperature_runs_then() -> None:
    result, _, _ = used(EndpointSettings(greedy_noise=0.02), running("repeat(4, temperature=0.6, max_tokens=8) | vote"))
    assert len(result.pool.candidates) == 4


def test_evidence_of_the_temperature_without_log_probs() -> None:
    def draw(key: int, text: str) -> evidence.ProbeDraw:
        return evidence.ProbeDraw((key, 0), text, None, None, None, "length")

    warm = [draw(1, "one two three four five"), draw(2, "six seven eight nine ten")]
    same, other = "the cat sat on the mat today", "the cat lay on a mat, and slept"
    assert evidence.obeys_temperature([draw(1, same), draw(2, same)], warm) is True
    assert evidence.obeys_temperature([draw(1, same), draw(2, other)], warm) is None
    assert evidence.obeys_temperature([draw(1, same), draw(2, other), draw(3, same)], warm) is True
    apart = [draw(i, text) for i, text in enumerate(("red hat", "blue sky", "green sea", "my dog"))]
    assert evidence.obeys_temperature(apart, warm) is False
    assert evidence.obeys_temperature(apart[:2], warm) is None
    assert evidence.obeys_temperature([], warm) is None


# --- bills ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "completion_tokens", "reasoning_tokens"),
    [
        ({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 920}, 820, 800),
        ({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 920, "reasoning": 800}, 820, 800),
        ({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "reasoning": 800}, 820, 800),
        ({"prompt_tokens": 100, "completion_tokens": 820, "total_tokens": 920, "reasoning": 800}, 820, 800),
        ({"prompt_tokens": 100, "completion_tokens": 900, "total_tokens": 1800, "reasoning": 800}, 1700, 800),
        ({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}, 20, 0),
        ({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 50}, 20, 0),
        ({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 10**12}, 20, 0),
        ({"prompt_tokens": 100, "completion_tokens": 20}, 20, 0),
    ],
)
def test_reasoning_is_billed_wherever_it_is_counted(
    usage: dict[str, int], completion_tokens: int, reasoning_tokens: int
) -> None:
    details = (
        {"completion_tokens_details": {"reasoning_tokens": usage.pop("reasoning")}} if "reasoning" in usage else {}
    )
    choice = {"index": 0, "finish_reason": "stop", "message": {"content": "The answer is 391, and so I say it once."}}
    parsed = parse_reply({"choices": [choice], "usage": usage | details})
    sent = SentRequest((Message("user", "x" * 300),), 0, 1, 1000)
    (booked,) = bill_reply(parsed, sent, PromptLengths(), FREE, 0.1).usages
    assert (booked.prompt_tokens, booked.completion_tokens) == (100, completion_tokens)
    assert booked.reasoning_tokens == reasoning_tokens


@pytest.mark.parametrize("n", ["auto", "never"])
def test_reasoning_in_the_total_alone_is_on_the_books(n: str) -> None:
    settings = EndpointSettings(reasoning=True, reasoning_tokens=80, reasoning_outside=True)
    completions, _, endpoint = used(settings, drawing(asks(8, max_tokens=120)), n=n, probe="never")
    assert sum(c.usage.completion_tokens for c in completions) == endpoint.tally.completion_tokens
    assert sum(c.usage.reasoning_tokens for c in completions) == 8 * 80
