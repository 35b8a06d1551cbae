"""The faulty endpoint: its distribution is the toy engine's, its faults are as described, its tally is exact."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from samplewise.core.types import Completion, Generate, Message, Sampling
from samplewise.engines.toy import Toy
from samplewise.testing.endpoint import ATTACKS, FAULTS, Endpoint, EndpointSettings, serving
from samplewise.testing.endpoint.__main__ import run_endpoint

SAY = [{"role": "user", "content": "say a"}]
MESSAGES = (Message("user", "say a"),)


class Got(NamedTuple):
    status: int
    body: Any  # None where it is no JSON
    text: str
    headers: dict[str, str]


def call(endpoint: Endpoint, path: str = "/v1/chat/completions", **body: Any) -> Got:
    """One request through the standard library, which knows nothing of ours. Raises what it raises."""
    connection = http.client.HTTPConnection(endpoint.url.split("/")[2], timeout=60)
    try:
        if body:
            asked = {"model": "toy", "max_tokens": 20, **({"messages": SAY} if "chat" in path else {}), **body}
            connection.request("POST", path, json.dumps(asked))
        else:
            connection.request("GET", path)
        reply = connection.getresponse()
        text = reply.read().decode()
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = None
        return Got(reply.status, parsed, text, {name.lower(): value for name, value in reply.getheaders()})
    finally:
        connection.close()


def toy(settings: EndpointSettings, ask: Generate) -> Completion:
    return Toy(settings.vocab, seed=settings.seed, scale=settings.scale).one(ask._replace(want=("tokens", "logp")))


def test_a_seeded_draw_is_the_toy_engine_s() -> None:
    """Token for token and number for number, whatever the filters; choice i of a request has its seed plus i."""
    settings = EndpointSettings()
    with serving(settings) as endpoint:
        for sampling in (Sampling(), Sampling(0.5), Sampling(0.0), Sampling(1.3, 4), Sampling(1.0, 0, 0.7, 0.05)):
            named = {"temperature": sampling.temperature, "top_k": sampling.top_k or -1, "top_p": sampling.top_p}
            got = call(
                endpoint, n=3, seed=5, logprobs=True, return_token_ids=True, min_p=sampling.min_p, stop="c", **named
            )
            for i, choice in enumerate(got.body["choices"]):
                same = toy(settings, Generate(MESSAGES, sampling=sampling, max_tokens=20, stop=("c",), seed=5 + i))
                assert choice["message"]["content"] == same.text
                assert choice["finish_reason"] == same.finish
                assert tuple(choice["token_ids"]) == same.tokens
                assert tuple(part["logprob"] for part in choice["logprobs"]["content"]) == same.logp
                assert choice["index"] == i


def test_without_a_seed_no_two_draws_are_of_one_stream() -> None:
    with serving() as endpoint:
        texts = [choice["message"]["content"] for choice in call(endpoint, n=64).body["choices"]]
        assert len(set(texts)) > 40
        again = [choice["message"]["content"] for choice in call(endpoint, n=64).body["choices"]]
        assert again != texts


def test_the_two_routes_and_token_ids_agree() -> None:
    settings = EndpointSettings()
    with serving(settings) as endpoint:
        chat = call(endpoint, seed=1, temperature=0, return_token_ids=True, logprobs=True).body
        ids, choice = chat["prompt_token_ids"], chat["choices"][0]
        whole = choice["token_ids"]
        assert call(endpoint, "/tokenize", messages=SAY).body["tokens"] == ids
        assert chat["usage"]["prompt_tokens"] == len(ids)
        rest = call(
            endpoint, "/v1/completions", prompt=ids + whole[:4], temperature=0, return_token_ids=True, prompt_logprobs=0
        ).body["choices"][0]
        assert rest["token_ids"] == whole[4:] + rest["token_ids"][len(whole) - 4 :]
        logp = [next(iter(entry.values()))["logprob"] for entry in rest["prompt_logprobs"][1:]]
        assert logp[-4:] == [part["logprob"] for part in choice["logprobs"]["content"][:4]]
        beginning = [*SAY, {"role": "assistant", "content": choice["message"]["content"][:4]}]
        going_on = {"continue_final_message": True, "add_generation_prompt": False, "temperature": 0}
        assert call(endpoint, messages=beginning, **going_on).body["choices"][0]["message"]["content"] == rest["text"]


def test_top_logprobs_are_the_likeliest() -> None:
    with serving() as endpoint:
        choice = call(endpoint, seed=1, logprobs=True, top_logprobs=3).body["choices"][0]
        for part in choice["logprobs"]["content"]:
            tops = [top["logprob"] for top in part["top_logprobs"]]
            assert tops == sorted(tops, reverse=True)
            assert len(tops) == 3
            assert part["logprob"] in tops or part["logprob"] < tops[-1]


def test_a_stream_holds_what_the_reply_would() -> None:
    with serving() as endpoint:
        whole = call(endpoint, seed=7, return_token_ids=True).body
        text = call(endpoint, seed=7, return_token_ids=True, stream=True, stream_options={"include_usage": True}).text
        events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
        assert events[-1] == "[DONE]"
        chunks = [json.loads(event) for event in events[:-1]]
        pieces = [choice for chunk in chunks for choice in chunk["choices"]]
        assert "".join(p["delta"].get("content", "") for p in pieces) == whole["choices"][0]["message"]["content"]
        assert [id for p in pieces for id in p.get("token_ids", [])] == whole["choices"][0]["token_ids"]
        assert pieces[-1]["finish_reason"] == whole["choices"][0]["finish_reason"]
        assert chunks[-1]["usage"] == whole["usage"]


def test_the_tally_is_the_sum_of_the_bills() -> None:
    with serving(EndpointSettings(marks=True)) as endpoint:
        bodies = [call(endpoint, n=n).body for n in (1, 3, 5)]
        bodies.append(call(endpoint, "/v1/completions", prompt="say b", n=2).body)
        texts = [c["message"]["content"] if "message" in c else c["text"] for b in bodies for c in b["choices"]]
        assert sorted(int(text.partition("\n")[0][1:-1]) for text in texts) == list(range(11))
        for name in ("prompt_tokens", "completion_tokens"):
            assert sum(body["usage"][name] for body in bodies) == getattr(endpoint.tally, name)
        assert call(endpoint, "/tally").body == endpoint.tally.as_json()
        assert (endpoint.tally.requests, endpoint.tally.draws, endpoint.tally.in_flight) == (4, 11, 0)


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_says_truly_whether_it_was_billed(fault: str) -> None:
    settings = EndpointSettings(plan=(fault,), stall_s=0.05, slow_s=0.05)
    with serving(settings) as endpoint:
        try:
            status: int | None = call(endpoint, n=2).status
        except (http.client.HTTPException, ConnectionError):
            status = None
        expected = 2 + (fault == "more") - (fault == "fewer") if FAULTS[fault].drawn else 0
        assert endpoint.tally.draws == expected
        assert endpoint.tally.faults == {fault: 1}
        assert status == (None if fault in ("cut before", "cut middle", "stall") else FAULTS[fault].status)
        fine = call(endpoint, n=2)
        assert (fine.status, len(fine.body["choices"])) == (200, 2), "it passes"
        assert endpoint.tally.in_flight == 0


def test_what_the_faults_do_to_a_reply() -> None:
    plan = ("half", "html", "error 200", "more", "fewer", "shuffled", "same index", "null", "finish null", "finish eos")
    plan += ("finish filter", "usage absent", "usage negative", "usage zero", "usage absurd", "429", "429 date", "503")
    with serving(EndpointSettings(plan=plan, retry_after_s=1.5)) as endpoint:
        got = {fault: call(endpoint, n=2) for fault in plan}
    choices = {fault: reply.body.get("choices") for fault, reply in got.items() if reply.body is not None}
    assert got["half"].body is None
    assert got["half"].text.startswith('{"id"')
    assert "<html>" in got["html"].text
    assert "error" in got["error 200"].body
    assert [len(choices[fault]) for fault in ("more", "fewer")] == [3, 1]
    assert [c["index"] for c in choices["shuffled"]] == [1, 0]
    assert [c["index"] for c in choices["same index"]] == [0, 0]
    assert [c["message"]["content"] for c in choices["null"]] == [None, None]
    assert {c["finish_reason"] for c in choices["finish null"]} == {None}
    assert {c["finish_reason"] for c in choices["finish eos"]} == {"eos"}
    assert {c["finish_reason"] for c in choices["finish filter"]} == {"content_filter"}
    assert "usage" not in got["usage absent"].body
    assert got["usage negative"].body["usage"]["completion_tokens"] == -1
    assert got["usage zero"].body["usage"]["prompt_tokens"] == 0
    assert got["usage absurd"].body["usage"]["total_tokens"] == 10**12
    assert got["429"].headers["retry-after"] == got["503"].headers["retry-after"] == "1.5"
    assert got["429 date"].headers["retry-after"].endswith("GMT")


def test_faults_come_with_their_odds_and_from_the_seed() -> None:
    """Of 2,000 requests 200 and 100 should fail; each is within five standard errors (false-alarm probability 1e-6)."""

    async def fates(seed: int) -> list[str]:
        endpoint = Endpoint(EndpointSettings(seed=seed, faults={"500": 0.1, "half": 0.05}))
        found = []
        for _ in range(2000):
            endpoint.tally.requests += 1
            found.append(endpoint.next_fault())
        return found

    first = asyncio.run(fates(1))
    assert abs(first.count("500") - 200) < 5 * (2000 * 0.1 * 0.9) ** 0.5
    assert abs(first.count("half") - 100) < 5 * (2000 * 0.05 * 0.95) ** 0.5
    assert first == asyncio.run(fates(1))
    assert first != asyncio.run(fates(2))


def test_traits_ignored_and_refused() -> None:
    with serving(EndpointSettings(ignores=("n", "seed"), refuses=("temperature", "max_tokens"))) as endpoint:
        got = call(endpoint, temperature=0.5)
        assert (got.status, got.body["error"]["param"]) == (400, "temperature")
        got = call(endpoint, n=1)
        assert got.status == 400
        assert "Use 'max_completion_tokens' instead" in got.body["error"]["message"]
        fine = {"max_tokens": None, "max_completion_tokens": 9, "seed": 1, "n": 4}
        one, two = call(endpoint, **fine).body["choices"], call(endpoint, **fine).body["choices"]
        assert len(one) == len(two) == 1
        assert one[0]["message"] != two[0]["message"]
    with serving(EndpointSettings(frozen=True)) as endpoint:
        texts = {c["message"]["content"] for seed in range(5) for c in call(endpoint, n=3, seed=seed).body["choices"]}
        assert len(texts) == 1
    with serving(EndpointSettings(reasoning=True)) as endpoint:
        body = call(endpoint, seed=1).body
        assert body["choices"][0]["message"]["reasoning_content"].split() == [f"w0.{word}" for word in range(10)]
        assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 10}
        assert body["usage"]["completion_tokens"] <= 20, "reasoning is a part of max_tokens"


@pytest.mark.parametrize(
    ("settings", "path", "body", "status"),
    [
        (EndpointSettings(api_key="secret"), "/v1/chat/completions", {"n": 1}, 401),
        (EndpointSettings(), "/v1/chat/completions", {"model": "other"}, 404),
        (EndpointSettings(lacks=("chat",)), "/v1/chat/completions", {"n": 1}, 404),
        (EndpointSettings(), "/v1/nothing", {}, 404),
        (EndpointSettings(), "/v1/chat/completions", {"n": 0}, 400),
        (EndpointSettings(), "/v1/chat/completions", {"n": "two"}, 400),
        (EndpointSettings(), "/v1/chat/completions", {"seed": 1.5}, 400),
        (EndpointSettings(), "/v1/chat/completions", {"messages": []}, 400),
        (EndpointSettings(), "/v1/chat/completions", {"messages": "say a"}, 400),
        (EndpointSettings(context=10), "/v1/chat/completions", {"n": 1}, 400),
        (EndpointSettings(), "/v1/chat/completions", {"logprobs": True, "top_logprobs": 21}, 400),
        (EndpointSettings(), "/v1/completions", {"prompt": [9999]}, 400),
        (EndpointSettings(), "/v1/completions", {"prompt": [12, 1]}, 400),
    ],
)
def test_what_is_refused_is_not_billed(
    settings: EndpointSettings, path: str, body: dict[str, Any], status: int
) -> None:
    with serving(settings) as endpoint:
        got = call(endpoint, path, **body)
        assert got.status == status
        assert got.body["error"]["message"]
        assert endpoint.tally.tokens == 0


def test_the_right_key_is_accepted() -> None:
    with serving(EndpointSettings(api_key="secret")) as endpoint:
        connection = http.client.HTTPConnection(endpoint.url.split("/")[2], timeout=60)
        connection.request("GET", "/v1/models", headers={"Authorization": "Bearer secret"})
        assert json.load(connection.getresponse())["data"][0]["id"] == "toy"
        connection.close()


# --- connections ------------------------------------------------------------------------------------------------------


def request(body: dict[str, Any]) -> bytes:
    data = json.dumps({"model": "toy", "messages": SAY, "max_tokens": 4, **body}).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(data) + data


async def until(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def test_a_client_that_leaves_is_counted_and_pays_for_nothing() -> None:
    async def go() -> None:
        endpoint = Endpoint(EndpointSettings(latency_ms=600_000))
        async with endpoint as url:
            leaving = []
            for _ in range(3):
                _, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2].split("/")[0]))
                writer.write(request({}))
                leaving.append(writer)
            await until(lambda: endpoint.tally.in_flight == 3)
            for writer in leaving:
                writer.close()
            await until(lambda: endpoint.tally.disconnects == 3)
        tally = endpoint.tally
        assert (tally.aborted, tally.draws, tally.in_flight, tally.most_in_flight) == (3, 0, 0, 3)

    asyncio.run(go())


def test_requests_in_pieces_and_in_a_row_are_answered_in_turn() -> None:
    async def go() -> None:
        async with Endpoint(EndpointSettings(marks=True, latency_ms=1)) as url:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2].split("/")[0]))
            data = request({}) + request({"n": 2})
            for i in range(0, len(data), 7):
                writer.write(data[i : i + 7])
                await writer.drain()
            found = []
            for _ in range(2):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                found.append(json.loads(await reader.readexactly(length)))
            assert [len(body["choices"]) for body in found] == [1, 2]
            writer.close()

    asyncio.run(go())


def test_more_than_it_has_room_for_are_told_to_come_back() -> None:
    async def go() -> list[int]:
        endpoint = Endpoint(EndpointSettings(latency_ms=2000, capacity=2))
        async with endpoint as url:

            async def one() -> int:
                reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2].split("/")[0]))
                writer.write(request({}))
                status = int((await reader.readline()).split()[1])
                writer.close()
                return status

            found = await asyncio.gather(*(one() for _ in range(6)))
        assert endpoint.tally.most_in_flight == 2
        assert endpoint.tally.faults == {"429": 4}
        return list(found)

    assert sorted(asyncio.run(go())) == [200, 200, 429, 429, 429, 429]


@pytest.mark.parametrize("head", [b"content-length: x", b"transfer-encoding: chunked", b"content-length: 99999999"])
def test_a_body_that_cannot_be_read_is_refused(head: bytes) -> None:
    async def go() -> bytes:
        async with Endpoint() as url:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2].split("/")[0]))
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\n" + head + b"\r\n\r\n")
            line = await reader.readline()
            writer.close()
            return line

    assert b" 413 " in asyncio.run(go())


# --- as a process -----------------------------------------------------------------------------------------------------


def test_a_command_finds_the_endpoint_and_ends_it(tmp_path: Path) -> None:
    asked = "import os, urllib.request as u; print(u.urlopen(os.environ['OPENAI_BASE_URL'] + '/models').status)"
    script = tmp_path / "ask.py"
    script.write_text(f"{asked}\nraise SystemExit(7)\n")
    run = [sys.executable, "-m", "samplewise.testing.endpoint", "--run", f"{sys.executable} {script}"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (7, "200\n")
    late = subprocess.run([*run[:-1], "sleep 600", "--seconds", "0.2"], capture_output=True, text=True, timeout=300)
    assert late.returncode == 124


def test_it_says_where_it_is_and_what_it_did(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    words = [sys.executable, "-m", "samplewise.testing.endpoint", "--ready-file", str(ready), "--seconds", "600"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as child:
        assert child.stdout is not None
        try:
            url = child.stdout.readline().strip()
            assert ready.read_text() == url
            connection = http.client.HTTPConnection(url.split("/")[2], timeout=60)
            connection.request("POST", "/v1/chat/completions", json.dumps({"model": "toy", "messages": SAY}))
            bill = json.load(connection.getresponse())["usage"]
            connection.close()
        finally:
            child.terminate()
        tally = json.loads(child.stdout.read())
        assert tally["tokens"] == bill["total_tokens"]


def test_a_wrong_word_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    cases = {"--fault nonsense=0.5": "nonsense", "--ignores nonsense": "nonsense", "--fault 500=2": "sum to at most 1"}
    cases["--vocab 40"] = "vocab must be 1 to 26"
    for words, message in cases.items():
        with pytest.raises(SystemExit):
            run_endpoint(words.split())
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="no such fault"):
        EndpointSettings(plan=("nonsense",))


# --- what reasoning models and odd servers do -------------------------------------------------------------------------


def test_reasoning_that_was_cut_leaves_no_answer() -> None:
    for kind, content in (("empty", ""), ("null", None), ("text", "<think>w0.0 w0.1")):
        with serving(EndpointSettings(cut_reasoning=kind, num_cut=2)) as endpoint:  # type: ignore[arg-type]
            first, second, third = call(endpoint, n=3, max_tokens=2).body["choices"]
            assert first["message"]["content"] == content
            assert ("reasoning_content" in first["message"]) == (kind != "text")
            assert [first["finish_reason"], second["finish_reason"]] == ["length"] * 2
            assert third["message"].keys() == {"role", "content"}
            assert endpoint.tally.completion_tokens == 4 + len(third["message"]["content"]) + (
                third["finish_reason"] == "stop"
            )


def test_reasoning_may_be_counted_in_the_total_alone() -> None:
    settings = EndpointSettings(answer="391", reasoning=True, reasoning_tokens=800, reasoning_outside=True)
    with serving(settings) as endpoint:
        body = call(endpoint, max_tokens=900).body
    usage = body["usage"]
    assert body["choices"][0]["message"]["content"] == "391"
    assert usage["total_tokens"] - usage["prompt_tokens"] - usage["completion_tokens"] == 800
    assert usage["total_tokens"] == endpoint.tally.tokens


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_processed_log_probs_are_those_of_the_distribution_drawn_from(path: str) -> None:
    asked: dict[str, Any] = {"temperature": 0.5, "top_k": 4, "seed": 3}
    asked |= {"logprobs": True, "top_logprobs": 6} if "chat" in path else {"logprobs": 6, "prompt": "say a"}
    with serving(EndpointSettings(processed_logprobs=True)) as endpoint, serving(EndpointSettings()) as plain:
        choice, same = (call(each, path, **asked).body["choices"][0] for each in (endpoint, plain))
        parts = ("message", "text", "finish_reason")
        assert [choice.get(name) for name in parts] == [same.get(name) for name in parts], "the draws are the same"
        ask = Generate(MESSAGES, sampling=Sampling(0.5, 4), max_tokens=20, seed=3, want=("tokens", "logq"))
        if "chat" in path:
            drawn = Toy(12, seed=5, scale=1.0).one(ask)
            assert [part["logprob"] for part in choice["logprobs"]["content"]] == pytest.approx(drawn.logq)
            tops = [[top["logprob"] for top in part["top_logprobs"]] for part in choice["logprobs"]["content"]]
        else:
            tops = [list(row.values()) for row in choice["logprobs"]["top_logprobs"]]
        assert all(len(row) <= 4 for row in tops)
        for row in tops:
            assert sum(math.exp(value) for value in row) == pytest.approx(1.0)


def test_frozen_in_part() -> None:
    with serving(EndpointSettings(frozen_n=True)) as endpoint:
        lists = [[c["message"]["content"] for c in call(endpoint, n=3, seed=s).body["choices"]] for s in (1, 2, 3)]
        assert [len(set(texts)) for texts in lists] == [1, 1, 1]
        assert len({texts[0] for texts in lists}) > 1
        assert len({call(endpoint, n=1).body["choices"][0]["message"]["content"] for _ in range(6)}) > 1
    with serving(EndpointSettings(frozen_list=True)) as endpoint:
        lists = [[c["message"]["content"] for c in call(endpoint, n=8, seed=s).body["choices"]] for s in (1, 2)]
        assert lists[0] == lists[1]
        assert len(set(lists[0])) > 4


def test_a_greedy_token_in_fifty_is_another() -> None:
    """A greedy draw of 14 tokens stays as it is with probability 0.98 ** 14, about 0.75."""
    with serving(EndpointSettings(greedy_noise=0.02)) as endpoint:
        texts = [
            call(endpoint, temperature=0, max_tokens=14).body["choices"][0]["message"]["content"] for _ in range(99)
        ]
    with serving(EndpointSettings()) as endpoint:
        true = call(endpoint, temperature=0, max_tokens=14).body["choices"][0]["message"]["content"]
    assert 55 <= texts.count(true) <= 92


def test_the_limit_may_be_ignored_with_an_honest_bill() -> None:
    with serving(EndpointSettings(overrun=500)) as endpoint:
        body = call(endpoint, max_tokens=4).body
    assert body["usage"]["completion_tokens"] == endpoint.tally.completion_tokens >= 500
    assert body["choices"][0]["message"]["content"].count("word") == 500


def test_a_refusal_may_be_in_any_words() -> None:
    with serving(EndpointSettings(refuses=("n",), refusal="n cannot be greater than 1")) as endpoint:
        got = call(endpoint, n=2)
    error = {"message": "n cannot be greater than 1", "type": "invalid_request_error", "param": None, "code": None}
    assert (got.status, got.body["error"]) == (400, error)


def test_an_attack_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no such fault: 'endles'; known: .*endless stream"):
        EndpointSettings(plan=("endles",))
    assert all(attack.about for attack in ATTACKS.values())
