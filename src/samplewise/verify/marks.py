r"""Where a response says its answer: in `\boxed{}`, "answer: ...", "the answer is ...", `####`, `<answer>`, or in a
JSON object with the field `answer`. The last one counts.

A mark that is no statement is passed over: a question ("is the answer 5?"), a supposition ("if the answer is 5"), words
about the answer ("the answer is correct"). "The answer is not A. It is B." states B. An answer that is taken back after
the last mark ("wait, ...") holds only where the text comes back to it.

Searches the last `MAX_TEXT` characters. Pure, linear in them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from samplewise.core.types import Json
from samplewise.verify.numbers import normal_form

MAX_TEXT = 20_000  # characters searched for a mark
MAX_ANSWER = 2_000  # characters of an answer
MAX_MARKS = 64
MAX_OBJECTS = 16  # JSON objects looked into, from the end
MAX_JSON = 200_000  # characters searched for JSON objects

Form = Literal["box", "hash", "json", "tag", "words"]


class Mark(NamedTuple):
    """A marked answer. `value` is the JSON value of the form "json". `start`, `end`: where it stands in the text."""

    form: Form
    answer: str
    start: int
    end: int
    value: Json = None


_SAYS = (
    r"(?:(?:is|was|are|would be|will be|should be|must be|comes out to(?: be)?|becomes|equals|turns out to be)\b"
    r"|[=:→]|->)"
)
_EMPHASIS = r"[\s*_`\"']{0,8}"
_MARK = re.compile(
    rf"(?P<box>\\(?:boxed|fbox)\s?\{{)|(?P<hash>####)|(?P<tag><answer>)"
    rf"|(?P<words>(?<![a-zA-Z])answer(?:\s(?:to (?:the|this|your) (?:question|problem)|here))?{_EMPHASIS}"
    r"(?:(?P<negated>isn't|is not|isn’t|cannot be|can't be)(?![\w'])"
    rf"|{_SAYS}){_EMPHASIS}:?[\s*_`]{{0,8}})",
    re.IGNORECASE,
)
_SUPPOSED = re.compile(
    r"\b(?:if|suppose|supposing|assume|assuming|whether|unless|perhaps|maybe|could|would|might|were|is)\s"
    r"(?:that\s)?(?:(?:the|my|our|your|this|an|final|correct|right|possible)\s){0,3}$",
    re.IGNORECASE,
)
_ABOUT = re.compile(
    r"\W*(?:therefore |thus |indeed |also |now |already |definitely )?"
    r"(?:correct|right|clear|obvious|verified|confirmed|valid|consistent|reasonable|plausible|as follows"
    r"|(?:given |shown |stated )?(?:below|above)|in the (?:box|form)|simple"
    r"|straightforward|found|derived|obtained|calculated)\b(?![^.\n]{0,40}[0-9])",
    re.IGNORECASE,
)
_DISPLAYED = re.compile(r"\s*(?:\\\[[ \t]*\n(.*?)\\\]|\$\$[ \t]*\n(.*?)\$\$)", re.DOTALL)
_BULLET = re.compile(r"[-+•]\s+")
_NOT = re.compile(r"\W*(?:(?:certainly|clearly|definitely|probably|actually) )?(?:not|never)\b\W*", re.IGNORECASE)
_RATHER = re.compile(
    r"(?:[,;.]?\s(?:but|rather|instead)(?:\srather|\sinstead)?[,:]?\s(?:(?:it|that)(?:'s|’s| is)\s)?"
    r"|(?:[,;.!—-]|\s-)\s?(?:(?:no|so|actually|rather|instead)[,:]?\s)?(?:it|that|the answer)"
    r"(?:'s|’s| is| must be| should be)\s(?:actually\s|rather\s|instead\s)?)",
    re.IGNORECASE,
)
_RETRACTED = re.compile(
    r"(?<![a-zA-Z])(?:wait(?=[,.!:;…—]|\s?-|\s(?:no|that|actually|i (?:made|think|need))\b)|hold on|scratch that"
    r"|correction:|on second thought|oops|sorry|let me (?:re|correct|fix|double)"
    r"|i (?:made|was) (?:a |an )?(?:mistake|error|wrong)"
    r"|(?:that|this|it)(?:'s| is| was|’s) (?:not (?:right|correct)|wrong|incorrect)"
    r"|actually,? (?:no|it|that)|(?<=[,.;!—-] )no[,:](?=\s))",
    re.IGNORECASE,
)


def find_marks(text: str) -> Iterator[Mark]:
    """Yield the marked answers of a text from the last to the first, without what is no statement."""
    tail = text[-MAX_TEXT:]
    offset = len(text) - len(tail)
    objects = list(_answer_objects(tail))
    inside = {(mark.start, mark.end) for mark in objects}
    matches = list(_MARK.finditer(tail))[-MAX_MARKS:]
    stated = [
        mark
        for match in matches
        if not any(start <= match.start() < end for start, end in inside) and (mark := _mark_at(tail, match))
    ]
    for mark in sorted([*stated, *objects], key=lambda mark: mark.start, reverse=True):
        yield mark._replace(start=mark.start + offset, end=mark.end + offset)


def _mark_at(text: str, match: re.Match[str]) -> Mark | None:
    start = match.end()
    if match["box"]:
        inside = braced(text[start : start + MAX_ANSWER])
        return None if inside is None else Mark("box", inside, match.start(), start + len(inside) + 1)
    if match["tag"]:
        inside = text[start : start + MAX_ANSWER].partition("</answer>")[0]
        return Mark("tag", inside.strip(), match.start(), start + len(inside))
    line = _line(text, start, match.start())
    if match["hash"]:
        return Mark("hash", line[0], match.start(), line[1])
    if _SUPPOSED.search(text[max(0, match.start() - 60) : match.start()]) or _ABOUT.match(line[0]):
        return None
    if re.match(r"[^.!\n]{0,80}\?(?!\w)", line[0]):
        return None
    if match["negated"] or _NOT.match(line[0]):
        rather = _RATHER.search(text[start : start + 200])
        if rather is None or "\n\n" in text[start : start + rather.start()]:
            return Mark("words", "", match.start(), line[1])
        line = _line(text, start + rather.end())
    return Mark("words", line[0], match.start(), line[1])


def _line(text: str, start: int, marked: int | None = None) -> tuple[str, int]:
    """Return the first line with anything in it from a position on, and its end; a displayed formula as a whole.

    The bullet of a line below the mark, which begins at `marked`, is no part of it.
    """
    if (shown := _DISPLAYED.match(text, start, start + MAX_ANSWER)) and (formula := shown[1] or shown[2] or "").strip():
        return " ".join(formula.split()), shown.end()
    position = start
    for line in text[start : start + MAX_ANSWER].splitlines(keepends=True):
        begin, position = position, position + len(line)
        if normal_form(line) and line.strip() != "\\[":
            is_below = marked is not None and "\n" in text[marked:begin]
            bullet = _BULLET.match(line.strip()) if is_below else None
            return line.strip()[bullet.end() if bullet else 0 :], position
    return "", position


def last_mark(text: str) -> Mark | None:
    """Return the answer that a text marks last, or None. Its `answer` is "" where it states what it is not."""
    return next(find_marks(text), None)


def marked_answer(text: str) -> str | None:
    """Return what a text marks last as its answer, up to the end of its line, or None."""
    mark = last_mark(text)
    return None if mark is None else mark.answer


def retracted_after(text: str, mark: Mark) -> str | None:
    """Return what follows words that take the answer back ("wait, no"), None if nothing does."""
    line_start = mark.end - len(mark.answer) if mark.form in ("words", "hash") else mark.end
    match = _RETRACTED.search(text, max(0, line_start))
    return None if match is None else text[match.end() :]


def last_box(text: str) -> str | None:
    r"""Return what is in the last `\boxed{}` or `\fbox{}` that closes, or None."""
    end = len(text)
    for _ in range(MAX_MARKS):
        end = max(text.rfind(form, 0, end) for form in ("\\boxed{", "\\fbox{"))
        if end < 0:
            return None
        start = text.index("{", end) + 1
        inside = braced(text[start : start + MAX_ANSWER])
        if inside is not None:
            return inside
    return None


def braced(text: str) -> str | None:
    """Return the text up to the brace that closes the one opened just before `text`; None if it does not close."""
    depth = 1
    for i, sign in enumerate(text):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return text[:i]
    return None


# --------------------------------------------------------------------------------------------------------------- claims

_BECAUSE = (
    r"[,;(]?\s\(?(?:because|since(?! (?:1[0-9]|20)[0-9]{2})|given (?:that|the)|due to|considering|thanks to"
    r"|seeing that)\b"
    r"|[,;]\s\(?as\b(?! (?:well|many|much|a result|long|soon)\b)"
)
_REASON = re.compile(_BECAUSE, re.IGNORECASE)
_ADDITION = re.compile(
    rf"{_BECAUSE}|[,;]\s(?:for|where|when|while|which|with)\b"
    r"|\sas (?=[a-z]{2,12} (?:is|are|has|have|was|were|can|must|does)\b)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<![\s.])[.!?](?=\s|$)")
_ABBREVIATED = re.compile(
    r"(?:\b[A-Za-z]|\b(?:St|Mr|Mrs|Ms|Dr|Mt|Ft|No|Rs|vs|Jr|Sr|Prof|approx|etc|e\.g|i\.e|sq|ft|in))$"
)


def without_reason(claim: str) -> str:
    """Return a statement without the reason that follows it: "18 because she sells 9 eggs" is "18"."""
    match = _REASON.search(claim)
    return claim[: match.start()] if match and match.start() else claim


def without_additions(claim: str) -> str:
    """Return a statement without a reason or a clause that follows it: "Paris, which is old" is "Paris"."""
    match = _ADDITION.search(claim)
    return claim[: match.start()] if match and match.start() else claim


def first_sentence(text: str) -> str:
    """Return a text up to the end of its first sentence."""
    for match in _SENTENCE_END.finditer(text):
        if not _ABBREVIATED.search(text[: match.start()][-12:]):
            return text[: match.end()]
    return text


# ----------------------------------------------------------------------------------------------------------------- JSON

_FIELDS = ("finalanswer", "answer")


def json_values(text: str) -> Iterator[tuple[Json, int, int]]:
    """Yield the JSON objects and lists of a text, from the last to the first, with where they stand.

    Numbers come as strings of the form `JsonNumber`. Those within another are part of it.
    """
    offset = max(0, len(text) - MAX_JSON)
    pairs = _outermost(text[offset:])
    for start, end in pairs[::-1][:MAX_OBJECTS]:
        try:
            value = json.loads(
                text[offset + start : offset + end],
                parse_int=JsonNumber,
                parse_float=JsonNumber,
                parse_constant=JsonNumber,
            )
        except (ValueError, RecursionError):
            continue
        yield value, offset + start, offset + end


class JsonNumber(str):
    """A number of JSON, as it is written."""

    __slots__ = ()


_BEGINS = re.compile(r"\s*(?:[\"}\]\[{0-9-]|true|false|null)")


def _outermost(text: str) -> list[tuple[int, int]]:
    """Return the spans of brackets that are in no other, where JSON may stand."""
    stack: list[int] = []
    spans: list[tuple[int, int]] = []
    in_string = False
    for match in re.finditer(r"\\.|[\"{}\[\]\n]", text):
        sign = match[0]
        if sign == '"':
            in_string = bool(stack) and not in_string
        elif sign == "\n":
            in_string = False
        elif in_string or sign[0] == "\\":
            continue
        elif sign in "{[":
            stack.append(match.start())
        elif stack:
            start = stack.pop()
            while spans and spans[-1][0] > start:
                spans.pop()
            if _BEGINS.match(text[start + 1 : start + 40]):
                spans.append((start, match.end()))
    return spans


def _answer_objects(text: str) -> Iterator[Mark]:
    for value, start, end in json_values(text):
        answers = list(_answers_in(value, 0))
        if len(answers) == 1:
            written = answers[0] if isinstance(answers[0], str) else json.dumps(answers[0])
            written = "" if answers[0] is None else written
            yield Mark("json", written, start, end, answers[0])


def _answers_in(value: Json, depth: int) -> Iterator[Json]:
    """Yield the fields named answer in an object, and in those within it."""
    if isinstance(value, dict) and depth < 4:
        named = {re.sub(r"[\W_]", "", name.lower()): item for name, item in value.items()}
        own = [named[field] for field in _FIELDS if field in named][:1]
        if own:
            yield from own
        else:
            for item in value.values():
                yield from _answers_in(item, depth + 1)
