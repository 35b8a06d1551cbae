r"""What a mathematical answer is: a number, a text, an expression, or a structure of these.

A structure is taken apart here, because its meaning is in its signs: `(1, 2)` is not `(2, 1)`, `[0, 1)` is not `[0,
1]`, but `\{1, 2\}` is `\{2, 1\}` and so is a bare list `2, 1`. Numbers are exact rationals. Everything else is a leaf,
an expression for the symbolic step. A line of inequalities in one variable is its interval. `x = 5` is 5, but if a list
assigns to several variables, the variables stay.

Pure strings and fractions, linear in the text but for nesting, of which `MAX_DEPTH` levels are followed.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NamedTuple

from samplewise.verify.maths.normal import Percent, closing, normalise
from samplewise.verify.numbers import as_number

Kind = Literal["empty", "number", "text", "leaf", "row", "set", "union", "matrix", "named"]

MAX_DEPTH = 8  # levels of structures within structures
MAX_ITEMS = 64  # of a structure; a longer one is compared as a text
MAX_POWER = 64  # digits of a power that is worked out here


class MathsForm(NamedTuple):
    """`text` is the normal spelling of the whole answer, `inner` of what is compared: without "x =" in front."""

    kind: Kind
    text: str
    inner: str = ""
    value: Fraction | None = None  # of a number
    items: tuple[MathsForm, ...] = ()
    brackets: str = ""  # of a row, as written; of a matrix its shape; the variable of something named


_WHOLE = r"[-+]?[0-9]{1,40}"
_FRACTION = re.compile(rf"([-+]?)\\frac\{{({_WHOLE})\}}\{{({_WHOLE})\}}")
_MIXED = re.compile(r"([-+]?)([0-9]{1,20})(?:\\frac\{([0-9]{1,20})\}\{([0-9]{1,20})\}| ([0-9]{1,20})/([0-9]{1,20}))")
_POWER = re.compile(rf"([0-9]{{1,12}})\^\{{({_WHOLE})\}}")
_REPEATING = re.compile(
    r"([-+]?)([0-9]{0,20})\.([0-9]{0,20}?)(?:\\overline\{([0-9]{1,20})\}|((?:\\dot\{[0-9]\}[0-9]{0,18}){1,2}))"
)
_SCIENTIFIC = re.compile(r"([-+]?[0-9]{1,20}(?:\.[0-9]{1,20})?)(?:\\cdot)?10\^\{([-+]?[0-9]{1,3})\}")
_VARIABLE_NAME = r"(?:[a-zA-Z]|\\[a-z]+)(?:_\{?\w\}?)?(?:\([a-z]\))?"
_NAMED = re.compile(rf"({_VARIABLE_NAME})(?:=|\\in(?![a-z]))(?=.)")
_NAME = re.compile(_VARIABLE_NAME)
_CONSTANTS = (r"\pi", r"\infty", r"\emptyset", "e", "i")  # letters that are no variables
_WORDS = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_BASED = re.compile(r"[0-9A-Za-z]+_\{?[0-9]+\}?")
_SIDE_BY_SIDE = re.compile(r"[0-9] [0-9]|(?:^|[-+(=])[0-9]+\{")
_VARIABLE = re.compile(r"[a-zA-Z]|\\[a-z]+")
_RELATION = re.compile(r"(?P<less><|\\(?:le|lt)(?![a-z]))|(?:>|\\(?:ge|gt)(?![a-z]))")
_WORKED = re.compile(r"(?:[-+0-9.,/(){}^ ]|\\(?:cdot|frac|sqrt|pi)(?![a-z]))+=(?=.)")  # 2 + 3 = 5
_TIME = re.compile(r"[0-9]{1,2}:[0-9]{2}[ a-zA-Z.]{0,6}")
_ROW_END = re.compile(r"\\\\(?:\[[0-9.]+[a-z]{2}\])?")  # with or without more room below
_MATRIX = re.compile(r"\\begin\{([pbvB]?(?:small)?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_EMPTY = (r"\emptyset", r"\varnothing", r"\{\}", "{}", r"\text{empty set}")


@lru_cache(maxsize=20_000)
def maths_form(answer: str, percent: Percent = "unit") -> MathsForm:
    """Return the form of an answer as somebody wrote it."""
    return _form(normalise(answer, percent), 0)


def _form(text: str, depth: int) -> MathsForm:
    if not text:
        return MathsForm("empty", text)
    if (value := exact(text)) is not None:
        return MathsForm("number", text, text, value)
    if text in _EMPTY:
        return MathsForm("set", text, text)
    if depth < MAX_DEPTH and (structure := _structure(text, depth)) is not None:
        return structure
    if has_words(text):
        return MathsForm("text", text, " ".join(_TEXT.sub(r" \1 ", text).split()).casefold().strip(" ."))
    if _TIME.fullmatch(text):
        return MathsForm("text", text, text.casefold().replace(".", "").replace(" ", ""))
    if _BASED.fullmatch(text):
        return MathsForm("text", text, text.replace("{", "").replace("}", ""))
    if _SIDE_BY_SIDE.search(text):  # the library would add them, as in a mixed number
        return MathsForm("text", text, text)
    return MathsForm("leaf", text, text)


def exact(text: str) -> Fraction | None:
    """Return the rational number that a normal spelling writes down, or None."""
    if (number := as_number(text)) is not None:
        return number
    if match := _FRACTION.fullmatch(text):
        below = int(match[3])
        return None if not below else Fraction(int(match[1] + "1") * int(match[2]), below)
    if match := _MIXED.fullmatch(text):
        above, below = int(match[3] or match[5]), int(match[4] or match[6])
        return None if not below else int(match[1] + "1") * (int(match[2]) + Fraction(above, below))
    if match := _POWER.fullmatch(text):
        base, power = int(match[1]), int(match[2])
        small = abs(power) * len(match[1]) <= MAX_POWER and (base or power > 0)
        return Fraction(base) ** power if small else None
    if match := _REPEATING.fullmatch(text):
        return _repeating(match)
    if match := _SCIENTIFIC.fullmatch(text):
        return Fraction(match[1]) * Fraction(10) ** int(match[2]) if abs(int(match[2])) <= MAX_POWER else None
    return None


def _repeating(match: re.Match[str]) -> Fraction | None:
    r"""Return 0.1\overline{6}, or 0.1\dot{6}, as the fraction that it is.

    Two dots enclose the digits that repeat, one stands over the only one.
    """
    sign, whole, fixed, line, dots = match.groups()
    period = line
    if period is None:
        if not dots.endswith("}") or (dots.count("dot") == 1 and len(dots) > len(r"\dot{6}")):
            return None
        period = re.sub(r"[^0-9]", "", dots)
    value = Fraction(
        int(f"{whole}{fixed}{period}") - int(f"0{whole}{fixed}"), 10 ** len(fixed) * (10 ** len(period) - 1)
    )
    return -value if sign == "-" else value


def has_words(text: str) -> bool:
    """Return whether there are words that are no mathematics: three letters in a row that are no command."""
    return r"\text{" in text or bool(_WORDS.search(re.sub(r"\\(?:begin|end)\{[a-z]*\}|\\[a-zA-Z]+", "", text)))


def _structure(text: str, depth: int) -> MathsForm | None:
    if matrix := _MATRIX.fullmatch(text):
        rows = [row.split("&") for row in _ROW_END.split(matrix[2]) if row.strip()]
        shape = f"{len(rows)}x{len(rows[0])}"
        regular = len({len(row) for row in rows}) == 1
        return _parts("matrix", text, [cell for row in rows for cell in row], depth, shape) if regular else None
    parts = split_outside_brackets(text, r"\cup")
    if len(parts) > 1:
        return _parts("union", text, parts, depth)
    parts = split_outside_brackets(text, ",")
    if len(parts) > 1:
        return _collected(text, parts, depth)
    if (assigned := _assignment(text)) is not None:
        inner = _form(assigned[1], depth + 1)
        return inner._replace(text=text) if inner.kind != "empty" else None
    if (enclosed := _enclosed(text, depth)) is not None:
        return enclosed
    if text.count(r"\pm") == 1:
        return _collected(text, [text.replace(r"\pm", sign).removeprefix("+") for sign in "+-"], depth)
    return _inequality(text, depth)


def _assignment(text: str) -> tuple[str, str] | None:
    """Return the variable and what it is: of `x = 2 + 3 = 5`, of `5 = x`, and ("", "5") of `2 + 3 = 5`."""
    if named := _NAMED.match(text):
        return named[1], split_outside_brackets(text[named.end() :], "=")[-1]
    sides = split_outside_brackets(text, "=")
    if len(sides) > 1 and _NAME.fullmatch(sides[-1]) and sides[-1] not in _CONSTANTS:
        return sides[-1], sides[-2]
    return ("", sides[-1]) if _WORKED.match(text) else None


def _enclosed(text: str, depth: int) -> MathsForm | None:
    r"""Return the form of what stands in brackets or `\{ \}` as a whole, or None."""
    if text.startswith((r"\{", "{")) and text.endswith("}"):
        skip = 2 if text[0] == "\\" else 1
        inner = text[skip:].removesuffix("}").removesuffix("\\")
        if closing(text.replace(r"\}", "}"), skip - 1) == len(text.replace(r"\}", "}")) - 1:
            return _collected(text, split_outside_brackets(inner, ","), depth)
    if text[0] in "([" and text[-1] in ")]" and _matching(text):
        parts = split_outside_brackets(text[1:-1], ",")
        if len(parts) > 1:
            return _parts("row", text, parts, depth, text[0] + text[-1])
        if text[0] + text[-1] == "()":  # "(C)", or brackets that do nothing
            alone = _form(parts[0], depth + 1)
            return alone._replace(text=text) if alone.kind != "empty" else None
    return None


def _collected(text: str, parts: list[str], depth: int) -> MathsForm | None:
    """Return a set: order and repetition do not count. A single element is itself."""
    as_set = _parts("set", text, parts, depth)
    if as_set is None or not all(parts):
        return None
    names = [(_assignment(part) or ("",))[0] for part in parts]
    items: list[MathsForm] = []
    for item, name in zip(as_set.items, names, strict=True):
        if name and len(set(names)) > 1:  # x = 1, y = 2
            items.append(MathsForm("named", item.text, item.text, None, (item,), name))
        else:
            items += item.items if item.kind == "set" else (item,)  # 1, 2 ± 3
    if len(items) == 1:
        return items[0]._replace(text=text)
    intervals = all(item.kind == "row" and _RELATION.search(item.text) for item in items)  # x < 2 or x > 3
    return MathsForm("union" if intervals else "set", text, text, None, tuple(items))


def _parts(kind: Kind, text: str, parts: list[str], depth: int, brackets: str = "") -> MathsForm | None:
    """Return a structure of these parts, or None if there are too many."""
    if len(parts) > MAX_ITEMS:
        return None
    return MathsForm(kind, text, text, None, tuple(_form(part, depth + 1) for part in parts), brackets)


def _inequality(text: str, depth: int) -> MathsForm | None:
    """Return a line of inequalities in one variable as its interval, or None."""
    signs = list(_RELATION.finditer(text))
    ends = [0, *(sign.end() for sign in signs)]
    sides = [text[start:end].strip() for start, end in zip(ends, [*(s.start() for s in signs), len(text)], strict=True)]
    if not 1 <= len(signs) <= 2 or not all(sides) or len({sign["less"] is None for sign in signs}) > 1:
        return None
    strict = [sign[0] in ("<", ">", r"\lt", r"\gt") for sign in signs]
    if signs[0]["less"] is None:
        sides, strict = sides[::-1], strict[::-1]
    if len(sides) == 3 and _VARIABLE.fullmatch(sides[1]):
        low, high = sides[0], sides[2]
    elif len(sides) == 2 and _is_variable(sides[0]) != _is_variable(sides[1]):
        low, high = (r"-\infty", sides[1]) if _is_variable(sides[0]) else (sides[0], r"\infty")
        strict = [True, *strict] if _is_variable(sides[0]) else [*strict, True]
    else:
        return None
    return _parts("row", text, [low, high], depth, ("(" if strict[0] else "[") + (")" if strict[1] else "]"))


def _is_variable(text: str) -> bool:
    return _VARIABLE.fullmatch(text) is not None and text not in _CONSTANTS


def split_outside_brackets(text: str, separator: str) -> list[str]:
    """Split the text at the separators that stand outside of all brackets."""
    parts, depth, start, index = [], 0, 0, 0
    while index < len(text):
        if text[index] in "([{":
            depth += 1
        elif text[index] in ")]}":
            depth -= 1
        elif depth == 0 and text.startswith(separator, index):
            parts.append(text[start:index].strip())
            index += len(separator)
            start = index
            continue
        index += 1
    return [*parts, text[start:].strip()]


def _matching(text: str) -> bool:
    """Return whether the first and the last bracket match, round and square alike."""
    depth = 0
    for index, sign in enumerate(text):
        depth += (sign in "([") - (sign in ")]")
        if depth == 0:
            return index == len(text) - 1
    return False
