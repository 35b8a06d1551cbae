r"""Numbers in a text: a grammar of how they are written, and the value that each expression means.

An expression is read as a whole or not at all, so that a part of it never passes for another number:

- one number: `1,000`, `1 000` (also with thin spaces), `1'000`, `1.234,56`, `.5`, `1/2`, `1 1/2`, `2½`, `2 and a half`,
  `1\frac{1}{2}`, `3 × 10^5`, `1e5`, `2^10`, `5 million`, each with a sign, a currency before or after it, a percent
  sign or a unit, in plain text, Markdown or LaTeX;
- an equation: `17 * 23 = 391` and `391 = 17 * 23` are 391, and sides that contradict each other are no number;
- what has no single number is an expression with the value None: ranges (`20 to 30`), times (`12:00`), ratios, dates,
  versions, durations of two units (`3 hours and 20 minutes`), sums without a result, roots, coefficients (`3x`), bounds
  ("at least 5"), and `3,5`, which may be one number or two. Nothing is computed but powers.

`50%` and `5 kg` hold the numbers 50 and 5. Numerals are those of ASCII, at most `MAX_DIGITS` digits long. Pure, exact,
linear in the text.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

MAX_DIGITS = 40
MAX_GAP = 60  # characters between two numbers of one expression
MAX_POWER = 300  # of ten
MAX_POWER_DIGITS = 120  # of a power that is worked out
AROUND = " \t\r\n\"'`*_$“”‘’"

# ------------------------------------------------------------------------------------------------ one way of writing

_VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
_SUPERSCRIPTS = {ord(sign): plain for sign, plain in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+", strict=True)}
_TABLE = {
    **dict.fromkeys(map(ord, "−﹣－‒‑‐"), "-"),
    **dict.fromkeys(map(ord, "⋅·∙✕✖⨯"), "×"),
    **dict.fromkeys(map(ord, "\u2009\u202f\u2007\u2008"), "\u00a0"),
    **dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"), None),
    **dict.fromkeys(map(ord, "⇒⟹➜⟶➔"), "→"),
    **dict.fromkeys(map(ord, "≃≅≐"), "≈"),
    **dict.fromkeys(map(ord, "≤⩽≦"), "<"),
    **dict.fromkeys(map(ord, "≥⩾≧"), ">"),
    **{ord("’"): "'", ord("′"): "'", ord("″"): '"', ord("＄"): "$", ord("％"): "%", ord("∕"): "/", ord("…"): "..."},
}
_LATEX = {
    **dict.fromkeys(("times", "cdot", "ast"), "×"),
    **dict.fromkeys(("approx", "simeq", "doteq", "cong"), "≈"),
    **dict.fromkeys(("to", "rightarrow", "Rightarrow", "implies", "longrightarrow"), "→"),
    **dict.fromkeys(("le", "leq", "leqslant", "lt"), "<"),
    **dict.fromkeys(("ge", "geq", "geqslant", "gt"), ">"),
    **dict.fromkeys(("ldots", "dots", "cdots"), "..."),
    **dict.fromkeys(("left", "right", "big", "Big", "bigl", "bigr", "displaystyle", "limits"), ""),
    **dict.fromkeys(("quad", "qquad", "newline", "item", "therefore", "because", "enspace"), " "),
    **{"div": "÷", "pm": "±", "degree": "°", "circ": "°", "euro": "€", "pounds": "£", "ne": "≠", "neq": "≠"},
}
_WRAPPED = re.compile(
    r"\\(?:text(?:bf|it|rm|sf)?|math(?:rm|bf|it|sf)|mbox|boxed|fbox|bf|operatorname)\s?\{([^{}\\]*)\}"
)
_FRACTION = re.compile(
    r"([0-9]\s?)?\\[dtc]?frac\s?(?:\{\s?([0-9]{1,40})\s?\}\s?\{\s?([0-9]{1,40})\s?\}|([0-9])([0-9])(?![0-9]))"
)
_COMMAND = re.compile(r"\\([a-zA-Z]+)(?![a-zA-Z])")
_THIN = re.compile(r"(?<=[0-9])\\[,!;:](?=[0-9]{3})")
_DELIMITER = re.compile(r"\\[()\[\],!;: ]|\\\\(?![a-zA-Z])")
_DEGREE = re.compile(r"\^\s?\{?\s?°(?:\s?\})?")
_DOLLAR = re.compile(r"\\([$%#&_])")
_NOTE = re.compile(r"<<[^<>\n]{0,200}>>")  # 3+4=<<3+4=7>>7
_TAG = re.compile(r"</?[a-zA-Z][^<>\n]{0,80}>")
_OPENING = re.compile(r"(?<![\w)\]}.%*_`])[*_`]{1,3}(?=[^\s*_`])")
_CLOSING = re.compile(r"(?<=[^\s*_`])(?:\*{1,3}|_{1,3}|`{1,3})(?![\w(\[{$\\*_`]|[-.][0-9])")


def plain(text: str) -> str:
    """Return a text without Markdown emphasis, LaTeX layout, tags and calculator notes; lines stay lines."""
    text = text.translate(_TABLE).replace("{,}", ",").replace("&nbsp;", "\u00a0")
    if "<" in text:
        text = _TAG.sub("", _NOTE.sub("", text))
    if "\\" in text:
        text = _DOLLAR.sub(r"\1", _THIN.sub("", text))
        text = _DELIMITER.sub(" ", _COMMAND.sub(_command, _FRACTION.sub(_in_line, _WRAPPED.sub(r" \1 ", text))))
        text = _DEGREE.sub("°", text)
    if "*" in text or "_" in text or "`" in text:
        text = _CLOSING.sub("", _OPENING.sub("", text))
    return text


def _command(match: re.Match[str]) -> str:
    return _LATEX.get(match[1], match[0])


def _in_line(match: re.Match[str]) -> str:
    before = f"{match[1].rstrip()} " if match[1] else ""
    return f"{before}{match[2] or match[4]}⁄{match[3] or match[5]}"


# --------------------------------------------------------------------------------------------------------- one number

_START = re.compile(rf"(?<![^\W_])(?:[0-9]|(?<!\.)\.[0-9]|[{_VULGAR}]|(?![0-9])\d)")
_SIGNED = re.compile(
    r"(?<![\w.)\]}%$€£°'\"])[-+][$€£¥₹]?$|(?<![\w.)\]}%])[$€£¥₹]\s?[-+]$|(?:(?<=[=≈→({\[])|(?<=[=≈→({\[]\s))- [$€£¥₹]?$"
    r"|(?<![\w.)\]}%°'\"])(?<![0-9]\s)–[$€£¥₹]?$|(?<![\w.)\]}%])-\($"
    r"|(?i:(?<![\w-])negative|(?:^|(?<=\bis\s)|(?<=\bequals\s)|(?<=[=(:]\s)|(?<=[=(:]))minus)\s[$€£¥₹]?$"
)
_SPACED = re.compile(
    r"([1-9][0-9]{0,2})(?:(\u00a0)[0-9]{3}(?:\u00a0[0-9]{3})*|( )[0-9]{3}(?: [0-9]{3})*)"
    r"(?:[.,][0-9]{1,40})?(?![0-9/⁄]|[.,'_][0-9])"
)
_JOINED = re.compile(r"(?:[0-9]+|\.[0-9]+)(?:[.,'_][0-9]+)*")
_THOUSANDS = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,12}|[1-9][0-9]{0,2}(?:['_][0-9]{3}){1,12})(?:\.[0-9]{1,40})?")
_EUROPEAN = re.compile(r"[1-9][0-9]{0,2}(?:(?:\.[0-9]{3}){2,12}(?:,[0-9]{1,40})?|\.[0-9]{3},[0-9]{1,40})")
_DECIMAL = re.compile(r"[0-9]{0,40}(?:\.[0-9]{1,40})?")
_ONE_COMMA = re.compile(r"[0-9]{1,40},[0-9]{1,40}")
_INDIAN = re.compile(r"[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}")
_LIST = re.compile(r"[0-9]{1,40}(?:,[0-9]{1,40}){2,}")
_EXPONENT = re.compile(r"[eE]([-+]?[0-9]{1,2})(?!\w|\.[0-9])")
_OVER = re.compile(r"[/⁄]([0-9]{1,40})(?![0-9])")
_MIXED = re.compile(r"[ \u00a0]([0-9]{1,20})[/⁄]([0-9]{1,20})(?![0-9/⁄]|[.,][0-9])")
_AND_PART = re.compile(
    r"(?:\s[a-z]{1,12})?(?:\sand|\s?-\s?and\s?-)\s(?:(a|one|two|three)[ -](half|thirds?|quarters?|fourths?)\b)", re.I
)
_PARTS = {"half": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4}
_COUNTS = {"a": 1, "one": 1, "two": 2, "three": 3}
_POWER = re.compile(
    r"\s?(?:\^|\*\*)\s?(?:\{\s?([-+]?[0-9]{1,3})\s?\}|\(([-+]?[0-9]{1,3})\)|([-+]?[0-9]{1,3}))(?![\w.^]*\w)"
)
_RAISED = re.compile(r"[⁻⁺]?[⁰¹²³⁴-⁹]+")
_TIMES_TEN = re.compile(r"\s?[×xX*]\s?10(?=[\^⁰¹²³⁴-⁹⁻⁺]|\*\*)")
_MULTIPLES = {
    **{"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "lakh": 5, "crore": 7},
}
_MULTIPLE = re.compile(rf"[\s-]({'|'.join(_MULTIPLES)})\b", re.I)
_SIGNS_AFTER = re.compile(r"\s?[%‰°¢€£¥₹](?:\s?[CFK]\b)?|\$")
_ATTACHED = re.compile(r"[^\W\d]\w*")
_MORE = re.compile(r"(?:[:/⁄][0-9.]+)+")  # a time, a date
_HOUR = re.compile(r"\s?(?:[ap]\.?m\b|o'clock)", re.I)
_FACTORIAL = re.compile(r"!(?=\s?[=+*/×÷^)a-z-]|[!$]|\w)")
_AFTER = re.compile(
    r"\s?(?:[*×÷^+]\s?\(?(?:[^\W\d]|\\)|[-/]\s?\(?[b-zB-HJ-Z](?!\w|')|\\[a-zA-Z]|[π√∛∞]|[xyznkθ](?![\w'])(?!\s[$€£(0-9]))"
    r"|\((?=[^\W\d])|\s?[-+×*/÷]\s?\((?=[^\W\d])|\s(?:squared|cubed|factorial|choose)\b|\s?±"
    r"|\sor (?:more|less|fewer)\b|\+(?!\s?[0-9(])"
    r"|\.\([0-9]|\.\\(?:overline|bar|dot)|[\u0304\u0305\u0307]|\sto the (?:power|[0-9]|nth)|\.{3,}(?=[^0-9.]|$)"
)
_MONTHS = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sep(?:t(?:ember)?)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)"
)
_MONTH_AFTER = re.compile(rf"(?:\sof)?\s{_MONTHS}\b(?!\s(?:I|he|she|they|we|you|be|have)\b)")
_BEFORE = re.compile(
    r"(?:\\[a-zA-Z]+|[√∛])\s?[\[({]*\s?$"
    r"|\w[({\[]\s?$"
    r"|[^\W\d_]-$"
    r"|(?:^|[^\n\s])[ \t]*[<>±≠]=?\s?[$€£¥]?$"
    r"|(?:\b[a-zA-Z]|[)\]}])\s?[-+*/×÷]\s?\(?\s?[$€£¥]?$"
    r"|[^\W\d]\s?[+*×÷]\s?\(?\s?[$€£¥]?$|[^\W\d]/$|(?i:[^\W\d]\s(?:minus|plus|times)\s[$€£¥]?$)"
    r"|(?i:\b(?:roots?|logs?|ln|sqrt|sin|cos|tan)(?: of)?|\b(?:half|twice|double|triple|third|quarters?|thirds)(?: of)?"
    r"|\b(?:at least|at most|more than|less than|greater than|fewer than|(?<!round )(?<!rounds )(?<!rounded )up to"
    r"|between|version|upwards of|powers? of)"
    rf"|\b(?-i:{_MONTHS})\.?)\s[(\s]*[$€£¥]?$"
)
_LETTER_AFTER = re.compile(
    r"\s?[-*×÷^+/]\s?\(?[b-zB-HJ-Z](?![\w'])|[xyzn](?![a-zA-Z])|\s[xyznkθ](?![\w'])(?!\s[$€£(0-9])"
)
_LETTER_BEFORE = re.compile(r"\b[a-zA-Z]\s?[-+*/×÷]\s?\(?$")
_INDEX = re.compile(r"[\w)}\]°%][\^_]\{?\s?[-+]?$")
_RAISED_UNIT = re.compile(r"(?:[0-9}]\s{0,4}|[/·]\s?|per |square )[a-zA-Z]{1,5}\s?\^\{?\s?-?$")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ORDINALS = _words("st nd rd th")
_UNITS_ATTACHED = _words(
    "mm cm dm m km in ft yd mi g kg mg lb lbs oz l L ml mL cl s sec secs min mins h hr hrs ms mph kph kmh kW"
    " kWh W V kV Hz kHz MHz GHz J kJ N Pa kPa A mA C F cal kcal kb Mb Gb kB KB MB GB TB bps kbps Mbps pc pcs px"
    " pt pts sq USD EUR GBP dollars euros cents years days hours minutes percent"
)


class _Item(NamedTuple):
    """One number in a text. `value` None: it is no single number."""

    start: int
    end: int
    value: Fraction | None
    strict: bool = False  # a plain numeral: nothing but sign, currency, digits, exponent, fraction
    algebra: bool = False  # an operand beside an unknown one


def _items(text: str) -> list[_Item]:
    items: list[_Item] = []
    position = 0
    while match := _START.search(text, position):
        start = match.start()
        for item in _read_items(text, start):
            items.append(item)
            position = item.end
        if position <= start:  # the index or the power of a letter: no number of its own
            position = start + 1
            while position < len(text) and text[position].isdigit():
                position += 1
    return items


def _read_items(text: str, start: int) -> list[_Item]:
    """Return the number that begins at `start`; several if it is a list without spaces; none if it is an index."""
    before = text[max(0, start - 24) : start]
    if _RAISED_UNIT.search(before):
        return []
    if _INDEX.search(before):
        end = start
        while end < len(text) and text[end].isdigit():
            end += 1
        return [_Item(start, end, None, algebra=True)]
    sign = _SIGNED.search(before)
    begin = start - len(sign[0]) if sign else start
    if sign is None and before[-1:] and before[-1] in "$€£¥₹":
        begin = start - 1
    elif sign is None and before[-2:-1] and before[-2] in "$€£¥₹" and before[-1] == " " and before[-3:-2].isspace():
        begin = start - 2
    is_negative = sign is not None and re.search("[-–a-z]", sign[0]) is not None
    context = before[: len(before) - (start - begin)] if sign else before
    is_tainted = _BEFORE.search(context) is not None

    spaced = _SPACED.match(text, start)
    joined = spaced or _JOINED.match(text, start)
    if text[start] in _VULGAR:
        value: Fraction | None = _vulgar(text[start])
        end, is_whole, is_strict = start + 1, False, False
    elif joined is None:  # digits of other scripts
        end = start + 1
        while end < len(text) and text[end].isdigit():
            end += 1
        return [_Item(begin, end, None)]
    else:
        written, end = joined[0], joined.end()
        is_one = _THOUSANDS.fullmatch(written) or _INDIAN.fullmatch(written)
        if not spaced and _LIST.fullmatch(written) and not is_one:
            return _listed(written, start, begin, is_negative, is_tainted)
        value, is_strict = (_spaced_value(text, spaced), False) if spaced else _numeral(written)
        if value is None and not spaced and _ONE_COMMA.fullmatch(written):
            value = _decimal_comma(text, written, before, end)
        is_whole = value is not None and "." not in written and value.denominator == 1
    if joined is not None and before.endswith(("€", "€ ")) and re.fullmatch(r"[1-9][0-9]{0,2}\.[0-9]{3}", joined[0]):
        value = None  # 1234 or 1.234

    is_algebra = _LETTER_AFTER.match(text, end) or _LETTER_BEFORE.search(context)
    value, end, plainly, unknown = _extended(text, value, end, is_whole)
    is_strict = is_strict and plainly and not spaced and (sign is None or sign[0].strip("$€£¥₹ ") in ("-", "+"))
    if unknown or is_tainted:
        return [_Item(begin, end, None, algebra=is_algebra is not None)]
    if value is not None and is_negative:
        value = -value
    return [_Item(begin, end, value, is_strict)]


def _listed(written: str, start: int, begin: int, is_negative: bool, is_tainted: bool) -> list[_Item]:
    """Return the numbers of `1,2,3`."""
    items, position = [], start
    for index, digits in enumerate(written.split(",")):
        value = None if is_tainted else Fraction(int(digits)) * (-1 if is_negative and not index else 1)
        items.append(_Item(begin if not index else position, position + len(digits), value))
        position += len(digits) + 1
    return items


def _numeral(written: str) -> tuple[Fraction | None, bool]:
    """Return the value of digits with separators, and whether they are a plain numeral."""
    if len(written) > 2 * MAX_DIGITS or sum(map(str.isdigit, written.partition(".")[0])) > MAX_DIGITS:
        return None, False
    if _THOUSANDS.fullmatch(written) and not re.match(r"0[0-9]*,", written):
        return Fraction(re.sub("[,'_]", "", written)), "'" not in written and "_" not in written
    if _EUROPEAN.fullmatch(written):
        return Fraction(written.replace(".", "").replace(",", ".")), False
    if _DECIMAL.fullmatch(written):
        return Fraction(written), True
    return None, False


def _spaced_value(text: str, match: re.Match[str]) -> Fraction | None:
    """Return the value of `1 234`. With plain spaces and a word after it, it may be two numbers: 3 100 dollar bills."""
    if match[3] and re.match(r"\s?[^\W\d]", text[match.end() : match.end() + 2]):
        return None
    written = match[0].replace("\u00a0", "").replace(" ", "")
    return Fraction(written.replace(",", "."))


def _decimal_comma(text: str, written: str, before: str, end: int) -> Fraction | None:
    """Return the value of `3,5` where a currency or a percent sign says that it is one number."""
    digits_after = len(written) - written.index(",") - 1
    has_sign = before.rstrip()[-1:] in ("€", "£") or re.match(r"[ \u00a0]?[€%]", text[end : end + 2])
    return Fraction(written.replace(",", ".")) if has_sign and digits_after != 3 else None


def _vulgar(sign: str) -> Fraction:
    return Fraction(unicodedata.numeric(sign)).limit_denominator(10)


def _extended(text: str, value: Fraction | None, end: int, is_whole: bool) -> tuple[Fraction | None, int, bool, bool]:
    """Follow what belongs to a number after its digits.

    Return its value, its end, whether only an exponent or a fraction followed, and whether an unknown operand does.
    """
    plainly = True
    if match := _EXPONENT.match(text, end):
        value = None if value is None else value * Fraction(10) ** int(match[1])
        end = match.end()
    elif match := _OVER.match(text, end):
        below = int(match[1])
        value = None if value is None or not below else value / below
        end = match.end()
        if more := _MORE.match(text, end):
            value, end = None, more.end()
        elif re.match(r"[.,][0-9]", text[end : end + 2]):
            more = _JOINED.match(text, end + 1)
            value, end = None, more.end() if more else end
    elif is_whole and text[end : end + 1] and text[end] in _VULGAR:
        value, end, plainly = (None if value is None else value + _vulgar(text[end])), end + 1, False
    elif is_whole and (match := _MIXED.match(text, end)):
        above, below = int(match[1]), int(match[2])
        value = None if value is None or not 0 < above < below else value + Fraction(above, below)
        end, plainly = match.end(), False
    elif match := _MORE.match(text, end):
        value, end, plainly = None, match.end(), False

    base_end = end
    while match := _POWER.match(text, end) or _RAISED.match(text, end):
        digits = match[0] if match.re is _RAISED else next(group for group in match.groups() if group)
        value = _power(value, int(digits.translate(_SUPERSCRIPTS))) if end == base_end else None
        end, plainly = match.end(), False
    if end == base_end and (match := _TIMES_TEN.match(text, end)):
        power = _POWER.match(text, match.end()) or _RAISED.match(text, match.end())
        if power is not None:
            digits = power[0] if power.re is _RAISED else next(group for group in power.groups() if group)
            exponent = int(digits.translate(_SUPERSCRIPTS))
            in_range = value is not None and abs(exponent) <= MAX_POWER
            value = value * Fraction(10) ** exponent if in_range and value is not None else None
            end, plainly = power.end(), False
    while match := _MULTIPLE.match(text, end):
        value = None if value is None else value * 10 ** _MULTIPLES[match[1].lower()]
        end, plainly = match.end(), False
    if match := _AND_PART.match(text, end):
        value = None if value is None else value + Fraction(_COUNTS[match[1].lower()], _PARTS[match[2].lower()])
        end, plainly = match.end(), False
    if _HOUR.match(text, end) or _FACTORIAL.match(text, end) or _MONTH_AFTER.match(text, end):
        return None, end, False, False
    unknown = _AFTER.match(text, end) is not None
    if match := _ATTACHED.match(text, end):
        run = match[0]
        is_times = run in ("x", "X") and re.match(r"[0-9.(]", text[match.end() : match.end() + 1])
        end = end if is_times else match.end()
        unknown = unknown and run in _UNITS_ATTACHED
        if (run.lower() in _ORDINALS and _MONTH_AFTER.match(text, end)) or (
            run not in _UNITS_ATTACHED and run.lower() not in _ORDINALS
        ):
            value = None
        return value, end, False, unknown or run in "xyzn"
    if match := _SIGNS_AFTER.match(text, end):
        end, plainly = match.end(), plainly and match[0] == "$"
    return value, end, plainly, unknown


def _power(base: Fraction | None, exponent: int) -> Fraction | None:
    if base is None or (base == 0 and exponent <= 0):
        return None
    digits = max(len(str(base.numerator)), len(str(base.denominator)))
    if base != 10 and digits * abs(exponent) > MAX_POWER_DIGITS:
        return None
    return base**exponent if abs(exponent) <= MAX_POWER else None


# -------------------------------------------------------------------------------------------------------- expressions

_EXPONENT_OF_UNIT = re.compile(r"(?<=[a-zA-Z])\^\{?-?[0-9]\}?(?=\W|$)")
_PIECE = re.compile(r"[^\W\d_]+(?:'[a-z]+)?|\.{2,}|\S")
_IGNORED = frozenset("()[]{}$%°€£¥¢‰₹\"'`#!_")
_ARITHMETIC = frozenset("+*×÷^")
_VERBS = _words("and by find get gets have has if is so that then to we where")
_DETERMINERS = _words("a an the about approximately around roughly exactly only just another")
_FAMILIES = (  # units of one kind
    _words(
        "year years yr yrs month months week weeks day days hour hours hr hrs h minute minutes min mins second seconds"
        " sec secs s"
    ),
    _words(
        "mile miles yard yards foot feet ft inch inches in kilometer kilometers km meter meters m centimeter"
        " centimeters cm mm"
    ),
    _words("pound pounds lb lbs ounce ounces oz kilogram kilograms kg gram grams g ton tons stone"),
    _words(
        "dollar dollars cent cents euro euros quarter quarters dime dimes nickel nickels penny pennies pound pounds"
        " pence"
    ),
    _words(
        "gallon gallons quart quarts pint pints cup cups tablespoon tablespoons teaspoon teaspoons liter liters ml"
        " milliliters"
    ),
    _words("degree degrees minute minutes second seconds"),
    _words("hundred thousand million billion trillion"),
)


class NumberExpression(NamedTuple):
    """Numbers that are one expression. `value` None: it has no single number."""

    start: int
    end: int
    value: Fraction | None
    is_list: bool = False  # "3, 4 and 5": several numbers, of which `value` is the last


def number_expressions(text: str) -> list[NumberExpression]:
    """Return the expressions in a text that `plain` has prepared, in order."""
    items = _items(text)
    groups: list[tuple[list[_Item], list[str]]] = []
    for item in items:
        if groups:
            last = groups[-1][0][-1]
            relation = _relation(text, last, item, any(r == "arithmetic" for r in groups[-1][1]))
            if relation != "apart":
                groups[-1][0].append(item)
                groups[-1][1].append(relation)
                continue
        groups.append(([item], []))
    return [_expression(text, members, relations) for members, relations in groups]


def _relation(text: str, left: _Item, right: _Item, is_sum: bool) -> str:
    """Return how two neighboring numbers belong together: "equals", "arithmetic", "list", "part" (no number in all),
    or "apart"."""
    gap = text[left.end : right.start]
    if len(gap) > MAX_GAP:
        return "apart"
    gap = _EXPONENT_OF_UNIT.sub(" ", gap)
    if "\n" in gap and not re.match(r"\s*[=≈]", gap):
        return "apart"
    pieces = ["×" if piece in ("x", "X") else piece for piece in _PIECE.findall(gap) if piece not in _IGNORED]
    words = [piece.lower() for piece in pieces if piece[0].isalpha()]
    signs = {piece for piece in pieces if not piece[0].isalpha()}
    if not pieces:
        stripped = gap.strip()
        if not stripped or stripped in ("'", '"', "°", "$"):
            return "part"
        if "(" in stripped or ")" in stripped:
            return "arithmetic" if not re.search(r"\s\(|\)\s", gap) else "apart"
        return "part" if not gap[:1].isspace() else "apart"
    if signs:
        num_after = next(index for index, piece in enumerate(reversed(pieces)) if not piece[0].isalpha())
        units = words[: len(words) - num_after]
        after = [word for word in words[len(words) - num_after :] if word not in _DETERMINERS]
        return _relation_of_signs(gap, signs, units, after, text, left, right)
    return _relation_of_words(words, text, left, right, is_sum)


def _relation_of_signs(
    gap: str, signs: set[str], units: list[str], after: list[str], text: str, left: _Item, right: _Item
) -> str:
    if signs & {"=", "≈", "→"} and not signs & {",", ";", "<", ">", "."}:
        return "equals" if len(after) <= 3 and len(units) <= 4 and not _VERBS & set(units) else "apart"
    if signs & {"<", ">", "≠", "±", "~"}:
        return "part" if not after and len(units) <= 3 else "apart"
    if signs & {".", "?", "|", "\\", "@"}:
        return "apart"
    if signs & {"..", "..."}:
        return "part" if not after else "apart"
    if signs & _ARITHMETIC and not signs & {",", ";", ":"}:
        return "arithmetic" if len(units) <= 4 and not after else "apart"
    if signs & {"-", "–", "/"}:
        return "arithmetic" if len(units) <= 3 and not after else "apart"
    if "—" in signs:
        return "arithmetic" if not units and not after and gap == "—" else "apart"
    if ":" in signs:
        return "part" if not units and not after and (gap == ":" or gap[0].isspace()) else "apart"
    if signs <= {",", ";", "&"} and len(units) <= 3 and set(after) <= {"and", "or"}:
        return "part" if _is_quantity(units, text, left, right) else "list"
    return "apart"


def _relation_of_words(words: list[str], text: str, left: _Item, right: _Item, is_sum: bool) -> str:
    core = [word for word in words if word not in _DETERMINERS]
    if not core:
        return "part"
    last, units = core[-1], core[:-1]
    if last in ("and", "or") and len(units) <= 3:
        return "part" if _is_quantity(units, text, left, right) else "list"
    if last in ("to", "through", "till", "until") and len(units) <= 2:
        return "part"
    if core in (["out", "of"], ["of"], ["in"], ["vs"], ["versus"]) or (last == "by" and len(units) <= 1):
        return "part" if core[-2:-1] not in (["divided"], ["multiplied"]) else "arithmetic"
    if last in ("plus", "minus", "times", "over") and len(units) <= 2:
        return "arithmetic"
    if core[-2:] in (["divided", "by"], ["multiplied", "by"]):
        return "arithmetic"
    if last == "equals" or core[-2:] == ["equal", "to"]:
        return "equals" if len(core) <= 4 else "apart"
    if is_sum and last in ("is", "makes", "gives", "are", "get", "yields") and len(core) <= 3:
        return "equals"
    if core[-2:] in (["more", "than"], ["less", "than"], ["fewer", "than"]) and len(core) <= 3:
        return "part"
    return "part" if len(core) == 1 and _is_quantity(core, text, left, right, needs_unit=True) else "apart"


def _is_quantity(units: list[str], text: str, left: _Item, right: _Item, *, needs_unit: bool = False) -> bool:
    """Return whether two numbers are one quantity in two units: 3 hours and 20 minutes."""
    ending = re.search(r"[a-zA-Z]+$", text[left.start : left.end])
    first = units[-1] if units else ending[0].lower() if ending else ""
    following = re.match(r"\s?-?([a-zA-Z]+)", text[right.end : right.end + 16])
    attached = re.search(r"[a-zA-Z]+$", text[right.start : right.end])
    second = (attached[0] if attached else following[1] if following else "").lower()
    if not first and "$" in text[left.start : left.end]:
        return second in ("cent", "cents")
    for family in _FAMILIES:
        if first in family:
            if second in family and second.rstrip("s") != first.rstrip("s"):
                return True
            if not second and not needs_unit:
                return True
    return False


def _expression(text: str, items: list[_Item], relations: list[str]) -> NumberExpression:
    sides: list[tuple[list[_Item], list[str]]] = [([items[0]], [])]
    for item, relation in zip(items[1:], relations, strict=True):
        if relation == "equals":
            sides.append(([item], []))
        else:
            sides[-1][0].append(item)
            sides[-1][1].append(relation)
    values = [_side_value(text, *side) for side in sides]
    is_list = "list" in relations and len({item.value for item in items}) > 1
    start, end = items[0].start, items[-1].end
    if len(sides) == 1:
        return NumberExpression(start, end, values[0], is_list)
    results = [value for value in values if value is not None]
    is_solved = not any(item.algebra for item in items)
    agrees = all(_rounds_to(value, results[-1]) for value in results[:-1])
    return NumberExpression(start, end, results[-1] if results and agrees and is_solved else None, is_list)


def _side_value(text: str, items: list[_Item], relations: list[str]) -> Fraction | None:
    if not relations:
        return items[0].value
    if set(relations) != {"list"} or any(item.value is None for item in items):
        return None
    before, after = text[: items[0].start].rstrip()[-1:], text[items[-1].end :].lstrip()[:1]
    in_brackets = (before and before in "([{") and (after and after in ")]}")
    return None if in_brackets else items[-1].value


def _rounds_to(value: Fraction, rounded: Fraction) -> bool:
    """Return whether a number is the other one, or rounds to it at a whole number or at its last decimal."""
    if value == rounded:
        return True
    for number in (rounded, value):
        written = number_text(number)
        decimals = len(written.partition(".")[2])
        if "/" not in written and abs(value - rounded) <= Fraction(1, 10**decimals):
            return True
    return False


# --------------------------------------------------------------------------------------------------------- one answer


def as_number(answer: str) -> Fraction | None:
    """Return the number that a short answer is, and nothing but that, or None."""
    if len(answer) > 2_000 or not any(character.isdigit() for character in answer):
        return None
    prepared = plain(answer).strip(AROUND)
    items = _items(prepared) if prepared else []
    if len(items) != 1 or (items[0].start, items[0].end) != (0, len(prepared)):
        return None
    written = prepared.lstrip("+-$")
    mixed = re.fullmatch(r"[0-9]{1,20} [0-9]{1,20}⁄[0-9]{1,20}", written)
    return items[0].value if items[0].strict or mixed else None


def normal_form(answer: str) -> str:
    """Return the normal form of a short answer; "" if there is nothing in it."""
    short = " ".join(answer.split()).strip(AROUND)
    if short.endswith(".") and not short.endswith(".."):
        short = short[:-1].rstrip(AROUND)
    number = as_number(short)
    return short.casefold() if number is None else number_text(number)


def number_text(value: Fraction) -> str:
    """Return a number as one string: a decimal if one is exact, otherwise a fraction in lowest terms."""
    if value.denominator == 1:
        return str(value.numerator)
    positions = next((k for k in range(1, 200) if 10**k % value.denominator == 0), 0)
    if not positions:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * (10**positions // value.denominator)).rjust(positions + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-positions]}.{digits[-positions:]}"
