"""Measure what the server adds to a direct call, and whether anything is lost, paid twice or left running.

    make bench NAME=serve        (`python -m bench.serve --quick` takes about a minute)

The upstream is the faulty endpoint, the server and the clients each have a process. Every request has a prompt of its
own, so nothing is answered from the store.

**Overhead.** 1, 32 and 256 clients, each with one request at a time, against the endpoint directly and through the
server (the plain model: one draw, no recipe). The endpoint answers after 20 ms, 250 ms and 2 s (with `--quick` 1 s), so
that the clients make 50 to 256 requests a second: what is measured is latency, not capacity. Sides take turns.
`overhead_ms_p50` and `overhead_ms_p99` are differences of the quantiles, the largest of the three levels;
`first_byte_ms_p99` is the time to the first byte of a stream, at the same levels. `proxy_ms_p50` is what a proxy adds
that passes requests on and does nothing else, made of the same library: the least of any such server on this machine.

The server has the first core, clients and endpoint have the others, as if they were other machines: where they share
one, clients that had to wait for it ask together, and wait for one another at every turn. `--together` lets them.

These clients are a closed loop: each asks again when it is answered. As the endpoint always takes as long, requests
that were once held up together come back together, at every turn, and wait for one another again, whatever the server
does. So the same requests are made once more at random times (a Poisson process), as many a second as the loop makes at
that level, whoever is answered when: `paced_ms_p50` and `paced_ms_p99` are the differences there.

**Faults.** Requests with a recipe, `repeat(2) | vote`, 64 at a time. The endpoint fails one request in ten, and of the
clients one in twenty leaves early. Every draw of the endpoint carries a mark.

    lost                 requests of clients that stayed and got no whole answer
    billed_twice         marks that are in more than one place: in two answers, or twice in one
    usage_over_tally     tokens that the answers' usage reports, cached ones left out, over tokens that the endpoint
                         billed: above 1 only by what was lost on the way, which is charged at its worst case
    usage_error          the same as a difference in tokens, where nothing fails and nobody leaves: 0
    rss_growth_mb        resident memory of the server at the end, less that after a fifth of the requests

**Leaving.** Clients of streams and of whole answers leave all at once. `cancelled_upstream` is the share of the
endpoint's running requests that had ended one second later.

Python counts: from 3.12 on the server's tasks begin at once (see `begin_tasks_at_once`), so requests that come together
wait less. `python` says which one ran. One built with profile-guided optimization, as distributions build it, takes a
tenth less.

`--deaf` keeps the clients where they should leave, which must show in `cancelled_upstream`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import numpy as np

from bench.about import about
from samplewise.core.keys import Key
from samplewise.core.types import Json

SEED = 0
ROOT = Path(__file__).parents[1]
MODEL = "toy"
MAX_TOKENS = 8
WARM_UP = 400  # requests, after which the engine sends as many at once as it is given
NUM_AT_ONCE = 64  # of the requests with faults
LEAVES = 0.05
RECIPE = f"repeat(2, max_tokens={MAX_TOKENS}) | vote"
FAULTS = {
    "429": 0.02,
    "500": 0.02,
    "503": 0.02,
    "502": 0.01,
    "cut before": 0.01,
    "cut middle": 0.01,
    "half": 0.01,
}
START_S = 60.0
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


class Size(NamedTuple):
    """How much is done."""

    direct: dict[int, int]  # requests of a side, by the number of clients
    rounds: int
    faulty: int
    leaving: int
    pass_s: float  # in which a pass of a side begins its requests
    warm_s: float  # the same of the passes before, in which connections are made and the engine finds its pace
    faulty_s: float
    latencies_ms: tuple[float, ...]  # after which the endpoint answers, by level


FULL = Size({1: 300, 32: 1600, 256: 2560}, 3, 10_000, 128, 120.0, 60.0, 900.0, (20, 250, 2000))
QUICK = Size({1: 100, 32: 320, 256: 512}, 1, 600, 64, 2.0, 4.0, 6.0, (20, 250, 1000))


# --- processes --------------------------------------------------------------------------------------------------------


@contextmanager
def first_core_left() -> Iterator[None]:
    """Keep this process, and what it starts, off the first core; servers are started there. Needs Linux, two cores."""
    if len(CORES) < 2:
        yield
        return
    os.sched_setaffinity(0, CORES[1:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, CORES)


def is_apart() -> bool:
    """Return whether this process has left the first core."""
    return bool(CORES) and CORES[0] not in os.sched_getaffinity(0)


@contextmanager
def process(
    command: list[str], ready: re.Pattern[str], log: Path, *, is_server: bool = False
) -> Iterator[tuple[str, int]]:
    """Run a process; yield the address that it prints, and its id. Raises SystemExit with its log if it ends early."""
    move = partial(os.sched_setaffinity, 0, CORES[:1]) if is_server and is_apart() else None
    with (
        log.open("wb") as written,
        subprocess.Popen(command, stdout=written, stderr=written, cwd=ROOT, preexec_fn=move) as child,
    ):
        try:
            deadline = time.monotonic() + START_S
            while (match := ready.search(log.read_text(errors="replace"))) is None:
                if child.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(
                        f"{' '.join(command[:4])} did not start:\n{log.read_text(errors='replace')[-2000:]}"
                    )
                time.sleep(0.02)
            yield match[0].rstrip("/"), child.pid
        finally:
            child.terminate()
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()


@contextmanager
def endpoint(folder: Path, *options: str) -> Iterator[str]:
    """Run the endpoint, and yield its base URL."""
    command = [
        sys.executable,
        "-u",
        "-m",
        "samplewise.testing.endpoint",
        "--seconds",
        "1200",
        "--model",
        MODEL,
        *options,
    ]
    with process(command, re.compile(r"http://\S+/v1\b"), folder / f"endpoint-{time.monotonic_ns()}.log") as (url, _):
        yield url


SLOW = """
import asyncio, sys
from samplewise.testing.endpoint import Endpoint, EndpointSettings
settings = EndpointSettings(model=sys.argv[1], plan=("",) * int(sys.argv[2]), faults={"slow": 1.0}, slow_s=60.0)
async def main():
    async with Endpoint(settings) as url:
        print(url, flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@contextmanager
def slow_endpoint(folder: Path, num_quick: int) -> Iterator[str]:
    """Run an endpoint that answers so many requests at once and the others after a minute. Yield its base URL."""
    command = [sys.executable, "-u", "-c", SLOW, MODEL, str(num_quick)]
    with process(command, re.compile(r"http://\S+/v1\b"), folder / f"endpoint-{time.monotonic_ns()}.log") as (url, _):
        yield url


@contextmanager
def server(folder: Path, upstream: str, *options: str) -> Iterator[tuple[str, int]]:
    """Run the server in front of an endpoint, and yield its base URL and process id."""
    engine = f'http("{MODEL}", base_url="{upstream}", api_key="", probe="never", max_concurrency=1024)'
    command = [sys.executable, "-u", "-m", "samplewise", "serve", "--engine", engine, "--port", "0", *options]
    command += ["--store", str(folder / f"serve-{time.monotonic_ns()}.db")]
    log = folder / f"serve-{time.monotonic_ns()}.log"
    with process(command, re.compile(r"http://[\d.]+:\d+(?:/v1)?"), log, is_server=True) as (url, pid):
        yield (url if url.endswith("/v1") else f"{url}/v1"), pid


PROXY = """
import sys
from aiohttp import ClientSession, TCPConnector, web
async def go(request):
    data, headers = await request.read(), {"Content-Type": "application/json"}
    async with request.app["session"].post(sys.argv[1] + "/chat/completions", data=data, headers=headers) as reply:
        return web.Response(body=await reply.read(), status=reply.status, content_type="application/json")
async def begin(app):
    app["session"] = ClientSession(connector=TCPConnector(limit=0))
    yield
    await app["session"].close()
app = web.Application()
app.router.add_post("/v1/chat/completions", go)
app.cleanup_ctx.append(begin)
async def main():
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.sleep(3600)
import asyncio
asyncio.run(main())
"""


@contextmanager
def proxy(folder: Path, upstream: str) -> Iterator[str]:
    """Run a proxy that only passes requests on, and yield its base URL."""
    command = [sys.executable, "-u", "-W", "ignore", "-c", PROXY, upstream]
    log = folder / f"proxy-{time.monotonic_ns()}.log"
    with process(command, re.compile(r"http://\S+/v1\b"), log, is_server=True) as (url, _):
        yield url


@asynccontextmanager
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """Yield a client without limits of its own."""
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        yield session


async def tally(session: aiohttp.ClientSession, upstream: str) -> dict[str, Any]:
    """Return what the endpoint has counted so far."""
    async with session.get(f"{upstream.removesuffix('/v1')}/tally") as response:
        counts: dict[str, Any] = await response.json()
        return counts


def body(index: int, model: str = MODEL, **fields: Json) -> bytes:
    """Return a request whose prompt no other has."""
    messages = [{"role": "user", "content": f"Spell word number {index}."}]
    return json.dumps({"model": model, "messages": messages, "max_tokens": MAX_TOKENS, **fields}).encode()


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) / 1024 if match else float("nan")


