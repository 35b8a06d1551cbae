"""The question in other words: a thinker restates it, or translates it there and back. The new wording takes its
place.

Every number, identifier and option must come through, else the wording is refused; rules for the response (`End with
one line ...`) are not shown to the thinker and stay as they are. What passes this filter are the easier questions to
restate: look at `losses` before comparing.

Source: random query rephrasing and back-translation, arXiv 2502.11027. Cost: for each wording a request about as long
as the question, two for a translation, and one more for each that is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from samplewise.keys import Key
from samplewise.samplers.repeat import count
from samplewise.types import Generate, Message, Question
from samplewise.vary.base import Arm, Heard, Made
from samplewise.vary.checks import loses, repeats, solves
from samplewise.vary.pools.requests import BACK, OTHER_WORDING, PIVOTS, REPHRASINGS, THERE
from samplewise.vary.reading import one
from samplewise.vary.slots import body_of, parts, reworded, wording
from samplewise.vary.thinker import (
    NEEDS,
    Drafts,
    Thinker,
    Verdict,
    asked,
    bulleted,
    drawn,
    family_id,
    filled,
    others,
    room_for,
    turns,
)


def rephrase(num: int = 4, *, thinker: Thinker = "", max_tokens: int | None = None) -> Arm:
    """The question in a thinker's words, in six styles in turn; ids are `rephrase.single/1` and so on.

    `thinker` "" is the solver itself; of several names each wording draws one. `max_tokens` suits a text of twice the
    question's length unless given.
    """

    def request(key: Key, question: Question, place: int, shown: tuple[str, ...]) -> str:
        template = REPHRASINGS[turns(key, len(REPHRASINGS), place)]
        if shown:
            template = template.replace("\n\nProblem:", f" {OTHER_WORDING}\n\nProblem:")
        return filled(template, shown=bulleted(shown), question=body_of(question))

    return Drafts(
        family_id("rephrase", thinker),
        num,
        thinker,
        request,
        one,
        _placed,
        _judged,
        _repeated,
        max_tokens,
    ).arm()


def backtranslate(num: int = 2, *, thinker: Thinker = "", max_tokens: int | None = None) -> Arm:
    """The question translated into another language and back, each variant by way of its own; ids are
    `backtranslate.single/1` and so on. There are six languages, and so at most six variants."""
    if count("num", num) > len(PIVOTS):
        raise ValueError(f"num must be at most {len(PIVOTS)}, the number of languages; got {num}")
    if max_tokens is not None:
        count("max_tokens", max_tokens)
    family = family_id("backtranslate", thinker)

    def language(key: Key, place: int) -> str:
        return PIVOTS[turns(key, len(PIVOTS), place)]

    def back(there: Sequence[str | None]) -> Drafts:
        """What comes back, once the translations are there."""
        texts = [one(text) if text is not None else "" for text in there]

        def request(key: Key, question: Question, place: int, shown: tuple[str, ...]) -> str:
            return filled(BACK, language=language(key, place), question=texts[place])

        dead = frozenset(place for place, text in enumerate(texts) if not text)
        return Drafts(family, num, thinker, request, one, _placed, _judged, _repeated, max_tokens, dead)

    def inquire(key: Key, question: Question, heard: Heard) -> tuple[Generate, ...]:
        if heard:
            return back(heard[0]).inquire(key, question, heard[1:])
        body = body_of(question)
        return tuple(
            asked(
                drawn(thinker, key.fold(place, "thinker")),
                filled(THERE, language=language(key, place), question=body),
                key.fold(place, "there"),
                max_tokens or room_for(body),
            )
            for place in range(num)
        )

    def make(key: Key, question: Question, heard: Heard) -> Made:
        return back(heard[0] if heard else (None,) * num).make(key, question, heard[1:])

    return Arm(family, make, inquire, NEEDS, others(thinker))


def _placed(question: Question, text: str) -> tuple[Message, ...]:
    return reworded(question, text + parts(wording(question)).rules)


def _judged(question: Question, text: str) -> Verdict:
    body = body_of(question)
    if solves(body, text):
        return "leak"
    return "loss" if loses(body, text) else ""


def _repeated(question: Question, texts: Sequence[str]) -> tuple[bool, ...]:
    return repeats(texts, [body_of(question)])
