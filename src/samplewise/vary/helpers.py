"""Arms that ask a helper: a model that writes ideas or wordings for the solver, often the same model.

A helper's request is an ordinary ask, so it goes through the loop, the budget and the store, and its tokens count. An
arm has a number of drafts, each the text of one reply. A reply is read, then judged:

    leak     it gives the result away          one more request with another seed, then the question itself (a fallback)
    loss     a part of the question is gone    the same
    none     there is nothing to read          the same
    repeat   the text is like an earlier one   one more request that shows the earlier ones, then one variant fewer
    failed   the request has no answer         a fallback; the loop has retried already

Before any reply, every draft is a fallback, so an arm's variants are valid at any time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from samplewise.core.checks import check_count
from samplewise.core.keys import Key
from samplewise.core.types import Capability, Generate, Message, Question, Sampling
from samplewise.samplers.base import Variant
from samplewise.vary.base import Arm, ArmResult, HelperTexts
from samplewise.vary.checks import leaks, repeats
from samplewise.vary.pools.versions import versioned
from samplewise.vary.slots import body_of

DraftVerdict = Literal["", "pending", "failed", "leak", "loss", "none", "repeat"]
Helper = str | tuple[str, ...]  # "" is the solver, another name an engine that the user named; of several one is drawn

ROUNDS = 2  # the request, and one more for what was refused
NEEDS = frozenset({Capability.GENERATE})


class Draft(NamedTuple):
    """The text of one reply. It counts if the verdict is ""."""

    text: str = ""
    verdict: DraftVerdict = "pending"


class WriteRequest(Protocol):
    """Write the text of a request. `shown` are texts that the new one must differ from, none on the first request."""

    def __call__(self, key: Key, question: Question, index: int, shown: tuple[str, ...]) -> str: ...


class ReadReply(Protocol):
    """Return the text in a reply, "" if there is none."""

    def __call__(self, reply: str) -> str: ...


class JudgeText(Protocol):
    """Return "" for a good text, otherwise why it is refused: "leak" or "loss"."""

    def __call__(self, question: Question, text: str) -> DraftVerdict: ...


class InsertText(Protocol):
    """Return the question's messages with the text put in."""

    def __call__(self, question: Question, text: str) -> tuple[Message, ...]: ...


class FindRepeats(Protocol):
    """Return for each text whether it repeats an earlier one, or the question itself."""

    def __call__(self, question: Question, texts: Sequence[str]) -> tuple[bool, ...]: ...


def judge_leaks(question: Question, text: str) -> DraftVerdict:
    """Refuse a text that gives the result away."""
    return "leak" if leaks(text) else ""


def similar_texts(question: Question, texts: Sequence[str]) -> tuple[bool, ...]:
    """Return for each text whether it is similar to an earlier one."""
    return repeats(texts)


def helper_names(helper: Helper) -> tuple[str, ...]:
    """Return the names of the helpers. ValueError if there is none, or a name comes twice."""
    names = (helper,) if isinstance(helper, str) else tuple(helper)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f'helper must be a name ("" is the solver) or several different ones, got {helper!r}')
    return names


def other_engines(helper: Helper) -> frozenset[str]:
    """Return the engines that must be present besides the solver."""
    return frozenset(helper_names(helper)) - {""}


def family_id(family: str, helper: Helper) -> str:
    """Return "idea.single" if the solver helps itself, "idea.dual" for one other helper, "idea.diverse" for several;
    with the version of the texts."""
    names = helper_names(helper)
    return versioned(f"{family}.{'diverse' if len(names) > 1 else 'single' if names == ('',) else 'dual'}")


def pick_helper(helper: Helper, key: Key) -> str:
    """Return the helper for one idea, uniformly at random if there are several."""
    names = helper_names(helper)
    return names[int(key.generator().integers(len(names)))] if len(names) > 1 else names[0]


def helper_ask(name: str, text: str, key: Key, max_tokens: int) -> Generate:
    """Return a request to the helper of this name."""
    sampling = Sampling(temperature=1.0)
    return Generate((Message("user", text),), sampling=sampling, max_tokens=max_tokens, seed=key.seed(), engine=name)


def fill_template(template: str, **fields: str | int | float) -> str:
    """Fill the template's fields in one pass, so that braces in a question or a helper's text stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda match: str(fields.get(match[1], match[0])), template)


def reply_limit(body: str) -> int:
    """Return `max_tokens` for a rewording of `body`.

    The budget is checked against the worst case of a request, so a flat limit that suits long questions would leave
    short ones without draws. English has about four characters in a token.
    """
    return 64 + len(body) // 2


def bulleted(texts: Sequence[str]) -> str:
    """Return the texts as a bulleted list."""
    return "\n".join(f"- {' '.join(text.split())}" for text in texts)


def template_index(key: Key, num: int, index: int) -> int:
    """Return which of `num` templates draft `index` takes: all in turn, in an order of the key's."""
    return int(key.fold("template").generator().permutation(num)[index % num])


