from __future__ import annotations

import contextlib
import importlib.metadata
import keyword
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from samplewise.core import registry
from samplewise.core.errors import BadSpec, SetupError, UnknownName, UsageError
from samplewise.core.registry import KINDS, build, kinds_of, names, signature, summary
from samplewise.core.spec import Spec, modern, parse_spec, wire
from samplewise.recipe import recipe
from samplewise.samplers.base import Sampler

identifiers = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True).filter(lambda s: not keyword.iskeyword(s))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
literals = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=3,
)


def specs(depth: int = 1) -> st.SearchStrategy[Spec]:
    inner = literals if depth == 0 else literals | specs(depth - 1)
    return st.builds(
        lambda name, args, kwargs: Spec(name, tuple(args), tuple(kwargs.items())),
        identifiers,
        st.lists(inner, max_size=2),
        st.dictionaries(identifiers, inner, max_size=2),
    )


def bare(value: Any) -> Any:
    """Without where it stood in its text."""
    if isinstance(value, Spec):
        return Spec(value.name, tuple(map(bare, value.args)), tuple((k, bare(v)) for k, v in value.kwargs))
    return value


@given(specs())
def test_a_spec_comes_back_from_its_text(spec: Spec) -> None:
    again = parse_spec(str(spec))
    assert bare(again) == spec
    assert str(again) == str(spec)


def test_short_form() -> None:
    assert bare(parse_spec("local:Qwen/Qwen3-0.6B")) == Spec("local", ("Qwen/Qwen3-0.6B",))
    assert bare(parse_spec(" local : a:b ")) == Spec("local", ("a:b",))
    assert parse_spec(" local:a").column == 1
    assert bare(parse_spec("local:C:\\models\\x")) == Spec("local", ("C:\\models\\x",))
    assert bare(parse_spec(str(parse_spec("local:it's")))) == Spec("local", ("it's",))


def test_lists_are_tuples_and_backslashes_do_not_warn() -> None:
    assert bare(parse_spec("f([1, [2, 3]], x=[])")) == Spec("f", ((1, (2, 3)),), (("x", ()),))
    assert bare(parse_spec(r"jsonl('C:\data')")) == Spec("jsonl", (r"C:\data",))  # Python itself warns of \d


MALFORMED = [
    ("", "empty", None),
    ("   ", "empty", None),
    ("repeat(", "was never closed", 6),
    ("repeat(8))", "unmatched", 9),
    ("repeat(8", "was never closed", 6),
    ("8", "expected a name or a call", 0),
    ("  'x'", "expected a name or a call", 2),
    ("a.b(1)", "expected a name or a call", 0),
    ("f(1)(2)", "expected a name or a call", 0),
    ("f(*x)", r"\* cannot be used here", 2),
    ("f(**x)", r"\*\* cannot be used here", 4),
    ("f(1 + 1)", "expected a number", 2),
    ("f(x for x in y)", "expected a number", 1),
    ("f(lambda: 1)", "expected a number", 2),
    ("f(__import__('os').system('x'))", "expected a name or a call", 2),
    ("f((a, b))", "expected a number", 2),
    ("f(2j)", "expected a number", 2),
    ("f(b'x')", "expected a number", 2),
    ("f({1, 2})", "expected a number", 2),
    ("f(...)", "expected a number", 2),
    ("f(1e999)", "expected a number", 2),  # inf has no literal, so its text would not come back
    ("f('é', 1j)", "expected a number", 7),  # columns are characters, not bytes
    ("f(a=1, a=2)", "a is given twice", 7),
    ("f(1\n)", "one line", None),
    ("a:b\nc", "one line", None),
    ("f(1); g(2)", "cannot be read", 4),
    ("x = 1", "cannot be read", 2),
    ("lambda: 3", "expected a name or a call", 0),
    ("f(\0)", "cannot be read", None),
    ("f('\ud800')", "cannot be read", None),
    ("f(" * 20 + ")" * 20, "nested too deeply", 34),
    ("(" * 300, "cannot be read", None),
    ("f(" + "-" * 50_000 + "1)", "cannot be read|expected a number", None),
]


@pytest.mark.parametrize(("text", "message", "column"), MALFORMED, ids=[t[:20] for t, _, _ in MALFORMED])
def test_malformed_text_is_refused_with_the_place(text: str, message: str, column: int | None) -> None:
    with pytest.raises(BadSpec, match=message) as caught:
        parse_spec(text)
    if column is not None:
        assert caught.value.column == column
        assert str(caught.value).splitlines()[-1] == "  " + " " * column + "^"


def test_nothing_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr("os.system", called.append)
    for text in (
        "f(__import__('os').system('x'))",
        "__import__('os').system('x')",
        "f([__import__('os').system('x')])",
    ):
        with pytest.raises(BadSpec):
            parse_spec(text)
    with pytest.raises(UnknownName):
        build("sampler", "__import__(os)")
    assert not called


WORDS = ["repeat", "vary", "until", "vote", "best", "lead", "ladder", "passed", "logp", "num_samples", "temperature"]
MARKS = [*"()()|,=[]{:*#~@.\\é", "8", "-1", "0.5", "1e400", "0x", "1_0", "'x'", '"', "f'{x}'", "None", "lambda", "wave"]
pieces = st.lists(
    st.sampled_from([*WORDS, *MARKS, " | ", "\t", "\x00", "\ud800", "\r"]),
    max_size=12,
).map("".join)