def cpu_s(pid: int) -> float:
    """Return the processor seconds of a process so far: a busy machine disturbs them less than latencies."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- overhead ---------------------------------------------------------------------------------------------------------


class Latencies(NamedTuple):
    """Milliseconds of each request."""

    whole: list[float]
    first_byte: list[float]


async def load(
    session: aiohttp.ClientSession, url: str, num: int, clients: int, spread_s: float, pass_s: float, **fields: Json
) -> Latencies:
    """Make `num` requests by so many clients, which begin within `spread_s`; after `pass_s` no more are made."""
    waiting = iter(range(num))
    until = time.perf_counter() + pass_s
    whole: list[float] = []
    first: list[float] = []

    async def work(number: int) -> None:
        await asyncio.sleep(spread_s * number / clients)
        for index in waiting:
            if time.perf_counter() > until:
                return
            data = body(next(COUNTER), **fields)
            started = time.perf_counter()
            async with session.post(f"{url}/chat/completions", data=data, headers=JSON) as response:
                await response.content.readany()
                first.append((time.perf_counter() - started) * 1000)
                rest = await response.read()
            whole.append((time.perf_counter() - started) * 1000)
            if response.status != 200:
                raise SystemExit(f"request {index} of {url} was answered with {response.status}: {rest[:300]!r}")

    await asyncio.gather(*(work(number) for number in range(clients)))
    return Latencies(whole, first)


JSON = {"Content-Type": "application/json"}
COUNTER = iter(range(1 << 60))


async def pace(
    session: aiohttp.ClientSession, url: str, num: int, per_s: float, pass_s: float, key: Key
) -> list[float]:
    """Make `num` requests at random times, so many a second, and return how long each took (ms)."""
    gaps = key.generator().exponential(1 / per_s, num)
    whole: list[float] = []

    async def ask(wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        started = time.perf_counter()
        async with session.post(f"{url}/chat/completions", data=body(next(COUNTER)), headers=JSON) as response:
            rest = await response.read()
        whole.append((time.perf_counter() - started) * 1000)
        if response.status != 200:
            raise SystemExit(f"a request of {url} was answered with {response.status}: {rest[:300]!r}")

    await asyncio.gather(*(ask(float(at)) for at in np.cumsum(gaps) if at < pass_s))
    return whole


class Overhead(NamedTuple):
    """What the server adds at one number of clients, in milliseconds."""

    clients: int
    latency_ms: float
    direct_p50: float
    p50: float
    p99: float
    first_byte_p99: float
    paced_p50: float
    paced_p99: float
    proxy_p50: float  # what a proxy adds that does nothing
    proxy_p99: float
    cpu_ms: float  # of the server's process, for a request


async def overhead(folder: Path, clients: int, latency_ms: float, size: Size) -> Overhead:
    """Compare requests through the server with direct ones."""
    took: dict[str, list[float]] = {}
    first: list[float] = []
    paced: dict[str, list[float]] = {}
    used_s = 0.0
    with (
        endpoint(folder, "--latency-ms", f"{latency_ms}") as upstream,
        server(folder, upstream, "--queue", "4096", "--concurrency", "1024") as (url, pid),
        proxy(folder, upstream) as idle,
    ):
        async with client() as session:
            num, spread_s = size.direct[clients], latency_ms / 1000
            for side in (upstream, idle, url):
                await load(session, side, max(4, 8 * clients), clients, spread_s, size.warm_s)
            for number in range(size.rounds):
                for side in (upstream, idle, url) if number % 2 == 0 else (url, idle, upstream):
                    before = cpu_s(pid)
                    latencies = await load(session, side, num, clients, spread_s, size.pass_s)
                    took.setdefault(side, []).extend(latencies.whole)
                    used_s += cpu_s(pid) - before if side == url else 0.0
                for side in (upstream, url) if number % 2 == 0 else (url, upstream):
                    key = Key(SEED).fold("pace", clients, number)  # both sides have the same times
                    whole = await pace(session, side, num, clients / (latency_ms / 1000), size.pass_s, key)
                    paced.setdefault(side, []).extend(whole)
            streamed = await load(session, url, num // 2, clients, spread_s, size.pass_s / 2, stream=True)
            first += streamed.first_byte

    def added(by_side: dict[str, list[float]], side: str) -> list[float]:
        return [float(np.quantile(by_side[side], q) - np.quantile(by_side[upstream], q)) for q in (0.5, 0.99)]

    p50, p99 = added(took, url)
    proxy_p50, proxy_p99 = added(took, idle)
    paced_p50, paced_p99 = added(paced, url)
    level = Overhead(
        clients,
        latency_ms,
        float(np.median(took[upstream])),
        p50,
        p99,
        float(np.quantile(first, 0.99)),
        paced_p50,
        paced_p99,
        proxy_p50,
        proxy_p99,
        used_s / len(took[url]) * 1000,
    )
    print(
        f"{clients:4d} clients, upstream {latency_ms:g} ms: {len(took[url]):,} requests, overhead p50 {p50:.2f} ms, "
        f"p99 {p99:.2f} ms (a proxy: {proxy_p50:.2f} and {proxy_p99:.2f}); "
        f"paced p50 {level.paced_p50:.2f} ms, p99 {level.paced_p99:.2f} ms; "
        f"first byte of a stream, p99: {level.first_byte_p99:.1f} ms; "
        f"processor time of the server {level.cpu_ms:.2f} ms a request",
        flush=True,
    )
    return level


# --- faults -----------------------------------------------------------------------------------------------------------


class Faulty(NamedTuple):
    """What became of the requests while the endpoint failed and clients left."""

    requests: int
    left: int
    lost: int
    billed_twice: int
    usage_over_tally: float
    rss_mb: float
    rss_growth_mb: float
    statuses: dict[str, int]
    seconds: float


async def faults(folder: Path, num: int, limit_s: float) -> Faulty:
    """Make requests with a recipe against an endpoint that fails, some of whose clients leave.

    After `limit_s` no more are made.
    """
    options = [word for fault, probability in FAULTS.items() for word in ("--fault", f"{fault}={probability}")]
    leaves = Key(SEED).fold("leaves").generator().random((num, 2))
    statuses: Counter[str] = Counter()
    marks: Counter[str] = Counter()
    used = left = lost = made = 0
    early_mb = float("nan")
    waiting = iter(range(num))

    with (
        endpoint(folder, "--latency-ms", "20", "--marks", *options) as upstream,
        server(folder, upstream) as (url, pid),
    ):
        async with client() as session:

            async def ask(index: int) -> None:
                nonlocal used, lost
                data = body(next(COUNTER), f"{RECIPE}@{MODEL}", samplewise={"return": ["candidates"]})
                try:
                    async with session.post(f"{url}/chat/completions", data=data, headers=JSON) as response:
                        answer = await response.json()
                except (aiohttp.ClientError, ValueError) as error:
                    statuses[type(error).__name__] += 1
                    lost += 1
                    return
                statuses[str(response.status)] += 1
                if response.status != 200 or not answer["choices"][0]["message"]["content"]:
                    lost += 1
                    return
                used += billed_tokens(answer["usage"])
                marks.update(re.findall(r"^<(\d+)>", "\n".join(texts(answer)), re.MULTILINE))

            async def work() -> None:
                nonlocal left, early_mb, made
                for index in waiting:
                    if time.perf_counter() - started > limit_s:
                        return
                    made += 1
                    if index == num // 5:
                        early_mb = rss_mb(pid)
                    if leaves[index, 0] >= LEAVES:
                        await ask(index)
                        continue
                    left += 1
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(ask(index), 0.001 + 0.05 * leaves[index, 1])

            started = time.perf_counter()
            await asyncio.gather(*(work() for _ in range(NUM_AT_ONCE)))
            seconds = time.perf_counter() - started
            late_mb = rss_mb(pid)
            billed = (await tally(session, upstream))["tokens"]
    twice = sum(count - 1 for count in marks.values())
    return Faulty(made, left, lost, twice, used / billed, late_mb, late_mb - early_mb, dict(statuses), seconds)


async def usage_error(folder: Path, num: int) -> int:
    """Return by how many tokens the usage of answers differs from what the endpoint billed for them."""
    used = 0
    with endpoint(folder) as upstream, server(folder, upstream) as (url, _):
        async with client() as session:
            for _ in range(num):
                data = body(next(COUNTER), f"{RECIPE}@{MODEL}")
                async with session.post(f"{url}/chat/completions", data=data, headers=JSON) as response:
                    used += billed_tokens((await response.json())["usage"])
            billed = (await tally(session, upstream))["tokens"]
    return int(used - billed)


def billed_tokens(usage: Json) -> int:
    """Return the tokens of a usage that are computed: a prompt that draws share is reported for each, as cached."""
    return int(usage["total_tokens"] - usage["prompt_tokens_details"]["cached_tokens"])


def texts(answer: Json) -> list[str]:
    """Return the texts of all draws that an answer reports."""
    return [str(candidate["text"]) for candidate in answer["samplewise"]["candidates"]]


# --- leaving ----------------------------------------------------------------------------------------------------------


class Leaving(NamedTuple):
    """What was left upstream of requests whose clients left."""

    running: int
    running_after: int
    seconds: float


async def leaving(folder: Path, num: int, deaf: bool) -> Leaving:
    """Let clients leave while the endpoint draws for them, and see when their upstream requests have ended."""
    with slow_endpoint(folder, WARM_UP) as upstream, server(folder, upstream) as (url, _):
        async with client() as session, client() as counting:
            await load(session, url, WARM_UP, NUM_AT_ONCE, 0.0, 60.0)

            async def ask(index: int) -> None:
                data = body(next(COUNTER), f"{RECIPE}@{MODEL}", stream=index % 2 == 0)
                async with session.post(f"{url}/chat/completions", data=data, headers=JSON) as response:
                    await response.read()

            requests = [asyncio.ensure_future(ask(index)) for index in range(num)]
            running = 0
            for _ in range(100):  # until all of their draws are under way
                await asyncio.sleep(0.05)
                running = (await tally(counting, upstream))["in_flight"]
                if running >= num:  # one request a client, for both of its draws
                    break
            started = time.perf_counter()
            if not deaf:
                for request in requests:
                    request.cancel()
                await asyncio.gather(*requests, return_exceptions=True)
            after = running
            while after and time.perf_counter() - started < 1:
                await asyncio.sleep(0.02)
                after = (await tally(counting, upstream))["in_flight"]
            seconds = time.perf_counter() - started
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)
    return Leaving(running, after, seconds)


# --- clients ----------------------------------------------------------------------------------------------------------


def clients_passed(folder: Path) -> dict[str, bool] | None:
    """Return which real clients pass their tests, or None where their environment is not installed."""
    if not (ROOT / ".venv-clients" / "bin" / "python").exists():
        return None
    report = folder / "clients.xml"
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-m", "clients", "tests/serve", f"--junitxml={report}"]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    passed: dict[str, bool] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = case.get("name", "").removeprefix("test_").partition("[")[0]
        failed = any(child.tag in ("failure", "error", "skipped") for child in case)
        passed[name] = passed.get(name, True) and not failed
    return passed


# --- the whole --------------------------------------------------------------------------------------------------------


def bench(options: argparse.Namespace) -> dict[str, Json]:
    size = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gone = asyncio.run(leaving(folder, size.leaving, options.deaf))
        share = 1 - gone.running_after / gone.running if gone.running else float("nan")
        print(
            f"{size.leaving} clients left: of {gone.running} upstream requests {gone.running_after} still ran after "
            f"{gone.seconds:.2f} s",
            flush=True,
        )
        wrong = asyncio.run(usage_error(folder, 50))
        faulty = asyncio.run(faults(folder, size.faulty, size.faulty_s))
        print(
            f"{faulty.requests:,} requests with faults in {faulty.seconds:.1f} s, {faulty.left} clients left: "
            f"{faulty.lost} lost, {faulty.billed_twice} billed twice; usage over tally {faulty.usage_over_tally:.3f}; "
            f"statuses {faulty.statuses}; server {faulty.rss_mb:.0f} MB, {faulty.rss_growth_mb:+.1f} since a fifth",
            flush=True,
        )
        with contextlib.nullcontext() if options.together else first_core_left():
            apart = is_apart()
            levels = [
                asyncio.run(overhead(folder, clients, latency_ms, size))
                for clients, latency_ms in zip(size.direct, size.latencies_ms, strict=True)
            ]
        passed = None if options.quick else clients_passed(folder)
    return {
        "requests": faulty.requests,
        "overhead_ms_p50": round(max(level.p50 for level in levels), 2),
        "overhead_ms_p99": round(max(level.p99 for level in levels), 2),
        "paced_ms_p50": round(max(level.paced_p50 for level in levels), 2),
        "paced_ms_p99": round(max(level.paced_p99 for level in levels), 2),
        "proxy_ms_p50": round(max(level.proxy_p50 for level in levels), 2),
        "proxy_ms_p99": round(max(level.proxy_p99 for level in levels), 2),
        "first_byte_ms_p99": round(max(level.first_byte_p99 for level in levels), 2),
        "lost": faulty.lost,
        "billed_twice": faulty.billed_twice,
        "cancelled_upstream": round(share, 4),
        "clients": passed,
        "levels": {str(level.clients): {k: round(v, 2) for k, v in level._asdict().items()} for level in levels},
        "left": faulty.left,
        "usage_over_tally": round(faulty.usage_over_tally, 4),
        "usage_error": wrong,
        "rss_mb": round(faulty.rss_mb, 1),
        "rss_growth_mb": round(faulty.rss_growth_mb, 1),
        "requests_per_s": round(faulty.requests / faulty.seconds, 1),
        "cancel_s": round(gone.seconds, 2),
        "cpu_ms": round(max(level.cpu_ms for level in levels), 2),
        "apart": apart,
        "quick": options.quick,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a minute: fewer requests, one round, no real clients")
    parser.add_argument("--deaf", action="store_true", help="clients stay where they should leave, which must show")
    parser.add_argument("--together", action="store_true", help="let clients and endpoint have the server's core too")
    options = parser.parse_args()
    started = time.monotonic()
    figures = bench(options)
    versions = {"python": platform.python_version(), "aiohttp": aiohttp.__version__}
    print(json.dumps({**about("serve", SEED, started), **versions, **figures}))


if __name__ == "__main__":
    main()
