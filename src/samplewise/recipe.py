"""A recipe is one line: how to vary, how to draw, when to stop, how to choose.

    vary(ladder) | repeat(64) | until(lead(4)) | best(puzzle)

One sampler is needed. `vary(...)` before it, and `until(...)` and a selector after it, are optional. Without a selector
the first readable answer is taken.

A recipe is its stages, as specs; the line is their text. Change a recipe by its methods (`with_draws`, `with_stop`,
`with_selector`, `with_vary`), never by its text. A spec nested in another, `either(asc, cap(40))` or `passed(puzzle)`,
is built once, by the outer part: only that part knows the kind that it takes.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from samplewise.core.errors import BadSpec, UnknownName, UsageError
from samplewise.core.keys import Key
from samplewise.core.registry import Kind, build, factory, kinds_of, names
from samplewise.core.spec import Spec, parse_expression, parse_node, parse_spec
from samplewise.core.types import Capability, Completion, Generate, Message, Sampling, Verifier
from samplewise.samplers.base import Sampler, Variant, direct
from samplewise.select.base import Selector
from samplewise.stop.base import NOBODY, StopRule
from samplewise.vary.base import Vary, vary
from samplewise.verify.base import Judge

FIRST = Spec("first")  # the selector of a line that names none
ANY_PROMPT = (Message("user", "any"),)
DRAWS_ARGUMENT = {"repeat": "num_samples"}  # sampler -> the argument that counts its draws, its first


class Stages(NamedTuple):
    """The stages of a recipe, as specs."""

    vary: Spec | None  # vary(ladder, share=quota(8, 8))
    sampler: Spec  # repeat(16)
    stop: Spec | None  # until(lead(4), ahead=2)
    selector: Spec  # vote

    @property
    def line(self) -> str:
        """The canonical line."""
        return f"{self.draw_line} | {self.selector}"

    @property
    def draw_line(self) -> str:
        """The part of the line that decides what is drawn: all but the selector."""
        return " | ".join(str(spec) for spec in self[:3] if spec is not None)

    @property
    def rule(self) -> Spec | None:
        """The stop rule within `until(...)`."""
        return None if self.stop is None else self.stop.args[0]


@dataclass(frozen=True)
class Recipe:
    """The stages of a recipe and the parts that they name.

    `verifiers` maps the names that the stop rule and the selector look at to the verifiers themselves. `ahead` draws
    may be in flight beyond what the stop rule needs: they change no result, cost some tokens in vain and save waiting;
    "idle" is as many as the engine has free slots for.
    """

    stages: Stages
    vary: Vary[Any]
    sampler: Sampler[Any]
    stop: StopRule[Any] | None
    selector: Selector
    verifiers: dict[str, Verifier | Judge]
    ahead: int | Literal["idle"] = 0

    @cached_property
    def line(self) -> str:
        """The canonical line: parsing it gives an equal recipe."""
        return self.stages.line

    @property
    def draw_line(self) -> str:
        """The part of the line that decides what is drawn. Recipes that share it can share a pool."""
        return self.stages.draw_line

    @property
    def max_draws(self) -> int | None:
        """Draws made where nothing ends the run early; None where what is drawn decides.

        Costs no draw: independent draws go on whatever comes, so the sampler is played out with failures.
        """
        if not self.sampler.exchangeable:
            return None
        state, step = self.sampler.step(Key(0), self.sampler.init((direct(NOBODY),)), ())
        num = 0
        while step.asks:
            num += len(step.asks)
            state, step = self.sampler.step(Key(0), state, (Completion("", "error"),) * len(step.asks))
        return num

    @property
    def samplings(self) -> frozenset[Sampling]:
        """Temperatures and filters of the first draws, as far as they are known before helpers are asked."""
        variants: tuple[Variant, ...] = (direct(NOBODY),)
        with contextlib.suppress(UsageError):  # an arm for puzzles alone, which changes no temperature
            mix, to_helpers = self.vary.step(Key(0), self.vary.init(NOBODY._replace(messages=ANY_PROMPT)), ())
            variants = variants if to_helpers.asks else self.vary.variants(mix)
        _, step = self.sampler.step(Key(0), self.sampler.init(variants), ())
        return frozenset(ask.sampling for ask in step.asks if isinstance(ask, Generate))

    @cached_property
    def needs(self) -> frozenset[Capability]:
        """What the solver must be able to do. What a judge needs, the engine that it asks must be able to do."""
        return self.vary.needs | self.sampler.needs

    @cached_property
    def engines(self) -> frozenset[str]:
        """Names of the helpers and judges that it asks."""
        judges = (judge for judge in self.verifiers.values() if isinstance(judge, Judge))
        return self.vary.engines.union(*(judge.engines for judge in judges))

    @property
    def splittable(self) -> bool:
        """Whether any number of its draws is a run of the same recipe: no stop rule, and exchangeable draws."""
        return self.stop is None and self.sampler.exchangeable

    def with_selector(self, selector: Spec | str) -> Recipe:
        """Return the recipe with another selector. Raises BadSpec or UnknownName."""
        return from_stages(self.stages._replace(selector=_spec(selector)))

    def with_stop(self, rule: Spec | str | None, *, ahead: int | Literal["idle"] = 0) -> Recipe:
        """Return the recipe with another stop rule, or with none. Raises BadSpec or UnknownName."""
        kwargs = (("ahead", Spec("idle") if ahead == "idle" else ahead),) if ahead else ()
        stop = None if rule is None else Spec("until", (_spec(rule),), kwargs)
        return from_stages(self.stages._replace(stop=stop))

    def with_draws(self, num: int) -> Recipe:
        """Return the recipe with `num` draws. Raises UsageError for a sampler other than `repeat`."""
        sampler = self.stages.sampler
        name = DRAWS_ARGUMENT.get(sampler.name)
        if name is None:
            raise UsageError(f"{sampler} has no number of draws to change; only repeat(...) has")
        kwargs = tuple((key, num if key == name else value) for key, value in sampler.kwargs)
        args = (num, *sampler.args[1:]) if sampler.args else ()
        return from_stages(self.stages._replace(sampler=sampler._replace(args=args, kwargs=kwargs)))

    def with_max_tokens(self, num: int | None) -> Recipe:
        """Return the recipe with `num` as the limit of its draws, unless it names one; None changes nothing."""
        sampler = self.stages.sampler
        if num is None or any(key == "max_tokens" for key, _ in sampler.kwargs):
            return self
        if "max_tokens" not in inspect.signature(factory("sampler", sampler.name, sampler.text)).parameters:
            return self
        return from_stages(
            self.stages._replace(sampler=sampler._replace(kwargs=(*sampler.kwargs, ("max_tokens", num))))
        )

    def with_vary(self, mix: Spec | str | None) -> Recipe:
        """Return the recipe with another `vary(...)`, or with none. Raises BadSpec or UnknownName."""
        return from_stages(self.stages._replace(vary=None if mix is None else _spec(mix)))


def recipe(line: str | Recipe) -> Recipe:
    """Parse a recipe line. Raises BadSpec or UnknownName, with the column marked."""
    return line if isinstance(line, Recipe) else from_stages(parse_stages(line), line)


def why_unread(line: str) -> str:
    """Return why a stored recipe line is not read, "" if it is: a part was installed then, or took other arguments."""
    try:
        recipe(line)
    except UsageError as error:
        return str(error).partition("\n")[0]
    return ""


def parse_stages(line: str) -> Stages:
    """Parse a line into its stages and build none. Raises BadSpec or UnknownName, with the column marked."""
    mix: Spec | None = None
    sampler: Spec | None = None
    stop: Spec | None = None
    selector: Spec | None = None
    for position, node in enumerate(_split_stages(parse_expression(line))):
        spec = parse_node(node, line)
        if spec.name == "vary":
            _require(position == 0, "vary(...) comes first, once", spec)
            mix = spec
        elif spec.name == "until":
            follows = sampler is not None and stop is None and selector is None
            _require(follows, "until(...) follows the sampler, once", spec)
            _ahead(spec)
            _require(len(spec.args) == 1, "until(...) takes one stop rule; several as either(...)", spec)
            stop = spec
        elif _stage_kind(spec) == "sampler":
            _require(sampler is None, "a recipe has one sampler", spec)
            sampler = spec
        else:
            _require(sampler is not None and selector is None, "one selector comes last, after a sampler", spec)
            selector = spec
    if sampler is None:
        raise BadSpec(f"a recipe needs a sampler, one of: {', '.join(names('sampler'))}", line)
    return Stages(mix, sampler, stop, selector or FIRST)


def from_stages(stages: Stages, line: str = "") -> Recipe:
    """Build the parts of a recipe. `line` is the text that errors quote. Raises BadSpec or UnknownName."""
    line = line or stages.line
    mix = vary() if stages.vary is None else _build_vary(stages.vary, line)
    sampler: Sampler[Any] = build("sampler", stages.sampler)
    stop: StopRule[Any] | None = None
    ahead: int | Literal["idle"] = 0
    if stages.stop is not None:
        ahead = _ahead(stages.stop)
        stop = build("stop", _nested(stages.stop.args[0], "stop", line))
    selector: Selector = build("selector", stages.selector)
    verifiers = build_verifiers((*(stop.verifiers if stop else ()), *selector.verifiers), line)
    return Recipe(stages, mix, sampler, stop, selector, verifiers, ahead)


def build_verifiers(verifier_names: tuple[str, ...], text: str) -> dict[str, Verifier | Judge]:
    """Build the verifiers that a part of `text` looks at, by name. Raises BadSpec or UnknownName."""
    for name in verifier_names:
        if not isinstance(name, str):
            raise BadSpec(f"expected a verifier, one of: {', '.join(names('verifier'))}; got {name!r}", text)
    return {name: build("verifier", name) for name in verifier_names}


class Choice(NamedTuple):
    """A selector by itself, for re-deciding: its canonical text, the selector, and the verifiers that it looks at."""

    text: str
    selector: Selector
    verifiers: dict[str, Verifier | Judge]


def parse_choice(text: str) -> Choice:
    """Parse the text of a selector. Raises BadSpec or UnknownName."""
    spec = parse_node(parse_expression(text), text)
    selector: Selector = build("selector", spec)
    return Choice(str(spec), selector, build_verifiers(selector.verifiers, text))


def _spec(value: Spec | str) -> Spec:
    return parse_spec(value) if isinstance(value, str) else value


def _split_stages(node: ast.expr) -> list[ast.expr]:
    stages: list[ast.expr] = []
    waiting = [node]
    while waiting:  # not by recursion: a line of a thousand stages is refused for what it holds
        part = waiting.pop()
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.BitOr):
            waiting += [part.right, part.left]
        else:
            stages.append(part)
    return stages


def _build_vary(spec: Spec, line: str) -> Vary[Any]:
    settings = dict(spec.kwargs)
    share = settings.pop("share", None)
    _require(not settings, "vary(...) takes arms, and share= how draws are allocated to them", spec)
    arms = [build("arm", _nested(arm, "arm", line)) for arm in spec.args]
    return vary(*arms, share=None if share is None else build("share", _nested(share, "share", line)))


def _ahead(spec: Spec) -> int | Literal["idle"]:
    settings = dict(spec.kwargs)
    ahead = settings.pop("ahead", 0)
    is_count = isinstance(ahead, int) and not isinstance(ahead, bool) and ahead >= 0
    message = "until(...) takes one stop rule, and ahead= how many draws may be sent beyond need"
    _require(not settings, message, spec)
    _require(
        is_count or str(ahead) == "idle", f"ahead must be a whole number of at least 0, or idle; got {ahead!r}", spec
    )
    return int(ahead) if is_count else "idle"


def _nested(value: Any, kind: Kind, line: str) -> Spec:
    if not isinstance(value, Spec):
        column = line.find(str(value))
        raise BadSpec(f"expected the name of one: {', '.join(names(kind))}", line, column if column >= 0 else None)
    return value


def _stage_kind(spec: Spec) -> Literal["sampler", "selector"]:
    if "sampler" in kinds_of(spec.name):
        return "sampler"
    if "selector" in kinds_of(spec.name):
        return "selector"
    known = (*names("sampler"), *names("selector"), "vary", "until")
    raise UnknownName("sampler or selector", spec.name, known, spec.text, spec.column)


def _require(condition: bool, message: str, spec: Spec) -> None:
    if not condition:
        raise BadSpec(message, spec.text, spec.column)
