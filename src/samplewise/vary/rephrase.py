"""The question in other words: a helper restates it, or translates it there and back. The new wording replaces the old.

Every number, identifier and option must survive, or the wording is refused. Rules for the response (`End with one line
...`) are not shown to the helper and stay as they are. Questions that are easy to restate pass this filter more often:
look at `losses` before comparing.

Source: random query rephrasing and back-translation, arXiv 2502.11027. Cost: for each wording a request about as long
as the question, two for a translation, and one more for each wording that is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from samplewise.core.checks import check_count
from samplewise.core.keys import Key
from samplewise.core.types import Generate, Message, Question
from samplewise.vary.base import Arm, ArmResult, HelperTexts
from samplewise.vary.checks import loses, repeats, solves
from samplewise.vary.helpers import (
    NEEDS,
    Drafts,
    DraftVerdict,
    Helper,
    bulleted,
    family_id,
    fill_template,
    helper_ask,
    other_engines,
    pick_helper,
    reply_limit,
    template_index,
)
from samplewise.vary.pools.requests import BACK, OTHER_WORDING, PIVOTS, REPHRASINGS, THERE
from samplewise.vary.reading import single_text
from samplewise.vary.slots import body_of, reworded, split_rules, wording


def rephrase(num: int = 4, *, helper: Helper = "", max_tokens: int | None = None) -> Arm:
    """Vary by a helper's wordings of the question, in six styles in turn; ids are `rephrase.single/1` and so on.

    `helper` "" is the solver itself. Of several names, each wording draws one. The default `max_tokens` suits a text of
    twice the question's length.
    """

    def request(key: Key, question: Question, index: int, shown: tuple[str, ...]) -> str:
        template = REPHRASINGS[template_index(key, len(REPHRASINGS), index)]
        if shown:
            template = template.replace("\n\nProblem:", f" {OTHER_WORDING}\n\nProblem:")
        return fill_template(template, shown=bulleted(shown), question=body_of(question))

    return Drafts(
        family_id("rephrase", helper),
        num,
        helper,
        request,
        single_text,
        _placed,
        _judged,
        _repeated,
        max_tokens,
    ).arm()


def backtranslate(num: int = 2, *, helper: Helper = "", max_tokens: int | None = None) -> Arm:
    """Vary by translating the question into another language and back; ids are `backtranslate.single/1` and so on.

    Each variant uses another language. There are six languages, and so at most six variants.
    """
    if check_count("num", num) > len(PIVOTS):
        raise ValueError(f"num must be at most {len(PIVOTS)}, the number of languages; got {num}")
    if max_tokens is not None:
        check_count("max_tokens", max_tokens)
    family = family_id("backtranslate", helper)

    def language(key: Key, index: int) -> str:
        return PIVOTS[template_index(key, len(PIVOTS), index)]

    def back(translations: Sequence[str | None]) -> Drafts:
        """Return the drafts of the translations back into English, for the translations in `there`."""
        texts = [single_text(text) if text is not None else "" for text in translations]

        def request(key: Key, question: Question, index: int, shown: tuple[str, ...]) -> str:
            return fill_template(BACK, language=language(key, index), question=texts[index])

        dead = frozenset(index for index, text in enumerate(texts) if not text)
        return Drafts(family, num, helper, request, single_text, _placed, _judged, _repeated, max_tokens, dead)

    def next_asks(key: Key, question: Question, replies: HelperTexts) -> tuple[Generate, ...]:
        if replies:
            return back(replies[0]).next_asks(key, question, replies[1:])
        body = body_of(question)
        return tuple(
            helper_ask(
                pick_helper(helper, key.fold(index, "thinker")),
                fill_template(THERE, language=language(key, index), question=body),
                key.fold(index, "there"),
                max_tokens or reply_limit(body),
            )
            for index in range(num)
        )

    def make(key: Key, question: Question, replies: HelperTexts) -> ArmResult:
        return back(replies[0] if replies else (None,) * num).make(key, question, replies[1:])

    return Arm(family, make, next_asks, NEEDS, other_engines(helper))


def _placed(question: Question, text: str) -> tuple[Message, ...]:
    return reworded(question, text + split_rules(wording(question)).rules)


def _judged(question: Question, text: str) -> DraftVerdict:
    body = body_of(question)
    if solves(body, text):
        return "leak"
    return "loss" if loses(body, text) else ""


def _repeated(question: Question, texts: Sequence[str]) -> tuple[bool, ...]:
    return repeats(texts, [body_of(question)])
