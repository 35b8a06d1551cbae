"""Votes over calls of tools: by function and arguments, and by nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve.serving import HELLO, Got, Served, events, served_at
from tests.support.script import Script, reply

from samplewise.core.types import Message, Question
from samplewise.serve.calls import NO_CALL, CallReader, canonical_json, decision_of, is_about_calls
from samplewise.serve.wire import parse_call
from samplewise.store.database import Store

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
ASKED = Question("q", (Message("user", "x"),))


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


def call(name: str, arguments: Any = "{}", index: int = 0) -> dict[str, Any]:
    return {"id": f"c{index}", "type": "function", "function": {"name": name, "arguments": arguments}}


def choice(*calls: Any, text: str | None = None, finish: str = "tool_calls", **message: Any) -> dict[str, Any]:
    listed = {"tool_calls": list(calls)} if calls else {}
    said = {"role": "assistant", "content": text, **listed, **message}
    return {"index": 0, "message": said, "finish_reason": finish}


def chat(chosen: dict[str, Any], tokens: int = 5, prompt: int = 7) -> dict[str, Any]:
    return {"choices": [chosen], "usage": {"prompt_tokens": prompt, "completion_tokens": tokens}}


# --- what a reply decides ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    ['{"a": 1, "b": [2, {"c": null}]}', '{"b":[2.0,{"c":null}],"a":1.0}', '\n{"a" : 1e0 , "b" : [20E-1, {"c":null}]}'],
)
def test_how_arguments_are_written_does_not_matter(arguments: str) -> None:
    assert decision_of(choice(call("add", arguments))) == '[{"name":"add","arguments":{"a":1,"b":[2,{"c":null}]}}]'
    whole = json.loads(arguments)
    assert decision_of(choice(call("add", whole))) == decision_of(choice(call("add", arguments)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1}', '{"a": "1"}'),
        ('{"a": 1}', '{"a": true}'),
        ('{"a": 0}', '{"a": false}'),
        ('{"a": 1}', '{"a": 1.5}'),
        ('{"a": null}', "{}"),
        ('{"a": [1, 2]}', '{"a": [2, 1]}'),
        ('{"a": "x"}', '{"a": "x "}'),
        ('{"a": 9007199254740993}', '{"a": 9007199254740992}'),
    ],
)
def test_other_arguments_are_other_decisions(one: str, other: str) -> None:
    assert decision_of(choice(call("add", one))) != decision_of(choice(call("add", other)))
    assert decision_of(choice(call("add", one))) != decision_of(choice(call("sub", one)))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    """Return whether two values are equal as JSON has it: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return (type(one) in (int, float) and type(other) in (int, float) and one == other) or (
        type(one) is type(other) and one == other
    )


@given(VALUES, VALUES)
def test_texts_are_equal_where_values_are(one: Any, other: Any) -> None:
    assert (canonical_json(json.dumps(one)) == canonical_json(json.dumps(other, indent=1))) == same(one, other)
    assert same(json.loads(canonical_json(json.dumps(one))), one)


def test_calls_made_at_once_have_no_order_and_no_ids() -> None:
    one, two = call("add", '{"a":1}', 1), call("sub", '{"a":2}', 2)
    both = decision_of(choice(one, two))
    assert both == decision_of(choice({**two, "id": "x", "index": 0}, {**one, "id": "y"}))
    assert both != decision_of(choice(one))
    assert both != decision_of(choice(one, two, two))
    assert both is not None
    assert json.loads(both) == [{"name": "add", "arguments": {"a": 1}}, {"name": "sub", "arguments": {"a": 2}}]


def test_the_older_form_is_the_same_call() -> None:
    assert decision_of(choice(function_call={"name": "add", "arguments": '{"a":1}'})) == decision_of(
        choice(call("add", '{"a":1}'))
    )
    assert (
        decision_of(choice(call("now", "")))
        == decision_of(choice(call("now", "{}")))
        == decision_of(choice({"type": "function", "function": {"name": "now"}}))
    )
    custom = {"type": "custom", "custom": {"name": "sh", "input": "ls  -l"}}
    assert decision_of(choice(custom)) == '[{"name":"sh","arguments":"ls  -l"}]'


