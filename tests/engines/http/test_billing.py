"""What replies cost: exact sums, believed and disbelieved counts, and money."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.errors import BadInput
from samplewise.core.prices import FREE, Price, parse_price, read_prices
from samplewise.core.types import Message
from samplewise.engines.http import billing
from samplewise.engines.http.billing import (
    Bill,
    PromptLengths,
    SentRequest,
    bill_reply,
    split_tokens,
)
from samplewise.engines.http.dialect.replies import ParsedReply, ReplyChoice, ReportedUsage

PROMPT = (Message("user", "how much is it?"),)  # 15 bytes
PRICE = Price(1.0, 0.5, 4.0)


def billed(
    reading: ParsedReply, num: int = 1, limit: int = 100, prompts: PromptLengths | None = None, price: Price = FREE
) -> Bill:
    return bill_reply(reading, SentRequest(PROMPT, 0, num, limit), prompts or PromptLengths(), price, 0.5)


SILENT = ReportedUsage()


def reading(*texts: str, counts: ReportedUsage = SILENT, tokens: tuple[int, ...] = ()) -> ParsedReply:
    """Return a reply with these texts; `tokens` says how many ids came with each."""
    ids = [tuple(range(num)) for num in tokens] or [None] * len(texts)
    choices = tuple(ReplyChoice(text, "stop", tokens=i) for text, i in zip(texts, ids, strict=True))
    return ParsedReply(choices, len(texts), counts)


weights = st.lists(st.integers(0, 50), min_size=1, max_size=8)


@given(st.integers(0, 500), weights)
def test_a_split_is_exact_and_in_proportion(total: int, shares: list[int]) -> None:
    parts = split_tokens(total, shares)
    assert sum(parts) == total
    mass = sum(shares)
    for part, share in zip(parts, shares, strict=True):
        expected = total * share / mass if mass else total / len(shares)
        assert math.floor(expected) <= part <= math.ceil(expected)


@given(weights, st.integers(1, 60), st.data())
def test_a_split_keeps_to_its_cap(shares: list[int], cap: int, data: st.DataObject) -> None:
    total = data.draw(st.integers(0, cap * len(shares)))
    parts = split_tokens(total, shares, cap)
    assert sum(parts) == total
    assert all(0 <= part <= cap for part in parts)


def test_a_plausible_count_is_believed() -> None:
    counted, estimated = billed(reading("about four", counts=ReportedUsage(12, 5, 8, 2)), price=PRICE)
    (usage,) = counted
    assert not estimated
    assert usage == (1, 12, 5, 8, 2, (4 * 1.0 + 8 * 0.5 + 5 * 4.0) / 1e6, 0.5)


@pytest.mark.parametrize(
    "counts",
    [
        ReportedUsage(),
        ReportedUsage(0, 0),
        ReportedUsage(10**12, 10**12),
        ReportedUsage(None, 101),
        ReportedUsage(None, 2),
    ],
)
def test_an_impossible_count_is_replaced_by_an_upper_bound(counts: ReportedUsage) -> None:
    text = "a text that has more than 32 characters, so two tokens are too few"
    (usage,), estimated = billed(reading(text, counts=counts))
    assert estimated
    assert usage.completion_tokens == len(text) + 1
    assert usage.prompt_tokens == 15 + billing.PER_MESSAGE + billing.PER_PROMPT


def test_blanks_can_make_few_tokens_of_a_long_text() -> None:
    (usage,), estimated = billed(reading(" " * 500 + "a", counts=ReportedUsage(12, 4)))
    assert (usage.completion_tokens, estimated) == (4, False)


def test_a_bound_never_exceeds_what_was_allowed() -> None:
    assert billed(reading("x" * 900)).usages[0].completion_tokens == 100


def test_token_ids_are_counted_where_the_server_does_not() -> None:
    bill_ = billed(reading("abc", "de", tokens=(3, 2)), num=2)
    assert [usage.completion_tokens for usage in bill_.usages] == [3, 2]
    fewer = billed(reading("abc", "de", counts=ReportedUsage(12, 4), tokens=(3, 2)), num=2)
    assert sum(usage.completion_tokens for usage in fewer.usages) == 5, "more came than the server says"


def test_the_prompt_of_several_draws_is_billed_once() -> None:
    whole = reading("aa", "bbbb", "cccccc", counts=ReportedUsage(10, 12, 4))
    usages, _ = billed(whole, num=3, price=PRICE)
    assert [usage.prompt_tokens for usage in usages] == [10, 10, 10]
    assert [usage.cached_tokens for usage in usages] == [4, 10, 10]
    assert [usage.completion_tokens for usage in usages] == [2, 4, 6]
    assert math.fsum(usage.usd for usage in usages) == pytest.approx((6 * 1.0 + 4 * 0.5 + 12 * 4.0) / 1e6)


@given(st.lists(st.text(max_size=40), min_size=1, max_size=6), st.integers(0, 600), st.integers(1, 6), st.data())
def test_what_is_charged_is_what_was_billed(texts: list[str], total: int, num: int, data: st.DataObject) -> None:
    """The tokens of all draws, dropped ones too, are the server's where it is believed."""
    reasoning = data.draw(st.integers(0, total))
    usages, estimated = billed(reading(*texts, counts=ReportedUsage(12, total, 3, reasoning)), num=num)
    assert len(usages) == min(num, len(texts))
    assert all(usage.cached_tokens <= usage.prompt_tokens for usage in usages)
    if not estimated:
        assert sum(usage.completion_tokens for usage in usages) == total
        assert sum(usage.reasoning_tokens for usage in usages) == reasoning


