"""Cut what a model thought from what it says. Pure, in one pass over the text.

A tag counts where a model writes one: at the start of the response or of a line, as a closed pair, or as a closing tag
alone (the chat template opened the reasoning). A tag that is only mentioned cuts nothing: between quotes or backticks,
or in a code block after the reasoning.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import NamedTuple

CHANNEL_TOKENS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")
MAX_INDENT = 100  # blanks before a tag that begins its line
MAX_LINE = 1000  # characters after a tag that are searched for the quote that closes around it

# Opening and closing tags by kind. The words of the last three are also names of fields that users ask for.
_PAIRS = {
    "think": (r"<think>", r"</think>"),
    "thinking": (r"<thinking>", r"</thinking>"),
    "prefixed": (r"<[a-z]+:think>", r"</[a-z]+:think>"),  # <seed:think>
    "longcat": (r"<longcat_think>", r"</longcat_think>"),
    "brackets": (r"\[THINK\]", r"\[/THINK\]"),  # Mistral
    "triangles": (r"◁think▷", r"◁/think▷"),  # Kimi
    "command": (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>(?:\s*<\|START_RESPONSE\|>)?"),  # Cohere
    "begin": (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>(?:\s*<\|begin_of_solution\|>)?"),  # OpenThinker
    "inner": (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),  # Apertus
    "channel": (r"<\|channel>(?:thought|analysis)?", r"<channel\|>"),  # Gemma
    "unused": (r"<unused94>(?:thought)?", r"<unused95>"),  # MedGemma
    "thought": (r"<thoughts?>", r"</thoughts?>"),
    "reason": (r"<reason>", r"</reason>"),
    "reasoning": (r"<reasoning>", r"</reasoning>"),
}
_WEAK = frozenset(("thought", "reason", "reasoning"))
_KINDS = tuple(_PAIRS)
_ANY_CASE = "|".join(f"(?P<o{i}>{_PAIRS[k][0]})|(?P<c{i}>{_PAIRS[k][1]})" for i, k in enumerate(_KINDS))
_TAG = re.compile(_ANY_CASE.replace(r"\[THINK\]", r"(?-i:\[THINK\])").replace(r"\[/THINK\]", r"(?-i:\[/THINK\])"), re.I)

# gpt-oss: <|start|>assistant<|channel|>final<|message|>, and what is left of it where special tokens are not shown.
_HEADER = re.compile(
    r"(?:(?:<\|start\|>)?assistant)?<\|channel\|>([a-z]+)(?:(?!<\|message\|>|<\|channel\|>)[^\n]){0,200}<\|message\|>"
)
_OPEN_END = re.compile(
    rf"({'|'.join(pair[0] for pair in _PAIRS.values())}|<\|channel\|>analysis<\|message\|>)\s*\Z", re.IGNORECASE
)
_CLOSED_END = re.compile(rf"(?:{'|'.join(pair[1] for pair in _PAIRS.values())})\s*\Z", re.IGNORECASE)
_MESSAGE_END = re.compile(r"<\|(?:end|return|call|start)\|>")
_STRIPPED_START = re.compile(r"\s*analysis(?=[A-Z][a-z']*\s\w)")
_STRIPPED_FINAL = re.compile(r"assistantfinal")
_STRIPPED_OTHER = re.compile(r"assistant(?:analysis|commentary)")

_GRANITE = re.compile(
    r"\s*Here(?:'s| is) my thought process:(.*?)^[ \t*#]*Here(?:'s| is) my response:", re.DOTALL | re.MULTILINE
)

_FENCE = re.compile(r"(?:^[ \t]*(?:(?:[-*+]|\d+[.)])[ \t]*)?|(?<=[>\]▷]))(`{3,}|~{3,})([^`\n]*)$", re.MULTILINE)
_STRING_PREFIX = re.compile(r"(?:^|[^\w])(?:[rbfu]|rb|br|rf|fr)$", re.IGNORECASE)
_LEADING = re.compile(r"\s*(?:(?:<\|\w+\|>(?:assistant)?|<s>|<bos>)\s*)*\Z")
_ENDS = ("<|END_RESPONSE|>", "<|end_of_solution|>", "<|return|>", "<|end|>")
_BLANK_LINES = re.compile(r"\A(?:\s*\n|[ \t]+)")


class SplitResponse(NamedTuple):
    """A response in two parts. `text` is "" unless `closed`: whoever has not ended thinking has not answered."""

    reasoning: str
    text: str
    closed: bool  # True where there is no reasoning
    opened: bool = False  # whether it begins inside the reasoning: the prompt opened it


class _Tag(NamedTuple):
    start: int
    end: int
    kind: str
    opens: bool
    quoted: bool  # inside a string or inline code of its line


def split_reasoning(text: str, opened: bool = False) -> SplitResponse:
    """Return the reasoning and the text of a response.

    `opened` says that the prompt ended in an opening tag, so that the response begins inside the reasoning. The text is
    returned as it is where there is no reasoning; else without the blank lines that follow the closing tag. Several
    blocks of reasoning are joined by a blank line.
    """
    if reply := _channels(text, opened) or _granite(text):
        return reply
    tags = [] if "<" not in text and "[" not in text and "◁" not in text else _tags(text)
    return _walk(text, tags, opened) if tags or opened else SplitResponse("", text, True)


def is_reasoning_tag(text: str) -> bool:
    """Return whether a token's text is a tag that opens or closes reasoning."""
    return _TAG.fullmatch(text) is not None or text in ("<|channel>", "<|START_RESPONSE|>", "<|begin_of_solution|>")


