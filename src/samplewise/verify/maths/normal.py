r"""One spelling for a mathematical answer: text in, LaTeX of few forms out. Strings only; nothing is computed.

Removes dollar signs, boxes, `\left`, thin spaces, emphasis, a full stop at the end, degrees, units after a number and
thousands separators. Unicode signs and the spellings of programs (`sqrt(2)`, `**`, `pi`) become LaTeX. The meaning of
signs is not looked at here: see `samplewise.verify.maths.forms`.

Percent signs follow a policy. "unit": `50\%` is 50, as in the MATH data sets, whose references leave the sign out.
"value": `50\%` is 0.5.
"""

from __future__ import annotations

import re
from typing import Literal

Percent = Literal["unit", "value"]

MAX_ANSWER = 1_000  # characters of an answer that are looked at; longer ones are compared as they stand

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("−–—﹣－", "-"),
        **dict.fromkeys("×·⋅∙∗", r"\cdot "),
        **{"÷": "/", "⁄": "/", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "°": "", "′": "", "±": r"\pm "},
        **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset "},
        **{"θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "φ": r"\phi ", "ω": r"\omega "},
        **{"½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}"},
        **{sign: f"^{{{digit}}}" for digit, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
        **{sign: f"_{digit}" for digit, sign in enumerate("₀₁₂₃₄₅₆₇₈₉")},
        **{chr(0xFF01 + i): chr(0x21 + i) for i in range(94) if chr(0xFF01 + i) != "－"},  # full width
        **dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003\u3000", " "),
        **dict.fromkeys("\u200b\u2060\ufeff€£¥", ""),
        **{"“": '"', "”": '"', "‘": "'", "’": "'"},
    }
)
_WRAPPED = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ('"', '"'))
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_ALL_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|hbox|operatorname)\s*\{")
_SILENT = re.compile(
    r"\\(?:left|right|bigl|bigr|Bigl|Bigr|big|Big|biggl|biggr|displaystyle|textstyle|limits|hspace\*?\{[^{}]*\}"
    r"|phantom\{[^{}]*\})(?![a-zA-Z])\.?"
)
_DEGREES = re.compile(r"\s*(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degrees?(?![a-zA-Z]))")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|hbox|operatorname)\s*\{([^{}]*)\}")
_JOINING = re.compile(r"\\text\{\s*(?:and|or)\s*\}|(?<![\w\\])(?:and|or)(?!\w)", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<![\w.,])([0-9]{1,3})((?:,[0-9]{3})+)(?![0-9,])")
_POWERS = r"(?:\s*\^\s*(?:\{[23]\}|[23]))?$"
_SCALES = r"(?:hundred|thousand|million|billion|trillion|dozen|squared|cubed|factorial|choose|percent)"  # no units
_UNITS = (
    r"(?:cm|mm|km|kg|ml|ft|in|mi|hr|lb|oz|mph|degrees|radians"
    r"|(?:square |cubic |sq\.? )?(?:feet|foot|inch|inches|miles?|met(?:er|re)s?|units?))(?![a-zA-Z])"
)
_UNIT_TEXT = re.compile(rf"(?<=[0-9}}\]i)])\s*\\text\{{(?!\s*{_SCALES})[^{{}}]*\}}{_POWERS}")
_BARE_UNIT = re.compile(rf"(?<=[}})])\s*{_UNITS}{_POWERS}")
_UNIT_WORDS = re.compile(
    r"(?P<number>(?:^|(?<=[\s=]))[-+]?(?:[0-9][0-9.,]*|\\frac\{-?[0-9]+\}\{[0-9]+\}|[0-9]+/[0-9]+))\s*"
    rf"(?!(?:sqrt|pi|cdot|log|sin|cos|tan|exp|mod|cup|and|or|{_SCALES})\b)"
    rf"(?:(?<=\s)[a-zA-Z]{{3,}}|{_UNITS})(?![a-zA-Z])(?:[\s./-]+[a-zA-Z]+)*\.?{_POWERS}"
)
_OVER = re.compile("(?:[0-9]\u0305)+|[0-9]\u0307|\\\\(?:overline|bar|dot) ?(?:\\{ ?[0-9]+ ?\\}|[0-9])")
_ROW = "\ue000"  # stands for the two backslashes between the rows of a matrix
# 2(9) is a product, which the library would take for the mixed number 2 + 9; but not after an index: log_2(8)
_TIMES = re.compile(r"(?:(?<=[0-9)}])(?<!_[0-9])(?<!_\{[0-9]\})(?<!_\{[0-9]{2}\})|(?<=\\pi)) ?(?=\([^()]*[0-9])")
_COMMAND = re.compile(r"(\\[a-zA-Z]+) ?(?=[^a-zA-Z]|$)")


def normalise(text: str, percent: Percent = "unit") -> str:
    """Return the normal spelling; "" if nothing is left. Applying it twice changes nothing more."""
    if len(text) > MAX_ANSWER:
        return " ".join(text.split())
    for _ in range(4):  # a box in dollar signs with emphasis inside has three layers
        before, text = text, _once(text, percent)
        if text == before:
            break
    return text


