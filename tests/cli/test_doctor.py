"""`samplewise doctor`: what it finds out about an endpoint, what it reports, and what it costs."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from tests.support.commands import Call, caller
from tests.verify.sandbox.conftest import why_not

from samplewise.cli.app import out
from samplewise.cli.doctor import ABOUT, FINDINGS, _print_profile
from samplewise.core.types import Capability
from samplewise.engines.http.dialect.profile import Profile
from samplewise.engines.toy import Toy
from samplewise.testing.endpoint import EndpointSettings, serving


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(out, "width", 200)  # no row of a table is broken into lines
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "SAMPLEWISE_ENGINE"):
        monkeypatch.delenv(name, raising=False)

    return caller(monkeypatch, capsys, "doctor")


def at(url: str) -> str:
    return f'http("toy", base_url="{url}")'


def squeezed(text: str) -> str:
    """Return a table's words, however its columns are broken into lines."""
    return " ".join(text.split())


def test_an_endpoint_is_asked_once(call: Call) -> None:
    with serving() as endpoint:
        first = call("--engine", at(endpoint.url), "--json")
        asked = endpoint.tally.requests
        again = call("--engine", at(endpoint.url), "--json")
        assert 0 < asked == endpoint.tally.requests <= 12
        assert first.code == again.code == 0
        assert first.json == again.json
    profile = first.json["profile"]
    assert profile["n"] is profile["seed"] is profile["likelihood"] is True
    assert {"generate", "tokens", "logp", "prefix", "likelihood"} <= set(first.json["can"])


def test_fresh_asks_again_and_keeps_what_it_finds(call: Call) -> None:
    with serving() as endpoint:
        call("--engine", at(endpoint.url))
        asked = endpoint.tally.requests
        assert call("--engine", at(endpoint.url), "--fresh").code == 0
        assert endpoint.tally.requests == 2 * asked
        assert call("--engine", at(endpoint.url)).code == 0
        assert endpoint.tally.requests == 2 * asked