@settings(max_examples=200)
@given(pieces | st.text(max_size=30))
@example("repeat(8, temperature='x') | vote")
@example("repeat(8) | best(3)")
@example("repeat(8) | until(passed(None)) | vote")
@example("vary(ladder(0)) | repeat(2)")
@example("repeat(2.5)")
@example("repeat(8, max_tokens=1.5)")
@example("repeat(8, temperature=" + "9" * 4000 + ")")
@example("|".join(["repeat(1)"] * 1_000))
def test_any_text_is_a_recipe_or_a_usage_error(text: str) -> None:
    """2,000 stages overflowed the stack, 10**5000 the float, and best(3) went looking for the name of a number."""
    try:
        made = recipe(text)
    except UsageError:
        return
    assert recipe(made.line).line == made.line


@settings(max_examples=100)
@given(pieces | st.text(max_size=30), st.sampled_from(["sampler", "stop", "selector", "arm"]))
def test_building_any_text_gives_a_part_or_a_setup_error(text: str, kind: registry.Kind) -> None:
    with contextlib.suppress(SetupError):
        build(kind, text)


# --- the registry -----------------------------------------------------------------------------------------------------


def test_names_are_sorted_and_kinds_are_known() -> None:
    for kind in KINDS:
        assert list(names(kind)) == sorted(set(names(kind)))
    assert kinds_of("repeat") == ("sampler",)
    assert kinds_of("nothing") == ()


def test_an_unknown_name_is_marked_in_a_longer_text() -> None:
    with pytest.raises(UnknownName, match="did you mean repeat") as caught:
        recipe("vary() | repaet(3)")
    assert str(caught.value).endswith("\n  vary() | repaet(3)\n           ^")


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(BadSpec, match=r"repeat takes \(num_samples, \*, temperature=1.0.*missing a required argument"):
        build("sampler", "repeat()")
    with pytest.raises(BadSpec, match="unexpected keyword argument 'temprature'"):
        build("sampler", "repeat(8, temprature=2)")
    with pytest.raises(BadSpec, match=r"repeat: num_samples must be .* got 0"):
        build("sampler", "repeat(0)")


def test_a_nested_name_stays_text() -> None:
    assert build("selector", "best(logp)").verifiers == ("logp",)
    assert build("selector", "best('logp')").verifiers == ("logp",)


def test_signatures_and_summaries_are_for_people() -> None:
    assert signature("stop", "lead") == "(margin)"
    for kind in ("sampler", "stop", "selector", "arm"):
        for name in names(kind):
            assert summary(kind, name), name


class Fake:
    """Entry points as an installed package would have them."""

    def __init__(self, *points: importlib.metadata.EntryPoint) -> None:
        self.points = points

    def __call__(self) -> importlib.metadata.EntryPoints:
        return importlib.metadata.EntryPoints(self.points)


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    points = (
        importlib.metadata.EntryPoint("again", "samplewise.samplers.repeat:repeat", "samplewise.sampler"),
        importlib.metadata.EntryPoint("repeat", "nowhere:nothing", "samplewise.sampler"),
        importlib.metadata.EntryPoint("absent", "no_such_package:part", "samplewise.selector"),
        importlib.metadata.EntryPoint("hollow", "samplewise.core.keys:nothing", "samplewise.selector"),
    )
    monkeypatch.setattr(importlib.metadata, "entry_points", Fake(*points))
    registry._plugins.cache_clear()
    yield
    registry._plugins.cache_clear()


@pytest.mark.usefixtures("plugins")
def test_a_plugin_is_found_like_any_part() -> None:
    assert "again" in names("sampler")
    assert isinstance(build("sampler", "again(3)"), Sampler)
    assert recipe("again(3) | vote").line == "again(3) | vote"
    assert isinstance(build("sampler", "repeat(3)"), Sampler)  # a plugin does not take a built-in's name
    with pytest.raises(UnknownName, match="did you mean again"):
        build("sampler", "agian(3)")


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("name", ["absent", "hollow"])
def test_a_broken_plugin_is_one_clear_error(name: str) -> None:
    """It was an ImportError with a traceback, as if samplewise itself were broken."""
    with pytest.raises(SetupError, match=f"the plugin {name} .* cannot be loaded") as caught:
        build("selector", name)
    assert not isinstance(caught.value, UsageError)


def test_stored_lines_are_read_in_todays_words() -> None:
    stored = r"vary(idea(2, thinker='it\'s thinker=x'), step(3, thinker=('', 'wise'))) | repeat(9) | best(thinker)"
    line = r"vary(idea(2, helper='it\'s thinker=x'), step(3, helper=('', 'wise'))) | repeat(9) | best(thinker)"
    assert modern(stored) == line
    assert modern(line) == line


def test_stored_lines_are_read_in_todays_words_and_keep_their_ids() -> None:
    old = "vary(idea(2, thinker='two'), share=quota(1, 1)) | repeat(4) | until(share(0.5)) | only('share, thinker=')"
    new = (
        "vary(idea(2, helper='two'), share=quota(1, 1)) | repeat(4) | until(vote_share(0.5)) | only('share, thinker=')"
    )
    assert modern(old) == new
    assert modern(new) == new
    assert wire(new) == old
