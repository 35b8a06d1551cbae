"""What is run for a request: where its recipe comes from, and what its fields change."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from multidict import CIMultiDict

from samplewise.core.types import Question
from samplewise.serve import plans
from samplewise.serve.names import stages_of
from samplewise.serve.plans import Plan, Planner, ServeSettings, pool_size, unhonored_field, with_request, with_size
from samplewise.serve.upstreams import Upstream, make_upstream
from samplewise.serve.wire import Call, RequestError, parse_call

PRESETS = {"fast": "repeat(8, max_tokens=50) | vote", "sharp": "power(4.0, 6) | first"}
SETTINGS = ServeSettings(presets=PRESETS, max_tokens=99)


def call(model: str = "toy", headers: dict[str, str] | None = None, **fields: Any) -> Call:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}
    return parse_call(body, "chat", CIMultiDict(headers or {}))


def planned(asked: Call, settings: ServeSettings = SETTINGS, is_free: bool = True) -> Plan:
    upstreams = {name: Upstream(name, make_upstream("toy").engine) for name in ("toy", "other")}
    return asyncio.run(Planner(upstreams, settings).plan(asked, is_free))


def refusal(
    asked: Call, settings: ServeSettings = SETTINGS, is_free: bool = True
) -> tuple[int, str | None, str | None]:
    with pytest.raises(RequestError) as caught:
        planned(asked, settings, is_free)
    return caught.value.status, caught.value.param, caught.value.code


def line(asked: Call, **options: Any) -> str:
    return planned(asked, **options).recipe.line


# --- where the recipe comes from --------------------------------------------------------------------------------------


def test_the_body_goes_before_the_header_before_the_name() -> None:
    header = {"X-Samplewise-Recipe": "repeat(3)"}
    body = {"recipe": "repeat(4)"}
    assert line(call("repeat(2)@toy")) == "repeat(2, max_tokens=99) | first"
    assert line(call("repeat(2)@toy", header)) == "repeat(3, max_tokens=99) | first"
    assert line(call("repeat(2)@toy", header, samplewise=body)) == "repeat(4, max_tokens=99) | first"
    assert planned(call("fast@other", header, samplewise={"recipe": "sharp"}))[:1][0].name == "other"
    assert planned(call("fast@other", header, samplewise={"recipe": "sharp"})).label == "sharp"


def test_a_plain_model_has_no_strategy() -> None:
    plan = planned(call("other", n=3))
    assert (plan.upstream.name, plan.label, plan.aside) == ("other", "plain", None)
    assert plan.recipe.line == "repeat(3, max_tokens=99) | first"
    assert plan.read is plans.read_whole


@pytest.mark.parametrize("recipe", ["repeat(2)\udc80", "\udcff", "repeat(2) | vote\x00", "(" * 1999, "@", "fast@toy"])
def test_any_header_is_a_recipe_or_an_error(recipe: str) -> None:
    status, param, code = refusal(call("toy", {"X-Samplewise-Recipe": recipe}))
    assert (status, param, code) == (400, "samplewise.recipe", "invalid_recipe")


def test_labels_tell_presets_from_a_clients_own() -> None:
    assert planned(call("fast@toy")).label == "fast"
    assert planned(call("repeat(2)@toy")).label == "custom"
    assert planned(call("fast@toy")).verifier is None
    assert planned(call("repeat(2) | best(logp)@toy")).verifier == "logp"
    assert planned(call("fast@toy")).size == 8
    assert planned(call("sharp@toy")).size is None


def test_a_key_for_presets_names_no_recipe_of_its_own() -> None:
    assert planned(call("fast@toy"), is_free=False).label == "fast"
    assert planned(call("toy"), is_free=False).label == "plain"
    assert refusal(call("repeat(2)@toy"), is_free=False) == (403, "model", "recipe_not_allowed")
    body = {"recipe": "repeat(2)"}
    assert refusal(call("toy", samplewise=body), is_free=False) == (403, "samplewise.recipe", "recipe_not_allowed")
    assert refusal(call("toy", {"X-Samplewise-Recipe": "repeat(2)"}), is_free=False)[0] == 403
    assert refusal(call("fast@toy", {"X-ITS-Budget": "4"}), is_free=False)[:2] == (403, "X-ITS-Budget")


def test_the_header_for_draws() -> None:
    header = {"X-ITS-Budget": "5"}
    assert line(call("toy", header)) == "repeat(5, max_tokens=99) | vote"
    assert line(call("fast@toy", header)) == "repeat(5, max_tokens=50) | vote"
    assert line(call("sharp@toy", header)) == "power(4.0, 6, 5, max_tokens=99) | first"


@pytest.mark.parametrize(
    ("model", "status", "code", "word"),
    [
        ("nobody", 404, "model_not_found", "nobody"),
        ("fast@nobody", 404, "model_not_found", "nobody"),
        ("vorte(3)@toy", 404, "model_not_found", "did you mean vote"),
        ("repeat(0)@toy", 400, "invalid_recipe", "num_samples"),
        ("repeat(2) | best(nosuch)@toy", 400, "invalid_recipe", "nosuch"),
        ("repeat(2, colour=1)@toy", 400, "invalid_recipe", "colour"),
        ("power(starts=3, nosense=1)@toy", 400, "invalid_recipe", "nosense"),
        ("repeat(2) | best(public_tests)@toy", 403, "recipe_not_allowed", "public_tests"),
    ],
)
def test_what_cannot_be_run(model: str, status: int, code: str, word: str) -> None:
    with pytest.raises(RequestError, match=word) as caught:
        planned(call(model))
    assert (caught.value.status, caught.value.param, caught.value.code) == (status, "model", code)


# --- what the fields change -------------------------------------------------------------------------------------------


def test_the_fields_decide_how_repeat_draws() -> None:
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "stop": ["x"]}
    plan = planned(call("repeat(2, temperature=0.7)@toy", **fields))
    assert plan.aside is None
    assert plan.recipe.line == (
        "repeat(2, temperature=0.5, max_tokens=99, top_p=0.9, top_k=3, min_p=0.1, stop=('x',)) | first"
    )
    assert line(call("repeat(2, temperature=0.7)@toy")) == "repeat(2, temperature=0.7, max_tokens=99) | first"


@pytest.mark.parametrize(
    ("model", "max_tokens", "limit"),
    [
        ("toy", None, 99),
        ("toy", 7, 7),
        ("toy", 700, 700),
        ("fast@toy", None, 50),
        ("fast@toy", 7, 7),
        ("fast@toy", 700, 50),
    ],
)
def test_both_limits_of_a_draw_hold(model: str, max_tokens: int | None, limit: int) -> None:
    assert f"max_tokens={limit})" in line(call(model, max_tokens=max_tokens))


def test_an_older_route_has_its_own_limit() -> None:
    asked = parse_call({"model": "toy", "prompt": "hi"}, "completions")
    assert line(asked) == "repeat(1, max_tokens=16) | first"


def test_the_pool_has_room_for_n() -> None:
    assert line(call("fast@toy", n=9)) == "repeat(9, max_tokens=50) | vote"
    assert line(call("fast@toy", n=8)) == "repeat(8, max_tokens=50) | vote"
    assert line(call("sharp@toy", n=3)) == "power(4.0, 6, 3, max_tokens=99) | first"


@pytest.mark.parametrize(
    ("recipe", "size", "resized"),
    [
        ("repeat(4)", 4, "repeat(7) | first"),
        ("repeat(num_samples=4)", 4, "repeat(num_samples=7) | first"),
        ("power", 1, "power(chains=7) | first"),
        ("power(4.0, 6)", 1, "power(4.0, 6, 7) | first"),
        ("power(4.0, 6, 2)", 2, "power(4.0, 6, 7) | first"),
        ("power(4.0, 6, chains=2)", 2, "power(4.0, 6, chains=7) | first"),
        ("greedy", 1, "greedy(chains=7) | first"),
        ("tempering", 1, "tempering(ladders=7) | first"),
        ("smc(5)", 5, "smc(7) | first"),
        ("sir(5)", 5, "sir(7) | first"),
        ("adaptive", 8, "adaptive(7) | first"),
    ],
)
def test_the_size_of_a_pool(recipe: str, size: int, resized: str) -> None:
    stages = stages_of(recipe)
    assert pool_size(stages) == size
    assert with_size(stages, 7).line == resized
    assert pool_size(with_size(stages, 7)) == 7


def test_every_built_in_sampler_has_a_size() -> None:
    from samplewise.core.registry import BUILT_IN

    assert set(plans.SIZE_ARGUMENTS) == set(BUILT_IN["sampler"])


@pytest.mark.parametrize(
    ("recipe", "fields", "field"),
    [
        ("repeat(4)", {"temperature": 0}, "temperature"),
        ("repeat(1)", {"temperature": 0}, None),
        ("repeat(4)", {"temperature": 0.1, "stop": "x", "logprobs": True}, None),
        ("power", {"temperature": 1, "top_p": 1, "top_k": -1, "min_p": 0, "stop": []}, None),
        ("power", {}, None),
        ("power", {"temperature": 0.9}, "temperature"),
        ("power", {"temperature": 0}, "temperature"),
        ("power", {"top_p": 0.9}, "top_p"),
        ("power", {"top_k": 4}, "top_k"),
        ("power", {"min_p": 0.1}, "min_p"),
        ("power", {"stop": "x"}, "stop"),
        ("power", {"logprobs": True}, "logprobs"),
        ("repeat(4)", {"max_tokens": 10}, None),
        ("repeat(4)", {"max_tokens": 9}, "max_tokens"),
    ],
)
def test_where_a_recipe_steps_aside(recipe: str, fields: dict[str, Any], field: str | None) -> None:
    assert unhonored_field(call(**fields), stages_of(recipe), plain_below=10) == field


def test_the_plain_draw_has_the_fields() -> None:
    plan = planned(call("sharp@toy", stop="x", n=2))
    assert (plan.label, plan.aside) == ("plain", "stop")
    assert plan.recipe.line == "repeat(2, max_tokens=99, stop=('x',)) | first"
    ladder = "vary(ladder) | repeat(4) | vote@toy"
    assert planned(call(ladder)).aside is None
    assert planned(call(ladder, temperature=0.5)).aside == "temperature"
    assert planned(call("vary(verbatim) | repeat(4)@toy", temperature=0.5)).aside is None


def test_an_operator_may_refuse_instead() -> None:
    strict = ServeSettings(presets=PRESETS, aside="refuse")
    assert refusal(call("sharp@toy", stop="x"), strict) == (400, "stop", "unsupported_parameter")
    assert refusal(call("vary(ladder) | repeat(4)@toy", temperature=0.5), strict)[1] == "temperature"
    assert planned(call("toy", temperature=0), strict).aside is None


def test_small_requests_are_plain_where_the_operator_says_so() -> None:
    titles = ServeSettings(presets=PRESETS, plain_below=40)
    assert planned(call("fast@toy", max_tokens=39), titles).aside == "max_tokens"
    assert planned(call("fast@toy", max_tokens=40), titles).aside is None
    assert planned(call("fast@toy"), titles).aside is None


def test_fields_for_an_endpoint_need_one() -> None:
    assert refusal(call("toy", frequency_penalty=0.5)) == (400, "frequency_penalty", "unsupported_parameter")
    schema = {"type": "json_schema", "json_schema": {}}
    assert refusal(call("fast@toy", response_format=schema))[1] == "response_format"


def test_log_probs_need_an_engine_that_has_them() -> None:
    assert planned(call("toy", logprobs=True)).aside is None
    assert refusal(call("toy", logprobs=True, top_logprobs=2)) == (400, "top_logprobs", "unsupported_parameter")


def test_a_recipe_is_built_once_and_its_verifiers_once_for_all() -> None:
    """A reward model is not loaded again for another temperature, nor for another number of draws."""
    planner = Planner({"toy": make_upstream("toy")}, ServeSettings(presets={"best": "repeat(4) | best(logp)"}))

    async def plans_of(*asked: Call) -> list[Plan]:
        return [await planner.plan(each, True) for each in asked]

    one, same, hot, other = asyncio.run(
        plans_of(
            call("best@toy"), call("best@toy"), call("best@toy", temperature=0.5), call("repeat(9) | best(logp)@toy")
        )
    )
    assert one.recipe is same.recipe
    assert hot.recipe.line == "repeat(4, max_tokens=2048, temperature=0.5) | best(logp)"
    assert hot.recipe.samplings != one.recipe.samplings
    assert other.recipe.max_draws == 9
    assert one.recipe.verifiers["logp"] is hot.recipe.verifiers["logp"] is other.recipe.verifiers["logp"]


def test_requests_that_differ_in_their_prompts_alone_have_one_plan() -> None:
    planner = Planner({name: make_upstream("toy", name) for name in ("toy", "other")}, SETTINGS)

    async def plan(asked: Call, is_free: bool = True) -> Plan:
        return await planner.plan(asked, is_free)

    async def go() -> None:
        first = await plan(call("fast@toy"))
        messages = [{"role": "user", "content": "else"}]
        assert await plan(call("fast@toy", messages=messages, seed=7, stream=True)) is first
        assert (await plan(call("fast@other"))).upstream.name == "other"
        assert (await plan(call("fast@toy", max_tokens=9))).max_tokens == 9
        assert (await plan(call("fast@toy", n=9))).size == 9
        assert (await plan(call("fast@toy", temperature=0.5))).recipe.samplings != first.recipe.samplings
        assert (await plan(call("fast@toy", samplewise={"recipe": "repeat(2) | vote"}))).size == 2
        assert (await plan(call("fast@toy", headers={"X-ITS-Budget": "3"}))).size == 3
        assert (await plan(call("fast@toy", samplewise={"read": "number"}))).read is not first.read
        with pytest.raises(RequestError):
            await plan(call("fast@toy", headers={"X-ITS-Budget": "3"}), is_free=False)

    asyncio.run(go())


def test_few_recipes_are_kept() -> None:
    planner = Planner({"toy": make_upstream("toy")}, SETTINGS)

    async def go() -> None:
        for num in range(1, plans.MAX_RECIPES + 9):
            await planner.plan(call("toy", max_tokens=num), True)
        for num in range(1, plans.MAX_FRAMES + 9):
            await planner.plan(call(f"vary(ladder({num}.0)) | repeat(2)@toy"), True)

    asyncio.run(go())
    assert len(planner._recipes) == len(planner._plans) == plans.MAX_RECIPES
    assert len(planner._frames) == plans.MAX_FRAMES


# --- how an answer is read --------------------------------------------------------------------------------------------


def test_answers_are_read_as_the_request_says() -> None:
    question = Question("q", ())
    read = planned(call("fast@toy", samplewise={"read": "json('a')"})).read
    assert read(question, '{"a": 3, "b": 1}') == read(question, '{"a": 3, "b": 2}') is not None
    assert planned(call("fast@toy")).read is plans.read_auto
    assert refusal(call("fast@toy", samplewise={"read": "nosuch"}))[1] == "samplewise.read"


def test_equal_objects_are_one_answer() -> None:
    question = Question("q", ())
    assert plans.read_canonical_json(question, '{"b": 1.0, "a": [1]}') == '{"a":[1],"b":1.0}'
    assert plans.read_canonical_json(question, ' {"a": [1], "b": 1.0} ') == '{"a":[1],"b":1.0}'
    assert plans.read_canonical_json(question, "no") is None
    assert plans.read_canonical_json(question, "[" * 100_000) is None
    assert plans.read_whole(question, " ") is None
    assert plans.read_whole(question, " x ") == " x "


def test_stages_keep_what_is_not_asked_for() -> None:
    stages = stages_of("vary(ladder) | repeat(4, wave=2) | until(lead(2)) | vote")
    assert with_request(stages, call(), 30).line == (
        "vary(ladder) | repeat(4, wave=2, max_tokens=30) | until(lead(2)) | vote"
    )
