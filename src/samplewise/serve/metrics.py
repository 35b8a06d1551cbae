"""Count what the server does, and show it as Prometheus text (exposition format 0.0.4).

    samplewise_requests_total{recipe,model,code}     requests that were answered, by HTTP status
    samplewise_tokens_total{kind}                    tokens paid: prompt, completion
    samplewise_saved_tokens_total                    tokens that a stop rule did not draw, of the recipe's fixed number
    samplewise_draws                                 histogram: draws a request was decided from
    samplewise_request_seconds                       histogram: from the request's head to the answer's last byte
    samplewise_first_byte_seconds                    histogram: until the answer's first byte, heartbeats included
    samplewise_in_flight, samplewise_queue           gauges

Labels come from clients, so only the first `MAX_SERIES` pairs of recipe and model have series of their own; the others
are counted as "other".
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence

MAX_SERIES = 200
MAX_LABEL = 120  # characters
OTHER = "other"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
DRAWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Counts of values up to each bound, as Prometheus wants them: cumulative."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value; one that is not finite is unknown, and not counted."""
        if math.isfinite(value):
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    def lines(self, name: str) -> list[str]:
        """Return the samples."""
        total, lines = 0, []
        for bound, count in zip((*self._bounds, math.inf), self._counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{_number(bound)}"}} {total}')
        return [*lines, f"{name}_sum {_number(self._sum)}", f"{name}_count {total}"]


class Metrics:
    """The server's counters. One process, one event loop: nothing is locked."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._series: set[tuple[str, str]] = set()
        self._tokens: Counter[str] = Counter()
        self._saved = 0
        self._seconds, self._first_byte, self._draws = Histogram(SECONDS), Histogram(SECONDS), Histogram(DRAWS)
        self._in_flight = self._queued = 0

    def observe_request(
        self, recipe: str, model: str, code: int, seconds: float, first_byte_s: float = math.nan
    ) -> None:
        """Count a request that was answered, or whose client left (code 499)."""
        series = (recipe[:MAX_LABEL], model[:MAX_LABEL])
        if series not in self._series:
            if len(self._series) >= MAX_SERIES:
                series = (OTHER, OTHER)
            else:
                self._series.add(series)
        self._requests[*series, str(code)] += 1
        self._seconds.observe(seconds)
        self._first_byte.observe(first_byte_s)

    def add_tokens(self, kind: str, num: int) -> None:
        """Count tokens that were paid."""
        self._tokens[kind] += num

    def add_saved(self, num: int) -> None:
        """Count tokens that a stop rule saved."""
        self._saved += num

    def observe_draws(self, num: int) -> None:
        """Count the draws of one answer."""
        self._draws.observe(num)

    def set_in_flight(self, num: int) -> None:
        """Set how many requests run."""
        self._in_flight = num

    def set_queue(self, num: int) -> None:
        """Set how many requests wait."""
        self._queued = num

    def render(self) -> str:
        """Return all metrics as Prometheus text."""
        requests = [
            _sample("samplewise_requests_total", num, {"recipe": recipe, "model": model, "code": code})
            for (recipe, model, code), num in sorted(self._requests.items())
        ]
        tokens = [_sample("samplewise_tokens_total", num, {"kind": kind}) for kind, num in sorted(self._tokens.items())]
        families = (
            ("samplewise_requests_total", "counter", "Requests answered, by HTTP status.", requests),
            ("samplewise_tokens_total", "counter", "Tokens paid.", tokens),
            (
                "samplewise_saved_tokens_total",
                "counter",
                "Tokens that stop rules saved against the recipe's fixed number of draws.",
                [_sample("samplewise_saved_tokens_total", self._saved)],
            ),
            ("samplewise_draws", "histogram", "Draws of a request.", self._draws.lines("samplewise_draws")),
            (
                "samplewise_request_seconds",
                "histogram",
                "Seconds until a request was answered whole.",
                self._seconds.lines("samplewise_request_seconds"),
            ),
            (
                "samplewise_first_byte_seconds",
                "histogram",
                "Seconds until the first byte of an answer.",
                self._first_byte.lines("samplewise_first_byte_seconds"),
            ),
            (
                "samplewise_in_flight",
                "gauge",
                "Requests that run.",
                [_sample("samplewise_in_flight", self._in_flight)],
            ),
            ("samplewise_queue", "gauge", "Requests that wait.", [_sample("samplewise_queue", self._queued)]),
        )
        lines = [
            line
            for name, kind, about, samples in families
            for line in (f"# HELP {name} {about}", f"# TYPE {name} {kind}", *samples)
        ]
        return "\n".join(lines) + "\n"


def _sample(name: str, value: float, labels: Mapping[str, str] | None = None) -> str:
    shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in (labels or {}).items())
    return f"{name}{{{shown}}} {_number(value)}" if shown else f"{name} {_number(value)}"


def _escaped(text: str) -> str:
    """Escape a label's value; what could not be written as UTF-8 is replaced."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
