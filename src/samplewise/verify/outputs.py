"""What programs do, without a reference: their outputs on shared inputs, and which of them give the same.

The inputs are those of the examples that a question shows, then generated ones: examples changed a little, each value
by its type and within what the examples show (no negative numbers where they have none, letters that they use). Without
an example they begin with plain values for the annotations of the function's head. Programs run in the sandbox, each
different one once, on all inputs. Cost: no request, no token.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from samplewise.core.checks import check_count
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.core.types import Ask, Candidate, Question
from samplewise.verify.base import Answers, Judge, Replies
from samplewise.verify.codet import LIMITS, TEST_S
from samplewise.verify.extract import read_code
from samplewise.verify.sandbox import Program, Sandbox, shared_sandbox

NUM_INPUTS = 16
MAX_HEAD = 20  # lines of a function's head
MAX_BRACKETS = 20  # in the text of one call
MAX_LITERAL = 2_000  # characters of a call
MAX_NUMBER = 1_000  # of a generated number, or twice the largest of the examples
TRIES = 50  # changed calls that are made for each one that is wanted
MARK = "samplewise output "
RETURNED = "="  # begins the output of a call that returned


class CallArguments(NamedTuple):
    """The arguments of one call of the function, all of them literals."""

    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()


# --- inputs -----------------------------------------------------------------------------------------------------------


def example_calls(question: Question) -> tuple[CallArguments, ...]:
    """Return the different calls with literal arguments that a question shows, in order: those in its tests, those in
    its text, whose results need not be told, and lines of its text that give a value to each parameter."""
    name, text = str(question.facts.get("entry_point") or ""), _text_of(question)
    sources = [str(test) for test in question.facts.get("tests") or ()] if name else []
    sources += _written_calls(text, name) if name else []
    calls: dict[str, CallArguments] = {}
    for source in sources:
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
                call = _literal_call(node)
                if call is not None:
                    calls.setdefault(repr(call), call)
    for call in _assigned_calls(text, [parameter.arg for parameter in _required(_head(question))]):
        calls.setdefault(repr(call), call)
    return tuple(calls.values())


def _written_calls(text: str, name: str) -> list[str]:
    """Return what stands in a text from each `name(` to the bracket that closes it, where that is Python."""
    calls = []
    for start in re.finditer(rf"(?<![\w.]){re.escape(name)}\(", text):
        closed = 0
        for end in range(start.end(), min(len(text), start.end() + MAX_LITERAL) + 1):
            if text[end - 1] != ")":
                continue
            closed += 1
            piece = text[start.start() : end]
            try:
                ast.parse(piece, mode="eval")
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                if closed < MAX_BRACKETS:
                    continue
            else:
                calls.append(piece)
            break
    return calls


def _literal_call(node: ast.Call) -> CallArguments | None:
    try:
        args = tuple(ast.literal_eval(argument) for argument in node.args)
        kwargs = tuple((str(word.arg), ast.literal_eval(word.value)) for word in node.keywords if word.arg)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return CallArguments(args, kwargs) if len(kwargs) == len(node.keywords) else None


def _assigned_calls(text: str, parameters: Sequence[str]) -> list[CallArguments]:
    """Return a call for each line that gives a value to all parameters, as "arr = [1, 2], k = 3" does."""
    calls = []
    for line in text.splitlines() if parameters else ():
        values = []
        for name in parameters:
            start = re.search(rf"(?<![\w.]){re.escape(name)}\s*[=:]\s*(?!=)", line)
            literal = _leading_literal(line[start.end() :]) if start else None
            if literal is None:
                break
            values.append(literal[0])
        else:
            calls.append(CallArguments(tuple(values)))
    return calls


def _leading_literal(text: str) -> tuple[Any] | None:
    """Return the number, text or container that a text begins with, in a tuple; None if it begins with none."""
    number = re.match(r"-?\d+(?:\.\d+)?(?![\w.]*[\w])", text)
    pieces = [number.group()] if number else []
    if text[:1] in _CLOSING:
        ends = [end for end in range(2, len(text) + 1) if text[end - 1] == _CLOSING[text[0]]]
        pieces = [text[:end] for end in ends[:MAX_BRACKETS]]
    for piece in pieces:
        try:
            return (ast.literal_eval(piece),)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


_CLOSING = {"[": "]", "(": ")", "{": "}", "'": "'", '"': '"'}


def _head(question: Question) -> ast.arguments | None:
    """Return the parameters of the function as the question shows its head, None if it does not."""
    name = str(question.facts.get("entry_point") or "")
    text = _text_of(question)
    start = re.search(rf"^[ \t]*def[ \t]+{re.escape(name)}[ \t]*\(", text, re.MULTILINE) if name else None
    lines = text[start.start() :].lstrip().splitlines()[:MAX_HEAD] if start else []
    for end in range(1, len(lines) + 1):
        try:
            (function,) = ast.parse("\n".join(lines[:end]) + " pass").body
        except (SyntaxError, ValueError):
            continue
        return function.args if isinstance(function, ast.FunctionDef) else None
    return None


def _required(head: ast.arguments | None) -> list[ast.arg]:
    return [] if head is None else head.args[: len(head.args) - len(head.defaults)]


def _text_of(question: Question) -> str:
    return "\n".join(message.content for message in question.messages)


def annotated_call(question: Question) -> CallArguments | None:
    """Return a call with a plain value for each annotation of the function's head, as the question shows it; None where
    a parameter has no annotation, or one without a plain value."""
    values = [_plain_value(parameter.annotation) for parameter in _required(_head(question))]
    return CallArguments(tuple(values)) if values and None not in values else None


_PLAIN: Mapping[str, Any] = {
    **{"int": 7, "float": 2.5, "str": "hello world", "bool": True, "list": [3, 1, 2], "tuple": (3, 1, 2)},
    **{"dict": {"a": 1, "b": 2}, "set": {1, 2, 3}},
}


_SEVERAL: Mapping[type, list[Any]] = {int: [3, 1, 2], float: [2.5, 1.0, 4.5], str: ["bc", "a", "abc"]}


def _plain_value(annotation: ast.expr | None) -> Any:
    """Return a value of an annotated type; None where there is none."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):  # an annotation in quotes
        try:
            annotation = ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            return None
    if isinstance(annotation, ast.Name):
        return _PLAIN.get(annotation.id.lower())
    if not isinstance(annotation, ast.Subscript) or not isinstance(annotation.value, ast.Name):
        return None
    kind = annotation.value.id.lower()
    inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    values = [_plain_value(each) for each in inner if not (isinstance(each, ast.Constant) and each.value is Ellipsis)]
    if not values or values[0] is None:
        return None
    if kind in ("optional", "union"):
        return values[0]
    if kind in ("list", "sequence", "iterable", "set", "frozenset"):
        several: list[Any] = _SEVERAL.get(type(values[0]), [values[0]] * 2)
        return set(several) if kind.endswith("set") and not isinstance(values[0], list | dict | set) else several
    if kind == "dict" and len(values) > 1 and None not in values and not isinstance(values[0], list | dict | set):
        return {values[0]: values[1]}
    return tuple(values) if kind == "tuple" and None not in values else None


