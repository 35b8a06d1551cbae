"""Fuzz the server by its own description, with schemathesis. Run as

    python with_schemathesis.py URL KEY EXAMPLES SECRET...

Bodies that the description allows and such as it does not, in every way that schemathesis knows. Any response that the
description does not allow is a failure, and so is what the checks below say. No response may hold one of the secrets.
Prints the number of requests by status as JSON. This file is also the module of hooks that schemathesis loads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema_rs
import schemathesis

# What the description allows may be refused for a reason that lies between fields, in a text, or in the model.
REASONS = {
    *("unsupported_parameter", "conflicting_parameters", "empty_prompt", "invalid_text", "invalid_recipe"),
    *("unsupported_recipe", "budget_too_small", "context_length_exceeded", "model_not_found", "recipe_not_allowed"),
    *("invalid_reader", "timeout", "rate_limit_exceeded", "engine_refused"),
}
NAMES = ("toy", "vote4@toy", "vote4@other", "other", "repeat(2) | best(logp)@toy", "vote(3)@toy", "early@toy")
CHECKS = (
    *("status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "unsupported_method", "ignored_auth"),
    *("never_a_500", "judged_as_described", "streams_are_as_described", "keeps_secrets"),
)
VALIDATORS: dict[str, Any] = {}
SECRETS = "SAMPLEWISE_SECRETS"
COUNTS = "SAMPLEWISE_COUNTS"  # a file: a line for each response


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Let more requests come through: most names of models, and most recipes, that are made at random are none.

    In half of them there are no fields that only some models take.
    """
    body = case.body
    if not isinstance(body, dict):
        return
    number = zlib.crc32(repr(body).encode(errors="replace"))
    if number % 8 and isinstance(body.get("model"), str) and 0 < len(body["model"]) <= 2000:
        body["model"] = NAMES[number // 8 % len(NAMES)]
    if number // 64 % 2:
        uses = case.operation.schema.raw_schema["components"]["schemas"]["ChatRequest"]["properties"]
        for name in [name for name in body if uses.get(name, {}).get("x-samplewise-use") in ("relayed", "passed")]:
            del body[name]
        if "messages" in body and number // 128 % 2:
            body["messages"] = [{"role": "user", "content": "make 24 from 4 6 7 8"}]
    if number % 3 and case.headers is not None:
        case.headers.pop("X-Samplewise-Recipe", None)
    if number % 5 and isinstance(body.get("samplewise"), dict) and isinstance(body["samplewise"].get("recipe"), str):
        del body["samplewise"]["recipe"]
    if number % 5 and isinstance(body.get("samplewise"), dict) and isinstance(body["samplewise"].get("read"), str):
        body["samplewise"]["read"] = "number"


@schemathesis.check
def never_a_500(ctx: Any, response: Any, case: Any) -> None:
    """Fail on an error that nobody foresaw; that no draw came in time is foreseen."""
    text = response.text
    assert response.status_code != 500, text
    assert response.status_code < 500 or case.path == "/ready" or json.loads(text)["error"]["code"] == "timeout", text
    assert "Traceback" not in text
    assert "internal_error" not in text
    with Path(os.environ[COUNTS]).open("a") as counts:
        is_positive = case.meta is not None and case.meta.generation.mode.value == "positive"
        counts.write(f"{case.method} {case.path} {'valid' if is_positive else 'invalid'} {response.status_code}\n")


@schemathesis.check
def judged_as_described(ctx: Any, response: Any, case: Any) -> None:
    """Fail where a body that the description rejects is accepted, or one that it allows is refused without a reason."""
    if case.method != "POST" or not case.path.endswith("completions") or response.status_code in (401, 404):
        return
    is_allowed = is_described(response.request.body, case)
    if response.status_code < 400:
        assert is_allowed, f"accepted: {response.request.body!r}"
    elif is_allowed:
        error = json.loads(response.text)["error"]
        assert error["code"] in REASONS or (error["param"] or "").startswith("X-"), error


def is_described(data: Any, case: Any) -> bool:
    """Return whether a body is JSON that the description of the route allows."""
    try:
        body = json.loads(data or b"")
    except ValueError:
        return False
    name = "ChatRequest" if "chat" in case.path else "TextRequest"
    return bool(validator(name, case).is_valid(body))


def validator(name: str, case: Any) -> Any:
    """Return what validates by one schema of the description, or by that of an error."""
    if name not in VALIDATORS:
        schemas = {"components": case.operation.schema.raw_schema["components"]}
        refs = [{"$ref": f"#/components/schemas/{each}"} for each in ((name, "Error") if "Chunk" in name else (name,))]
        VALIDATORS[name] = jsonschema_rs.validator_for({"anyOf": refs, **schemas})
    return VALIDATORS[name]


@schemathesis.check
def streams_are_as_described(ctx: Any, response: Any, case: Any) -> None:
    """Fail where an event of a stream is not as its schema says."""
    if not response.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        return
    parts = response.text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""], parts[-2:]
    for part in parts[:-2]:
        if not part.startswith(":"):
            assert part.startswith("data: "), part
            validator("ChatChunk" if "chat" in case.path else "TextChunk", case).validate(
                json.loads(part.removeprefix("data: "))
            )


@schemathesis.check
def keeps_secrets(ctx: Any, response: Any, case: Any) -> None:
    """Fail where a response holds what belongs to another key."""
    for secret in os.environ[SECRETS].split("\n"):
        assert secret not in response.text, secret
        assert not any(secret in value for values in response.headers.values() for value in values), secret


def main(url: str, key: str, examples: str, *secrets: str) -> None:
    """Run schemathesis, and print what it counted. Ends with its status where it found something."""
    root, counts = url.removesuffix("/v1"), Path.cwd() / "counts.txt"
    counts.write_text("")
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": Path(__file__).stem, "PYTHONPATH": str(Path(__file__).parent)}
    environment |= {SECRETS: "\n".join(secrets), COUNTS: str(counts)}
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{root}/openapi.json"]
    command += ["--header", f"Authorization: Bearer {key}", "--checks", ",".join(CHECKS), "--seed", "1"]
    command += ["--continue-on-failure", "--request-timeout", "20", "--generation-database", "none"]
    command += ["--warnings", "off", "--no-color", "--suppress-health-check", "all"]
    command += ["--phases", "coverage,fuzzing", "--max-examples", examples]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout[-20_000:])
    print(json.dumps(Counter(counts.read_text().splitlines())))


if __name__ == "__main__":
    main(*sys.argv[1:])
