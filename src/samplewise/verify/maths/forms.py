r"""What a mathematical answer is: a number, a text, an expression, or a structure of such things.

A structure is taken apart here, since its meaning is in its signs: `(1, 2)` is not `(2, 1)`, `[0, 1)` is not `[0, 1]`,
but `\{1, 2\}` is `\{2, 1\}` and so is a bare list `2, 1`. Numbers are exact rationals. What is left over is a leaf, an
expression for the symbolic step. A line of inequalities in one variable is its interval; `x = 5` is 5, and where a list
assigns to several variables, the variables stay.

Pure strings and fractions, linear in the text but for nesting, of which `MAX_DEPTH` levels are followed.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NamedTuple

from samplewise.verify.maths.normal import Percent, closing, normalise
from samplewise.verify.readers import as_number

Kind = Literal["empty", "number", "text", "leaf", "row", "set", "union", "matrix", "named"]

MAX_DEPTH = 8  # levels of structures within structures
MAX_ITEMS = 64  # of a structure; a longer one is compared as a text
MAX_POWER = 64  # digits of a power that is worked out here


class Form(NamedTuple):
    """`text` is the normal spelling of the whole, `inner` of what is compared: without "x =" in front."""

    kind: Kind
    text: str
    inner: str = ""
    value: Fraction | None = None  # of a number
    items: tuple[Form, ...] = ()
    brackets: str = ""  # of a row, as written; of a matrix its shape; the variable of something named


_WHOLE = r"[-+]?[0-9]{1,40}"
_FRACTION = re.compile(rf"([-+]?)\\frac\{{({_WHOLE})\}}\{{({_WHOLE})\}}")
_MIXED = re.compile(r"([-+]?)([0-9]{1,20})(?:\\frac\{([0-9]{1,20})\}\{([0-9]{1,20})\}| ([0-9]{1,20})/([0-9]{1,20}))")
_POWER = re.compile(rf"([0-9]{{1,12}})\^\{{({_WHOLE})\}}")
_SCIENTIFIC = re.compile(r"([-+]?[0-9]{1,20}(?:\.[0-9]{1,20})?)(?:\\cdot)?10\^\{([-+]?[0-9]{1,3})\}")
_NAMED = re.compile(r"((?:[a-zA-Z]|\\[a-z]+)(?:_\{?\w\}?)?(?:\([a-z]\))?)(?:=|\\in(?![a-z]))(?=.)")
_WORDS = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_BASED = re.compile(r"[0-9A-Za-z]+_\{?[0-9]+\}?")
_SIDE_BY_SIDE = re.compile(r"[0-9] [0-9]|(?:^|[-+(=])[0-9]+\{")
_VARIABLE = r"[a-zA-Z]|\\[a-z]+"
_BETWEEN = re.compile(rf"([^<>]+?)(<|\\le|\\lt)(?![a-z]) ?({_VARIABLE})(<|\\le|\\lt)(?![a-z]) ?([^<>]+)")
_ONE_SIDED = re.compile(rf"({_VARIABLE})(<|>|\\le|\\lt|\\ge|\\gt)(?![a-z]) ?([^<>]+)")
_RELATION = re.compile(r"[<>]|\\(?:le|lt|ge|gt)(?![a-z])")
_WORKED = re.compile(r"(?:[-+0-9.,/(){}^ ]|\\(?:cdot|frac|sqrt|pi)(?![a-z]))+=(?=.)")  # 2 + 3 = 5
_TIME = re.compile(r"[0-9]{1,2}:[0-9]{2}[ a-zA-Z.]{0,6}")
_MATRIX = re.compile(r"\\begin\{([pbvB]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_EMPTY = (r"\emptyset", r"\varnothing", r"\{\}", "{}", r"\text{empty set}")


@lru_cache(maxsize=20_000)
def form(answer: str, percent: Percent = "unit") -> Form:
    """The form of an answer as somebody wrote it."""
    return _form(normalise(answer, percent), 0)


def _form(text: str, depth: int) -> Form:
    if not text:
        return Form("empty", text)
    if (value := exact(text)) is not None:
        return Form("number", text, text, value)
    if text in _EMPTY:
        return Form("set", text, text)
    if depth < MAX_DEPTH and (found := _structure(text, depth)) is not None:
        return found
    if words(text):
        return Form("text", text, " ".join(_TEXT.sub(r" \1 ", text).split()).casefold().strip(" ."))
    if _TIME.fullmatch(text):
        return Form("text", text, text.casefold().replace(".", "").replace(" ", ""))
    if _BASED.fullmatch(text):
        return Form("text", text, text.replace("{", "").replace("}", ""))
    if _SIDE_BY_SIDE.search(text):  # the library would add them, as in a mixed number
        return Form("text", text, text)
    return Form("leaf", text, text)


def exact(text: str) -> Fraction | None:
    """The rational number that a normal spelling writes down, None where it is anything else."""
    if (number := as_number(text)) is not None:
        return number
    if found := _FRACTION.fullmatch(text):
        below = int(found[3])
        return None if not below else Fraction(int(found[1] + "1") * int(found[2]), below)
    if found := _MIXED.fullmatch(text):
        above, below = int(found[3] or found[5]), int(found[4] or found[6])
        return None if not below else int(found[1] + "1") * (int(found[2]) + Fraction(above, below))
    if found := _POWER.fullmatch(text):
        base, power = int(found[1]), int(found[2])
        small = abs(power) * len(found[1]) <= MAX_POWER and (base or power > 0)
        return Fraction(base) ** power if small else None
    if found := _SCIENTIFIC.fullmatch(text):
        return Fraction(found[1]) * Fraction(10) ** int(found[2]) if abs(int(found[2])) <= MAX_POWER else None
    return None


def words(text: str) -> bool:
    r"""Whether there are words in it that are no mathematics: three letters in a row that are no command."""
    return r"\text{" in text or bool(_WORDS.search(re.sub(r"\\(?:begin|end)\{[a-z]*\}|\\[a-zA-Z]+", "", text)))


def _structure(text: str, depth: int) -> Form | None:
    if found := _MATRIX.fullmatch(text):
        rows = [row.split("&") for row in found[2].strip("\\").split("\\\\")]
        shape = f"{len(rows)}x{len(rows[0])}"
        regular = len({len(row) for row in rows}) == 1
        return _parts("matrix", text, [cell for row in rows for cell in row], depth, shape) if regular else None
    parts = split(text, r"\cup")
    if len(parts) > 1:
        return _parts("union", text, parts, depth)
    parts = split(text, ",")
    if len(parts) > 1:
        return _collected(text, parts, depth)
    if named := _NAMED.match(text) or _WORKED.match(text):
        inner = _form(split(text[named.end() :], "=")[-1], depth + 1)  # x = 2 + 3 = 5
        return inner._replace(text=text) if inner.kind != "empty" else None
    if (enclosed := _enclosed(text, depth)) is not None:
        return enclosed
    if text.count(r"\pm") == 1:
        return _collected(text, [text.replace(r"\pm", sign).removeprefix("+") for sign in "+-"], depth)
    return _inequality(text, depth)


def _enclosed(text: str, depth: int) -> Form | None:
    r"""What stands in brackets or `\{ \}` as a whole."""
    if text.startswith((r"\{", "{")) and text.endswith("}"):
        skip = 2 if text[0] == "\\" else 1
        inner = text[skip:].removesuffix("}").removesuffix("\\")
        if closing(text.replace(r"\}", "}"), skip - 1) == len(text.replace(r"\}", "}")) - 1:
            return _collected(text, split(inner, ","), depth)
    if text[0] in "([" and text[-1] in ")]" and _matching(text):
        parts = split(text[1:-1], ",")
        if len(parts) > 1:
            return _parts("row", text, parts, depth, text[0] + text[-1])
        if text[0] + text[-1] == "()":  # "(C)", or brackets that do nothing
            alone = _form(parts[0], depth + 1)
            return alone._replace(text=text) if alone.kind != "empty" else None
    return None


def _collected(text: str, parts: list[str], depth: int) -> Form | None:
    """A set: order and repetition do not count. One element alone is itself."""
    whole = _parts("set", text, parts, depth)
    if whole is None or not all(parts):
        return None
    named = [_NAMED.match(part) for part in parts]
    names = [found[1] if found else "" for found in named]
    items: list[Form] = []
    for item, name in zip(whole.items, names, strict=True):
        if name and len(set(names)) > 1:  # x = 1, y = 2
            items.append(Form("named", item.text, item.text, None, (item,), name))
        else:
            items += item.items if item.kind == "set" else (item,)  # 1, 2 ± 3
    if len(items) == 1:
        return items[0]._replace(text=text)
    intervals = all(item.kind == "row" and _RELATION.search(item.text) for item in items)  # x < 2 or x > 3
    return Form("union" if intervals else "set", text, text, None, tuple(items))


def _parts(kind: Kind, text: str, parts: list[str], depth: int, brackets: str = "") -> Form | None:
    """A structure of these parts, None where there are too many."""
    if len(parts) > MAX_ITEMS:
        return None
    return Form(kind, text, text, None, tuple(_form(part, depth + 1) for part in parts), brackets)


def _inequality(text: str, depth: int) -> Form | None:
    """A line of inequalities in one variable, as its interval."""
    if found := _BETWEEN.fullmatch(text):
        low, high = found[1], found[5]
        brackets = ("(" if found[2] in ("<", r"\lt") else "[") + (")" if found[4] in ("<", r"\lt") else "]")
    elif found := _ONE_SIDED.fullmatch(text):
        strict = found[2] in ("<", ">", r"\lt", r"\gt")
        below = found[2] in ("<", r"\lt", r"\le")
        low, high = (r"-\infty", found[3]) if below else (found[3], r"\infty")
        brackets = ("(" if strict or below else "[") + (")" if strict or not below else "]")
    else:
        return None
    return _parts("row", text, [low, high], depth, brackets)


def split(text: str, at: str) -> list[str]:
    """The parts between the separators that stand outside of all brackets."""
    parts, depth, start, place = [], 0, 0, 0
    while place < len(text):
        if text[place] in "([{":
            depth += 1
        elif text[place] in ")]}":
            depth -= 1
        elif depth == 0 and text.startswith(at, place):
            parts.append(text[start:place].strip())
            place += len(at)
            start = place
            continue
        place += 1
    return [*parts, text[start:].strip()]


def _matching(text: str) -> bool:
    """Whether the first bracket and the last belong together, of whatever kind the two are."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in "([") - (sign in ")]")
        if depth == 0:
            return place == len(text) - 1
    return False
