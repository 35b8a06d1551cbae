"""A recipe is one line: how to vary, how to draw, when to stop, how to choose.

    vary(ladder) | repeat(64) | until(lead(4)) | best(puzzle)

One sampler is needed; `vary(...)` before it, `until(...)` and a selector after it are optional. Without a selector the
first readable answer is taken.

A part within a part stays text, `either(asc, cap(40))`, `passed(puzzle)`, and the outer one builds it: only it knows
which kind it takes, as a verifier may be called as a stop rule is.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any, Literal

from samplewise.errors import BadSpec, UnknownName
from samplewise.keys import Key
from samplewise.samplers.base import Sampler, direct
from samplewise.select.base import Selector
from samplewise.select.votes import first
from samplewise.spec import Kind, Spec, build, kinds_of, names, parse_expression, spec_of
from samplewise.stop.base import NOBODY, StopRule
from samplewise.types import Capability, Completion, Verifier
from samplewise.vary.base import Vary, vary
from samplewise.verify.base import Judge


@dataclass(frozen=True, slots=True)
class Recipe:
    """The parts of a recipe, and its canonical line. `verifiers` maps the names that the stop rule and the selector
    look at to the verifiers themselves. `ahead` draws may be on their way beyond what the stop rule needs: they make no
    difference to the result, less waiting, and some tokens in vain; "idle": as many as the engine has room for."""

    line: str
    vary: Vary[Any]
    sampler: Sampler[Any]
    stop: StopRule[Any] | None
    selector: Selector
    verifiers: dict[str, Verifier | Judge]
    ahead: int | Literal["idle"] = 0

    @property
    def most(self) -> int | None:
        """Draws that it makes where nothing ends it; None where what is drawn decides. Costs no draw: independent ones
        go on whatever comes, so they are played out with failures."""
        if not self.sampler.exchangeable:
            return None
        state, step = self.sampler.step(Key(0), self.sampler.init((direct(NOBODY),)), ())
        num = 0
        while step.asks:
            num += len(step.asks)
            state, step = self.sampler.step(Key(0), state, (Completion("", "error"),) * len(step.asks))
        return num

    @property
    def draws(self) -> str:
        """The part of the line that decides what is drawn. Recipes that share it can share a pool."""
        return self.line.rpartition(" | ")[0]

    @property
    def needs(self) -> frozenset[Capability]:
        judges = (judge for judge in self.verifiers.values() if isinstance(judge, Judge))
        return self.vary.needs | self.sampler.needs.union(*(judge.needs for judge in judges))

    @property
    def engines(self) -> frozenset[str]:
        """Names of the thinkers and judges that it asks."""
        judges = (judge for judge in self.verifiers.values() if isinstance(judge, Judge))
        return self.vary.engines.union(*(judge.engines for judge in judges))


def recipe(line: str | Recipe) -> Recipe:
    """Parse a recipe line. Raises BadSpec or UnknownName, with the place marked."""
    if isinstance(line, Recipe):
        return line
    varied: Vary[Any] = vary()
    sampler: Sampler[Any] | None = None
    stop: StopRule[Any] | None = None
    ahead: int | Literal["idle"] = 0
    selector: Selector | None = None
    stages: list[str] = []
    for spec in (spec_of(node, line) for node in _stages(parse_expression(line))):
        if spec.name == "vary":
            _expect(not stages, "vary(...) comes first, once", spec)
            varied = _vary(spec, line)
        elif spec.name == "until":
            _expect(
                sampler is not None and stop is None and selector is None, "until(...) follows the sampler, once", spec
            )
            ahead = _ahead(spec)
            _expect(len(spec.args) == 1, "until(...) takes one stop rule; several as either(...)", spec)
            stop = build("stop", _part(spec.args[0], "stop", line))
        elif kind := _kind(spec):
            if kind == "sampler":
                _expect(sampler is None, "a recipe has one sampler", spec)
                sampler = build("sampler", spec)
            else:
                _expect(sampler is not None and selector is None, "one selector comes last, after a sampler", spec)
                selector = build("selector", spec)
        stages.append(str(spec))
    if sampler is None:
        raise BadSpec(f"a recipe needs a sampler, one of: {', '.join(names('sampler'))}", line)
    if selector is None:
        selector = first()
        stages.append("first")
    looked_at = (*(stop.verifiers if stop else ()), *selector.verifiers)
    return Recipe(" | ".join(stages), varied, sampler, stop, selector, _verifiers(looked_at, line), ahead)


def selector_of(text: str) -> tuple[str, Selector, dict[str, Verifier | Judge]]:
    """A selector by itself, for re-deciding: its canonical text, the selector, and its verifiers."""
    spec = spec_of(parse_expression(text), text)
    selector: Selector = build("selector", spec)
    return str(spec), selector, _verifiers(selector.verifiers, text)


def _verifiers(looked_at: tuple[str, ...], line: str) -> dict[str, Verifier | Judge]:
    for name in looked_at:
        if not isinstance(name, str):
            raise BadSpec(f"expected a verifier, one of: {', '.join(names('verifier'))}; got {name!r}", line)
    return {name: build("verifier", name) for name in looked_at}


def _stages(node: ast.expr) -> list[ast.expr]:
    stages: list[ast.expr] = []
    waiting = [node]
    while waiting:  # not by recursion: a line of a thousand stages is refused for what it holds
        part = waiting.pop()
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.BitOr):
            waiting += [part.right, part.left]
        else:
            stages.append(part)
    return stages


def _vary(spec: Spec, line: str) -> Vary[Any]:
    settings = dict(spec.kwargs)
    share = settings.pop("share", None)
    _expect(not settings, "vary(...) takes arms, and share= how draws are shared among them", spec)
    arms = [build("arm", _part(arm, "arm", line)) for arm in spec.args]
    return vary(*arms, share=None if share is None else build("share", _part(share, "share", line)))


def _ahead(spec: Spec) -> int | Literal["idle"]:
    settings = dict(spec.kwargs)
    ahead = settings.pop("ahead", 0)
    counted = isinstance(ahead, int) and not isinstance(ahead, bool) and ahead >= 0
    fine = counted or str(ahead) == "idle"
    _expect(not settings, "until(...) takes one stop rule, and ahead= how many draws may be sent beyond need", spec)
    _expect(fine, f"ahead must be a whole number of at least 0, or idle; got {ahead!r}", spec)
    return int(ahead) if counted else "idle"


def _part(value: Any, kind: Kind, line: str) -> Spec:
    if not isinstance(value, Spec):
        place = line.find(str(value))
        raise BadSpec(f"expected the name of one: {', '.join(names(kind))}", line, place if place >= 0 else None)
    return value


def _kind(spec: Spec) -> Kind:
    for kind in ("sampler", "selector"):
        if kind in kinds_of(spec.name):
            return kind
    known = (*names("sampler"), *names("selector"), "vary", "until")
    raise UnknownName("sampler or selector", spec.name, known, spec.text, spec.place)


def _expect(fine: bool, message: str, spec: Spec) -> None:
    if not fine:
        raise BadSpec(message, spec.text, spec.place)