def opening_tag(prompt: str) -> str:
    """Return the opening tag in which a prompt ends, so that what follows is reasoning; "" if there is none."""
    match = _OPEN_END.search(prompt, max(0, len(prompt) - MAX_LINE))
    return match.group(1) if match else ""


def ends_reasoning(prompt: str) -> bool:
    """Return whether a prompt ends in a closing tag: the model is made to answer at once."""
    return _CLOSED_END.search(prompt, max(0, len(prompt) - MAX_LINE)) is not None


def mentions_reasoning(text: str) -> bool:
    """Return whether a text, such as a chat template, holds a tag of reasoning."""
    return _TAG.search(text) is not None or "<|channel|>analysis" in text


def _walk(text: str, tags: list[_Tag], opened: bool) -> SplitResponse:
    """Follow the tags through the text: inside a block, the first tag that closes it; outside, the next that counts."""
    begun = opened
    thoughts: list[str] = []
    texts: list[str] = []
    inside: str | None = "" if opened else None  # the kind of the block; "" for any
    seen: set[str] = set()  # kinds that this model writes
    skipped: dict[str, int] = {}  # opening tags that count as text, by kind
    position = 0
    last_close = {tag.kind: tag.start for tag in tags if not tag.opens and not tag.quoted}
    answer_end = _answer_end(text, tags)
    blocks = _CodeBlocks(text)
    for tag in tags:
        if tag.quoted:
            continue
        if inside is not None:
            if not tag.opens and inside in ("", tag.kind):
                thoughts.append(text[position : tag.start])
                seen.add(tag.kind)
                inside, position = None, tag.end
            elif tag.opens and inside in ("", tag.kind) and not text[position : tag.start].strip():
                inside, position = tag.kind, tag.end  # the model repeats the template's tag
        elif blocks.contain(position, tag.start):
            continue
        elif tag.opens:
            leads = not texts and _LEADING.match(text, position, tag.start) is not None
            strong = tag.kind not in _WEAK
            line = text.rfind("\n", max(position, tag.start - MAX_INDENT), tag.start) + 1
            at_line = not text[max(line, position, tag.start - MAX_INDENT) : tag.start].strip()
            closes = last_close.get(tag.kind, -1) > tag.start
            if leads or (closes and (strong or at_line)) or (at_line and (strong or tag.kind in seen)):
                texts += [] if leads else [text[position : tag.start]]
                inside, position = tag.kind, tag.end
            else:
                skipped[tag.kind] = skipped.get(tag.kind, 0) + 1
        elif skipped.get(tag.kind):
            skipped[tag.kind] -= 1
        elif thoughts and tag.start >= answer_end:  # a closing tag after the answer
            texts.append(text[position : tag.start])
            position = tag.end
        else:
            begun = begun or not thoughts
            thoughts += [*texts, text[position : tag.start]]
            texts, skipped, position = [], {}, tag.end
            seen.add(tag.kind)
    rest = text[position:]
    if inside is not None:
        return SplitResponse(_joined([*thoughts, *texts, rest]), "", False, begun)
    if position == 0 and not opened:
        return SplitResponse("", text, True)
    return SplitResponse(_joined(thoughts), _text_of([*texts, rest]), True, begun)


def _answer_end(text: str, tags: list[_Tag]) -> int:
    """Return where the text ends, without the closing tags and blanks at its end."""
    end = len(text)
    for tag in reversed(tags):
        while end and text[end - 1].isspace():
            end -= 1
        if tag.opens or tag.end < end:
            break
        end = tag.start
    return end


def _tags(text: str) -> list[_Tag]:
    tags, quotes = [], _Quotes(text)
    for match in _TAG.finditer(text):
        group = match.lastgroup or ""
        kind = _KINDS[int(group[1:])]
        tags.append(_Tag(*match.span(), kind, group[0] == "o", quotes.contain(*match.span())))
    return tags


class _Quotes:
    """Where a text stands inside quotes or backticks that open and close on one line. Positions must only grow."""

    def __init__(self, text: str) -> None:
        self._text, self._index, self._quote = text, 0, ""

    def contain(self, start: int, end: int) -> bool:
        text, index, quote = self._text, self._index, self._quote
        if (line := text.rfind("\n", index, start)) >= 0:
            index, quote = line + 1, ""
        while index < start:
            char = text[index]
            if quote and char == "\\":
                index += 1
            elif quote:
                quote = "" if char == quote else quote
            elif char in "\"'`" and _begins_string(text, index):
                quote = char
            index += 1
        self._index, self._quote = index, quote
        if not quote:
            return False
        stop = text.find("\n", end, end + MAX_LINE)
        return text.find(quote, end, stop if stop >= 0 else end + MAX_LINE) >= 0


