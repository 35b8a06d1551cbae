"""Arms that ask a thinker: a model that writes ideas or wordings for the one that solves, often the same model.

A thinker's request is an ordinary ask, so it goes through the loop, the budget and the store, and its tokens count. An
arm has a number of drafts, each the text of one reply. A reply is read, then judged:

    leak     it gives the result away          one request more with another seed, then the question itself (a fallback)
    loss     a part of the question is gone    the same
    none     there is nothing to read          the same
    repeat   it was there already              one request more that shows what there is, then one variant fewer
    failed   the request had no answer         a fallback; the loop has tried again already

Until the thinker has been heard, each draft is a fallback, so that an arm's variants are valid at any time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from samplewise.keys import Key
from samplewise.samplers.base import Variant
from samplewise.samplers.repeat import count
from samplewise.types import Capability, Generate, Message, Question, Sampling
from samplewise.vary.base import Arm, Heard, Made
from samplewise.vary.checks import leaks, repeats
from samplewise.vary.pools.versions import versioned
from samplewise.vary.slots import body_of

Verdict = Literal["", "unheard", "failed", "leak", "loss", "none", "repeat"]
Thinker = str | tuple[str, ...]  # "" is the solver, another name an engine that the user named; of several one is drawn

ROUNDS = 2  # the request, and one more for what was refused
NEEDS = frozenset({Capability.GENERATE})


class Draft(NamedTuple):
    """What came of one request. The text counts where the verdict is ""."""

    text: str = ""
    verdict: Verdict = "unheard"


class Request(Protocol):
    """The request's text. `shown` are the texts that the new one must differ from, none on the first request."""

    def __call__(self, key: Key, question: Question, place: int, shown: tuple[str, ...]) -> str: ...


class Read(Protocol):
    """The text that a reply holds, "" for none."""

    def __call__(self, reply: str) -> str: ...


class Judge(Protocol):
    """ "" where the text will do, else why it is refused: "leak" or "loss"."""

    def __call__(self, question: Question, text: str) -> Verdict: ...


class Put(Protocol):
    """The question's messages with the text in its place."""

    def __call__(self, question: Question, text: str) -> tuple[Message, ...]: ...


class Repeats(Protocol):
    """Of each text, whether it repeats one before it, or the question itself."""

    def __call__(self, question: Question, texts: Sequence[str]) -> tuple[bool, ...]: ...


def gives_nothing_away(question: Question, text: str) -> Verdict:
    return "leak" if leaks(text) else ""


def like_an_earlier(question: Question, texts: Sequence[str]) -> tuple[bool, ...]:
    return repeats(texts)


def names_of(thinker: Thinker) -> tuple[str, ...]:
    """The thinkers' names; ValueError where these are none, or a name comes twice."""
    names = (thinker,) if isinstance(thinker, str) else tuple(thinker)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f'thinker must be a name ("" is the solver) or several different ones, got {thinker!r}')
    return names


def others(thinker: Thinker) -> frozenset[str]:
    """The engines that must be there beside the solver."""
    return frozenset(names_of(thinker)) - {""}


def family_id(family: str, thinker: Thinker) -> str:
    """ "idea.single" where the solver thinks for itself, "idea.dual" for one other, "idea.diverse" for several; with
    the version of its words."""
    names = names_of(thinker)
    return versioned(f"{family}.{'diverse' if len(names) > 1 else 'single' if names == ('',) else 'dual'}")


def drawn(thinker: Thinker, key: Key) -> str:
    """The thinker for one idea: of several each is as likely."""
    names = names_of(thinker)
    return names[int(key.generator().integers(len(names)))] if len(names) > 1 else names[0]


def asked(name: str, text: str, key: Key, max_tokens: int) -> Generate:
    """A request to the thinker of this name."""
    sampling = Sampling(temperature=1.0)
    return Generate((Message("user", text),), sampling=sampling, max_tokens=max_tokens, seed=key.seed(), engine=name)


def filled(template: str, **places: str | int | float) -> str:
    """The template with its places filled, in one pass: braces in a question, or in a thinker's text, are its own."""
    return re.sub(r"\{(\w+)\}", lambda place: str(places.get(place[1], place[0])), template)


def room_for(body: str) -> int:
    """Tokens for a rewording: a budget is checked against the most that a request may cost, so a flat limit that suits
    long questions would leave short ones without draws. English has about four characters in a token."""
    return 64 + len(body) // 2