def _once(text: str, percent: Percent) -> str:
    text = _unwrapped(" ".join(text.translate(_SIGNS).split())).replace("\\\\", _ROW)
    text = _OVER.sub(_repeated, text)
    text = text.replace(r"\$", "").replace("$", "").replace("{,}", ",").replace(r"\%", "%")
    text = re.sub(r"(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))", "", re.sub(r",\s*\\!\s*", ",", text))
    text = re.sub(r"\\[!,;:>]|\\(?:quad|qquad|thinspace)(?![a-zA-Z])|~|\\ (?=\S)", " ", text)
    text = _SILENT.sub("", re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", text))
    text = re.sub(r"\\([lg])eq(?:slant)?(?![a-zA-Z])", r"\\\1e ", _TEXT.sub(r"\\text{\1}", _DEGREES.sub("", text)))
    text = re.sub(r"\\(?:times|ast)(?![a-zA-Z])", r"\\cdot ", text)
    text = _JOINING.sub(",", text)
    text = _THOUSANDS.sub(lambda match: match[1] + match[2].replace(",", ""), text) if text[:1] not in "([{\\" else text
    text = re.sub(r"\s*(?:\\text\{\s*percent\s*\}|(?<=[0-9]) percent)$", "%", text.strip())
    text = _UNIT_WORDS.sub(r"\g<number>", _BARE_UNIT.sub("", _UNIT_TEXT.sub("", text))).strip()
    text = _programmed(text)
    text = _percented(text, percent)
    text = re.sub(r",(?:\s*,)+", ",", text)
    return _spaced(text).replace(_ROW, "\\\\").strip(" ;,").removesuffix(".").rstrip()


def _repeated(match: re.Match[str]) -> str:
    r"""Return the digits under a line as `\overline{...}`, one under a dot as `\dot{.}`."""
    digits = re.sub("[^0-9]", "", match[0])
    return rf"\dot{{{digits}}}" if "\u0307" in match[0] or "dot" in match[0] else rf"\overline{{{digits}}}"


def _unwrapped(text: str) -> str:
    """Remove the dollar signs, brackets of displayed maths, boxes and emphasis that enclose the whole text."""
    text = text.strip(" *`")  # half an emphasis, too: the other half was before "answer:"
    for begin, end in _WRAPPED:
        inner = text[len(begin) : len(text) - len(end)]
        if len(text) > len(begin) + len(end) and text.startswith(begin) and text.endswith(end) and begin not in inner:
            return _unwrapped(inner)
    box = _BOX.match(text) or _ALL_TEXT.match(text)
    if box and text.endswith("}") and closing(text, box.end() - 1) == len(text) - 1:
        return _unwrapped(text[box.end() : -1])
    return text


def closing(text: str, start: int) -> int | None:
    """Return where the brace or bracket at `start` is closed, or None."""
    opened, closed = text[start], {"{": "}", "(": ")", "[": "]"}[text[start]]
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == opened) - (text[index] == closed)
        if depth == 0:
            return index
    return None


def _programmed(text: str) -> str:
    """Turn the spellings of programs into LaTeX, and the short forms of LaTeX into full ones."""
    text = text.replace("**", "^").replace("<=", r"\le ").replace(">=", r"\ge ")
    text = re.sub(r"(?<!\\)\*", r"\\cdot ", text)
    text = _TIMES.sub(r"\\cdot ", text)
    text = re.sub(r"(?<![a-zA-Z\\])(sqrt|pi|log|ln|sin|cos|tan|cot|sec|csc|exp)(?![a-zA-Z])", r"\\\1", text)
    text = re.sub(r"(?<![a-zA-Z\\])(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty", text, flags=re.IGNORECASE)
    text = re.sub(r"\\(frac|binom)\s*([0-9])\s*([0-9])", r"\\\1{\2}{\3}", text)
    text = re.sub(r"\\frac\s*([0-9a-zA-Z])\s*\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\s*\{[^{}]*\})\s*([0-9a-zA-Z])", r"\1{\2}", text)
    text = re.sub(r"\\frac\s*\{\s*([^{}]*?)\s*\}\s*\{\s*([^{}]*?)\s*\}", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt\s*([0-9]+|[a-zA-Z](?![a-zA-Z]))", r"\\sqrt{\1}", text)
    text = _braced(text, r"\sqrt")
    text = re.sub(r"\^\s*(-?[0-9]+(?:\.[0-9]+)?)", r"^{\1}", text)
    return re.sub(r"(\^\{[^{}]*)\}(?:\^\{([^{}]*)\})", r"\1^{\2}}", _braced(text, "^"))


def _braced(text: str, before: str) -> str:
    """Turn `before(...)` into `before{...}`."""
    index = 0
    for _ in range(16):
        index = text.find(before, index)
        if index < 0:
            break
        start = index + len(before)
        start += len(text) - start - len(text[start:].lstrip())
        if text[start : start + 1] == "(" and (end := closing(text, start)) is not None:
            text = f"{text[:start]}{{{text[start + 1 : end]}}}{text[end + 1 :]}"
        index += len(before)
    return text


def _percented(text: str, percent: Percent) -> str:
    if not text.endswith("%"):
        return text
    bare = text[:-1].rstrip()
    return bare if percent == "unit" or not bare else rf"\frac{{{bare}}}{{100}}"


def _spaced(text: str) -> str:
    """Keep white space only where it separates two words, or a command and a letter."""
    text = " ".join(text.split())
    text = re.sub(r"(?<![0-9a-zA-Z]) | (?![0-9a-zA-Z])", lambda match: _kept(text, match.start()), text)
    text = re.sub(r"(?<=[0-9]) (?=[a-z](?![a-zA-Z]))|(?<=[0-9]) (?=\\)", "", text)
    return re.sub(r", ?", ", ", _COMMAND.sub(r"\1", text))  # with a space: 1, 200 is no thousand


def _kept(text: str, index: int) -> str:
    command = re.search(r"\\[a-zA-Z]+$", text[:index])
    return " " if command and text[index + 1 : index + 2].isalpha() else ""
