"""The table of prices that ships: dated, sourced, and for the provider's own address alone."""

from __future__ import annotations

import datetime
import tomllib

import pytest

from samplewise.core.prices import MAX_AGE_DAYS, SHIPPED, ListedPrice, Price, batch_discount, listed_price, parse_prices
from samplewise.engines.http import http
from samplewise.engines.http.engine import HttpEngine

OPENAI = "https://api.openai.com/v1"


def test_every_provider_is_dated_and_sourced() -> None:
    for host, provider in tomllib.loads(SHIPPED.read_text()).items():
        assert {"as_of", "source", "models"} <= set(provider) <= {"as_of", "source", "models", "batch"}, host
        discount = batch_discount(f"https://{host}/v1")
        assert (discount is None) == ("batch" not in provider)
        if discount is not None:
            assert 0 < discount.factor < 1
            assert datetime.date(2026, 1, 1) <= discount.as_of <= datetime.date.today()
            assert discount.source.startswith("https://")
        assert datetime.date(2026, 1, 1) <= provider["as_of"] <= datetime.date.today()
        assert provider["source"].startswith("https://")
        for model, price in parse_prices(provider["models"], host).items():
            assert 0 < price.cached <= price.input < price.output, f"{host} {model}"


def test_a_price_holds_at_the_providers_own_address() -> None:
    listed = listed_price(OPENAI, "gpt-4o-mini")
    assert listed is not None
    assert listed.price == Price(0.15, 0.075, 0.6)
    assert listed_price(OPENAI, "gpt-4o-mini-2024-07-18") == listed
    assert listed_price("https://api.anthropic.com/v1/", "claude-haiku-4-5-20251001") is not None
    assert listed_price(OPENAI, "gpt-4o-mini-audio") is None
    assert listed_price(OPENAI, "gpt-4o-mini-2024") is None
    assert listed_price("https://openrouter.ai/api/v1", "gpt-4o-mini") is None
    assert listed_price("https://api.openai.com.example.org/v1", "gpt-4o-mini") is None
    assert listed_price("", "gpt-4o-mini") is None


def test_an_old_price_says_so() -> None:
    read = datetime.date(2026, 5, 4)
    listed = ListedPrice(Price(1, 1, 1), read, "https://example.org/prices")
    young = listed.note(read + datetime.timedelta(MAX_AGE_DAYS))
    old = listed.note(read + datetime.timedelta(MAX_AGE_DAYS + 1))
    assert "2026-05-04" in young
    assert "old" not in young
    assert "which is 184 days old and may be wrong: see https://example.org/prices" in old


def engine(model: str, url: str | list[str] = OPENAI, **settings: object) -> HttpEngine:
    return http(model, base_url=url, probe="never", **settings)  # type: ignore[arg-type]


def price_of(made: HttpEngine) -> Price:
    return made._price_of(made.model)


def test_the_users_price_goes_before_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.delenv("SAMPLEWISE_PRICES", raising=False)
    ours = engine("gpt-4o-mini")
    assert price_of(ours) == Price(0.15, 0.075, 0.6)
    assert any("priced by the table of" in note for note in ours.notes)
    mine = engine("gpt-4o-mini", price=(1.0, 2.0))
    assert price_of(mine) == Price(1.0, 1.0, 2.0)
    assert not any("priced by the table" in note for note in mine.notes)
    unknown = price_of(engine("gpt-99"))
    assert unknown.output != unknown.output, "nan"
    several = price_of(engine("gpt-4o-mini", [OPENAI, "https://other.example.org/v1"]))
    assert several.output != several.output, "replicas of different providers have no one price"
    assert price_of(engine("gpt-4o-mini", "http://127.0.0.1:9/v1")) == Price(0.0, 0.0, 0.0)
