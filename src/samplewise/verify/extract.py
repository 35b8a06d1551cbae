"""Read a program out of a response: fenced, tagged, between sentences, or as the continuation of a prompt.

A question's `facts` say what is looked for:

    entry_point   the name of the function that is asked for; without it, a whole program that reads standard input
    preamble      code before the function (imports, helpers), put in front of a whole function
    prompt        only if the model continues code: what it continues

Nothing is run here. Python's own parser decides where code begins and ends between sentences.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from samplewise.core.reasoning import split_reasoning
from samplewise.core.text import cut_at_stop
from samplewise.core.types import Question

STOP_WORDS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # where a completion of a function has gone past its end
MAX_CODE = 100_000  # characters
MAX_LINES = 2_000  # of a text without a fence in which a program is looked for
MAX_STARTS = 40  # lines that are tried as the first one of such a program

_FENCE = re.compile(
    r"(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[\w+#.-]*)[^\n`]*\n"
    r"(?P<body>.*?)(?:^[ \t>]*(?P=fence)[`~]*|(?P=fence)[`~]*[ \t]*$|\Z)",
    re.MULTILINE | re.DOTALL,
)
_FENCED_LINE = re.compile(r"(`{3,})(?!`)[ \t]*(?:(?:python3?|py)[ \t]+)?([^`\n]+)\1(?!`)")
_QUOTED = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_TAGGED = re.compile(r"\[PYTHON\][ \t]*\n?(.*?)(?:\[/PYTHON\]|\Z)", re.DOTALL)
_LANGUAGES = ("", "python", "py", "python3", "python2", "py3", "pycon", "ipython")
_END_MARKS = ("[DONE]", "\n```", "\n~~~", "[/PYTHON]")
_SOLUTION = re.compile(r"^class[ \t]+Solution\b", re.MULTILINE)
_PROMPT_SIGN = re.compile(r"^(?:>>>|\.\.\.) ?", re.MULTILINE)
_LOOKS_LIKE_CODE = re.compile(
    r"(?:import|from|def|class|async|@|#|if|for|while|try|with|\"\"\"|'''|[A-Za-z_][\w.\[\]]*\s*(?::[^=]*)?=(?!=))"
)


def read_code(question: Question, text: str) -> str | None:
    """Return the program of a response, or None. Programs that differ in trailing white space are equal.

    It is the last block of code that defines the entry point, otherwise the code between the sentences that does, each
    after the question's preamble. A method of a class `Solution` counts as the function. Otherwise, if the question is
    code to be continued, it is the prompt with the text up to the first of `STOP_WORDS`. Without an entry point it is
    the last block of code that can be parsed.
    """
    facts, reply = question.facts, split_reasoning(text.replace("\r\n", "\n"))
    if not reply.closed:
        return None
    text = reply.text
    preamble, prompt = str(facts.get("preamble", "")), facts.get("prompt")
    name = str(facts.get("entry_point") or "")
    blocks = _blocks(text)
    program = _function(name, blocks, text) if name else _whole_program(blocks, text)
    if program is not None:
        code = preamble + program
    elif prompt is not None and name:
        code = _continued(str(prompt), blocks, text)
    else:
        return None
    return f"{code.rstrip()}\n" if len(code) <= MAX_CODE else None


def parses(code: str) -> bool:
    """Return whether Python can parse it."""
    return _error_line(code) is None


# --- blocks -----------------------------------------------------------------------------------------------------------


def _blocks(text: str) -> list[str]:
    """Return what stands in fences or tags and may be Python, in the order of the text."""
    blocks = [(match.start(), match[2].strip()) for match in _FENCED_LINE.finditer(text)]
    text = _FENCED_LINE.sub(lambda match: " " * len(match[0]), text)
    for match in _FENCE.finditer(text):
        if match["language"].casefold() in _LANGUAGES:
            blocks.append((match.start(), _plain(match["body"])))
    for match in _TAGGED.finditer(text):
        if "```" not in match[1]:
            blocks.append((match.start(), _plain(match[1])))
    return [block for _, block in sorted(blocks)]


def _plain(body: str) -> str:
    """Return a block as it would stand in a file: not indented, not quoted, without the signs of a prompt."""
    if body.lstrip().startswith(">>> "):
        body = "\n".join(_PROMPT_SIGN.sub("", line) for line in body.splitlines() if _PROMPT_SIGN.match(line.lstrip()))
    elif all(line.startswith(">") for line in body.splitlines() if line.strip()):
        body = re.sub(r"^> ?", "", body, flags=re.MULTILINE)
    return textwrap.dedent(body)


# --- a function that is asked for -------------------------------------------------------------------------------------


def _function(name: str, blocks: list[str], text: str) -> str | None:
    """Return the code that defines `name`, or None."""
    defines = _definition(name)
    for block in reversed(blocks):
        if defines.search(block):
            return _without_tail(block, defines)
    for block in reversed(blocks):
        if (adapted := _of_class(name, block)) is not None:
            return adapted
    text = cut_at_stop(text, _END_MARKS)
    if defines.search(text):
        return _between_sentences(text, defines)
    if _SOLUTION.search(text):
        return _of_class(name, _between_sentences(text, _SOLUTION))
    return next((line for line in reversed(_QUOTED.findall(text)) if defines.search(line) and parses(line)), None)


@lru_cache(maxsize=1_000)
def _definition(name: str) -> re.Pattern[str]:
    name = re.escape(name)
    return re.compile(
        rf"^(?:(?:async[ \t]+)?(?:def|class)[ \t]+{name}\b|{name}[ \t]*(?::[^=\n]+)?=[ \t]*lambda\b)", re.MULTILINE
    )


def _of_class(name: str, code: str) -> str | None:
    """Return code whose class `Solution` has the function as a method, with the function under its own name."""
    if f"def {name}" not in code or not parses(code):
        return None
    for node in _tree(code).body:
        if isinstance(node, ast.ClassDef) and node.name == "Solution":
            methods = [item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]
            if name in methods:
                return f"{code.rstrip()}\n\n\n{name} = Solution().{name}\n"
    return None


def _without_tail(code: str, wanted: re.Pattern[str]) -> str:
    """Return code up to the line from which it can no longer be parsed, if that still has what is wanted."""
    kept = _parsed_part(code)
    return kept if kept is not None and wanted.search(kept) else code


def _between_sentences(text: str, wanted: re.Pattern[str]) -> str:
    """Return the longest code in a text that has what is wanted; from its definition on, if none can be parsed."""
    lines = text.splitlines(keepends=True)[:MAX_LINES]
    clipped = "".join(lines)
    first = wanted.search(clipped)
    if first is None:
        return text
    line_of_first = clipped.count("\n", 0, first.start())
    starts = [i for i in range(line_of_first) if _LOOKS_LIKE_CODE.match(lines[i])][:MAX_STARTS]
    for code in _parsed_parts(lines, [*starts, line_of_first]):
        if wanted.search(code):
            return _without_words(code)
    return text[first.start() :]


def _parsed_parts(lines: Sequence[str], starts: Iterable[int]) -> Iterator[str]:
    """Yield the code from each of the lines `starts` that can be parsed, without those inside an earlier one.

    What begins inside of an earlier code ends where that ends, so it holds nothing that the earlier one does not.
    """
    end = 0
    for start in starts:
        if start >= end and (code := _parsed_part("".join(lines[start:]))) is not None:
            end = start + code.count("\n")
            yield code


def _parsed_part(code: str) -> str | None:
    """Return the longest beginning of `code`, in whole statements, that can be parsed; None if there is none."""
    lines = code.splitlines(keepends=True)
    while lines and (line := _error_line("".join(lines))) is not None:
        end = min(line, len(lines)) - 1
        while end > 0 and lines[end][:1].isspace():  # inside of a statement that is broken: give all of it up
            end -= 1
        lines = lines[:end]
    return "".join(lines) or None


def _without_words(code: str) -> str:
    """Return code without the lines of words at either end that happen to be expressions: "Done", "Note: see"."""
    body = _tree(code).body
    keep = [not _says_nothing(statement) for statement in body]
    if not any(keep):
        return code
    last = len(keep) - 1 - keep[::-1].index(True)
    start = body[keep.index(True)]
    first_line = min([start.lineno, *(item.lineno for item in getattr(start, "decorator_list", ()))])
    return "".join(code.splitlines(keepends=True)[first_line - 1 : body[last].end_lineno])


def _says_nothing(statement: ast.stmt) -> bool:
    """Return whether a statement does nothing at all: a name or an annotation, without a call."""
    if isinstance(statement, ast.Expr):
        return not any(isinstance(node, ast.Call | ast.Await | ast.NamedExpr) for node in ast.walk(statement))
    return isinstance(statement, ast.AnnAssign) and statement.value is None


# --- a whole program, a continuation ----------------------------------------------------------------------------------


def _whole_program(blocks: list[str], text: str) -> str | None:
    """Return the last block that can be parsed and does something, otherwise such code between the sentences."""
    for block in reversed(blocks):
        if block.strip() and parses(block) and _does_something(block):
            return block
    lines = text.splitlines(keepends=True)[:MAX_LINES]
    starts = [i for i in range(len(lines)) if _LOOKS_LIKE_CODE.match(lines[i]) or "(" in lines[i]][:MAX_STARTS]
    for code in _parsed_parts(lines, starts):
        if _does_something(code):
            return _without_words(code)
    return next((block for block in reversed(blocks) if block.strip()), None)


def _does_something(code: str) -> bool:
    return any(isinstance(node, ast.Call) for node in ast.walk(_tree(code)))


def _continued(prompt: str, blocks: list[str], text: str) -> str:
    """Return the prompt with the body that continues it: from a block, if the response has one, indented if need be."""
    body = cut_at_stop(text, (*STOP_WORDS, "\n```"))
    if blocks and not body.lstrip("\n")[:1].isspace():
        inside = prompt + textwrap.indent(cut_at_stop(blocks[-1], STOP_WORDS), "    ")
        if parses(inside):
            return inside
    return prompt + body


# --- the parser -------------------------------------------------------------------------------------------------------


def _tree(code: str) -> ast.Module:
    with warnings.catch_warnings(action="ignore"):
        return ast.parse(code)


def _error_line(code: str) -> int | None:
    """Return the line, from 1, at which Python gives up; None if it parses the whole."""
    try:
        _tree(code)
    except SyntaxError as error:
        return max(error.lineno or 1, 1)
    except (ValueError, RecursionError, MemoryError):
        return 1
    return None
