"""The probe against endpoints with known defects: its findings must match them."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from tests.support.script import Script, Seen, completion, reply

from samplewise.core.errors import AuthError, BadRequest, EngineTimeout, EngineUnavailable, RateLimited
from samplewise.core.types import Json
from samplewise.engines.http.dialect.profile import Api, Profile
from samplewise.engines.http.probe import cache, evidence, prober
from samplewise.engines.http.probe.cache import load_profile, save_profile
from samplewise.engines.http.probe.evidence import ProbeDraw
from samplewise.engines.http.probe.prober import MAX_FAILED, MAX_REQUESTS, probe_endpoint
from samplewise.engines.http.transport.client import Client
from samplewise.testing.endpoint import FAULTS, TRAITS, Endpoint, EndpointSettings, EndpointTally


class Probed(NamedTuple):
    profile: Profile
    tally: EndpointTally


def probed(settings: EndpointSettings, api: Api = "chat", model: str = "toy", timeout_s: float = 60.0) -> Probed:
    async def go() -> Probed:
        endpoint = Endpoint(settings)
        async with endpoint as url:
            client = Client(url)
            try:
                profile = await probe_endpoint(client, model, api, timeout_s=timeout_s, backoff_s=0.001)
            finally:
                await client.close()
        return Probed(profile, endpoint.tally)

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
    raw_logprobs=True,
    top_ids=True,
    forces_token=True,
    detokenize=True,
)


def test_a_server_that_supports_everything() -> None:
    assert probed(EndpointSettings()).profile == ALL
    # the toy model has no way to go on from the letters at the end of a text
    assert probed(EndpointSettings(), "completions").profile == ALL._replace(
        api="completions", continues=False, json_schema=None, tools=None
    )


NO_LOGPROBS = {"logprobs": False, "top_logprobs": 0, "raw_logprobs": None, "top_ids": None}
NO_IDS = {"token_ids_in": None, "likelihood": None, "top_ids": None, "forces_token": None, "detokenize": None}
NOT_IN = {**NO_IDS, "token_ids_in": False, "likelihood": False}
TRUTHS = {
    "n ignored": (EndpointSettings(ignores=("n",)), {"n": False}),
    "n refused": (EndpointSettings(refuses=("n",)), {"n": False}),
    "seed ignored": (EndpointSettings(ignores=("seed",)), {"seed": False}),
    "seed refused": (EndpointSettings(refuses=("seed",)), {"seed": False}),
    "a frozen seed": (
        EndpointSettings(frozen=True),
        {"seed": False, "frozen_seed": True, "temperature": None},  # greedy or not, it is all one
    ),
    "log-probs ignored": (
        EndpointSettings(ignores=("logprobs",)),
        NO_LOGPROBS,
    ),
    "log-probs refused": (
        EndpointSettings(refuses=("logprobs",)),
        NO_LOGPROBS,
    ),
    "alternatives refused": (
        EndpointSettings(refuses=("top_logprobs",)),
        {"top_logprobs": 0, "raw_logprobs": None, "top_ids": None},  # of a single token nothing follows
    ),
    "five alternatives": (EndpointSettings(max_top_logprobs=5), {"top_logprobs": 5}),
    "no ids out": (
        EndpointSettings(ignores=("return_token_ids",)),
        {**NO_IDS, "token_ids_out": False},  # no ids to try them with
    ),
    "no ids in": (EndpointSettings(refuses=("token_ids_in",)), NOT_IN),
    "no completions": (EndpointSettings(lacks=("completions",)), NOT_IN),
    "no prompt log-probs": (EndpointSettings(ignores=("prompt_logprobs",)), {"likelihood": False}),
    "prompt log-probs refused": (EndpointSettings(refuses=("prompt_logprobs",)), {"likelihood": False}),
    "begins again": (EndpointSettings(ignores=("continue_final_message",)), {"continues": False}),
    "never continues": (EndpointSettings(refuses=("continue_final_message",)), {"continues": False}),
    "another name for the limit": (
        EndpointSettings(refuses=("max_tokens",)),
        {**NO_IDS, "max_tokens_field": "max_completion_tokens"},  # see below
    ),
    "one name has no effect": (
        EndpointSettings(ignores=("max_tokens",)),
        {"max_tokens_field": "max_completion_tokens", "forces_token": False},  # on the other route neither is kept
    ),
    "its own temperature": (
        EndpointSettings(refuses=("temperature",)),
        {  # nothing is greedy
            **{**NO_IDS, "temperature": False},
            **{"continues": None, "raw_logprobs": None},
        },
    ),
    "temperature ignored": (
        EndpointSettings(ignores=("temperature",)),
        {**NO_IDS, "temperature": False, "continues": None, "json_schema": None},
    ),
    "no tokenizer": (EndpointSettings(lacks=("tokenize",)), {"tokenize": False}),
    "no texts of ids": (EndpointSettings(lacks=("detokenize",)), {"detokenize": False}),
    "no bias": (EndpointSettings(ignores=("logit_bias",)), {"forces_token": False}),
    "bias refused": (EndpointSettings(refuses=("logit_bias",)), {"forces_token": False}),
    "no names by id": (EndpointSettings(ignores=("return_tokens_as_token_ids",)), {"top_ids": False}),
    "names by id refused": (EndpointSettings(refuses=("return_tokens_as_token_ids",)), {"top_ids": False}),
    "log-probs after the temperature": (
        EndpointSettings(processed_logprobs=True),
        {"raw_logprobs": False, "likelihood": False},  # a greedy draw's are not those of the prompt
    ),
    "other log-probs": (EndpointSettings(odd_logprobs=-0.2), {"raw_logprobs": None}),
    "unknown fields refused": (
        EndpointSettings(refuses=("top_k", "min_p", "repetition_penalty")),
        {"refused": ("min_p", "repetition_penalty", "top_k")},
    ),
}


@pytest.mark.parametrize("case", TRUTHS)
def test_what_is_not_supported_is_detected(case: str) -> None:
    settings, differs = TRUTHS[case]
    profile, tally = probed(settings)
    assert profile._replace(notes=()) == ALL._replace(**differs)
    assert tally.requests <= MAX_REQUESTS
    assert tally.completion_tokens <= 200


def test_an_endpoint_that_supports_nothing() -> None:
    profile, _ = probed(EndpointSettings(ignores=TRAITS))
    assert profile == Profile(
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
        notes=("draws more tokens than max_tokens allows: a limit may end a run early",),
    )


def test_a_hosted_endpoint_that_refuses_unknown_fields() -> None:
    own = ("top_k", "min_p", "repetition_penalty", "return_token_ids", "prompt_logprobs", "continue_final_message")
    profile, tally = probed(
        EndpointSettings(refuses=(*own, "max_tokens", "temperature"), lacks=("completions", "tokenize"))
    )
    assert (profile.n, profile.seed, profile.logprobs, profile.temperature) == (True, True, True, False)
    assert profile.max_tokens_field == "max_completion_tokens"
    assert profile.refused == ("min_p", "repetition_penalty", "top_k")
    assert (profile.token_ids_out, profile.token_ids_in, profile.tokenize) == (False, False, False)
    assert tally.requests <= MAX_REQUESTS


@pytest.mark.parametrize("usage", ["absent", "negative", "zero", "absurd"])
def test_usage_that_is_always_wrong(usage: str) -> None:
    assert probed(EndpointSettings(faults={f"usage {usage}": 1.0})).profile.usage is False


def test_usage_that_is_wrong_now_and_then_is_neither_true_nor_false() -> None:
    profile, _ = probed(EndpointSettings(plan=("", "usage negative")))
    assert profile.usage is None
    assert "some replies count their tokens wrongly" in profile.notes


def test_replies_without_a_text_decide_nothing() -> None:
    profile, _ = probed(EndpointSettings(faults={"null": 1.0}))
    assert (profile.seed, profile.frozen_seed, profile.logprobs, profile.usage, profile.continues) == (None,) * 5
    assert profile.n is True


PASSING = ["429", "500", "502", "503", "504", "html", "error 200", "half", "cut before", "cut middle"]


@pytest.mark.parametrize("fault", PASSING)
def test_faults_that_pass_change_nothing(fault: str) -> None:
    assert probed(EndpointSettings(plan=(fault, "", fault, fault, "", "", fault, "", fault))).profile == ALL


def test_bad_requests_that_pass_change_nothing() -> None:
    assert probed(EndpointSettings(plan=("400", "", "400", "", "400", "", "400"))).profile == ALL


def test_retry_after_as_a_date_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe waits for the date; where that is beyond its maximal wait, it says so at once."""
    waits = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(prober, "asyncio", SimpleNamespace(wait_for=asyncio.wait_for, sleep=sleep))
    monkeypatch.setattr(prober, "MAX_WAIT_S", 7200.0)
    assert probed(EndpointSettings(plan=("429 date",), retry_after_s=3600.0)).profile == ALL
    (wait_s,) = waits
    assert 3000 < wait_s <= 3601, "the date is whole seconds, rounded up"
    monkeypatch.setattr(prober, "MAX_WAIT_S", 5.0)
    with pytest.raises(RateLimited, match=r"it asks for a pause of 3[56]\d\d s"):
        probed(EndpointSettings(plan=("429 date",), retry_after_s=3600.0))
    assert waits[1:] == []


