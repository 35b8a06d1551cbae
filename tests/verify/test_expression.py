"""The canonical form, and random expressions in many notations read back to it."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from samplewise.core.types import Message, Question
from samplewise.tasks.countdown import solutions
from samplewise.verify.expression import canonical, parse_tokens
from samplewise.verify.lexing import lex
from samplewise.verify.puzzle import read_puzzle

OPS = "+-*/"


def ask(*numbers: int, target: int = 24) -> Question:
    return Question("q", (Message("user", "make it"),), {"numbers": list(numbers), "target": target})


def canon(text: str) -> str:
    expression = parse_tokens(lex(text))
    assert expression is not None, text
    return canonical(expression)


@pytest.mark.parametrize(
    "same",
    [
        ("1 + 2 + 3", "3 + (2 + 1)", "(3 + 1) + 2"),
        ("9 - (5 - 2)", "9 + 2 - 5", "(9 - 5) + 2", "2 - (5 - 9)", "-5 + 9 + 2"),
        ("8 / (4 / 2)", "8 * 2 / 4", "8 / 4 * 2", "2 * (8 / 4)"),
        ("-(6 - 10) * 6", "(10 - 6) * 6", "6 * (10 - 6)"),
        ("-3 * -8", "3 * 8", "(-3) * (-8)", "-(-3 * 8)", "-(-(3 * 8))"),
        ("48 - 3 * 8", "-3 * 8 + 48", "48 + 8 * -3", "48 - (3 * 8)"),
        ("4.0 * 6", "4 * 6", "6 × 4", r"6 \cdot 4", "4·6", "(4)(6)", "6 times 4", "4 x 6", "4x6"),
        ("8 / 2", r"\frac{8}{2}", r"\dfrac82", "8 ÷ 2", "8 over 2", "8 divided by 2"),
    ],
)
def test_order_and_brackets_do_not_count(same: tuple[str, ...]) -> None:
    assert len({canon(text) for text in same}) == 1


@pytest.mark.parametrize(
    "different",
    [
        ("6 * 1", "6 / 1", "6"),
        ("1 - 2", "2 - 1"),
        ("(2 - 3) * (4 - 5)", "(3 - 2) * (5 - 4)"),
        ("2 * (3 + 4)", "2 * 3 + 2 * 4", "2 * 3 + 4"),
        ("8 / (5 / 0)", "8 * 0 / 5"),  # the first has no value
        ("0.5", "1 / 2"),
    ],
)
def test_nothing_is_simplified(different: tuple[str, ...]) -> None:
    assert len({canon(text) for text in different}) == len(different)


def test_two_numbers_have_six_expressions() -> None:
    found = {canon(f"{a} {op} {b}") for a, b in ((2, 7), (7, 2)) for op in OPS}
    assert len(found) == 6
    assert solutions((5, 7, 11), 42) == {"7 * (11 - 5)"}
    assert solutions((5, 7, 11), -42) == {"7 * (5 - 11)"}


Tree = int | tuple[str, "Tree", "Tree"]


def value(tree: Tree) -> Fraction | None:
    """An evaluator of its own, so that nothing is checked against itself."""
    if isinstance(tree, int):
        return Fraction(tree)
    op, left, right = tree[0], value(tree[1]), value(tree[2])
    if left is None or right is None or (op == "/" and right == 0):
        return None
    return {"+": left + right, "-": left - right, "*": left * right, "/": left / (right or 1)}[op]


def leaves(tree: Tree) -> list[int]:
    return [tree] if isinstance(tree, int) else leaves(tree[1]) + leaves(tree[2])


def full(tree: Tree) -> str:
    return str(tree) if isinstance(tree, int) else f"({full(tree[1])} {tree[0]} {full(tree[2])})"


def spare(tree: Tree, tight: int = 0) -> str:
    """With no more brackets than needed."""
    if isinstance(tree, int):
        return str(tree)
    own = 1 if tree[0] in "+-" else 2
    text = f"{spare(tree[1], own)} {tree[0]} {spare(tree[2], own + (tree[0] in '-/'))}"
    return f"({text})" if own < tight else text


def latex(tree: Tree, tight: int = 0) -> str:
    if isinstance(tree, int):
        return str(tree)
    if tree[0] == "/":
        return rf"\frac{{{latex(tree[1])}}}{{{latex(tree[2])}}}"
    own = 1 if tree[0] in "+-" else 2
    sign = {"+": "+", "-": "-", "*": r"\times"}[tree[0]]
    text = rf"{latex(tree[1], own)} {sign} {latex(tree[2], own + (tree[0] == '-'))}"
    return rf"\left({text}\right)" if own < tight else text


def number_text(exact: Fraction) -> str:
    return str(exact) if exact.denominator == 1 and exact >= 0 else f"({exact.numerator}/{exact.denominator})"


def steps(tree: Tree, words: bool = False) -> list[str]:
    """The steps of a tree, deepest first; results as whole numbers, fractions in brackets or signed numbers."""
    if isinstance(tree, int):
        return []
    exact = value(tree)
    assert exact is not None
    left, right = value(tree[1]), value(tree[2])
    assert left is not None
    assert right is not None
    shown = [f"({n})" if n < 0 and n.denominator == 1 else number_text(n) for n in (left, right, exact)]
    op, equals = (
        (dict(zip(OPS, ("plus", "minus", "times", "over"), strict=True))[tree[0]], "is") if words else (tree[0], "=")
    )
    return [*steps(tree[1], words), *steps(tree[2], words), f"{shown[0]} {op} {shown[1]} {equals} {shown[2]}"]


def made(tree: Tree) -> list[Fraction]:
    return [] if isinstance(tree, int) else [*made(tree[1]), *made(tree[2]), value(tree) or Fraction(0)]


def trees(sizes: tuple[int, int] = (2, 6)) -> st.SearchStrategy[Tree]:
    @st.composite
    def build(draw: st.DrawFn) -> Tree:
        parts: list[Tree] = list(draw(st.lists(st.integers(1, 13), min_size=sizes[0], max_size=sizes[1])))
        while len(parts) > 1:
            right = parts.pop(draw(st.integers(0, len(parts) - 1)))
            left = parts.pop(draw(st.integers(0, len(parts) - 1)))
            parts.append((draw(st.sampled_from(OPS)), left, right))
        return parts[0]

    return build()


STYLES = {
    "plain": lambda t: spare(t),
    "full brackets": lambda t: f"Answer: {full(t)} = {value(t)}",
    "no claim": lambda t: f"I tried.\nAnswer: {spare(t)}",
    "unicode": lambda t: "Answer: " + spare(t).replace("*", "×").replace("/", "÷").replace("-", "−") + " = 24",
    "boxed": lambda t: rf"Therefore $\boxed{{{latex(t)}}}$.",
    "boxed claim": lambda t: rf"The answer is \[\boxed{{{latex(t)} = {value(t)}}}\]",
    "latex line": lambda t: rf"**Answer:** \({latex(t)} = 24\)",
    "bold": lambda t: f"First, 1 + 1 = 2.\n\n**Answer: {spare(t)} = 24**",
    "bold value": lambda t: f"**Answer:** **{spare(t)}** = 24",
    "below": lambda t: f"Final answer:\n\n```\n{spare(t)} = 24\n```\n",
    "prose": lambda t: f"The final answer is {full(t)}, which is what was asked.",
    "remark": lambda t: f"Answer: {spare(t)} = 24 (checked twice)",
    "no marker": lambda t: f"Let me think.\n{spare(t)} = {value(t)}",
    "last answer": lambda t: f"Answer: 1 + 1 = 2\nNo, wrong.\nAnswer: {spare(t)} = 24",
    "target": lambda t: f"{spare(t)} = {value(t)}\nThe answer is 24.",
    "turned": lambda t: f"Answer: 24 = {spare(t)}",
    "reasoned": lambda t: f"<think>Answer: 1 + 1</think>\nAnswer: {spare(t)} = 24",
    "code": lambda t: f"Answer: `{spare(t)}`",
    "italic claim": lambda t: f"*Answer:* {spare(t)} = *24*",
    "typeset": lambda t: "Answer: " + spare(t).replace(" ", "\u2009").replace("*", "·"),
}


@settings(max_examples=50, deadline=None)
@given(tree=trees())
@example(tree=("/", 8, ("-", 3, ("/", 8, 3))))
def test_every_style_reads_to_the_same_expression(tree: Tree) -> None:
    exact = value(tree)
    assume(exact is not None)
    wanted = canon(full(tree))
    question = ask(*leaves(tree))
    for name, style in STYLES.items():
        assert read_puzzle(question, style(tree)) == wanted, (name, style(tree))


@settings(max_examples=80, deadline=None)
@given(tree=trees(), words=st.booleans(), join=st.sampled_from((" , ", "\n", " , then ", ". ", "; ", "\n- ")))
@example(tree=("/", 8, ("-", 3, ("/", 8, 3))), words=True, join=" , ")
def test_steps_are_put_together(tree: Tree, words: bool, join: str) -> None:
    exact = value(tree)
    assume(exact is not None)
    assert exact is not None
    question = Question("q", (), {"numbers": leaves(tree), "target": 24})
    text = join.join(steps(tree, words))
    got = read_puzzle(question, text)
    assert got is not None, text
    expression = parse_tokens(lex(got))
    assert expression is not None
    assert expression.value == exact  # whichever of two equal operands is meant, the value is the same
    assert sorted(expression.numbers) == sorted(leaves(tree))
    seen = [*map(Fraction, leaves(tree)), *made(tree)]
    if len(set(seen)) == len(seen):  # nothing is ambiguous
        assert got == canon(full(tree)), text


@settings(max_examples=100, deadline=None)
@given(tree=trees(), data=st.data())
def test_exchanging_and_regrouping_keep_the_canonical_form(tree: Tree, data: st.DataObject) -> None:
    assume(value(tree) is not None)

    def shuffled(node: Tree) -> Tree:
        if isinstance(node, int):
            return node
        op, a, b = node[0], shuffled(node[1]), shuffled(node[2])
        if op in "+*" and data.draw(st.booleans()):
            a, b = b, a
        inverse = {"+": "-", "*": "/"}
        undo = {"+": "+-", "*": "*/", "-": "+-", "/": "*/"}[op]
        if not isinstance(b, int) and b[0] in undo and data.draw(st.booleans()):  # a op (c op2 d) -> (a op c) op3 d
            base = undo[0]
            direct = (op == base) == (b[0] == base)
            moved: Tree = (base if direct else inverse[base], (op, a, b[1]), b[2])
            return moved if value(moved) is not None else (op, a, b)
        return op, a, b

    other = shuffled(tree)
    assert value(other) == value(tree)
    assert canon(spare(other)) == canon(full(tree)), (spare(other), spare(tree))


@settings(max_examples=100, deadline=None)
@given(tree=trees())
def test_the_canonical_form_is_stable_and_keeps_value_and_numbers(tree: Tree) -> None:
    expression = parse_tokens(lex(full(tree)))
    assert expression is not None
    assert expression.value == value(tree)
    again = parse_tokens(lex(canonical(expression)))
    assert again is not None
    assert canonical(again) == canonical(expression)
    assert again.value == expression.value
    assert sorted(again.numbers) == sorted(expression.numbers)