class _Shown(NamedTuple):
    """What the examples show of the values that a function takes."""

    least: float  # no generated number is below it
    most: float  # and none has a larger absolute value
    letters: str
    has_empty: bool

    @classmethod
    def of(cls, calls: Sequence[CallArguments]) -> _Shown:
        numbers: list[float] = []
        texts: list[str] = []
        has_empty = False
        waiting: list[Any] = [value for call in calls for value in (*call.args, *(v for _, v in call.kwargs))]
        while waiting:
            value = waiting.pop()
            if isinstance(value, str):
                texts.append(value)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                numbers.append(value)
            elif isinstance(value, dict):
                waiting += [*value, *value.values()]
            elif isinstance(value, list | tuple | set | frozenset):
                waiting += value
            has_empty |= isinstance(value, str | list | tuple | set | dict) and not value
        lowest = min(numbers, default=0.0)
        most = max([MAX_NUMBER, *(2 * abs(number) for number in numbers)])
        return cls(-most if lowest < 0 else min(lowest, 1.0), most, "".join(sorted(set("".join(texts)))), has_empty)


def generated_calls(key: Key, examples: Sequence[CallArguments], num: int) -> tuple[CallArguments, ...]:
    """Return up to `num` different calls, none of them an example: examples with one value or two changed.

    They follow from the key and the examples alone.
    """
    if not examples or num < 1:
        return ()
    rng, shown = key.fold("inputs").generator(), _Shown.of(examples)
    known = {repr(call) for call in examples}
    calls: list[CallArguments] = []
    for _ in range(TRIES * num):
        source = [*examples, *calls]
        call = source[int(rng.integers(len(source)))]
        for _ in range(1 + int(rng.integers(2))):
            call = _changed_call(call, rng, shown)
        text = repr(call)
        if text not in known and len(text) <= MAX_LITERAL:
            known.add(text)
            calls.append(call)
        if len(calls) == num:
            break
    return tuple(calls)


def _changed_call(call: CallArguments, rng: np.random.Generator, shown: _Shown) -> CallArguments:
    size = len(call.args) + len(call.kwargs)
    index = int(rng.integers(size)) if size else 0
    if index < len(call.args):
        value = _changed(call.args[index], rng, shown)
        return call._replace(args=(*call.args[:index], value, *call.args[index + 1 :]))
    kwargs = list(call.kwargs)
    for at in range(len(kwargs)):
        if at == index - len(call.args):
            kwargs[at] = (kwargs[at][0], _changed(kwargs[at][1], rng, shown))
    return call._replace(kwargs=tuple(kwargs))


