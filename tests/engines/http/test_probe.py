"""The probe against an endpoint that is told what to get wrong: what it finds must be what the endpoint was told."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from samplewise.conformance.endpoint import FAULTS, TRAITS, Endpoint, Settings, Tally
from samplewise.engines.http import cache, evidence
from samplewise.engines.http.client import Client
from samplewise.engines.http.evidence import Draw
from samplewise.engines.http.probe import MAX_FAILED, MAX_REQUESTS, load, probe, save
from samplewise.engines.http.profile import Api, Profile
from samplewise.errors import AuthError, BadRequest, EngineTimeout, EngineUnavailable
from samplewise.types import Json

from .script import Script, Seen, completion, reply


class Probed(NamedTuple):
    profile: Profile
    tally: Tally


def probed(settings: Settings, api: Api = "chat", model: str = "toy", timeout_s: float = 5.0) -> Probed:
    async def go() -> Probed:
        endpoint = Endpoint(settings)
        async with endpoint as url:
            client = Client(url)
            try:
                found = await probe(client, model, api, timeout_s=timeout_s, backoff_s=0.001)
            finally:
                await client.close()
        return Probed(found, endpoint.tally)

    return asyncio.run(go())


ALL = Profile(
    api="chat",
    n=True,
    seed=True,
    logprobs=True,
    top_logprobs=13,  # as many as the toy model has tokens
    token_ids_out=True,
    token_ids_in=True,
    continues=True,
    max_tokens_field="max_tokens",
    temperature=True,
    usage=True,
    likelihood=True,
    frozen_seed=False,
    tokenize=True,
    json_schema=False,  # the toy model has letters and nothing else
    tools=False,
)


def test_a_server_that_does_everything_is_known_for_it() -> None:
    assert probed(Settings()).profile == ALL
    # the toy model has no way to go on from the letters at the end of a text
    assert probed(Settings(), "completions").profile == ALL._replace(
        api="completions", continues=False, json_schema=None, tools=None
    )


TRUTHS = {
    "n ignored": (Settings(ignores=("n",)), {"n": False}),
    "n refused": (Settings(refuses=("n",)), {"n": False}),
    "seed ignored": (Settings(ignores=("seed",)), {"seed": False}),
    "seed refused": (Settings(refuses=("seed",)), {"seed": False}),
    "a frozen seed": (
        Settings(frozen=True),
        {"seed": False, "frozen_seed": True, "temperature": None},  # greedy or not, it is all one
    ),
    "log-probs ignored": (Settings(ignores=("logprobs",)), {"logprobs": False, "top_logprobs": 0}),
    "log-probs refused": (Settings(refuses=("logprobs",)), {"logprobs": False, "top_logprobs": 0}),
    "alternatives refused": (Settings(refuses=("top_logprobs",)), {"top_logprobs": 0}),
    "five alternatives": (Settings(max_top_logprobs=5), {"top_logprobs": 5}),
    "no ids out": (
        Settings(ignores=("return_token_ids",)),
        {"token_ids_out": False, "token_ids_in": None, "likelihood": None},  # no ids to try them with
    ),
    "no ids in": (Settings(refuses=("token_ids_in",)), {"token_ids_in": False, "likelihood": False}),
    "no completions": (Settings(lacks=("completions",)), {"token_ids_in": False, "likelihood": False}),
    "no prompt log-probs": (Settings(ignores=("prompt_logprobs",)), {"likelihood": False}),
    "prompt log-probs refused": (Settings(refuses=("prompt_logprobs",)), {"likelihood": False}),
    "begins again": (Settings(ignores=("continue_final_message",)), {"continues": False}),
    "never continues": (Settings(refuses=("continue_final_message",)), {"continues": False}),
    "another name for the limit": (
        Settings(refuses=("max_tokens",)),
        {"max_tokens_field": "max_completion_tokens", "token_ids_in": None, "likelihood": None},  # see below
    ),
    "one name has no effect": (Settings(ignores=("max_tokens",)), {"max_tokens_field": "max_completion_tokens"}),
    "its own temperature": (
        Settings(refuses=("temperature",)),
        {"temperature": False, "token_ids_in": None, "likelihood": None, "continues": None},  # nothing is greedy
    ),
    "temperature ignored": (
        Settings(ignores=("temperature",)),
        {"temperature": False, "token_ids_in": None, "likelihood": None, "continues": None},
    ),
    "no tokenizer": (Settings(lacks=("tokenize",)), {"tokenize": False}),
    "unknown fields refused": (
        Settings(refuses=("top_k", "min_p", "repetition_penalty")),
        {"refused": ("min_p", "repetition_penalty", "top_k")},
    ),
}


@pytest.mark.parametrize("case", TRUTHS)
def test_what_is_not_honoured_is_found_out(case: str) -> None:
    settings, differs = TRUTHS[case]
    found, tally = probed(settings)
    assert found._replace(notes=()) == ALL._replace(**differs)
    assert tally.requests <= MAX_REQUESTS
    assert tally.completion_tokens <= 200


def test_an_endpoint_that_honours_nothing() -> None:
    found, _ = probed(Settings(ignores=TRAITS))
    assert found == Profile(
        n=False,
        seed=False,
        logprobs=False,
        top_logprobs=0,
        token_ids_out=False,
        token_ids_in=False,
        temperature=False,
        usage=True,
        likelihood=False,
        frozen_seed=False,
        tokenize=True,
        json_schema=False,
        tools=False,
        notes=("draws more tokens than max_tokens allows: budgets cannot be kept",),
    )


def test_a_hosted_endpoint_that_refuses_what_it_does_not_know() -> None:
    own = ("top_k", "min_p", "repetition_penalty", "return_token_ids", "prompt_logprobs", "continue_final_message")
    found, tally = probed(Settings(refuses=(*own, "max_tokens", "temperature"), lacks=("completions", "tokenize")))
    assert (found.n, found.seed, found.logprobs, found.temperature) == (True, True, True, False)
    assert found.max_tokens_field == "max_completion_tokens"
    assert found.refused == ("min_p", "repetition_penalty", "top_k")
    assert (found.token_ids_out, found.token_ids_in, found.tokenize) == (False, False, False)
    assert tally.requests <= MAX_REQUESTS


@pytest.mark.parametrize("usage", ["absent", "negative", "zero", "absurd"])
def test_usage_that_is_always_wrong(usage: str) -> None:
    assert probed(Settings(faults={f"usage {usage}": 1.0})).profile.usage is False


def test_usage_that_is_wrong_now_and_then_is_neither_true_nor_false() -> None:
    found, _ = probed(Settings(plan=("", "usage negative")))
    assert found.usage is None
    assert "some replies count their tokens wrongly" in found.notes


def test_replies_without_a_text_tell_nothing() -> None:
    found, _ = probed(Settings(faults={"null": 1.0}))
    assert (found.seed, found.frozen_seed, found.logprobs, found.usage, found.continues) == (None,) * 5
    assert found.n is True


PASSING = ["429", "500", "502", "503", "504", "html", "error 200", "half", "cut before", "cut middle"]


@pytest.mark.parametrize("fault", PASSING)
def test_faults_that_pass_change_nothing(fault: str) -> None:
    assert probed(Settings(plan=(fault, "", fault, fault, "", "", fault, "", fault))).profile == ALL


def test_bad_requests_that_pass_change_nothing() -> None:
    assert probed(Settings(plan=("400", "", "400", "", "400", "", "400"))).profile == ALL


def test_a_date_to_come_back_at_is_honoured() -> None:
    """The date is whole seconds, one of them at least ahead; the probe waits for it."""
    started = time.monotonic()
    assert probed(Settings(plan=("429 date",), retry_after_s=0.0)).profile == ALL
    assert time.monotonic() - started < 5


def test_a_reply_that_stalls_is_given_up_and_asked_again() -> None:
    found, tally = probed(Settings(plan=("stall",)), timeout_s=0.2)
    assert found == ALL
    assert tally.disconnects == 1


ODD = ["more", "fewer", "shuffled", "same index", "null", "finish null", "finish eos", "finish filter"]


@pytest.mark.parametrize("fault", ODD)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_odd_reply_is_not_taken_for_the_rule(fault: str, place: int) -> None:
    """What it may cost is knowledge: a finding may be open, but none may be wrong."""
    found, _ = probed(Settings(plan=("",) * place + (fault,)))
    for name, value in found._asdict().items():
        if name != "notes":
            assert value in (getattr(ALL, name), None), name
    assert found.n is True
    assert found.frozen_seed is False


@pytest.mark.parametrize("seed", range(12))
def test_a_flaky_endpoint_gives_no_false_findings(seed: int) -> None:
    """Half of all requests go wrong, in every way that there is."""
    others = [name for name in FAULTS if name not in ("stall", "slow", "429 date", "400") and "usage" not in name]
    settings = Settings(seed=seed, faults=dict.fromkeys(others, 0.5 / len(others)), retry_after_s=0.0)
    truth, (found, tally) = probed(Settings(seed=seed)).profile, probed(settings)
    for name in ("n", "seed", "logprobs", "token_ids_out", "frozen_seed", "max_tokens_field", "usage", "tokenize"):
        assert getattr(found, name) in (getattr(truth, name), None), name
    assert tally.requests <= MAX_REQUESTS + MAX_FAILED


def test_a_model_that_reasons_before_it_answers() -> None:
    found, _ = probed(Settings(reasoning=True))
    assert (found.n, found.usage) == (True, True)
    assert found.frozen_seed is not True, "a response cut off within its reasoning says nothing"


@pytest.mark.parametrize(
    ("settings", "model", "kind", "told"),
    [
        (Settings(api_key="secret"), "toy", AuthError, "OPENAI_API_KEY"),
        (Settings(), "other", BadRequest, "it serves toy"),
        (Settings(lacks=("chat",)), "toy", BadRequest, 'api="completions"'),
        (Settings(lacks=("chat", "models")), "toy", BadRequest, "does base_url end in /v1"),
        (Settings(faults={"500": 1.0}), "toy", EngineUnavailable, "status 500"),
        (Settings(faults={"html": 1.0}), "toy", EngineUnavailable, "status 200"),
        (Settings(faults={"cut before": 1.0}), "toy", EngineUnavailable, "closed|broke off"),
        (Settings(faults={"stall": 1.0}), "toy", EngineTimeout, "no answer within"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_an_error_that_says_so(
    settings: Settings, model: str, kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind, match=told):
        probed(settings, model=model, timeout_s=0.1)


def test_nobody_at_home() -> None:
    async def go() -> None:
        async with Endpoint() as url:
            gone = url
        client = Client(gone)
        try:
            await probe(client, "toy", "chat", backoff_s=0.001)
        finally:
            await client.close()

    with pytest.raises(EngineUnavailable, match="cannot be reached"):
        asyncio.run(go())


# --- evidence ---------------------------------------------------------------------------------------------------------


def drawn(seed: int, place: int, text: str, logp: float | None = -2.0) -> Draw:
    return Draw((seed, place), text, None, None if logp is None else (logp,) * len(text), None, "stop")


def test_equal_short_texts_are_no_evidence() -> None:
    """Two seeds that both give "a", which has odds of 0.13, may well be two honest draws."""
    short = [drawn(1, 0, "a"), drawn(1, 0, "a"), drawn(2, 0, "a")]
    assert (evidence.seeded(short), evidence.frozen(short)) == (None, None)
    long = [drawn(1, 0, "abcdef"), drawn(1, 0, "abcdef"), drawn(2, 0, "abcdef")]
    assert (evidence.seeded(long), evidence.frozen(long)) == (False, True)
    fine = [drawn(1, 0, "abcdef"), drawn(1, 0, "abcdef"), drawn(2, 0, "ab")]
    assert (evidence.seeded(fine), evidence.frozen(fine)) == (True, False)
    assert evidence.seeded([drawn(1, 0, "ab"), drawn(1, 0, "ac")]) is False
    assert evidence.frozen([drawn(1, 0, "abcdef", None), drawn(2, 0, "abcdef", None)]) is None
    assert evidence.frozen([drawn(1, 0, "a" * 40, None), drawn(2, 0, "a" * 40, None)]) is True


def test_what_continues_is_told_from_what_begins_again() -> None:
    assert evidence.continued("one two three four", "one two", "three") is True
    assert evidence.continued("one two three four", "one two", " one two") is False
    assert evidence.continued("one two three four", "one two", "") is None
    assert evidence.continued("la la la la", "la la", "la") is None, "it would say the same if it began again"
    assert evidence.beginning_of("one two three four") == "one two"
    assert evidence.beginning_of("abcdef") == "abc"
    assert evidence.beginning_of("abc") is None


# --- the cache --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "samplewise" / "endpoints"


URL = "http://user:secret@127.0.0.1:8000/v1"


def test_a_profile_is_kept_for_its_endpoint_model_and_api(folder: Path) -> None:
    profile = ALL.noting("a note")
    assert load(URL, "m", "chat") is None
    save(URL, "m", "chat", profile)
    assert load(URL, "m", "chat") == profile
    assert load("http://127.0.0.1:8000/v1/", "m", "chat") == profile, "credentials and a last slash are no difference"
    assert load(URL, "m", "completions") is None
    assert load(URL, "n", "chat") is None
    assert load("http://127.0.0.1:8001/v1", "m", "chat") is None
    (kept,) = folder.iterdir()
    assert "secret" not in kept.read_text() + kept.name


def test_home_is_where_it_lies_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    save(URL, "m", "chat", ALL)
    assert len(list((tmp_path / ".cache/samplewise/endpoints").iterdir())) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: "",
        lambda kept: kept[: len(kept) // 2],
        lambda kept: "[" * 100_000,
        lambda kept: json.dumps([1]),
        lambda kept: json.dumps({**json.loads(kept), "version": 0}),
        lambda kept: json.dumps({**json.loads(kept), "at": json.loads(kept)["at"] - cache.MAX_AGE_S - 1}),
        lambda kept: json.dumps({**json.loads(kept), "at": json.loads(kept)["at"] + 1000}),
        lambda kept: json.dumps({**json.loads(kept), "profile": {"n": "yes"}}),
        lambda kept: json.dumps({**json.loads(kept), "endpoint": ["elsewhere", "m", "chat"]}),
    ],
    ids=["empty", "half", "deep", "a list", "version", "old", "of tomorrow", "profile", "another's"],
)
def test_a_damaged_or_old_file_is_as_good_as_none(folder: Path, damage: object) -> None:
    save(URL, "m", "chat", ALL)
    (kept,) = folder.iterdir()
    kept.write_text(damage(kept.read_text()))  # type: ignore[operator]
    assert load(URL, "m", "chat") is None
    save(URL, "m", "chat", ALL)
    assert load(URL, "m", "chat") == ALL
    assert [path.suffix for path in folder.iterdir()] == [".json"], "nothing unfinished is left behind"


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").is_dir(), reason="needs a place that nobody can write")
def test_a_place_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    save(URL, "m", "chat", ALL)
    assert load(URL, "m", "chat") is None


# --- forms ------------------------------------------------------------------------------------------------------------


def formed(message: Json, finish: str = "stop") -> Json:
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (formed({"content": '{"colour": "red"}'}), True),
        (formed({"content": ' {"colour":"blue"}\n'}), True),
        (formed({"content": '{"colour": "green"}'}), False),
        (formed({"content": '{"colour": "red", "why": 1}'}), False),
        (formed({"content": '"red"'}), False),
        (formed({"content": "Red, of course"}), False),
        (formed({"content": '{"colour": "r'}, "length"), None),
        (formed({"content": "A long story"}, "length"), False),
        (formed({"content": None}), None),
        (formed(None), None),
        ({}, None),
    ],
)
def test_a_schema_is_followed_or_not(body: Json, verdict: bool | None) -> None:
    assert evidence.followed_schema(body) is verdict


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (formed({"content": None, "tool_calls": [{"function": {"name": "note", "arguments": "{}"}}]}), True),
        (formed({"tool_calls": [{"function": {"name": "other"}}]}), False),
        (formed({"tool_calls": ["note"]}), False),
        (formed({"content": "I would note it", "tool_calls": []}), False),
        (formed({"content": None, "tool_calls": None}), None),
        ([], None),
    ],
)
def test_a_tool_is_called_or_not(body: Json, verdict: bool | None) -> None:
    assert evidence.called_tool(body) is verdict


@pytest.mark.parametrize("status", [200, 400])
def test_forms_are_asked_for_and_believed_when_seen(status: int) -> None:
    """A server that honours both, or refuses both by name."""

    def answer(seen: Seen) -> bytes:
        named = [name for name in ("response_format", "tools") if name in seen.body]
        if named and status == 400:
            return reply({"error": {"message": f"{named[0]} is not supported", "param": named[0]}}, 400)
        if "response_format" in seen.body:
            assert seen.body["response_format"]["json_schema"]["schema"] == evidence.SCHEMA
            return reply(formed({"content": '{"colour": "red"}'}))
        if "tools" in seen.body:
            return reply(formed({"tool_calls": [{"function": {"name": "note"}}]}))
        return reply(completion("a few words", "and others"))

    async def go() -> Profile:
        async with Script(answer).serving() as url:
            client = Client(url)
            try:
                return await probe(client, "m", "chat", backoff_s=0.001)
            finally:
                await client.close()

    found = asyncio.run(go())
    assert (found.json_schema, found.tools) == (status == 200,) * 2