def test_a_reply_that_stalls_is_given_up_and_asked_again() -> None:
    profile, tally = probed(EndpointSettings(plan=("stall",)), timeout_s=2.0)
    assert profile == ALL
    assert tally.disconnects == 1


ODD = ["more", "fewer", "shuffled", "same index", "null", "finish null", "finish eos", "finish filter"]
LONG = ["long", "long uncounted"]


@pytest.mark.parametrize("fault", ODD + LONG)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_one_odd_reply_decides_nothing_wrongly(fault: str, position: int) -> None:
    """A finding may stay undecided, but none may be wrong."""
    profile, _ = probed(EndpointSettings(plan=("",) * position + (fault,)))
    for name, value in profile._asdict().items():
        if name != "notes":
            assert value in (getattr(ALL, name), None), name
    assert profile.n is True
    assert profile.frozen_seed is False


@pytest.mark.parametrize("fault", ["more", "fewer", "shuffled", *LONG])
@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_one_odd_reply_denies_no_seed_where_only_texts_are_given(fault: str, position: int, seed: int) -> None:
    """Without token ids and log-probs, nothing but the texts shows that a reply was drawn beyond its limit."""
    settings = EndpointSettings(
        seed=seed, ignores=("return_token_ids", "logprobs"), plan=("",) * position + (fault,), vocab=26, scale=0.1
    )
    profile, _ = probed(settings)
    assert (profile.seed, profile.frozen_seed) in ((True, False), (None, False))