def test_the_base_url_of_the_environment(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(EndpointSettings(api_key="secret")) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        refused = call("--engine", "http:toy")
        assert (refused.code, refused.out) == (4, "")
        assert "OPENAI_API_KEY" in refused.err
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        done = call("--engine", "http:toy")
        assert done.code == 0
        assert "secret" not in done.out + done.err


def test_the_table_says_what_samplewise_does(call: Call) -> None:
    settings = EndpointSettings(
        ignores=("n", "seed", "return_token_ids"), refuses=("max_tokens", "temperature", "min_p"), faults={"slow": 0.0}
    )
    with serving(settings) as endpoint:
        output = squeezed(call("--engine", at(endpoint.url)).out)
    assert "(n) no makes one request for each draw" in output
    assert "seeds no draws cannot be repeated" in output
    assert "any temperature no only its default" in output
    assert "limit on tokens max_completion_tokens sent as max_completion_tokens" in output
    assert "token ids of a draw no estimates where it must" in output
    assert "prompts as token ids not known not used" in output
    assert "refuses min_p leaves them out" in output


def test_a_frozen_seed_is_reported(call: Call) -> None:
    with serving(EndpointSettings(frozen=True)) as endpoint:
        output = squeezed(call("--engine", at(endpoint.url)).out)
    assert "every draw is the same yes more draws add nothing" in output
    assert "note: draws of one prompt are all the same" in output


def test_every_finding_has_its_words() -> None:
    assert set(FINDINGS) == set(Profile._fields) - {"api", "notes", "refused"}
    assert set(ABOUT) == set(Capability)
    for name, finding in FINDINGS.items():
        assert all(text or (name, which) == ("max_tokens_field", "no") for which, text in finding._asdict().items())


def test_other_engines_show_what_they_can(call: Call) -> None:
    done = call("--engine", "toy", "--json")
    assert done.code == 0
    assert set(done.json["can"]) == Toy.can
    assert done.json["profile"] is None
    assert "lists every response with its probability" in done.out
    fresh = call("--engine", "toy", "--fresh")
    assert (fresh.code, fresh.err.count("\n")) == (2, 1)


def test_a_local_model_is_tried_out_for_exploring(call: Call) -> None:
    pytest.importorskip("torch", reason="the local engine's extra is not installed")
    done = call("--engine", "tiny", "--json")
    assert done.code == 0
    output = squeezed(done.out)
    taps = "taps after block 1 of 6 (LlamaDecoderLayer), and before the head the hidden states that policies read"
    assert taps in output
    assert "states 128 numbers per token" in output
    assert "head linear from a state to logits" in output
    assert "beta = 0 changes nothing zero strength must be the plain draw" in output
    assert "beta = 5 moves the distribution by" in output
    assert "kind LlamaForCausalLM 1.4M parameters, float32 on cpu" in output
    assert "context 256 tokens prompt and response together" in output
    assert "end tokens 3 </s> each ends a response" in output
    assert "path lean keys and values are reused" in output
    assert re.search(r"tokens per second [\d.,]+ at 1, [\d.,]+ at 16 rows measured now", output)
    model = done.json["model"]
    assert (model["parameters"], model["context"], model["end_tokens"]) == (1_369_472, 256, {"3": "</s>"})
    assert (model["chat_template"], model["reasons"], model["explores"], model["refused"]) == (True, False, True, [])
    assert 0 <= model["gap_nats"] < 1e-3
    assert min(model["tokens_per_s"].values()) > 0
    assert done.json["exploration"]["apart"] < 1e-4
    assert done.json["exploration"]["moved_nats"] > 0.1


MODEL: dict[str, Any] = {
    "architecture": "MambaForCausalLM",
    "parameters": 7_240_000_000,
    "dtype": "bfloat16",
    "device": "cuda:0",
    "context": None,
    "chat_template": False,
    "reasons": True,
    "end_tokens": {"2": "[/INST]", "5": "</s>"},
    "path": "recomputed",
    "refused": ("cached (sdpa): KeyError: no cache", "cached (eager): log-probabilities off by 2 nats"),
    "rounding_nats": 2e-6,
    "gap_nats": math.nan,
    "total_variation": math.nan,
    "explores": False,
    "tokens_per_s": {"1": 1.26, "16": 1234.5},
}


def test_what_a_model_is_and_how_it_is_run(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token's text may look like markup, and an unknown number is null."""

    class Examined(Toy):
        async def examine_model(self) -> dict[str, Any]:
            return MODEL

    monkeypatch.setattr("samplewise.cli.doctor.registry.build", lambda kind, spec: Examined())
    done = call("--engine", "toy", "--json")
    output = squeezed(done.out)
    for words in (
        "kind MambaForCausalLM 7.2B parameters, bfloat16 on cuda:0",
        "context no limit is known",
        "chat template no a prompt is the text of its messages, joined",
        "reasons yes gives a draw more tokens unless the recipe says max_tokens",
        "end tokens 2 [/INST], 5 </s> each ends a response",
        "path recomputed every token costs a pass over all tokens before it",
        "refused cached (sdpa) KeyError: no cache",
        "refused cached (eager) log-probabilities off by 2 nats",
        "rounding 2e-06 nats",
        "distance none of this path",
        "tokens per second 1.3 at 1, 1,234 at 16 rows measured now",
        "explores no",
    ):
        assert words in output
    assert done.json["model"]["gap_nats"] is None
    assert done.json["model"]["refused"] == list(MODEL["refused"])
    monkeypatch.setitem(MODEL, "end_tokens", {})
    assert "end tokens none every response runs to its limit" in squeezed(call("--engine", "toy").out)


def test_what_runs_the_model_is_named(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    class Run(Toy):
        def runtime(self) -> dict[str, str]:
            return {"vLLM": "0.32.0", "exploring": "no: [async] scheduling"}

    monkeypatch.setattr("samplewise.cli.doctor.registry.build", lambda kind, spec: Run())
    done = call("--engine", "toy", "--json")
    assert "runtime what holds here vLLM 0.32.0 exploring no: [async] scheduling" in squeezed(done.out)
    assert done.json["runtime"] == {"vLLM": "0.32.0", "exploring": "no: [async] scheduling"}


class Lame(Toy):
    """An engine whose examination gave `found`."""

    found: dict[str, Any]

    def exploration(self) -> dict[str, Any]:
        return self.found


TRIED = {"why": "", "dim": 8, "vocab": 40, "blocks": 2, "block": "Block", "head": ("linear", "soft-cap 30")}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"why": "it has no [head]"}, "cannot explore: it has no [head]"),
        ({"apart": 1e-6, "unmoved": False, "moved_nats": 0.5}, "beta = 0 changes the draw: do not explore"),
        ({"apart": 1e-6, "unmoved": True, "moved_nats": 0.0}, "beta = 5 changes nothing: do not explore"),
        ({"apart": 1.23e-6, "unmoved": True, "moved_nats": 0.5}, "= logits to 1e-06 relative error"),
        ({"apart": 1e-6, "unmoved": True, "moved_nats": 0.5}, "head linear, soft-cap 30 from a state"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_was_tried_is_reported(
    found: dict[str, Any], words: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    lame = Lame()
    lame.found = {**TRIED, **found}
    monkeypatch.setattr("samplewise.cli.doctor.registry.build", lambda kind, spec: lame)
    done = call("--engine", "toy")
    assert done.code == 0
    assert words in squeezed(done.out)


def test_an_engine_that_cannot_be_tried_is_not_mentioned(call: Call) -> None:
    done = call("--engine", "toy", "--json")
    assert "exploring" not in done.out
    assert done.json["exploration"] is None
    assert done.json["model"] is None


def test_limits_of_programs_are_named(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPLEWISE_SANDBOX", "none")
    done = call("--engine", "toy", "--json")
    assert "none: programs have your rights" in squeezed(done.out)
    assert done.json["programs"]["memory"] == "of each process, by the kernel; not of all together"
    monkeypatch.setenv("SAMPLEWISE_SANDBOX", "bubblewrap")
    if why_not():
        pytest.skip(why_not())
    holds = call("--engine", "toy", "--json").json["programs"]
    assert holds["shared memory, larger buffers"] == "refused, by a filter of system calls"
    assert holds["folder"].startswith(("a new one in memory", "one in memory, emptied"))
    monkeypatch.setenv("PATH", "/nowhere")
    done = call("--engine", "toy", "--json")
    assert done.code == 0
    assert "bubblewrap, which is not here" in done.json["programs"]["isolation"]


def test_an_unreachable_endpoint_is_one_line_and_code_4(call: Call) -> None:
    with serving() as endpoint:
        gone = endpoint.url
    done = call("--engine", at(gone))
    assert (done.code, done.out) == (4, "")
    assert "cannot be reached" in done.err
    assert "is the server running?" in done.err
    assert len(done.err.splitlines()) == 1


def test_no_endpoint_named_is_code_3(call: Call) -> None:
    done = call("--engine", "http:toy")
    assert done.code == 3
    assert "OPENAI_BASE_URL" in done.err


def test_a_model_that_is_not_there_is_code_4(call: Call) -> None:
    with serving() as endpoint:
        done = call("--engine", f'http("other", base_url="{endpoint.url}")')
    assert done.code == 4
    assert "other" in done.err


def test_every_finding_of_an_endpoint_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it does all, none or is not known to; some texts hold braces of their own."""
    monkeypatch.setattr(out, "width", 200)
    for value in (True, False, None):
        found: dict[str, Any] = {name: value for name in Profile._fields if name not in ("api", "notes", "refused")}
        found |= {"max_tokens_field": value and "max_tokens", "top_logprobs": value and 20}
        _print_profile(Profile(**found).to_json())
        shown = capsys.readouterr().out
        assert ("extra={'response_format': ...}" in shown) == (value is True)
        assert ("up to 20" in shown) == (value is True)
