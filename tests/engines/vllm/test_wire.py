"""The wire format: what is written is read back, and anything else is refused in one line."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.types import (
    Ask,
    Capability,
    Completion,
    Failure,
    Generate,
    Likelihood,
    Message,
    RejectionBound,
    Sampling,
    Usage,
)
from samplewise.engines.vllm import wire

numbers = st.floats().map(lambda value: value + 0.0)  # no -0.0, which equals the default 0.0
texts = st.text(st.characters(codec=None), max_size=8)  # halves of surrogate pairs too
ids = st.lists(st.integers(0, 2**31), max_size=4).map(tuple)
several = st.lists(numbers, max_size=4).map(tuple)
prompts = st.lists(st.builds(Message, texts, texts), max_size=2).map(tuple)
samplings = st.builds(Sampling, numbers, st.integers(0, 99), numbers, numbers, texts)
generates = st.builds(
    Generate,
    prompts,
    prefix=ids,
    sampling=samplings,
    max_tokens=st.integers(-5, 10**7),
    stop=st.lists(texts, max_size=2).map(tuple),
    seed=st.integers(0, 2**53 - 1),
    want=st.lists(texts, max_size=2).map(tuple),
    group=texts,
    reject_below=st.none() | st.builds(RejectionBound, numbers, numbers),
    forbid_first=st.none() | st.integers(),
    engine=texts,
    draw=st.integers(),
    exponents=several,
    group_size=st.integers(),
    score_first=st.lists(texts, max_size=2).map(tuple),
)
asks = generates | st.builds(Likelihood, prompts, ids)
usages = st.builds(Usage, *[st.integers(0, 2**60)] * 5, numbers, numbers)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
completions = st.builds(
    Completion,
    texts,
    st.sampled_from(wire.FINISHES),
    usages,
    tokens=st.none() | ids,
    logp=st.none() | several,
    logq=st.none() | several,
    logp_sum=numbers,
    failure=st.none() | st.builds(Failure, texts, texts, st.booleans(), st.none() | numbers),
    top=st.none() | st.lists(st.lists(st.tuples(texts, numbers), max_size=2).map(tuple), max_size=2).map(tuple),
    logz=st.none() | st.lists(several, max_size=2).map(tuple),
    certainty=st.none() | several,
    explored=st.none() | st.dictionaries(texts, plain | st.dictionaries(texts, plain, max_size=2), max_size=2),
    reasoning=texts,
    raw=st.none() | texts,
)


def over(value: Any) -> Any:
    """Return a JSON value as the other end has it. Whatever JSON has no word for is an error."""
    return json.loads(json.dumps(value, allow_nan=False))


@given(st.lists(asks, max_size=4).map(tuple), st.dictionaries(texts, plain, max_size=2), st.booleans(), texts)
def test_asks_arrive_as_they_were_sent(sent: tuple[Ask, ...], template: Any, seeded: bool, session: str) -> None:
    request = wire.AnswerRequest(wire.DrawSettings(template, seeded), "an identity", session, sent)
    received = wire.decode_request(over(wire.encode_request(request)))
    assert repr(received) == repr(request)  # nan is not equal to itself
    assert [type(ask) for ask in received.asks] == [type(ask) for ask in sent]
    assert wire.decode_describe(over(wire.encode_describe(request.settings))) == request.settings


@given(completions, st.integers(0, 99))
def test_completions_arrive_as_they_were_sent(sent: Completion, position: int) -> None:
    assert repr(wire.decode_arrival(json.loads(wire.encode_arrival(position, sent)))) == repr((position, sent))


@given(
    st.builds(
        wire.ServerFacts,
        texts,
        texts,
        st.frozensets(st.sampled_from(Capability)),
        st.integers(),
        st.integers(),
        st.none() | st.integers(),
        st.none() | st.integers(),
        st.none() | texts,
        st.lists(texts, max_size=2).map(tuple),
        st.dictionaries(texts, texts, max_size=2),
    )
)
def test_facts_arrive_as_they_were_sent(sent: wire.ServerFacts) -> None:
    assert wire.decode_facts(over(wire.encode_facts(sent))) == sent


def test_a_prompt_is_sent_once() -> None:
    messages = (Message("user", "a question that is long"),)
    asked = wire.AnswerRequest(wire.DrawSettings(), "i", "s", tuple(Generate(messages, seed=seed) for seed in range(9)))
    assert json.dumps(wire.encode_request(asked)).count("long") == 1


def test_what_is_unknown_to_this_release_of_a_client_is_left_out() -> None:
    facts = wire.ServerFacts("n", "i", frozenset({Capability.SEED}), 1, 1)
    body = wire.encode_facts(facts)
    body["can"].append("teleport")
    assert wire.decode_facts(body) == facts


ASK = {"kind": "generate", "prompt": 0}
REQUEST = {"wire": wire.WIRE, "settings": {}, "identity": "i", "session": "s", "prompts": [[["user", "a"]]], "asks": []}
WRONG: list[tuple[Any, str]] = [
    ([], "needs an object"),
    ({**REQUEST, "wire": 2}, f"the client speaks version 2 of the wire format and this samplewise version {wire.WIRE}"),
    ({**REQUEST, "wire": True}, "version True"),
    ({}, "version None"),
    ({**REQUEST, "settings": None}, "settings: needs an object, got None"),
    ({**REQUEST, "settings": {"colour": 1}}, "settings: a DrawSettings has no field 'colour'"),
    ({**REQUEST, "settings": {"seeded": 1}}, "seeded: needs true or false"),
    ({**REQUEST, "session": 1}, "session: needs a text"),
    ({**REQUEST, "prompts": [["a"]]}, "prompts: needs a role and a text"),
    ({**REQUEST, "asks": {}}, "asks: needs a list"),
    ({**REQUEST, "asks": [{**ASK, "prompt": 1}]}, "there is no prompt 1"),
    ({**REQUEST, "asks": [{**ASK, "prompt": -1}]}, "there is no prompt -1"),
    ({**REQUEST, "asks": [{**ASK, "kind": "x"}]}, "needs generate or likelihood"),
    ({**REQUEST, "asks": [{**ASK, "messages": []}]}, "prompts are listed by themselves"),
    ({**REQUEST, "asks": [{**ASK, "floor": 1}]}, "a Generate has no field 'floor'"),
    ({**REQUEST, "asks": [{**ASK, "seed": 1.5}]}, "seed: needs a whole number, got 1.5"),
    ({**REQUEST, "asks": [{**ASK, "seed": True}]}, "seed: needs a whole number"),
    ({**REQUEST, "asks": [{**ASK, "sampling": {"temperature": "hot"}}]}, "sampling: temperature: needs a number"),
    ({**REQUEST, "asks": [{**ASK, "reject_below": {"alpha": 1}}]}, "a RejectionBound needs the field 'value'"),
    ({**REQUEST, "asks": [{**ASK, "kind": "likelihood"}]}, "a Likelihood needs the field 'completion'"),
]


@pytest.mark.parametrize(("body", "why"), WRONG)
def test_what_is_no_request_is_refused_in_one_line(body: Any, why: str) -> None:
    with pytest.raises(ValueError) as raised:
        wire.decode_request(body)
    assert why in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_no_event_is_refused() -> None:
    for event, why in (
        ({"error": "the engine is dead"}, "the engine is dead"),
        ({"position": 0}, "completion: needs an object"),
        ({"position": 0, "completion": {"text": "a", "finish": "odd"}}, "needs one of stop, length"),
        ({"position": "0", "completion": {}}, "position: needs a whole number"),
        ({"position": 0, "completion": {"text": "a", "finish": "stop", "top": [[["a"]]]}}, "a text and a number"),
        (None, "needs an object"),
    ):
        with pytest.raises(ValueError, match=why):
            wire.decode_arrival(event)


def test_numbers_without_a_word_in_json() -> None:
    sent = Completion("a", "stop", logp=(math.nan, math.inf, -math.inf))
    event = json.loads(wire.encode_arrival(0, sent))
    assert event["completion"]["logp"] == ["nan", "inf", "-inf"]
    assert "logp_sum" not in event["completion"]