@pytest.mark.parametrize("fault", LONG)
def test_one_odd_reply_hides_no_frozen_seed(fault: str) -> None:
    for position in range(3):
        profile, _ = probed(EndpointSettings(frozen=True, plan=("",) * position + (fault,)))
        assert (profile.seed, profile.frozen_seed) in ((False, True), (None, None)), position


@pytest.mark.parametrize("seed", range(12))
def test_a_flaky_endpoint_gives_no_false_findings(seed: int) -> None:
    """Half of all requests fail, in every possible way."""
    others = [name for name in FAULTS if name not in ("stall", "slow", "429 date", "400") and "usage" not in name]
    settings = EndpointSettings(seed=seed, faults=dict.fromkeys(others, 0.5 / len(others)), retry_after_s=0.0)
    truth, (profile, tally) = probed(EndpointSettings(seed=seed)).profile, probed(settings)
    for name in ("n", "seed", "logprobs", "token_ids_out", "frozen_seed", "max_tokens_field", "usage", "tokenize"):
        assert getattr(profile, name) in (getattr(truth, name), None), name
    assert tally.requests <= MAX_REQUESTS + MAX_FAILED


def test_a_model_that_reasons_before_it_answers() -> None:
    profile, _ = probed(EndpointSettings(reasoning=True))
    assert (profile.n, profile.usage) == (True, True)
    assert profile.frozen_seed is not True, "a response cut off within its reasoning decides nothing"