def _begins_string(text: str, index: int) -> bool:
    """Return whether a quote can begin a string. Those of "don't" and of 5" cannot, that of r"..." can."""
    before = text[max(0, index - 3) : index]
    if text[index] == "`" or not before or not before[-1].isalnum():
        return True
    return _STRING_PREFIX.search(before) is not None or (text[index] == '"' and not before[-1].isdigit())


class _CodeBlocks:
    """Where code stands in a text: between two fences, or between triple quotes. Positions must only grow."""

    def __init__(self, text: str) -> None:
        self._fences = [(m.start(1), m.group(1)[0], bool(m.group(2).strip())) for m in _FENCE.finditer(text)]
        self._quotes = {mark: [m.start() for m in re.finditer(mark, text)] for mark in ('"""', "'''")}
        self._begin, self._next, self._fence = 0, 0, ""

    def contain(self, begin: int, position: int) -> bool:
        """Return whether `position` is inside a block that opened after `begin` and closes."""
        if begin != self._begin:
            self._begin, self._fence = begin, ""
            self._next = bisect_left(self._fences, (begin,))
        while self._next < len(self._fences) and self._fences[self._next][0] < position:
            _, char, has_name = self._fences[self._next]
            if not self._fence or (has_name and char == self._fence):
                self._fence = char
            elif char == self._fence:
                self._fence = ""
            self._next += 1
        if self._fence and self._next < len(self._fences):
            _, char, has_name = self._fences[self._next]
            if char == self._fence and not has_name:
                return True
        for positions in self._quotes.values():
            before = bisect_left(positions, position)
            if (before - bisect_left(positions, begin)) % 2 and before < len(positions):
                return True
        return False


def _channels(text: str, opened: bool) -> SplitResponse | None:
    """Cut a response of gpt-oss: what its final channel says is the text. None if it has no channels."""
    if "<|channel|>" not in text:
        return _stripped_channels(text, opened)
    quotes = _Quotes(text)
    headers = [header for header in _HEADER.finditer(text) if not quotes.contain(*header.span())]
    begin = headers[0].start() if headers else text.index("<|channel|>")
    leads = _LEADING.match(text[:begin].removesuffix("<|start|>assistant").removesuffix("assistant")) is not None
    if not leads and not opened and all(m.group(1) != "final" for m in headers):
        return None
    thoughts = [_content(text[:begin])] if headers and not leads else []
    texts: list[str] = []
    ends = [*(header.start() for header in headers[1:]), len(text)] if headers else []
    for header, end in zip(headers, ends, strict=True):
        (texts if header.group(1) == "final" else thoughts).append(_content(text[header.end() : end]))
    return (
        SplitResponse(_joined(thoughts), _text_of(texts), True)
        if texts
        else SplitResponse(_joined(thoughts) or text.strip(), "", False)
    )


def _content(message: str) -> str:
    return _MESSAGE_END.split(message, maxsplit=1)[0]


def _stripped_channels(text: str, opened: bool) -> SplitResponse | None:
    """Cut a response of gpt-oss whose special tokens were dropped: "analysis...assistantfinal..."."""
    if "analysis" not in text and "assistantfinal" not in text:
        return None
    leads, quotes = re.match(r"\s*analysis", text), _Quotes(text)
    for final in _STRIPPED_FINAL.finditer(text):
        follows = leads or opened or text[: final.start()][-1:] in tuple(".!?)]}'\"`")
        if follows and not quotes.contain(*final.span()):
            thoughts = _STRIPPED_OTHER.split(text[leads.end() if leads else 0 : final.start()])
            return SplitResponse(_joined(thoughts), _text_of([text[final.end() :]]), True)
    if begun := _STRIPPED_START.match(text):
        return SplitResponse(_joined(_STRIPPED_OTHER.split(text[begun.end() :])), "", False)
    return None


def _granite(text: str) -> SplitResponse | None:
    """Cut a response of Granite at its two headings. Where one is missing they are words like others."""
    match = _GRANITE.match(text)
    return SplitResponse(match.group(1).strip(), _text_of([text[match.end() :]]), True) if match else None


def _joined(thoughts: list[str]) -> str:
    return "\n\n".join(thought for part in thoughts if (thought := part.strip()))


def _text_of(parts: list[str]) -> str:
    """Return the text of its parts, without the blank lines before it. The indentation of a program is kept."""
    kept = [part for part in parts if part.strip()]
    if not kept:
        return ""
    text = "".join([_BLANK_LINES.sub("", kept[0], count=1), *kept[1:]])
    return next((whole.removesuffix(end).rstrip() for end in _ENDS if (whole := text.rstrip()).endswith(end)), text)
