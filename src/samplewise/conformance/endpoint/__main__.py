"""The endpoint as a process. It prints its address, serves for a bounded time, and prints its tally as JSON.

    python -m samplewise.conformance.endpoint --latency-ms 20 --fault 429=0.05 --seconds 60
    python -m samplewise.conformance.endpoint --run "samplewise doctor --engine http:toy"

With `--run` it serves for one command, which finds it in OPENAI_BASE_URL, and ends with that command's exit code.
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

from samplewise.conformance.endpoint import FAULTS, ROUTES, TRAITS, Endpoint, Settings


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _odds(text: str) -> tuple[str, float]:
    name, _, odds = text.rpartition("=")
    return name, float(odds)


def parser() -> argparse.ArgumentParser:
    """The options: those of `Settings`, and where and how long to serve."""
    made = argparse.ArgumentParser(prog="python -m samplewise.conformance.endpoint", description="A faulty endpoint.")
    defaults = Settings()
    made.add_argument("--port", type=int, default=0, help="default: a free one")
    made.add_argument("--seconds", type=float, default=3600.0, help="serve for at most so long")
    made.add_argument("--run", metavar="COMMAND", help="serve for this command alone, by OPENAI_BASE_URL")
    made.add_argument("--ready-file", type=Path, help="write the address here when it can be used")
    for name in ("model", "vocab", "scale", "seed", "context", "latency_ms", "token_ms", "max_n", "retry_after_s"):
        value = getattr(defaults, name)
        made.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default: {value}")
    made.add_argument("--capacity", type=int, help="requests at once; more are answered with 429")
    made.add_argument("--api-key", help="the key to ask for")
    for name in ("frozen", "marks", "reasoning"):
        made.add_argument(f"--{name}", action="store_true")
    made.add_argument("--ignores", type=_words, default=(), help=f"of: {', '.join(TRAITS)}")
    made.add_argument("--refuses", type=_words, default=(), help="of the same, answered with 400")
    made.add_argument("--lacks", type=_words, default=(), help=f"of: {', '.join(ROUTES)}")
    made.add_argument("--plan", type=_words, default=(), help="faults of the first requests, in turn")
    made.add_argument("--fault", type=_odds, action="append", default=[], help=f"NAME=ODDS of: {', '.join(FAULTS)}")
    return made


def main(words: list[str] | None = None) -> int:
    options = parser()
    given = vars(options.parse_args(words))
    port, seconds, run, ready = (given.pop(name) for name in ("port", "seconds", "run", "ready_file"))
    try:
        endpoint = Endpoint(Settings(faults=dict(given.pop("fault")), **given), port)
    except ValueError as error:
        options.error(str(error))
    return asyncio.run(_serve(endpoint, seconds, run, ready))


async def _serve(endpoint: Endpoint, seconds: float, run: str | None, ready: Path | None) -> int:
    async with endpoint as url:
        if ready is not None:
            unfinished = ready.with_name(f"{ready.name}.part")
            unfinished.write_text(url)
            unfinished.replace(ready)  # whoever waits for the file finds it whole
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
    sys.exit(main())