def variant_or_question(family: str, index: int, question: Question, messages: tuple[Message, ...] | None) -> Variant:
    """Return the variant of a helper's text, in a group of its own; without one the question under the same id."""
    name = f"{family}/{index + 1}"
    return Variant(name, question.messages) if messages is None else Variant(name, messages, group=name)


def padded_variants(
    family: str, question: Question, prompts: Sequence[tuple[Message, ...]], num: int
) -> tuple[Variant, ...]:
    """Return `num` variants: one for each prompt that a helper's text made, then the question itself."""
    missing = [None] * (num - len(prompts))
    return tuple(variant_or_question(family, i, question, prompt) for i, prompt in enumerate([*prompts, *missing]))


@dataclass(frozen=True, slots=True)
class Drafts:
    """The drafts of an arm. Cost: a request of at most `max_tokens` for each, and one more for each that is refused."""

    family: str  # with the number of helpers: "idea.single"
    num: int
    helper: Helper
    request: WriteRequest
    read: ReadReply
    insert: InsertText
    judge: JudgeText = judge_leaks
    repeats: FindRepeats = similar_texts
    max_tokens: int | None = 160  # None: as many as a text of twice the question's length may need
    dead: frozenset[int] = frozenset()  # drafts that cannot be asked for: their requests had failed before

    def __post_init__(self) -> None:
        check_count("num", self.num)
        if self.max_tokens is not None:
            check_count("max_tokens", self.max_tokens)
        helper_names(self.helper)

    def arm(self) -> Arm:
        """Return the arm that asks for these drafts."""
        return Arm(self.family, self.make, self.next_asks, NEEDS, other_engines(self.helper))

    def next_asks(self, key: Key, question: Question, replies: HelperTexts) -> tuple[Generate, ...]:
        """Return the requests of the next round; none if every draft is settled."""
        drafts, _ = self.follow(question, replies)
        accepted = tuple(draft.text for draft in drafts if not draft.verdict)
        asks = []
        for index in self._open(drafts, len(replies)):
            shown = accepted if drafts[index].verdict == "repeat" else ()
            draft_key = key.fold(index)
            text = self.request(key, question, index, shown)
            size = self.max_tokens or reply_limit(body_of(question))
            asks.append(
                helper_ask(
                    pick_helper(self.helper, draft_key.fold("thinker")), text, draft_key.fold(len(replies)), size
                )
            )
        return tuple(asks)

    def make(self, key: Key, question: Question, replies: HelperTexts) -> ArmResult:
        """Return a variant for each draft: with its text, or a fallback."""
        drafts, refused = self.follow(question, replies)
        over = not self._open(drafts, len(replies))
        variants, fallbacks = [], 0
        for index, draft in enumerate(drafts):
            if draft.verdict == "repeat" and over:
                continue
            messages = self.insert(question, draft.text) if not draft.verdict else None
            variants.append(variant_or_question(self.family, index, question, messages))
            fallbacks += messages is None
        if not variants:  # each text was the question's own; an arm composed with this one still needs a question
            variants, fallbacks = [variant_or_question(self.family, 0, question, None)], 1
        return ArmResult(tuple(variants), fallbacks, refused["leak"], refused["loss"], refused["repeat"])

    def follow(self, question: Question, replies: HelperTexts) -> tuple[list[Draft], Counter[DraftVerdict]]:
        """Return the drafts after these replies, and how many texts were refused for each reason."""
        drafts = [Draft(verdict="failed") if index in self.dead else Draft() for index in range(self.num)]
        refused: Counter[DraftVerdict] = Counter()
        for turn, texts in enumerate(replies[:ROUNDS]):
            asked = self._open(drafts, turn)
            for index, reply in zip(asked, texts, strict=True):
                drafts[index] = self._judged(question, reply)
            good = [index for index in range(self.num) if not drafts[index].verdict]
            # what was accepted in an earlier round comes first: a later text that is like it is the one that repeats
            good.sort(key=lambda index: index in asked)
            for index, is_repeat in zip(good, self.repeats(question, [drafts[p].text for p in good]), strict=True):
                if is_repeat:
                    drafts[index] = drafts[index]._replace(verdict="repeat")
            refused.update(drafts[index].verdict for index in asked)
        return drafts, refused

    def _judged(self, question: Question, reply: str | None) -> Draft:
        """Return the draft that a reply makes."""
        if reply is None:
            return Draft(verdict="failed")
        text = self.read(reply)
        return Draft(text, self.judge(question, text)) if text else Draft(verdict="none")

    def _open(self, drafts: Sequence[Draft], turn: int) -> list[int]:
        """Return the drafts that the next request is for, after `turn` rounds."""
        open_verdicts: tuple[DraftVerdict, ...] = ("pending",) if turn == 0 else ("leak", "loss", "none", "repeat")
        return [index for index, draft in enumerate(drafts) if turn < ROUNDS and draft.verdict in open_verdicts]
