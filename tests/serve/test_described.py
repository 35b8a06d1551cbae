"""The described API: true to the table of fields, to what the server accepts, and to what it replies."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve.running import running
from tests.serve.serving import HELLO, events, served_at, serving
from tests.serve.test_clients import CLIENTS, PYTHON
from tests.serve.test_wire import ASKED, BODIES, PROMPTED
from tests.support.script import Script, completion, reply

from samplewise.serve.fields import BOTH, FIELDS
from samplewise.serve.keys import KeyRing, Policy, key_digest, new_key
from samplewise.serve.openapi import PATHS, REPLIES, describe_api
from samplewise.serve.wire import RequestError, parse_body, parse_call
from samplewise.testing.endpoint import serving as endpoint_serving

API = describe_api(["toy", "other"], {"vote4": "repeat(4) | vote"}, "1.0", has_keys=True)
REQUESTS = {"chat": "ChatRequest", "completions": "TextRequest"}
# What lies between two fields, or in a text, is not described: such an error has one of these codes.
BETWEEN = ("conflicting_parameters", "empty_prompt", "invalid_text")


def validator(name: str, api: Any = API) -> Any:
    schema = {"$ref": f"#/components/schemas/{name}", "components": api["components"]}
    return jsonschema.Draft202012Validator(schema)


def test_every_reference_leads_somewhere() -> None:
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(API)))
    assert names <= set(API["components"]["schemas"])
    assert names >= {"ChatRequest", "TextRequest", "ChatReply", "TextReply", "Error", "Message"}
    for name, schema in API["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert validator(name).is_valid([]) is False


@pytest.mark.parametrize("route", BOTH)
def test_every_field_of_the_table_is_described(route: Any) -> None:
    """With what becomes of it; and no other field is."""
    described = API["components"]["schemas"][REQUESTS[route]]["properties"]
    known = {field.name: field for field in FIELDS if route in field.routes}
    assert set(described) == set(known)
    for name, field in known.items():
        assert described[name]["x-samplewise-use"] == field.use
        assert field.about in described[name]["description"]


VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 0.0, 1.0, 2.0, 2.5, 128, 129, 1e300, "", "x", "none", "text", "x" * 1001),
    *([], ["x"], [None], ["x"] * 17, {}, {"type": "text"}, {"role": "user", "content": "x"}),
    *({"include_usage": True}, {"include_obfuscation": 0}, {"budget": {"tokens": 1.0, "usd": None}}),
    *({"read": "x" * 201}, {"return": ["votes", "x"]}, [{"role": "tool"}], [{"role": "assistant"}]),
    *([{"role": "user", "content": None, "tool_calls": [0]}], [{"role": "user", "audio": 0}]),
    [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "file"}]}],
)
ANY = st.sampled_from(VALUES)
MORE = st.dictionaries(st.sampled_from([*dict.fromkeys(field.name for field in FIELDS), "colour"]), ANY, max_size=4)


@pytest.mark.parametrize("route", BOTH)
def test_each_field_accepts_what_is_described(route: Any) -> None:
    """Every field of the table, and one that is none, with values of every kind, each alone."""
    described = validator(REQUESTS[route])
    whole = ASKED if route == "chat" else PROMPTED
    for name in [*dict.fromkeys(field.name for field in FIELDS), "colour"]:
        for value in VALUES:
            check_judged({**whole, name: value}, route, described)


def check_judged(body: dict[str, Any], route: Any, described: Any) -> None:
    """A body is accepted where it is described, unless the error says that no schema could tell."""
    is_described, error = described.is_valid(body), None
    try:
        parse_call(body, route, {})
    except RequestError as raised:
        error = raised
    judged = is_described == (error is None) or (is_described and error is not None and error.code in BETWEEN)
    assert judged, (body, is_described, error)


@given(BODIES | MORE, st.sampled_from(BOTH), st.booleans())
def test_what_is_accepted_is_what_is_described(body: dict[str, Any], route: Any, whole: bool) -> None:
    """But for errors whose code says that no schema could tell."""
    body = {**(ASKED if route == "chat" else PROMPTED), **body} if whole else body
    body = parse_body(json.dumps(body).encode())
    check_judged(body, route, validator(REQUESTS[route]))


@pytest.mark.parametrize("route", BOTH)
def test_replies_are_as_described(route: Any) -> None:
    """Whole ones, streams and errors, of plain models and recipes, and with what an endpoint alone can reply."""
    calls = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]
    called = completion("x")
    called["choices"][0]["message"] |= {"content": None, "tool_calls": calls}

    async def go() -> None:
        async with serving() as served:
            api = (await served.get("/openapi.json")).body
            assert api == {**API, "components": api["components"], "security": [], "info": api["info"]}
            whole, chunk = (validator(name, api) for name in REPLIES[route])
            wishes: dict[str, Any] = {"return": ["candidates", "votes"]}
            for model in ("toy", "vote4@toy", "early@toy"):
                body = {
                    "model": model,
                    "n": 2,
                    "samplewise": wishes,
                    "logprobs": True if route == "chat" else 0,
                    "seed": 1,
                }
                whole.validate((await served.post(PATHS[route], **body)).body)
                body["samplewise"] = {**wishes, "progress": route == "chat"}
                options = {"stream": True, "stream_options": {"include_usage": True}}
                for event in events((await served.post(PATHS[route], **body, **options)).data):
                    chunk.validate(event)
            validator("Error", api).validate((await served.post(PATHS[route], n=0)).body)
            validator("Models", api).validate((await served.get("/v1/models")).body)
            validator("Model", api).validate((await served.get("/v1/models/toy")).body)
        if route == "chat":
            async with Script(lambda seen: reply(called)).serving() as url, served_at(url) as served:
                for fields in ({"tools": calls}, {"tools": calls, "model": "vote4@toy"}):
                    whole.validate((await served.post(**fields)).body)
                    for event in events((await served.post(**fields, stream=True)).data):
                        chunk.validate(event)

    asyncio.run(asyncio.wait_for(go(), 20))


def test_the_description_needs_a_key_where_there_are_keys() -> None:
    async def go() -> None:
        async with serving(keys=KeyRing({key_digest("k"): Policy("k")})) as served:
            assert (await served.get("/openapi.json")).status == 401
            got = await served.get("/openapi.json", {"Authorization": "Bearer k"})
            assert got.body["security"] == [{"key": []}]
            assert got.body["components"]["schemas"]["ChatRequest"]["properties"]["model"]["anyOf"][0] == {
                "enum": ["toy", "vote4@toy", "early@toy"]
            }

    asyncio.run(asyncio.wait_for(go(), 20))


@pytest.mark.clients
@pytest.mark.slow
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """About 3,000 requests made from the description, beside what another key asks and gets.

    Never a status of 500 or a traceback, no reply that the description does not allow, and nothing of the other key.
    """
    if not PYTHON.exists():
        pytest.skip("the clients are not installed in .venv-clients: make test-clients installs them")
    secret = "SECRET-OF-ANOTHER-KEY"
    (token, entry), (other, other_entry) = new_key("fuzz"), new_key("other")
    (tmp_path / "keys.toml").write_text((entry + other_entry).replace("presets", "free"))
    with endpoint_serving() as endpoint:
        options = ["--engine", "toy", "--engine", f'other=http("toy", base_url="{endpoint.url}", probe="never")']
        options += ["--preset", "vote4=repeat(4) | vote", "--preset", "early=repeat(8) | until(lead(2)) | vote"]
        options += ["--keys", str(tmp_path / "keys.toml"), "--store", str(tmp_path / "s.db"), "--seconds", "5"]
        with running(tmp_path / "log", *options) as url:
            runs = asyncio.run(asked_before(url, other, secret))
            command = [str(PYTHON), str(CLIENTS / "with_schemathesis.py"), url, token, "80", secret, other, *runs]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-8000:]}"
    counts: Counter[str] = Counter(json.loads(done.stdout.splitlines()[-1]))
    statuses: Counter[tuple[str, ...]] = Counter()
    for line, num in counts.items():
        _, path, _, status = line.split()
        statuses[path, status] += num
    for path in PATHS.values():  # enough of them came through, and enough did not
        assert statuses[path, "200"] > 50, statuses
        assert statuses[path, "400"] > 200, statuses
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert '"event":"failed"' not in log
    assert secret not in log
    assert token not in log


async def asked_before(url: str, key: str, secret: str) -> list[str]:
    """Make requests that hold a secret, by a key, and return the names of their runs."""
    runs = []
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for model in ("toy", "vote4@toy", "vote4@other"):
            body = {"model": model, "messages": [*HELLO, {"role": "user", "content": secret}], "user": secret, "n": 1}
            async with session.post(f"{url}/chat/completions", json=body) as response:
                assert response.status == 200
                runs.append(response.headers["X-Samplewise-Run"])
    return runs
