r"""Free text to arithmetic tokens: numerals, operators, brackets, `=`, and marks for everything else.

Understands the usual operator signs of Unicode, LaTeX (`\times`, `\frac{}{}`, `\left(` ...), Markdown emphasis and the
words plus, minus, times, over, divided by, is. A word or a comma separates statements (`BREAK`). A sign that changes
what an expression means, such as an exponent, a root or a percent sign, makes the expression unreadable (`ALIEN`)
instead of being skipped. Brackets that hold more than arithmetic are prose, and separate as well.

Cost: linear in the text, about 0.5 microseconds per character.
"""

from __future__ import annotations

import re

from samplewise.verify.expression import OPERATORS, is_numeral

BREAK = ";"
LINE = "\n"
ALIEN = "?"
EQUALS = "="
DIFFERS = "≠"
_FRACTION = "frac"
_LETTER_X = "x"

_SIGNS = {
    "*": "×✕✖⨯∗⁎·∙⋅•＊",
    "/": "÷∕⁄／➗",
    "-": "−–‒‐‑﹣－➖",
    "+": "＋﹢➕",
    "=": "＝≈≃≅",
    "(": "（［｛【",
    ")": "）］｝】",
    ";": "—―；，、。：",
}
_TABLE: dict[int, str | None] = {ord(sign): plain for plain, signs in _SIGNS.items() for sign in signs}
_TABLE.update({0xFF10 + digit: str(digit) for digit in range(10)})  # full-width digits
_TABLE.update(dict.fromkeys((0x200B, 0x200C, 0x200D, 0x2060, 0xFE0E, 0xFE0F, 0xFEFF)))  # invisible

_WORDS = {
    **{"plus": "+", "minus": "-", "times": "*", "over": "/"},
    **dict.fromkeys(("is", "equals", "equal", "gives", "makes", "yields"), EQUALS),
}
_LATEX = {
    **{
        "times": "*",
        "cdot": "*",
        "ast": "*",
        "div": "/",
        "neq": DIFFERS,
        "ne": DIFFERS,
        "approx": EQUALS,
        "eq": EQUALS,
    },
    **dict.fromkeys(("frac", "dfrac", "tfrac", "cfrac"), _FRACTION),
    **dict.fromkeys(("left", "right", "big", "bigl", "bigr", "Big", "Bigl", "Bigr", "boxed", "displaystyle"), ""),
    **dict.fromkeys(
        ("begin", "end", "quad", "qquad", "text", "textbf", "mathrm", "mathbf", "implies", "Rightarrow", "to"), BREAK
    ),
}
_BULLET = re.compile(r"^[ \t]{0,12}(?:(?:[-*•·>#]{1,6}|[0-9]{1,3}[.)])[ \t]{1,8}){1,2}", re.MULTILINE)
_TOKEN = re.compile(
    r"""(?P<script>[0-9]*+[²³¹⁰-₎½¼¾⅐-⅞])
    |(?P<number>[0-9]++(?:\.[0-9]++)?+(?!(?![xX_])[^\W\d])|\.[0-9]++)
    |(?P<space>[^\S\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+|[$`'"~&_]|\\[()\[\],;:!\ $])
    |(?P<power>\*\*|\^)
    |(?P<arrow>->|=>|[→⇒➜])
    |(?P<differs>!=|=/=|≠)
    |(?P<equals>={1,2}|(?i:(?:is\s{1,3})?equals?(?:\s{1,3}to)?\b))
    |(?P<sign>[-+*/])
    |(?P<open>[(\[{]|\\\{)
    |(?P<close>[)\]}]|\\\})
    |(?P<by>(?i:divided|multiplied)\s{1,3}(?i:by)\b)
    |(?P<x>[xX](?![^\W\d]))
    |(?P<line>[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]|\\\\(?![A-Za-z]))
    |\\{1,2}(?P<latex>[A-Za-z]+)
    |(?P<word>[0-9]*+[^\W\d_]\w*)
    |(?P<unit>[0-9]++(?:\.[0-9]++)?+)
    |(?P<stop>[,;:.?|<>\#])
    |(?P<shout>!)
    |(?P<other>.)""",
    re.VERBOSE,
)


def lex(text: str) -> list[str]:
    """Return the tokens of a text: numerals, + - * /, ( ), `EQUALS`, `DIFFERS`, "!", `BREAK`, `LINE` and `ALIEN`."""
    return _dissolve(_fractions(_scan(_BULLET.sub("", text).translate(_TABLE))))