def _changed(value: Any, rng: np.random.Generator, shown: _Shown) -> Any:
    """Return a value of the same type that is changed a little; itself where its type is not known."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        changes = (value + 1, value - 1, 2 * value, value // 2, value + int(rng.integers(1, 10)))
        number = changes[int(rng.integers(len(changes)))]
        number = type(value)(number)
        return number if shown.least <= number and abs(number) <= shown.most else value
    if isinstance(value, str):
        letters = _changed_items(list(value), rng, lambda old: _letter(old, rng, shown), shown.has_empty)
        return "".join(letters) if letters else value
    if isinstance(value, list | tuple):
        return type(value)(_changed_items(list(value), rng, lambda old: _changed(old, rng, shown), shown.has_empty))
    if isinstance(value, set | frozenset):
        ordered = sorted(value, key=repr)
        return type(value)(_changed_items(ordered, rng, lambda old: _changed(old, rng, shown), shown.has_empty))
    if isinstance(value, dict) and value:
        items = list(value.items())
        index = int(rng.integers(len(items)))
        if len(items) > 1 and rng.random() < 0.3:
            del items[index]
        else:
            items[index] = (items[index][0], _changed(items[index][1], rng, shown))
        return dict(items)
    return value


def _letter(old: str, rng: np.random.Generator, shown: _Shown) -> str:
    return shown.letters[int(rng.integers(len(shown.letters)))] if shown.letters else old


def _changed_items(items: list[Any], rng: np.random.Generator, change: Any, may_be_empty: bool) -> list[Any]:
    """Return items with one changed, removed, repeated, moved, or all of them reversed."""
    if not items:
        return items
    index, other = (int(i) for i in rng.integers(len(items), size=2))
    match int(rng.integers(6)):
        case 0 if len(items) > 1 or may_be_empty:
            return [*items[:index], *items[index + 1 :]]
        case 1:
            return [*items[:index], items[index], *items[index:]]
        case 2:
            items[index], items[other] = items[other], items[index]
            return items
        case 3:
            return items[::-1]
        case 4:
            return [*items[:index], change(items[index]), *items[index:]]
    return [*items[:index], change(items[index]), *items[index + 1 :]]


def shared_calls(key: Key, question: Question, num: int) -> tuple[CallArguments, ...]:
    """Return up to `num` calls on which all programs of a question run: its examples first, then generated ones."""
    examples = example_calls(question)[:num]
    if examples:
        return (*examples, *generated_calls(key, examples, num - len(examples)))
    plain = annotated_call(question)
    return () if plain is None else (plain, *generated_calls(key, (plain,), num - 1))


# --- running ----------------------------------------------------------------------------------------------------------

# Runs in the sandbox, in the program's own process. A program that forges its outputs can only join another group.
_HARNESS = """
import json, os, signal, sys, types

class _Late(BaseException):
    pass

def _late(*_):
    raise _Late

class _Deaf:
    def write(self, text): return len(text)
    def flush(self): pass
    def isatty(self): return False

def _shown(value, depth=0):
    if depth > 20:
        return "..."
    if isinstance(value, complex):
        return f"complex({value.real:.9g}, {value.imag:.9g})"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        whole = abs(value) < 1e300 and value == int(value)
        return str(int(value)) if whole else f"{value:.9g}"
    if value is None or isinstance(value, (str, bytes)):
        return repr(value)
    if isinstance(value, dict):
        items = [_shown(k, depth + 1) + ": " + _shown(v, depth + 1) for k, v in value.items()]
        return "{" + ", ".join(sorted(items)) + "}"
    if isinstance(value, (set, frozenset)):
        return "set(" + ", ".join(sorted(_shown(item, depth + 1) for item in value)) + ")"
    if isinstance(value, (list, tuple)):
        return type(value).__name__ + "(" + ", ".join(_shown(item, depth + 1) for item in value) + ")"
    if isinstance(value, types.GeneratorType) or type(value).__name__ in ("map", "filter", "zip", "range"):
        items = []
        for item in value:
            items.append(_shown(item, depth + 1))
            if len(items) == 1000:
                break
        return "iterator(" + ", ".join(items) + ")"
    return type(value).__name__

