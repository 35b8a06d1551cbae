"""What tokens cost: prices in US dollars per million tokens, from the user's tables, else from a dated one of our own.

# prices.toml, or [prices] in samplewise.toml, or [tool.samplewise.prices] in pyproject.toml
["gpt-4o-mini"]
input = 0.15
cached = 0.075      # input that the server bills as cached; default: as input
output = 0.6
"""

from __future__ import annotations

import datetime
import functools
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from samplewise.core.errors import BadInput
from samplewise.core.types import Json

# Files of settings, and where their price table is. Any other file is a table as a whole.
WITHIN: Mapping[str, tuple[str, ...]] = {
    "samplewise.toml": ("prices",),
    "pyproject.toml": ("tool", "samplewise", "prices"),
}
SHIPPED = Path(__file__).with_suffix(".toml")
MAX_AGE_DAYS = 183
DATED = re.compile(r"-(?:\d{8}|\d{4}-\d\d-\d\d)$")  # of a model's name: the same model, pinned


class Price(NamedTuple):
    """US dollars per million tokens. nan if unknown."""

    input: float = math.nan
    cached: float = math.nan
    output: float = math.nan

    def usd(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> float:
        """Return the cost of these tokens; `cached_tokens` are a part of `prompt_tokens`."""
        fresh = prompt_tokens - cached_tokens
        return (fresh * self.input + cached_tokens * self.cached + completion_tokens * self.output) / 1e6

    def in_batch(self, factor: float) -> Price:
        """Return the price by the batch API. Cached input counts as input: not every model has both discounts."""
        return Price(self.input * factor, self.input * factor, self.output * factor)

    @property
    def max_input(self) -> float:
        """Return the most that a prompt token costs."""
        return self.input if math.isnan(self.input) else max(self.input, self.cached)


FREE = Price(0.0, 0.0, 0.0)


def parse_price(values: Sequence[float], what: str) -> Price:
    """Return the price of (input, cached, output) or (input, output). Raises ValueError if invalid."""
    numbers = tuple(values)
    if len(numbers) == 2:
        numbers = (numbers[0], numbers[0], numbers[1])
    if len(numbers) != 3 or not all(_is_price(value) for value in numbers):
        raise ValueError(f"{what} must be (input, cached, output) in USD per million tokens, 0 or more, got {values!r}")
    return Price(*(float(value) for value in numbers))


def _is_price(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def read_prices(path: str | Path) -> dict[str, Price]:
    """Return the price table of a JSON or TOML file: model -> price. Raises BadInput.

    A `samplewise.toml` and a `pyproject.toml` hold other settings too; their table may be missing.
    """
    try:
        raw = Path(path).read_text(encoding="utf-8-sig")
        table = tomllib.loads(raw) if str(path).endswith(".toml") else json.loads(raw)
    except (OSError, ValueError) as error:  # both formats' errors are ValueErrors
        raise BadInput(f"the price table {path} cannot be read: {error}") from None
    for key in WITHIN.get(Path(path).name, ()):
        table = table.get(key, {}) if isinstance(table, dict) else table
    return parse_prices(table, str(path))


def parse_prices(table: Json, where: str) -> dict[str, Price]:
    """Return the prices of a table as it was read; `where` is the file, for the message. Raises BadInput."""
    if not isinstance(table, dict):
        raise BadInput(f"the price table {where} must be an object: model name -> prices")
    return {str(model): _price(model, row, where) for model, row in table.items()}


def _price(model: str, row: Json, where: str) -> Price:
    if not isinstance(row, Mapping) or not {"input", "output"} <= set(row) <= {"input", "cached", "output"}:
        raise BadInput(f"{where}: {model} needs input and output, and may have cached: USD per million tokens")
    try:
        return parse_price((row["input"], row.get("cached", row["input"]), row["output"]), model)
    except ValueError as error:
        raise BadInput(f"{where}: {error}") from None


class ListedPrice(NamedTuple):
    """A price of the table that ships, with the day on which the provider's page was read."""

    price: Price
    as_of: datetime.date
    source: str

    def note(self, today: datetime.date) -> str:
        """Return what a user should know of it, in one line; after half a year, that it is old."""
        days = (today - self.as_of).days
        text = f"priced by the table of {self.as_of} that ships with samplewise"
        if days > MAX_AGE_DAYS:
            text += f", which is {days} days old and may be wrong: see {self.source}"
        return f"{text}; give price=, [prices] or SAMPLEWISE_PRICES to override it"


def listed_price(url: str, model: str) -> ListedPrice | None:
    """Return the price of a model at its provider's own address, None where the table has none.

    `gpt-4.1-2025-04-14` is priced as `gpt-4.1`.
    """
    provider = _shipped().get(urlsplit(url).hostname or "")
    if provider is None:
        return None
    prices = parse_prices(provider["models"], str(SHIPPED))
    price = prices.get(model) or prices.get(DATED.sub("", model))
    return None if price is None else ListedPrice(price, provider["as_of"], provider["source"])


class BatchDiscount(NamedTuple):
    """By what a provider multiplies its prices in a batch, with the day of the reading and its own page."""

    factor: float
    as_of: datetime.date
    source: str


def batch_discount(url: str) -> BatchDiscount | None:
    """Return a provider's discount on batches, None where the table has none."""
    row = _shipped().get(urlsplit(url).hostname or "", {}).get("batch")
    return None if row is None else BatchDiscount(row["factor"], row["as_of"], row["source"])


@functools.cache
def _shipped() -> dict[str, Json]:
    return tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
