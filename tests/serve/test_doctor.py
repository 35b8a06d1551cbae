"""The server examined by our own engine: what its endpoint honors, it honors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.serve.running import running
from tests.serve.test_clients import samplewise

from samplewise.testing.endpoint import serving

# What the server's API has no fields for: token ids in and out, and log-probs of a given text.
NOT_OFFERED = {"token_ids_out", "token_ids_in", "continues", "likelihood", "tokenize"}
NOT_TRIED = {"top_ids", "forces_token", "detokenize"}  # as there are no ids to try them with


def test_doctor_finds_that_the_server_honors_what_its_endpoint_does(tmp_path: Path) -> None:
    def profile(url: str) -> dict[str, Any]:
        report = samplewise(tmp_path, "doctor", "--engine", f'http("toy", base_url="{url}", api_key="")')
        found: dict[str, Any] = report["profile"]
        return found

    with serving() as endpoint:
        direct = profile(endpoint.url)
        engine = f'http("toy", base_url="{endpoint.url}", api_key="")'
        cache = patch.dict(os.environ, XDG_CACHE_HOME=str(tmp_path))
        with cache, running(tmp_path / "log", "--engine", engine) as url:
            ours = profile(url)
    honored = ("n", "seed", "logprobs", "temperature", "usage", "raw_logprobs")
    assert {name: ours[name] for name in honored} == dict.fromkeys(honored, True)
    assert ours == {**direct, **dict.fromkeys(NOT_OFFERED, False), **dict.fromkeys(NOT_TRIED)}
    assert all(direct[name] is True for name in NOT_OFFERED | NOT_TRIED)
    assert ours["top_logprobs"] == 13
    assert (ours["frozen_seed"], ours["refused"], ours["notes"]) == (False, [], [])
    assert "Traceback" not in (tmp_path / "log").read_text()