@pytest.mark.parametrize(
    ("settings", "model", "kind", "message"),
    [
        (EndpointSettings(api_key="secret"), "toy", AuthError, "OPENAI_API_KEY"),
        (EndpointSettings(), "other", BadRequest, "it serves toy"),
        (EndpointSettings(lacks=("chat",)), "toy", BadRequest, 'api="completions"'),
        (EndpointSettings(lacks=("chat", "models")), "toy", BadRequest, "does base_url end in /v1"),
        (EndpointSettings(faults={"500": 1.0}), "toy", EngineUnavailable, "status 500"),
        (EndpointSettings(faults={"html": 1.0}), "toy", EngineUnavailable, "status 200"),
        (EndpointSettings(faults={"cut before": 1.0}), "toy", EngineUnavailable, "closed|broke off"),
        (EndpointSettings(faults={"stall": 1.0}), "toy", EngineTimeout, "no answer within"),
    ],
)
def test_an_unusable_endpoint_is_an_error_that_says_why(
    settings: EndpointSettings, model: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        probed(settings, model=model, timeout_s=0.1 if kind is EngineTimeout else 60.0)


def test_an_unreachable_endpoint() -> None:
    async def go() -> None:
        async with Endpoint() as url:
            gone = url
        client = Client(gone)
        try:
            await probe_endpoint(client, "toy", "chat", backoff_s=0.001)
        finally:
            await client.close()

    with pytest.raises(EngineUnavailable, match="cannot be reached"):
        asyncio.run(go())


# --- evidence ---------------------------------------------------------------------------------------------------------


def drawn(seed: int, position: int, text: str, logp: float | None = -2.0) -> ProbeDraw:
    return ProbeDraw((seed, position), text, None, None if logp is None else (logp,) * len(text), None, "stop")


def test_equal_short_texts_are_no_evidence() -> None:
    """Two seeds that both give "a", which has probability 0.13, may well be two honest draws."""
    short = [drawn(1, 0, "a"), drawn(1, 0, "a"), drawn(2, 0, "a")]
    assert (evidence.honors_seed(short), evidence.looks_frozen(short)) == (None, None)
    long = [drawn(1, 0, "abcdef"), drawn(1, 0, "abcdef"), drawn(2, 0, "abcdef")]
    assert (evidence.honors_seed(long), evidence.looks_frozen(long)) == (False, True)
    fine = [drawn(1, 0, "abcdef"), drawn(1, 0, "abcdef"), drawn(2, 0, "ab")]
    assert (evidence.honors_seed(fine), evidence.looks_frozen(fine)) == (True, False)
    assert evidence.honors_seed([drawn(1, 0, "ab"), drawn(1, 0, "ac")]) is False
    assert evidence.looks_frozen([drawn(1, 0, "abcdef", None), drawn(2, 0, "abcdef", None)]) is None
    assert evidence.looks_frozen([drawn(1, 0, "a" * 40, None), drawn(2, 0, "a" * 40, None)]) is True


def test_a_faulty_text_contradicts_nothing() -> None:
    """A text that was cut, or drawn beyond its limit, is no other draw; nor are choices that changed places."""
    whole, other = drawn(1, 0, "abcdef"), drawn(2, 0, "uvwxyz")
    cut, long = whole._replace(text="abc"), whole._replace(text="abcdef word word")
    assert evidence.honors_seed([whole, cut, other]) is None
    assert evidence.honors_seed([long, whole, other]) is None
    assert evidence.honors_seed([whole, long, whole._replace(), other]) is True
    assert evidence.honors_seed([whole, whole._replace(text="uvwxyz"), other]) is False
    assert (evidence.looks_frozen([whole, long._replace(key=(2, 0))]), evidence.looks_frozen([whole])) == (None, None)
    ids = whole._replace(tokens=(1, 2, 3))
    assert not evidence.are_apart(ids, ids._replace(text="something else")), "the same ids are the same draw"
    assert evidence.are_apart(ids, ids._replace(text="something else", tokens=(1, 2, 4)))
    assert not evidence.are_apart(ids, whole), "ids that are given now and then"
    assert evidence.are_apart(ids._replace(text=""), whole._replace(tokens=(9,))), "no text, but another token"
    ended = drawn(1, 0, "abc")
    assert evidence.are_apart(whole, ended), "both ended by themselves, one after fewer tokens"
    assert not evidence.are_apart(whole, ended._replace(finish="length"))
    assert not evidence.are_apart(whole, ended._replace(logp=None)), "of how many tokens is not known"


def test_choices_that_changed_places_deny_no_seed() -> None:
    one, two, other = drawn(1, 0, "abcdef"), drawn(1, 1, "ghijkl"), drawn(2, 0, "uvwxyz")
    swapped = [two._replace(key=(1, 0)), one._replace(key=(1, 1))]
    assert evidence.honors_seed([one, two, *swapped, other]) is None
    assert evidence.honors_seed([one, two, swapped[0]._replace(text="mnopqr"), other]) is False
    short = [drawn(1, 0, "a", -0.1), drawn(1, 1, "b", -0.1), drawn(1, 0, "b", -0.1), other]
    assert evidence.honors_seed(short) is False, "the same short text at another index may be chance"
    body = {"choices": [{"index": 1, "text": "b"}]}
    assert [draw.key for draw in evidence.probe_draws(body, 7)] == [(7, 1)], "the first was lost"
    body = {"choices": [{"index": 0, "text": "a"}, {"index": 0, "text": "b"}]}
    assert [draw.key for draw in evidence.probe_draws(body, 7)] == [(7, 0), (7, 1)]


def test_a_continuation_is_told_from_a_new_beginning() -> None:
    assert evidence.continues_text("one two three four", "one two", "three") is True
    assert evidence.continues_text("one two three four", "one two", " one two") is False
    assert evidence.continues_text("one two three four", "one two", "") is None
    assert evidence.continues_text("la la la la", "la la", "la") is None, "a new beginning would have the same text"
    assert evidence.first_half("one two three four") == "one two"
    assert evidence.first_half("abcdef") == "abc"
    assert evidence.first_half("abc") is None


# --- the cache --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "samplewise" / "endpoints"


URL = "http://user:secret@127.0.0.1:8000/v1"


def test_a_profile_is_kept_for_its_endpoint_model_and_api(folder: Path) -> None:
    profile = ALL.with_note("a note")
    assert load_profile(URL, "m", "chat") is None
    save_profile(URL, "m", "chat", profile)
    assert load_profile(URL, "m", "chat") == profile
    assert load_profile("http://127.0.0.1:8000/v1/", "m", "chat") == profile, (
        "credentials and a last slash are no difference"
    )
    assert load_profile(URL, "m", "completions") is None
    assert load_profile(URL, "n", "chat") is None
    assert load_profile("http://127.0.0.1:8001/v1", "m", "chat") is None
    (kept,) = folder.iterdir()
    assert "secret" not in kept.read_text() + kept.name


def test_home_is_where_it_lies_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    save_profile(URL, "m", "chat", ALL)
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
    save_profile(URL, "m", "chat", ALL)
    (kept,) = folder.iterdir()
    kept.write_text(damage(kept.read_text()))  # type: ignore[operator]
    assert load_profile(URL, "m", "chat") is None
    save_profile(URL, "m", "chat", ALL)
    assert load_profile(URL, "m", "chat") == ALL
    assert [path.suffix for path in folder.iterdir()] == [".json"], "nothing unfinished is left behind"


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").is_dir(), reason="needs a folder that cannot be written")
def test_a_place_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    save_profile(URL, "m", "chat", ALL)
    assert load_profile(URL, "m", "chat") is None


# --- forms ------------------------------------------------------------------------------------------------------------


def formed(message: Json, finish: str = "stop") -> Json:
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (formed({"content": '{"color": "red"}'}), True),
        (formed({"content": ' {"color":"blue"}\n'}), True),
        (formed({"content": '{"color": "green"}'}), False),
        (formed({"content": '{"color": "red", "why": 1}'}), False),
        (formed({"content": '"red"'}), False),
        (formed({"content": "Red, of course"}), False),
        (formed({"content": '{"color": "r'}, "length"), None),
        (formed({"content": "A long story"}, "length"), False),
        (formed({"content": None}), None),
        (formed(None), None),
        ({}, None),
    ],
)
def test_a_schema_is_followed_or_not(body: Json, verdict: bool | None) -> None:
    assert evidence.follows_schema(body) is verdict


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
    assert evidence.calls_tool(body) is verdict


@pytest.mark.parametrize("status", [200, 400])
def test_forms_are_asked_for_and_believed_when_seen(status: int) -> None:
    """A server that honours both, or refuses both by name."""

    def answer(seen: Seen) -> bytes:
        named = [name for name in ("response_format", "tools") if name in seen.body]
        if named and status == 400:
            return reply({"error": {"message": f"{named[0]} is not supported", "param": named[0]}}, 400)
        if "response_format" in seen.body:
            assert seen.body["response_format"]["json_schema"]["schema"] == evidence.SCHEMA
            return reply(formed({"content": '{"color": "red"}'}))
        if "tools" in seen.body:
            return reply(formed({"tool_calls": [{"function": {"name": "note"}}]}))
        return reply(completion("a few words", "and others"))

    async def go() -> Profile:
        async with Script(answer).serving() as url:
            client = Client(url)
            try:
                return await probe_endpoint(client, "m", "chat", backoff_s=0.001)
            finally:
                await client.close()

    profile = asyncio.run(go())
    assert (profile.json_schema, profile.tools) == (status == 200,) * 2
