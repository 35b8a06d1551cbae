"""Run the endpoint as a process: print its address, serve for a bounded time, and print the tally as JSON.

    python -m samplewise.testing.endpoint --latency-ms 20 --fault 429=0.05 --seconds 60
    python -m samplewise.testing.endpoint --run "samplewise doctor --engine http:toy"

With `--run` it serves one command, which finds the address in OPENAI_BASE_URL, and exits with its exit code.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
from pathlib import Path

from samplewise.testing.endpoint import ATTACKS, FAULTS, ROUTES, TRAITS, Endpoint, EndpointSettings


def _names(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _fault(text: str) -> tuple[str, float]:
    name, _, probability = text.rpartition("=")
    return name, float(probability)


def _parser() -> argparse.ArgumentParser:
    """Return the options: those of `EndpointSettings`, and where and how long to serve."""
    parser = argparse.ArgumentParser(prog="python -m samplewise.testing.endpoint", description="A faulty endpoint.")
    defaults = EndpointSettings()
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--seconds", type=float, default=3600.0, help="serve for at most this long")
    parser.add_argument("--run", metavar="COMMAND", help="serve this command alone, by OPENAI_BASE_URL")
    parser.add_argument("--ready-file", type=Path, help="write the address here once it can be used")
    for name in (
        *("model", "vocab", "scale", "seed", "context", "latency_ms", "token_ms", "max_n", "retry_after_s"),
        *("reasoning_tokens", "cut_reasoning", "num_cut", "answer", "greedy_noise", "overrun", "refusal", "bomb_mb"),
        *("batch_s", "num_expiring", "expires_after"),
    ):
        value = getattr(defaults, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default: {value}")
    parser.add_argument("--capacity", type=int, help="requests at once; more are answered with 429")
    parser.add_argument("--api-key", help="the key that requests must carry")
    for name in ("frozen", "frozen_n", "frozen_list", "marks", "reasoning", "reasoning_outside", "processed_logprobs"):
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true")
    parser.add_argument("--ignores", type=_names, default=(), help=f"of: {', '.join(TRAITS)}")
    parser.add_argument("--refuses", type=_names, default=(), help="same names; answered with 400")
    parser.add_argument("--lacks", type=_names, default=(), help=f"of: {', '.join(ROUTES)}")
    parser.add_argument("--plan", type=_names, default=(), help="faults of the first requests in turn")
    parser.add_argument(
        "--fault",
        type=_fault,
        action="append",
        default=[],
        help=f"NAME=PROBABILITY, names: {', '.join((*FAULTS, *ATTACKS))}",
    )
    return parser


def run_endpoint(arguments: list[str] | None = None) -> int:
    """Parse the arguments, serve, and return the exit code."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    port, seconds, run, ready = (options.pop(name) for name in ("port", "seconds", "run", "ready_file"))
    try:
        endpoint = Endpoint(EndpointSettings(faults=dict(options.pop("fault")), **options), port)
    except ValueError as error:
        parser.error(str(error))
    return asyncio.run(_serve(endpoint, seconds, run, ready))


async def _serve(endpoint: Endpoint, seconds: float, run: str | None, ready: Path | None) -> int:
    async with endpoint as url:
        if ready is not None:
            unfinished = ready.with_name(f"{ready.name}.part")
            unfinished.write_text(url)
            unfinished.replace(ready)  # a process that waits for the file never reads a part
        if run is not None:
            return await _run(run, url, endpoint.settings.api_key, seconds)
        print(url, flush=True)
        ended = asyncio.Event()
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, ended.set)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), seconds)
    print(json.dumps(endpoint.tally.as_json()), flush=True)
    return 0


async def _run(command: str, url: str, api_key: str | None, seconds: float) -> int:
    environment = {**os.environ, "OPENAI_BASE_URL": url, **({"OPENAI_API_KEY": api_key} if api_key else {})}
    child = await asyncio.create_subprocess_exec(*shlex.split(command), env=environment)
    try:
        return await asyncio.wait_for(child.wait(), seconds)
    except TimeoutError:
        print(f"ended after {seconds:g} s: {command}", file=sys.stderr)
        return 124
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


if __name__ == "__main__":
    sys.exit(run_endpoint())
