from __future__ import annotations

import re

import pytest

from samplewise.core.errors import BadSpec, UnknownName, UsageError
from samplewise.core.types import Capability
from samplewise.recipe import Recipe, parse_choice, recipe
from samplewise.stop.base import NOBODY

GOOD = [
    ("repeat(8)", "repeat(8) | first"),
    ("  repeat( 8 )|vote ", "repeat(8) | vote"),
    (
        "vary(ladder) | repeat(64) | until(lead(4)) | best(logp)",
        "vary(ladder) | repeat(64) | until(lead(4)) | best(logp)",
    ),
    ("vary() | repeat(2)", "vary | repeat(2) | first"),
    ("vary(ladder(.4, 2)) | repeat(2) | vote", "vary(ladder(0.4, 2)) | repeat(2) | vote"),
    ("(vary(ladder) | repeat(2)) | first", "vary(ladder) | repeat(2) | first"),
    ("repeat(2, stop=['a', 'b'])", "repeat(2, stop=('a', 'b')) | first"),
    ("repeat(2) | until(cap(2), ahead=3)", "repeat(2) | until(cap(2), ahead=3) | first"),
    ("repeat(2) | until(cap(2), ahead=idle)", "repeat(2) | until(cap(2), ahead=idle) | first"),
    ("repeat(2) | until(either(lead(2), cap(2)))", "repeat(2) | until(either(lead(2), cap(2))) | first"),
    ("repeat(2)|until(passed('logp', score=-1))|vote", "repeat(2) | until(passed('logp', score=-1)) | vote"),
]


@pytest.mark.parametrize(("line", "canonical"), GOOD)
def test_good_lines(line: str, canonical: str) -> None:
    made = recipe(line)
    assert made.line == canonical
    assert recipe(canonical).line == canonical
    assert recipe(made) is made


def test_parts_of_a_recipe() -> None:
    made = recipe("vary(ladder) | repeat(64) | until(passed(logp)) | best(likelihood)")
    assert made.draw_line == "vary(ladder) | repeat(64) | until(passed(logp))"
    assert list(made.verifiers) == ["logp", "likelihood"]
    assert made.needs == {Capability.GENERATE}
    assert made.stop is not None
    assert (made.sampler.name, made.stop.name, made.selector.name) == ("repeat", "passed", "best")
    assert recipe("repeat(3) | vote").draw_line == recipe("repeat(3)").draw_line == "repeat(3)"


def test_a_rule_within_a_rule_brings_its_verifiers() -> None:
    made = recipe(
        "repeat(9) | until(either(passed(logp), either(passed(likelihood), lead(3)), cap(7)), ahead=2) | vote"
    )
    assert list(made.verifiers) == ["logp", "likelihood"]
    assert made.ahead == 2
    assert made.stop is not None
    assert made.stop.at_least(made.stop.start(NOBODY)) == 1
    assert recipe("repeat(9) | until(cap(3), ahead='idle')").ahead == "idle"
    assert recipe("repeat(9) | vote").ahead == 0