@pytest.mark.parametrize(
    "undecided",
    [
        {},
        choice(text=" "),
        choice(text=None),
        choice(text="x", finish="length"),
        choice(call("add", '{"a": 1}'), finish="length"),
        choice(call("add", '{"a": ')),
        choice(call("add", '{"a": NaN}')),
        choice(call("add", '{"a": 1e999}')),
        choice(call("add", "[" * 100_000)),
        choice(call("add", 3)),
        choice(call("")),
        choice("add"),
        choice({"type": "function"}),
        choice({"type": "smell", "smell": {}}),
        choice(call("add"), call("add", "{")),
    ],
)
def test_what_decides_nothing(undecided: Any) -> None:
    assert decision_of(undecided) is None


def test_texts_without_a_call_are_one_answer_unless_they_are_read() -> None:
    read = CallReader()
    assert read(ASKED, json.dumps(choice(text="It is sunny."))) == NO_CALL
    assert read(ASKED, json.dumps(choice(text="Sunny!"))) == NO_CALL
    assert read(ASKED, "no json") is None
    assert read(ASKED, "[" * 100_000) is None
    assert read(ASKED, "[]") is None
    shout = CallReader(lambda question, text: text.upper())
    assert shout(ASKED, json.dumps(choice(text="a"))) == "A"
    assert shout(ASKED, json.dumps(choice(call("add")))) == decision_of(choice(call("add")))


def test_which_parts_are_about_calls() -> None:
    assert all(
        map(is_about_calls, ("tools", "tool_choice", "function_call", "messages[3].role", "messages[0].tool_calls"))
    )
    assert not any(map(is_about_calls, ("audio", "prediction", "messages[0].audio", "messages[0].content[1]")))


# --- over the routes --------------------------------------------------------------------------------------------------


def served_calls(
    replies: list[dict[str, Any]], go: Callable[[Served, Script], Coroutine[Any, Any, None]], **settings: Any
) -> None:
    """Serve an endpoint that gives these replies, one a request."""
    waiting: Iterator[dict[str, Any]] = iter(replies)
    script = Script(lambda seen: reply(next(waiting)))

    async def main() -> None:
        async with script.serving() as url, served_at(url, **{"tools": "vote", **settings}) as served:
            await go(served, script)

    run(main())


FOUR = [
    chat(choice(call("sub", '{"a":1}', 1))),
    chat(choice(call("add", '{"a":1,"b":2}', 2)), tokens=6),
    chat(choice(call("add", '{ "b": 2.0, "a": 1 }', 3), reasoning="hm"), tokens=9),
    chat(choice(text="I add nothing.", finish="stop")),
]


def test_the_call_with_the_most_votes_wins() -> None:
    async def go(served: Served, script: Script) -> None:
        got = await served.post(
            model="vote4@toy",
            tools=TOOLS,
            tool_choice="required",
            temperature=0.5,
            user="u",
            logprobs=True,
            seed=3,
            samplewise={"return": ["votes"]},
        )
        assert got.status == 200
        (chosen,) = got.body["choices"]
        assert chosen["finish_reason"] == "tool_calls"
        assert chosen["message"]["tool_calls"] == [call("add", '{"a":1,"b":2}', 2)]
        assert chosen["message"]["content"] is None
        assert got.body["usage"]["prompt_tokens"] == 28
        assert got.body["usage"]["completion_tokens"] == 25
        evidence = got.body["samplewise"]
        assert evidence["draws"] == 4
        assert evidence["agreement"] == 0.5
        assert evidence["answer"] == '[{"name":"add","arguments":{"a":1,"b":2}}]'
        assert evidence["votes"] == {
            '[{"name":"add","arguments":{"a":1,"b":2}}]': 2,
            '[{"name":"sub","arguments":{"a":1}}]': 1,
            NO_CALL: 1,
        }
        assert evidence["spent"]["usd"] == pytest.approx(53e-6)
        assert "X-Samplewise-Aside" not in got.headers
        assert len(script.bodies) == 4
        assert len({body.pop("seed") for body in script.bodies}) == 4
        for body in script.bodies:
            assert body == {
                **{"model": "toy", "messages": HELLO, "max_tokens": 8, "tools": TOOLS, "tool_choice": "required"},
                **{"temperature": 0.5, "user": "u", "logprobs": True},
            }

    served_calls(FOUR, go)


def test_a_stream_has_the_winning_call() -> None:
    async def go(served: Served, script: Script) -> None:
        got = await served.post(model="vote4@toy", tools=TOOLS, stream=True, stream_options={"include_usage": True})
        chunks = events(got.data)
        deltas = [chosen["delta"] for chunk in chunks for chosen in chunk["choices"]]
        assert {"tool_calls": [{"index": 0, **call("add", '{"a":1,"b":2}', 2)}]} in deltas
        assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
        assert chunks[-1]["usage"]["total_tokens"] == 53

    served_calls(FOUR, go)