def _main(source, name, calls, seconds, mark):
    line, write, dumps = os.dup(1), os.write, json.dumps
    sys.stdout = sys.stderr = _Deaf()
    signal.signal(signal.SIGALRM, _late)
    module = types.ModuleType("program")
    sys.modules["program"] = module
    exec(compile(source, "program.py", "exec", dont_inherit=True), vars(module))
    for args, kwargs in calls:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                value = vars(module)[name](*args, **dict(kwargs))
                text = "=" + _shown(value if value is not None else [None, args])
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except _Late:
            text = "!late"
        except BaseException as error:
            text = "!" + type(error).__name__
        if len(text) > 2000:
            import hashlib
            text = text[0] + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
        write(line, (mark + dumps(text) + "\\n").encode())
"""


def run_calls(
    solutions: Sequence[str], calls: Sequence[CallArguments], entry_point: str, sandbox: Sandbox | None = None
) -> list[tuple[str, ...] | None]:
    """Return the output of every call, a text, for each of the solutions (N,); None where the sandbox itself failed.

    Outputs that `==` finds equal have the same text, floats to nine digits. One that begins with `RETURNED` was
    returned; otherwise the call raised, took longer than `codet.TEST_S`, or was not reached. Cost: one run in the
    sandbox for each different solution.
    """
    different = tuple(dict.fromkeys(solutions))
    listed = [(call.args, call.kwargs) for call in calls]
    programs = [
        Program(f"{_HARNESS}\n_main({source!r}, {entry_point!r}, {listed!r}, {TEST_S}, {MARK!r})\n")
        for source in different
    ]
    outputs: dict[str, tuple[str, ...] | None] = {}
    for index, verdict in (sandbox or shared_sandbox()).run_all(programs, LIMITS):
        if verdict.status == "broken":
            outputs[different[index]] = None
            continue
        lines = [line.removeprefix(MARK) for line in verdict.stdout.splitlines() if line.startswith(MARK)]
        texts = [_text(line) for line in lines[: len(calls)]]
        outputs[different[index]] = (*texts, *(f"!{verdict.status}",) * (len(calls) - len(texts)))
    return [outputs[solution] for solution in solutions]


def _text(line: str) -> str:
    try:
        return str(json.loads(line))
    except ValueError:
        return "!output"


def group_outputs(outputs: Sequence[tuple[str, ...] | None], num_examples: int) -> Floats:
    """Return the number of each program's group (N,), from 0 in order of first occurrence: programs of one group have
    the same outputs. nan for a program that returns nothing on any input, or None.

    A generated input (from index `num_examples` on) on which fewer than half of the programs return is taken for none
    that the function is meant for, and left out, unless there is no other.
    """
    running = [row for row in outputs if row is not None and any(text.startswith(RETURNED) for text in row)]
    if not running:
        return np.full(len(outputs), math.nan)
    returned = np.array([[text.startswith(RETURNED) for text in row] for row in running])
    kept = (np.arange(returned.shape[1]) < num_examples) | (2 * returned.sum(axis=0) >= len(running))
    kept = kept if kept.any() else np.ones_like(kept)
    numbers: dict[tuple[str, ...], float] = {}
    groups = []
    for row in outputs:
        seen = () if row is None else tuple(text for text, keep in zip(row, kept.tolist(), strict=True) if keep)
        if any(text.startswith(RETURNED) for text in seen):
            groups.append(numbers.setdefault(seen, float(len(numbers))))
        else:
            groups.append(math.nan)
    return np.array(groups, dtype=np.float64)


def why_no_inputs(question: Question) -> str:
    """Return why programs of a question cannot be run on inputs of their own, "" if they can."""
    if not question.facts.get("entry_point"):
        return "the question does not name a function (facts['entry_point']), so its answers are no programs to run"
    if not example_calls(question) and annotated_call(question) is None:
        return "the question shows no call of its function with plain arguments, and its parameters have no types"
    return ""


def outputs(inputs: int = NUM_INPUTS) -> Judge:
    """Number programs by what they return on `inputs` shared inputs: those that return the same have the same number.

    The numbers are names, and no score: the selector `behaviour` votes by them. nan for a response without a program,
    and for a program that returns nothing on any input. Inputs are the question's examples, then generated ones, which
    follow from the key. A question without a function's name, or without inputs, is refused before anything is drawn.
    Cost: no request, no token; one run in the sandbox for each different program, of `inputs` calls.
    """
    check_count("inputs", inputs, most=1_000)

    def next_asks(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[Ask, ...]:
        return ()

    def rate(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[float, ...]:
        programs = [read_code(question, candidate.text) for candidate in candidates]
        calls = shared_calls(key, question, inputs)
        if not calls or not any(programs):
            return (math.nan,) * len(candidates)
        name = str(question.facts["entry_point"])
        ran = iter(run_calls([program for program in programs if program], calls, name))
        num_examples = max(1, len(example_calls(question)))
        return tuple(group_outputs([next(ran) if program else None for program in programs], num_examples).tolist())

    return Judge("outputs", next_asks, rate, asks=False, unfit=why_no_inputs, setup=shared_sandbox)
