"""What tokens cost. Prices are the user's: a table in a file, or three numbers; none are built in, as they change.

    # prices.toml, US dollars per million tokens
    ["gpt-4o-mini"]
    input = 0.15
    cached = 0.075      # input that the server bills as cached; default: as input
    output = 0.6

A server on this machine costs nothing. Elsewhere a model without a price costs nan, never 0.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from samplewise.errors import BadInput
from samplewise.types import Json


class Price(NamedTuple):
    """US dollars per million tokens. nan: not known."""

    input: float = math.nan
    cached: float = math.nan
    output: float = math.nan

    def usd(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> float:
        """The cost of this many tokens; `cached_tokens` are a part of `prompt_tokens`."""
        fresh = prompt_tokens - cached_tokens
        return (fresh * self.input + cached_tokens * self.cached + completion_tokens * self.output) / 1e6

    @property
    def dearest(self) -> float:
        """What a prompt token costs at most."""
        return self.input if math.isnan(self.input) else max(self.input, self.cached)


FREE = Price(0.0, 0.0, 0.0)


def checked(values: tuple[float, ...] | list[float], what: str) -> Price:
    """A price of (input, cached, output) or (input, output). Raises ValueError where it is none."""
    numbers = tuple(values)
    if len(numbers) == 2:
        numbers = (numbers[0], numbers[0], numbers[1])
    if len(numbers) != 3 or not all(_is_price(value) for value in numbers):
        raise ValueError(f"{what} must be (input, cached, output) in USD per million tokens, 0 or more, got {values!r}")
    return Price(*(float(value) for value in numbers))


def _is_price(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def load(path: str | Path) -> dict[str, Price]:
    """The price table of a JSON or TOML file: model -> price. Raises BadInput."""
    try:
        raw = Path(path).read_text(encoding="utf-8")
        table = tomllib.loads(raw) if str(path).endswith(".toml") else json.loads(raw)
    except (OSError, ValueError) as error:  # both formats' errors are ValueErrors
        raise BadInput(f"the price table {path} cannot be read: {error}") from None
    if not isinstance(table, dict):
        raise BadInput(f"the price table {path} must be an object: model name -> prices")
    return {str(model): _price(model, row, path) for model, row in table.items()}


def _price(model: str, row: Json, path: str | Path) -> Price:
    if not isinstance(row, Mapping) or not {"input", "output"} <= set(row) <= {"input", "cached", "output"}:
        raise BadInput(f"{path}: {model} needs input and output, and may have cached: USD per million tokens")
    try:
        return checked((row["input"], row.get("cached", row["input"]), row["output"]), model)
    except ValueError as error:
        raise BadInput(f"{path}: {error}") from None