def test_a_text_can_win_and_is_a_text() -> None:
    """However different the words: four draws, three of which call nothing."""
    replies = [chat(choice(call("add")))] + [chat(choice(text=f"no. {i}", finish="stop")) for i in range(3)]

    async def go(served: Served, script: Script) -> None:
        got = await served.post(model="vote4@toy", tools=TOOLS)
        (chosen,) = got.body["choices"]
        assert chosen["message"]["content"] == "no. 0"
        assert "tool_calls" not in chosen["message"]
        assert chosen["finish_reason"] == "stop"
        assert got.body["samplewise"]["agreement"] == 0.75

    served_calls(replies, go)


def test_texts_are_read_where_the_request_says_how() -> None:
    texts = ["I say 5", "it is 7", "7", "7.0"]
    replies = [chat(choice(text=text, finish="stop")) for text in texts]

    async def go(served: Served, script: Script) -> None:
        got = await served.post(model="vote4@toy", tools=TOOLS, samplewise={"read": "number"})
        assert got.body["choices"][0]["message"]["content"] == "it is 7"
        assert got.body["samplewise"]["agreement"] == 0.75

    served_calls(replies, go)


def test_parallel_calls_and_n_choices() -> None:
    both = choice(call("add", '{"a":1}', 1), call("sub", '{"a":2}', 2))
    turned = choice(call("sub", '{"a":2.0}', 3), call("add", '{"a":1}', 4))
    replies = [chat(c) for c in (choice(call("add", '{"a":1}', 9)), both, turned, choice(call("add", "{", 5)))]

    async def go(served: Served, script: Script) -> None:
        got = await served.post(model="vote4@toy", tools=TOOLS, parallel_tool_calls=True, n=2)
        first, second = got.body["choices"]
        assert first["message"]["tool_calls"] == both["message"]["tool_calls"]
        assert second["message"]["tool_calls"] == [call("add", '{"a":1}', 9)]
        assert [first["index"], second["index"]] == [0, 1]
        assert all("n" not in body for body in script.bodies)

    served_calls(replies, go)


def test_a_rule_stops_when_the_calls_agree() -> None:
    async def go(served: Served, script: Script) -> None:
        got = await served.post(model="early@toy", tools=TOOLS)
        assert got.body["samplewise"]["draws"] == 2
        assert got.body["samplewise"]["stop"]["reason"] == "settled"
        assert len(script.bodies) == 2

    served_calls([chat(choice(call("add")))] * 8, go)


def test_failed_draws_are_tried_again_or_left_out() -> None:
    """One refused for good and one that a second try answers: three of four draws vote, and all are paid."""
    codes = iter([200, 503, 400, 200, 200])

    def answer(seen: Any) -> bytes:
        code = next(codes)
        return reply(chat(choice(call("add")))) if code == 200 else reply({"error": {"message": "no"}}, code)

    async def main() -> None:
        async with Script(answer).serving() as url, served_at(url, tools="vote") as served:
            got = await served.post(model="vote4@toy", tools=TOOLS)
            assert got.status == 200
            assert (got.body["samplewise"]["draws"], got.body["samplewise"]["failed"]) == (3, 1)
            assert got.body["samplewise"]["spent"]["requests"] == 5
            assert got.body["usage"]["total_tokens"] == 36

    run(main())


@pytest.mark.parametrize(
    ("status", "ours", "code"),
    [(400, 400, "engine_refused"), (401, 502, "engine_misconfigured"), (429, 429, "rate_limit_exceeded")],
)
def test_where_every_draw_fails_the_client_hears_why(status: int, ours: int, code: str) -> None:
    async def main() -> None:
        script = Script(lambda seen: reply({"error": {"message": "told you"}}, status, "retry-after: 7000\r\n"))
        async with script.serving() as url, served_at(url, tools="vote", seconds=2.0) as served:
            got = await served.post(model="vote4@toy", tools=TOOLS)
            assert (got.status, got.body["error"]["code"]) == (ours, code)
            assert "told you" in got.body["error"]["message"]

    run(main())