def bulleted(texts: Sequence[str]) -> str:
    return "\n".join(f"- {' '.join(text.split())}" for text in texts)


def turns(key: Key, num: int, place: int) -> int:
    """Which of `num` templates a draft takes: all in turn, in an order of the key's."""
    return int(key.fold("template").generator().permutation(num)[place % num])


def told_or_plain(family: str, place: int, question: Question, told: tuple[Message, ...] | None) -> Variant:
    """The variant of a thinker's text, its own group; without one the question itself, under the same id."""
    name = f"{family}/{place + 1}"
    return Variant(name, question.messages) if told is None else Variant(name, told, group=name)


@dataclass(frozen=True, slots=True)
class Drafts:
    """The drafts of an arm. Cost: a request of at most `max_tokens` for each, and one more for each that is refused."""

    family: str  # with how it thinks: "idea.single"
    num: int
    thinker: Thinker
    request: Request
    read: Read
    put: Put
    judge: Judge = gives_nothing_away
    repeats: Repeats = like_an_earlier
    max_tokens: int | None = 160  # None: as many as a text of twice the question's length may need
    dead: frozenset[int] = frozenset()  # drafts that cannot be asked for: their requests had failed before

    def __post_init__(self) -> None:
        count("num", self.num)
        if self.max_tokens is not None:
            count("max_tokens", self.max_tokens)
        names_of(self.thinker)

    def arm(self) -> Arm:
        return Arm(self.family, self.make, self.inquire, NEEDS, others(self.thinker))

    def inquire(self, key: Key, question: Question, heard: Heard) -> tuple[Generate, ...]:
        drafts, _ = self.follow(question, heard)
        kept = tuple(draft.text for draft in drafts if not draft.verdict)
        asks = []
        for place in self._open(drafts, len(heard)):
            shown = kept if drafts[place].verdict == "repeat" else ()
            own = key.fold(place)
            text = self.request(key, question, place, shown)
            size = self.max_tokens or room_for(body_of(question))
            asks.append(asked(drawn(self.thinker, own.fold("thinker")), text, own.fold(len(heard)), size))
        return tuple(asks)

    def make(self, key: Key, question: Question, heard: Heard) -> Made:
        drafts, refused = self.follow(question, heard)
        over = not self._open(drafts, len(heard))
        variants, fallbacks = [], 0
        for place, draft in enumerate(drafts):
            if draft.verdict == "repeat" and over:
                continue
            told = self.put(question, draft.text) if not draft.verdict else None
            variants.append(told_or_plain(self.family, place, question, told))
            fallbacks += told is None
        if not variants:  # each text was the question's own; an arm composed with this one still needs a question
            variants, fallbacks = [told_or_plain(self.family, 0, question, None)], 1
        return Made(tuple(variants), fallbacks, refused["leak"], refused["loss"], refused["repeat"])

    def follow(self, question: Question, heard: Heard) -> tuple[list[Draft], Counter[Verdict]]:
        """The drafts after what was heard, and how often a text was refused for what."""
        drafts = [Draft(verdict="failed") if place in self.dead else Draft() for place in range(self.num)]
        refused: Counter[Verdict] = Counter()
        for turn, replies in enumerate(heard[:ROUNDS]):
            heard_now = self._open(drafts, turn)
            for place, reply in zip(heard_now, replies, strict=True):
                drafts[place] = self._judged(question, reply)
            good = [place for place in range(self.num) if not drafts[place].verdict]
            # what was accepted in an earlier round comes first: a later text that is like it is the one that repeats
            good.sort(key=lambda place: place in heard_now)
            for place, again in zip(good, self.repeats(question, [drafts[p].text for p in good]), strict=True):
                if again:
                    drafts[place] = drafts[place]._replace(verdict="repeat")
            refused.update(drafts[place].verdict for place in heard_now)
        return drafts, refused

    def _judged(self, question: Question, reply: str | None) -> Draft:
        if reply is None:
            return Draft(verdict="failed")
        text = self.read(reply)
        return Draft(text, self.judge(question, text)) if text else Draft(verdict="none")

    def _open(self, drafts: Sequence[Draft], turn: int) -> list[int]:
        """The drafts that the next request is for, after `turn` rounds."""
        again: tuple[Verdict, ...] = ("unheard",) if turn == 0 else ("leak", "loss", "none", "repeat")
        return [place for place, draft in enumerate(drafts) if turn < ROUNDS and draft.verdict in again]