def _scan(text: str) -> list[str]:
    out: list[str] = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup
        token = match.group()
        if kind == "number" or kind == "sign":
            out.append(token)
        elif kind == "space":
            continue
        elif kind == "open":
            out.append(token[-1])
        elif kind == "close":
            out.append(")" if token[-1] != "}" else "}")
        elif kind == "equals":
            out.append(EQUALS)
        elif kind == "line":
            out.append(LINE)
        elif kind == "differs":
            out.append(DIFFERS)
        elif kind == "by":
            out.append("/" if token[0] in "dD" else "*")
        elif kind == "power":
            if token == "^" or _is_power(text, match.start(), match.end(), out):
                out.append(ALIEN)
        elif kind == "x":
            out.append(_LETTER_X)
        elif kind == "word":
            out += _word(token, text[match.end() : match.end() + 1])
        elif kind == "latex":
            name = match["latex"]
            meaning = _LATEX.get(name, ALIEN)
            if meaning:
                out.append(meaning)
        elif kind == "shout":
            out.append("!")
        else:
            out.append(BREAK if kind in ("stop", "arrow") else ALIEN)
    return out


def _word(word: str, following: str) -> list[str]:
    meaning = _WORDS.get(word.lower(), BREAK)
    return [BREAK, ALIEN] if meaning == BREAK and following in ("(", "{") else [meaning]  # sqrt(9) is not (9)


def _is_power(text: str, start: int, end: int, tokens: list[str]) -> bool:
    """Return whether `**` is an exponent and not emphasis: a number or bracket on both sides, spaced alike."""
    if not tokens or not (is_numeral(tokens[-1]) or tokens[-1] in (")", "}")):
        return False
    following = text[end : end + 8]
    operand = following.lstrip(" ")[:1]
    return bool(operand) and operand in "0123456789.([{\\-+" and text[start - 1].isspace() == following[0].isspace()


def _fractions(tokens: list[str]) -> list[str]:
    r"""Turn braces to brackets, `\frac{a}{b}` to `((a)/(b))`, and the letter x between two operands to a product."""
    out: list[str] = []
    stack: list[str] = []
    skip = False
    for i, token in enumerate(tokens):
        following = tokens[i + 1] if i + 1 < len(tokens) else LINE
        if skip:
            skip = False
        elif token == _FRACTION:
            if following == "{":
                out += ["(", "("]
                stack.append("above")
                skip = True
            elif is_numeral(following) and len(following) == 2 and following.isdigit():  # \frac83
                out += ["(", following[0], "/", following[1], ")"]
                skip = True
            else:
                out.append(ALIEN)
        elif token in ("(", "[", "{"):
            out.append("(")
            stack.append("")
        elif token in (")", "}"):
            closed = stack.pop() if stack else ""
            out.append(")")
            if closed == "below":
                out.append(")")
            elif closed == "above":
                skip = following == "{"
                out += ["/", "("] if skip else [ALIEN]
                stack += ["below"] if skip else []
        elif token == _LETTER_X:
            between = bool(out) and (is_numeral(out[-1]) or out[-1] == ")")
            between = between and (is_numeral(following) or following in ("(", "[", "{", "-", _FRACTION))
            out.append("*" if between else BREAK)
        else:
            out.append(token)
    return out


def _dissolve(tokens: list[str]) -> list[str]:
    """Turn brackets around anything but arithmetic into breaks, and unmatched ones at the edge of a statement."""
    out = list(tokens)
    opened: list[int] = []
    last_prose = -1
    loose: list[int] = []
    for i, token in enumerate(tokens):
        if token == "(":
            opened.append(i)
        elif token == ")":
            if not opened:
                loose.append(i)
                continue
            start = opened.pop()
            if last_prose > start:
                out[start] = out[i] = BREAK
        elif token in (BREAK, LINE, EQUALS, DIFFERS):
            last_prose = i
            if token == LINE:
                loose += opened
                opened = []
    edges = (BREAK, LINE)
    for i in loose + opened:
        neighbor = tokens[i + 1 : i + 2] if tokens[i] == "(" else tokens[max(i - 1, 0) : i]
        if (not neighbor and tokens[i] == "(") or (neighbor and neighbor[0] in edges):
            out[i] = BREAK
    return out


def segments(tokens: list[str]) -> list[list[str]]:
    """Return the tokens between breaks and line ends, without empty segments.

    A dash before a break is punctuation ("= 24 - done"); at the very end of the text it is a truncated operator.
    """
    parts: list[list[str]] = [[]]
    for token in tokens:
        if token in (BREAK, LINE):
            if parts[-1] and parts[-1][-1] == "-":
                parts[-1].pop()
            if parts[-1]:
                parts.append([])
        else:
            parts[-1].append(token)
    return parts if parts[-1] else parts[:-1]


def sides(segment: list[str]) -> list[list[str]]:
    """Split a segment at its signs of (in)equality; empty sides are left out."""
    parts: list[list[str]] = [[]]
    for token in segment:
        if token in (EQUALS, DIFFERS):
            parts.append([])
        else:
            parts[-1].append(token)
    return [side for side in parts if side]


def is_operation(side: list[str]) -> bool:
    """Return whether a side computes something: an operator beyond a leading sign, and a number."""
    return any(t in OPERATORS for t in side[1:]) and any(is_numeral(t) for t in side)