@pytest.mark.parametrize(
    ("fields", "aside"),
    [
        ({"temperature": 0}, "temperature"),
        ({"modalities": ["audio"]}, "tools"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "tools"),
        ({"model": "repeat(4) | best(logp)@toy"}, "tools"),
        ({"model": "vary(ladder) | repeat(4) | vote@toy"}, "tools"),
        ({"model": "vote4@toy", "max_tokens": 1}, "max_tokens"),
    ],
)
def test_what_no_vote_over_calls_is_made_for_steps_aside(fields: dict[str, Any], aside: str) -> None:
    async def go(served: Served, script: Script) -> None:
        got = await served.post(**{"model": "vote4@toy", "tools": TOOLS, **fields})
        assert got.headers["X-Samplewise-Aside"] == aside
        assert got.body["samplewise"]["relayed"] is True
        assert len(script.bodies) == 1

    served_calls([FOUR[0]], go, plain_below=2)


def test_a_plain_model_and_the_other_setting_relay_as_ever() -> None:
    async def go(served: Served, script: Script) -> None:
        assert (await served.post(tools=TOOLS)).body["samplewise"]["relayed"] is True
        assert "aside" not in (await served.post(tools=TOOLS)).body["samplewise"]

    served_calls(FOUR[:2], go)

    async def aside(served: Served, script: Script) -> None:
        got = await served.post(model="vote4@toy", tools=TOOLS)
        assert got.headers["X-Samplewise-Aside"] == "tools"

    served_calls(FOUR[:1], aside, tools="aside")


def test_the_rest_of_a_conversation_with_tools_is_voted_on() -> None:
    messages = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call("add")]}]
    messages.append({"role": "tool", "content": "2", "tool_call_id": "c0"})

    async def go(served: Served, script: Script) -> None:
        got = await served.post(model="vote4@toy", messages=messages)
        assert got.body["samplewise"]["draws"] == 4
        assert all(body["messages"] == messages for body in script.bodies)

    served_calls(FOUR, go)


def test_a_budget_admits_no_more_draws_than_fit() -> None:
    async def go(served: Served, script: Script) -> None:
        got = await served.post(model="vote4@toy", tools=TOOLS, samplewise={"budget": {"tokens": 1}})
        assert (got.status, got.body["error"]["code"]) == (400, "budget_too_small")
        assert not script.bodies

    served_calls([], go)


def test_who_asks_again_does_not_pay_again(tmp_path: Any) -> None:
    """A client that left while the third draw ran: the same request goes on from two. Other tools are another draw."""
    num, hold = 0, asyncio.Event()

    async def answer(seen: Any) -> bytes | None:
        nonlocal num
        num += 1
        if num in (3, 4):
            await hold.wait()
        return reply(chat(choice(call("add"))))

    async def main() -> None:
        script = Script(answer)
        with Store(tmp_path / "s.db") as store:
            async with script.serving() as url, served_at(url, tools="vote", store=store) as served:
                body: dict[str, Any] = {"model": "vote4@toy", "tools": TOOLS}
                leaving = asyncio.create_task(served.post(**body))
                while num < 4 or not store.num_draws():
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.05)
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)
                line = await served.logged(1)
                relay = served.service.jobs.upstreams["toy"].relay
                assert relay is not None
                most = relay.worst_case(parse_call({**body, "messages": HELLO}, "chat"), 8, 1)
                assert line["tokens"] == 24 + 2 * most.tokens > 24  # nobody knows what the other two have cost
                assert script.lost == 2
                got: Got = await served.post(**body)
                assert got.body["samplewise"]["resumed"] is True
                assert got.body["samplewise"]["draws"] == 4
                assert num == 6
                assert got.body["samplewise"]["paid"]["tokens"] == 24

    run(main())


def test_stored_draws_are_those_of_the_same_tools(tmp_path: Any) -> None:
    """With a seed every draw is found again, but only for a request whose other fields are the same."""
    other = [{"type": "function", "function": {"name": "sub", "parameters": {"type": "object"}}}]
    nums = []

    async def main() -> None:
        script = Script(lambda seen: reply(chat(choice(call("add")))))
        with Store(tmp_path / "s.db") as store:
            async with script.serving() as url, served_at(url, tools="vote", store=store) as served:
                for fields in ({"tools": TOOLS}, {"tools": TOOLS, "user": "u"}, {"tools": other}, {}, {"tools": TOOLS}):
                    body: dict[str, Any] = {"model": "vote4@toy", "seed": 3, **fields}
                    assert (await served.post(**body)).status == 200
                    nums.append(len(script.bodies))

    run(main())
    assert nums == [4, 4, 8, 12, 12]
