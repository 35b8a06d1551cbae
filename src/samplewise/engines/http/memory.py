"""What the replies of one model have shown: the likeliest tokens after a beginning, and which tokens end a response.

Log-probs at temperature 1 do not depend on how a token is drawn. So what a reply lists for a position serves every
later draw from there, and a token need not be asked for to know the distribution of the next one.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from samplewise.core.types import Message
from samplewise.engines.http.dialect.logq import is_whole
from samplewise.engines.http.dialect.replies import Top, token_id

MAX_POSITIONS = 50_000  # about 0.6 kB each

Listed = tuple[tuple[int, float], ...]  # (k,) token ids and log-probs (nats), likeliest first


class TokenMemory:
    """Lists of likeliest tokens by prompt and beginning, the last `max_positions` of them; and the end tokens."""

    def __init__(self, max_positions: int = MAX_POSITIONS) -> None:
        self._lists: OrderedDict[bytes, tuple[array[int], array[float]]] = OrderedDict()
        self._max_positions = max_positions
        self._ends: set[int] = set()
        self._others: set[int] = set()

    def add(self, messages: tuple[Message, ...], prefix: Sequence[int], tokens: Sequence[int], top: Top) -> None:
        """Keep the lists of a draw's positions. Positions whose tokens are not named by their ids are left out."""
        digest = _digest(messages, prefix)
        for token, listed in zip(tokens, top, strict=False):
            ids = [token_id(name) for name, _ in listed]
            known = [id for id in ids if id is not None]
            if known and len(known) == len(ids):
                key = digest.copy().digest()
                self._lists[key] = array("q", known), array("d", [value for _, value in listed])
                self._lists.move_to_end(key)
            digest.update(token.to_bytes(8, "little", signed=True))
        while len(self._lists) > self._max_positions:
            self._lists.popitem(last=False)

    def listed(self, messages: tuple[Message, ...], prefix: Sequence[int], num: int) -> Listed | None:
        """Return the likeliest tokens after a beginning, at least `num` of them or all there are; None if unknown."""
        key = _digest(messages, prefix).digest()
        if (lists := self._lists.get(key)) is None:
            return None
        self._lists.move_to_end(key)
        ids, logp = lists
        return tuple(zip(ids, logp, strict=True)) if len(ids) >= num or is_whole(logp) else None

    def learn_end(self, tokens: Sequence[int], ended: bool) -> None:
        """Learn from a draw whose last token ended it, or that went on to its limit. No stop strings may be set.

        At the limit the last token shows nothing: older versions of vLLM look at the limit first, then at the token.
        """
        self._others.update(tokens[:-1])
        if ended:
            self._ends.update(tokens[-1:])

    def is_end(self, token: int) -> bool | None:
        """Return whether the token ends a response, None if no draw has shown it."""
        return False if token in self._others else True if token in self._ends else None


def _digest(messages: tuple[Message, ...], tokens: Sequence[int]) -> hashlib.blake2b:
    """Return the hash of a prompt and the tokens after it, to which more tokens can be added."""
    digest = hashlib.blake2b(repr(messages).encode(errors="surrogatepass"), digest_size=16)
    digest.update(b"\0")
    for token in tokens:
        digest.update(token.to_bytes(8, "little", signed=True))
    return digest