def test_reasoning_beyond_the_limit_is_believed_if_it_is_reported() -> None:
    assert billed(reading("x", counts=ReportedUsage(12, 900, None, 850))).usages[0].completion_tokens == 900
    assert billed(reading("x", counts=ReportedUsage(12, 900))).usages[0].completion_tokens == 2


def test_a_prompt_is_bounded_until_it_was_counted_once() -> None:
    prompts = PromptLengths()
    assert prompts.upper_bound(PROMPT) == 15 + billing.PER_MESSAGE + billing.PER_PROMPT
    prompts.learn(PROMPT, 21)
    assert prompts.upper_bound(PROMPT) == 21
    prompts.learn(PROMPT, 19)
    assert prompts.upper_bound(PROMPT) == 21, "of two counts a budget holds with the larger"
    other = (Message("user", "ü"),)
    prompts.learn(PROMPT, 315)
    assert prompts.upper_bound(other) == 2 + billing.PER_MESSAGE + 300, "a template of 300 tokens is every prompt's"


# --- money ------------------------------------------------------------------------------------------------------------


def test_prices_come_from_json_and_toml(tmp_path: Path) -> None:
    table = {"a": {"input": 1, "output": 4}, "b": {"input": 1, "cached": 0.5, "output": 4}}
    (tmp_path / "p.json").write_text(json.dumps(table))
    (tmp_path / "p.toml").write_text("[a]\ninput=1\noutput=4\n[b]\ninput=1\ncached=0.5\noutput=4\n")
    for name in ("p.json", "p.toml"):
        assert read_prices(tmp_path / name) == {"a": Price(1, 1, 4), "b": Price(1, 0.5, 4)}


@pytest.mark.parametrize("text", ["", "[]", '{"a": 3}', '{"a": {"input": 1}}', '{"a": {"input": -1, "output": 2}}'])
def test_an_invalid_price_table_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(BadInput, match=r"p\.json"):
        read_prices(tmp_path / "p.json")


def test_what_has_no_price_costs_nan_and_what_is_free_costs_nothing() -> None:
    assert math.isnan(billing.worst_case_usage(10, 10, Price()).usd)
    assert billing.worst_case_usage(10, 10, FREE).usd == 0.0
    assert billing.worst_case_usage(10, 100, PRICE).usd == pytest.approx(410 / 1e6)
    with pytest.raises(ValueError, match="USD per million"):
        parse_price((1.0,), "price")
