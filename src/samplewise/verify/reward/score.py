"""Scoring: questions and responses become rows of token ids, rows become batches, and batches become scores.

A score depends on its question and its response alone. Rows are padded on the right, and padding is masked, so in
float32 the other rows of a batch move a score by rounding only, less than 1e-5; in half precision by about 1e-2.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from samplewise.core.types import Candidate, Message, Question, Score
from samplewise.models.loading import load_reward_model

if TYPE_CHECKING:
    from .server_replies import Aggregate

MAX_CACHED = 65_536  # scores
MAX_TOKENS = 8_192  # of one batch, padding included
SPREAD = 1.3  # the longest row of a batch by its shortest: above it padding costs more than another batch

Item = tuple[tuple[Message, ...], str]  # a question's messages and a response: what a score follows from

_AGGREGATES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "last": lambda scores: scores[-1],
    "min": min,
    "product": math.prod,
}


class ScoringRow(NamedTuple):
    """What the model reads.

    `types` are segment ids, None if its tokenizer makes none. `positions` are the tokens that score a step, none for an
    outcome model.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...] | None = None
    positions: tuple[int, ...] = ()


class Reward:
    """A verifier that asks a reward model in this process. Made by `reward(...)`; any thread may call it.

    Scores are cached, so a repeated response costs nothing. `score_all` scores many in a few batches and is several
    times faster than one call for each.
    """

    def __init__(self, source: str, *, aggregate: Aggregate, separator: str, device: str | None) -> None:
        self.checkpoint = load_reward_model(source, device)
        self.name = f"reward({self.checkpoint.name})"
        self._aggregate, self._separator = _AGGREGATES[aggregate], separator
        self._lock = threading.Lock()
        self._cache: OrderedDict[Item, Score] = OrderedDict()

    def __call__(self, question: Question, candidate: Candidate) -> Score:
        return self._scores([(question.messages, candidate.text)])[0]

    def score_all(self, pairs: Sequence[tuple[Question, Candidate]]) -> list[float]:
        """Return the value of every pair, in order: what a call for each would give, up to rounding."""
        return [score.value for score in self._scores([(q.messages, candidate.text) for q, candidate in pairs])]

    def tokens_of(self, question: Question, candidate: Candidate) -> int:
        """Return the prompt tokens of the reward model that scoring this takes: L_q + L_s. 0 if it is not scored."""
        with self._lock:
            row = self._rows([(question.messages, candidate.text)])[0]
        return len(row.ids) if isinstance(row, ScoringRow) else 0

    def forget(self) -> None:
        """Drop the cached scores."""
        with self._lock:
            self._cache.clear()

    def _scores(self, items: Sequence[Item]) -> list[Score]:
        with self._lock, torch.inference_mode():
            scores_by_item = {item: self._cache[item] for item in items if item in self._cache}
            new = [item for item in dict.fromkeys(items) if item not in scores_by_item]
            rows = dict(zip(new, self._rows(new), strict=True))
            fresh = {item: row for item, row in rows.items() if isinstance(row, Score)}
            ready = sorted(((item, row) for item, row in rows.items() if isinstance(row, ScoringRow)), key=_length)
            for part in slices([len(row.ids) for _, row in ready], alone=self.checkpoint.pad is None):
                scores = self._score([row for _, row in ready[part]])
                fresh.update(zip([item for item, _ in ready[part]], scores, strict=True))
            self._cache.update(fresh)
            while len(self._cache) > MAX_CACHED:
                self._cache.popitem(last=False)
        scores_by_item.update(fresh)
        return [scores_by_item[item] for item in items]

    # ------------------------------------------------------------------------------------------------- text to rows

    def _rows(self, items: Sequence[Item]) -> list[ScoringRow | Score]:
        """Return what the model reads for each item, or why there is nothing to score."""
        if self.checkpoint.kind == "process":
            return [self._checked(self._steps(*item)) for item in items]
        if not self.checkpoint.tokenizer.chat_template:
            return [self._checked(self._plain(*item)) for item in items]
        written = [self._written(_chat(*item)) for item in items]
        texts = [text for text in written if isinstance(text, str)]
        rows = iter(self._ids(texts))
        return [self._checked(ScoringRow(next(rows)) if isinstance(text, str) else text) for text in written]

    def _checked(self, row: ScoringRow | Score) -> ScoringRow | Score:
        limit = self.checkpoint.max_context
        if isinstance(row, Score):
            return row
        if not row.ids:
            return Score(math.nan, "there is nothing to score")
        if limit is not None and len(row.ids) > limit:
            return Score(math.nan, f"longer than the reward model's context: {len(row.ids)} > {limit} tokens")
        return row

    def _written(self, chat: list[dict[str, str]], **settings: bool) -> str | Score:
        """Return a chat as the template writes it, or why the template refuses it."""
        try:
            return str(self.checkpoint.tokenizer.apply_chat_template(chat, tokenize=False, **settings))
        except Exception as error:  # a template is a program of its author's
            return Score(math.nan, f"the reward model's chat template refuses the messages: {error}")

    def _ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return token ids of texts, in one call: a call of a tokenizer costs as much as the work itself."""
        if not texts:
            return []
        return [tuple(ids) for ids in self.checkpoint.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    def _plain(self, messages: tuple[Message, ...], text: str) -> ScoringRow:
        """Return question and response without a template.

        A pair of texts if the tokenizer has a separator for pairs, otherwise lines.
        """
        tokenizer, asked = self.checkpoint.tokenizer, "\n".join(m.content for m in messages)
        if tokenizer.sep_token_id is None:
            return ScoringRow(tuple(tokenizer(f"{asked}\n{text}")["input_ids"]))
        encoded = tokenizer(asked, text)
        types = encoded.get("token_type_ids")
        return ScoringRow(tuple(encoded["input_ids"]), None if types is None else tuple(types))

    def _steps(self, messages: tuple[Message, ...], text: str) -> ScoringRow | Score:
        """Return question and response, with a separator after every step."""
        tokenizer, steps = self.checkpoint.tokenizer, [s for s in text.split(self._separator) if s.strip()]
        if not steps:
            return Score(math.nan, "the response has no steps")
        first: tuple[int, ...] = ()
        if tokenizer.chat_template:
            asked = self._written(_chat(messages), add_generation_prompt=True)
        else:
            asked = "".join(f"{m.content}\n" for m in messages)
            first = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
        if isinstance(asked, Score):
            return asked
        prompt, between, *parts = self._ids([asked, self._separator, *steps])
        if not between:
            return Score(math.nan, f"the reward model has no token for the separator {self._separator!r}")
        ids, positions = first + prompt, []
        for part in parts:
            ids += part + between
            positions.append(len(ids) - 1)
        return ScoringRow(ids, None, tuple(positions))

    # ------------------------------------------------------------------------------------------------ rows to scores

    def _score(self, rows: Sequence[ScoringRow]) -> list[Score]:
        """Run the model once over rows (B) of about one length."""
        width, pad = len(rows[-1].ids), self.checkpoint.pad or 0
        device = self.checkpoint.model.device
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor([[*row.ids, *[pad] * (width - len(row.ids))] for row in rows]),  # (B, T)
            "attention_mask": torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows]),
        }
        if rows[0].types is not None:
            types = [[*(row.types or ()), *[0] * (width - len(row.ids))] for row in rows]
            inputs["token_type_ids"] = torch.tensor(types)
        logits = self.checkpoint.model(**{name: ids.to(device) for name, ids in inputs.items()}).logits
        logits = logits.to("cpu", torch.float64)  # (B, 1), of a process model (B, T, num_labels)
        if self.checkpoint.kind == "outcome":
            values = (torch.sigmoid(logits) if self.checkpoint.calibrated else logits)[:, 0].tolist()
        else:
            steps = torch.softmax(logits, dim=-1)[..., 1] if logits.shape[-1] == 2 else torch.sigmoid(logits)[..., 0]
            values = [self._together(steps[i, list(row.positions)].tolist()) for i, row in enumerate(rows)]
        return [Score(value, "" if math.isfinite(value) else "the model gave no number") for value in values]

    def _together(self, scores: list[float]) -> float:
        return math.nan if any(map(math.isnan, scores)) else float(self._aggregate(scores))


def _length(ready: tuple[Item, ScoringRow]) -> int:
    return len(ready[1].ids)


def _chat(messages: tuple[Message, ...], response: str | None = None) -> list[dict[str, str]]:
    """Return the messages as templates want them, with the response; a response begun in the messages is continued."""
    chat = [{"role": m.role, "content": m.content} for m in messages]
    if response is not None and chat and chat[-1]["role"] == "assistant":
        chat[-1]["content"] += response
    elif response is not None:
        chat.append({"role": "assistant", "content": response})
    return chat


def slices(lengths: Sequence[int], alone: bool = False) -> Iterator[slice]:
    """Yield batches of rows of about one length, lengths ascending; or each row `alone`."""
    start = 0
    for end, length in enumerate(lengths):
        full = length * (end + 1 - start) > MAX_TOKENS or length > SPREAD * lengths[start]
        if end > start and (full or alone):
            yield slice(start, end)
            start = end
    if start < len(lengths):
        yield slice(start, len(lengths))