BAD = [
    ("repeat(8) | until(lead(3), ahead=-1)", "ahead must be a whole number of at least 0, or idle; got -1", 12),
    ("repeat(8) | until(lead(3), ahead=True)", "ahead must be", 12),
    ("repeat(8) | until(lead(3), ahead=busy)", "ahead must be", 12),
    ("repeat(8) | until(either(led(3), cap(4)))", "did you mean lead", None),
    ("repeat(8) | until(either(vote, cap(4)))", "no stop is called 'vote'", None),
    ("repeat(8) | until(either(passed(lopg), cap(4)))", "did you mean logp?", None),
    ("", "empty", None),
    ("vote", "one selector comes last, after a sampler", 0),
    ("vary(ladder)", "a recipe needs a sampler, one of:", None),
    ("repeat(8) | repeat(8)", "a recipe has one sampler", 12),
    ("repeat(8) | vote | first", "one selector comes last", 19),
    ("repeat(8) | vote | until(lead(3))", "until(...) follows the sampler, once", 19),
    ("until(lead(3)) | repeat(8)", "until(...) follows the sampler, once", 0),
    ("repeat(8) | until(lead(3)) | until(lead(4))", "until(...) follows the sampler, once", 29),
    ("repeat(8) | vary(ladder)", "vary(...) comes first, once", 12),
    ("vary(ladder) | vary(ladder) | repeat(8)", "vary(...) comes first, once", 15),
    ("repeat(8) | until()", "until(...) takes one stop rule", 12),
    ("repeat(8) | until(lead(3), lead(4))", "until(...) takes one stop rule", 12),
    ("repeat(8) | until(margin=3)", "takes one stop rule, and ahead= how many draws", 12),
    ("repeat(8) | until(3)", "expected the name of one: ", 18),
    ("vary('ladder') | repeat(8)", "expected the name of one: again, backtranslate", 6),
    ("repeat(8) | lead(3)", "no sampler or selector is called 'lead'", 12),
    ("repeat(8) | until(vote)", "no stop is called 'vote'", 18),
    ("repeat(8) | until(led(3))", "did you mean lead", 18),
    ("repeat(8) | best(lopg)", "did you mean logp?", None),
    ("repeat(8) | best(3)", "verifier must be a text", None),
    ("repeat(8) | until(passed(3))", "verifier must be a text", None),
    ("repeat(8) or vote", "expected a name or a call", 0),
    ("repeat(8) | vote ^ first", "expected a name or a call", 12),
    ("repeat(0) | vote", "num_samples must be", 0),
    ("repeat(2.5)", "num_samples must be", 0),
    ("repeat(8, max_tokens=0)", "max_tokens must be", 0),
    ("repeat(8, wave=0)", "wave must be", 0),
    ("repeat(8, top_k=1.5)", "top_k must be", 0),
    ("repeat(8, top_p=0)", "top_p must be", 0),
    ("repeat(8, min_p=1)", "min_p must be", 0),
    ("repeat(8, temperature=-1)", "temperature must be", 0),
    ("repeat(8, stop=3)", "repeat: ", 0),
    ("repeat(8, stop=('a', ''))", "stop must be", 0),
    ("repeat(8) | until(lead(0))", "margin must be", 18),
    ("vary(ladder(0)) | repeat(8)", "a ladder must not contain temperature 0", 5),
    ("vary(ladder(-1)) | repeat(8)", "a temperature must be 0 or more", 5),
    ("repeat(8", "was never closed", 6),
    ("repeat(8) | | vote", "cannot be read", 12),
]


@pytest.mark.parametrize(("line", "message", "column"), BAD)
def test_bad_lines_say_what_and_where(line: str, message: str, column: int | None) -> None:
    with pytest.raises((BadSpec, UnknownName), match=re.escape(message)) as caught:
        recipe(line)
    if column is not None:
        assert str(caught.value).endswith(f"\n  {line}\n  {' ' * column}^")


def test_a_selector_by_itself() -> None:
    text, selector, verifiers = parse_choice("best( logp )")
    assert (text, selector.name, list(verifiers)) == ("best(logp)", "best", ["logp"])
    with pytest.raises(UnknownName, match="no selector is called 'repeat'"):
        parse_choice("repeat(3)")


def test_a_recipe_is_frozen() -> None:
    made = recipe("repeat(3)")
    assert isinstance(made, Recipe)
    with pytest.raises(AttributeError):
        made.ahead = 3  # type: ignore[misc]


def test_a_recipe_is_changed_by_its_stages() -> None:
    whole = recipe("vary(ladder) | repeat(64, temperature=0.5) | until(lead(4), ahead=2) | best(puzzle)")
    assert whole.with_draws(8).line == (
        "vary(ladder) | repeat(8, temperature=0.5) | until(lead(4), ahead=2) | best(puzzle)"
    )
    assert whole.with_selector("weighted(logp)").line == whole.draw_line + " | weighted(logp)"
    assert list(whole.with_selector("weighted(logp)").verifiers) == ["logp"]
    assert whole.with_stop(None).with_vary(None).line == "repeat(64, temperature=0.5) | best(puzzle)"
    assert whole.with_stop("asc(0.9)", ahead="idle").stages.line.split(" | ")[2] == "until(asc(0.9), ahead=idle)"
    assert whole.with_vary("vary(permute(2))").vary.engines == frozenset()
    assert recipe("repeat(num_samples=3)").with_draws(5).line == "repeat(num_samples=5) | first"
    for changed in (whole.with_draws(8), whole.with_stop("asc(0.9)", ahead="idle"), whole.with_selector("vote")):
        assert recipe(changed.line).line == changed.line
    with pytest.raises(UsageError, match="only repeat"):
        recipe("power(4) | first").with_draws(2)


def test_a_bar_within_a_text_separates_no_stages() -> None:
    """Lines were once cut at " | ", so an arm's name that holds one was cut in two."""
    line = "repeat(8) | only('role/x | y')"
    assert recipe(line).line == line
    assert str(recipe(line).stages.selector) == "only('role/x | y')"
    assert recipe(line).draw_line == "repeat(8)"
    assert recipe(line).with_draws(3).line == "repeat(3) | only('role/x | y')"
