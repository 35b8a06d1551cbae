"""The toy model at a price: 1,000 US dollars per million prompt tokens, 4,000 per million tokens drawn."""

from __future__ import annotations

from samplewise.core.prices import Price
from samplewise.core.types import Ask, Completion, Usage
from samplewise.engines.toy import Toy

PRICE = Price(1000.0, 1000.0, 4000.0)


class PaidToy(Toy):
    """A toy whose worst cases and replies cost money. `num_asked` counts what was asked of it."""

    num_asked = 0

    def __init__(self, price: Price = PRICE) -> None:
        super().__init__()
        self._price = price

    def _paid(self, usage: Usage) -> Usage:
        return usage._replace(usd=self._price.usd(usage.prompt_tokens, 0, usage.completion_tokens))

    def worst_case(self, ask: Ask) -> Usage:
        return self._paid(super().worst_case(ask))

    def one(self, ask: Ask) -> Completion:
        PaidToy.num_asked += 1
        completion = super().one(ask)
        return completion._replace(usage=self._paid(completion.usage))


def paid_toy() -> PaidToy:
    """Make the engine, for the registry."""
    return PaidToy()


def unpriced_toy() -> PaidToy:
    """Make one whose price is not known."""
    return PaidToy(Price())
