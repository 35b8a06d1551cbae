"""A spec is the text of a call, `repeat(64, temperature=0.8)`: the one way to name a part, on every surface.

    spec  = name | name "(" [args] ")" | name ":" text
    args  = literals, names of other parts, and nested specs; positional first, then keyword=
            a + b is short for plus(a, b)

Parsed with Python's own grammar and never evaluated: anything but literals, names and calls is refused, with the place
marked. `name:text` is short for name("text") and suits a path or a model's name: `local:Qwen/Qwen3-0.6B`.

Parts are found by name in a table here and, for plugins, among the entry points of the groups `samplewise.<kind>`
(`samplewise.sampler`, `samplewise.engine` ...). A part is imported when it is first asked for.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import inspect
import keyword
import math
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from samplewise.errors import BadSpec, SamplewiseError, SetupError, UnknownName
from samplewise.types import Json

Kind = Literal["engine", "arm", "share", "sampler", "explore", "stop", "selector", "verifier", "task"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MAX_DEPTH = 16  # of parts within parts; Python's own limit is a RecursionError

BUILT_IN: Mapping[Kind, Mapping[str, str]] = {
    "engine": {
        "crew": "samplewise.engines.crew:crew",
        "http": "samplewise.engines.http:http",
        "local": "samplewise.engines.local:local",
        "replay": "samplewise.engines.replay:replay",
        "tiny": "samplewise.engines.local:tiny",
        "toy": "samplewise.engines.toy:toy",
    },
    "arm": {
        "again": "samplewise.vary.puzzles:again",
        "backtranslate": "samplewise.vary.rephrase:backtranslate",
        "concept": "samplewise.vary.concept:concept",
        "idea": "samplewise.vary.idea:idea",
        "instruction": "samplewise.vary.prompts:instruction",
        "irrelevant": "samplewise.vary.prompts:irrelevant",
        "jabberwocky": "samplewise.vary.prompts:jabberwocky",
        "ladder": "samplewise.vary.temperature:ladder",
        "permute": "samplewise.vary.puzzles:permute",
        "plan": "samplewise.vary.plan:plan",
        "plus": "samplewise.vary.compose:plus",
        "prefer": "samplewise.vary.puzzles:prefer",
        "random_step": "samplewise.vary.puzzles:random_step",
        "remark": "samplewise.vary.puzzles:remark",
        "rephrase": "samplewise.vary.rephrase:rephrase",
        "role": "samplewise.vary.prompts:role",
        "ssot": "samplewise.vary.prompts:ssot",
        "step": "samplewise.vary.puzzles:step",
        "verbalized": "samplewise.vary.verbalized:verbalized",
        "verbatim": "samplewise.vary.prompts:verbatim",
    },
    "share": {
        "iid": "samplewise.vary.share:iid",
        "quota": "samplewise.vary.share:quota",
    },
    "sampler": {
        "adaptive": "samplewise.samplers.power.adapting:adaptive",
        "greedy": "samplewise.samplers.power.metropolis:greedy",
        "power": "samplewise.samplers.power.metropolis:power",
        "repeat": "samplewise.samplers.repeat:repeat",
        "sir": "samplewise.samplers.power.importance:sir",
        "smc": "samplewise.samplers.power.particles:smc",
        "tempering": "samplewise.samplers.power.ladder:tempering",
    },
    "explore": {
        "arithmetic": "samplewise.explore.settings:arithmetic",
        "cold": "samplewise.explore.settings:cold",
        "css": "samplewise.explore.settings:css",
        "esamp": "samplewise.explore.settings:esamp",
        "frozen": "samplewise.explore.settings:frozen",
        "hot": "samplewise.explore.settings:hot",
        "lss": "samplewise.explore.settings:lss",
        "noise": "samplewise.explore.settings:noise",
        "reshape": "samplewise.explore.settings:reshape",
        "top_entropy": "samplewise.explore.settings:top_entropy",
        "top_sigma": "samplewise.explore.settings:top_sigma",
        "zero": "samplewise.explore.settings:zero",
    },
    "stop": {
        "asc": "samplewise.stop.consistency:asc",
        "asc_dirichlet": "samplewise.stop.dirichlet:asc_dirichlet",
        "bayes_factor": "samplewise.stop.dirichlet:bayes_factor",
        "bayes_l3": "samplewise.stop.shapes:bayes_l3",
        "beacon": "samplewise.stop.reward:beacon",
        "blend_asc": "samplewise.stop.budget:blend_asc",
        "cap": "samplewise.stop.fixed:cap",
        "certify": "samplewise.stop.certified:certify",
        "cges": "samplewise.stop.confident:cges",
        "deepconf": "samplewise.stop.confident:deepconf",
        "either": "samplewise.stop.either:either",
        "entropy": "samplewise.stop.consistency:entropy",
        "esc": "samplewise.stop.consistency:esc",
        "ias": "samplewise.stop.confident:ias",
        "lead": "samplewise.stop.fixed:lead",
        "mmc": "samplewise.stop.certified:mmc",
        "optscale": "samplewise.stop.optscale:optscale",
        "pandora": "samplewise.stop.reward:pandora",
        "passed": "samplewise.stop.first_pass:passed",
        "ppr_1v1": "samplewise.stop.certified:ppr_1v1",
        "reasc": "samplewise.stop.confident:reasc",
        "share": "samplewise.stop.consistency:share",
        "sprt": "samplewise.stop.sequential:sprt",
        "ucb_pandora": "samplewise.stop.reward:ucb_pandora",
        "vote_e": "samplewise.stop.certified:vote_e",
    },
    "selector": {
        "arm_vote": "samplewise.select.arms:arm_vote",
        "best": "samplewise.select.best:best",
        "bom": "samplewise.select.ranked:bom",
        "borda": "samplewise.select.ranked:borda",
        "dawid_skene": "samplewise.select.learned:dawid_skene",
        "first": "samplewise.select.votes:first",
        "learned": "samplewise.select.learned:learned",
        "log_pool": "samplewise.select.arms:log_pool",
        "mob": "samplewise.select.ranked:mob",
        "only": "samplewise.select.arms:only",
        "vote": "samplewise.select.votes:vote",
        "weighted": "samplewise.select.votes:weighted",
    },
    "verifier": {
        "agreement": "samplewise.verify.agreement:agreement",
        "deepconf": "samplewise.verify.confidence:deepconf",
        "judge": "samplewise.verify.judge:judge",
        "knockout": "samplewise.verify.judge:knockout",
        "likelihood": "samplewise.verify.confidence:likelihood",
        "logp": "samplewise.verify.confidence:logp",
        "public_tests": "samplewise.verify.code:public_tests",
        "puzzle": "samplewise.verify.puzzle:puzzle",
        "recorded": "samplewise.verify.recorded:recorded",
        "reward": "samplewise.verify.reward:reward",
        "reward_server": "samplewise.engines.http.scoring:reward_server",
        "self_certainty": "samplewise.verify.confidence:self_certainty",
    },
    "task": {
        "aqua": "samplewise.tasks.multiple:aqua",
        "game24": "samplewise.tasks.game24:game24",
        "gsm8k": "samplewise.tasks.arithmetic:gsm8k",
        "gsm_hard": "samplewise.tasks.arithmetic:gsm_hard",
        "humaneval": "samplewise.tasks.humaneval:humaneval",
        "jsonl": "samplewise.tasks.jsonl:jsonl",
        "math500": "samplewise.tasks.math500:math500",
        "mbpp": "samplewise.tasks.mbpp:mbpp",
        "mmlu_pro": "samplewise.tasks.multiple:mmlu_pro",
        "recorded": "samplewise.tasks.recorded:recorded",
        "svamp": "samplewise.tasks.arithmetic:svamp",
    },
}


class Spec(NamedTuple):
    """A parsed call. `place` is the column of its name in the text that it was parsed from."""

    name: str
    args: tuple[Json, ...] = ()
    kwargs: tuple[tuple[str, Json], ...] = ()
    text: str = ""
    place: int = 0

    def __str__(self) -> str:
        """The canonical text: parsing it gives an equal call."""
        parts = [*map(_render, self.args), *(f"{k}={_render(v)}" for k, v in self.kwargs)]
        return f"{self.name}({', '.join(parts)})" if parts else self.name


def _render(value: Json) -> str:
    return str(value) if isinstance(value, Spec) else repr(value)


# --- text -> Spec -----------------------------------------------------------------------------------------------------


def parse(text: str) -> Spec:
    """The spec that `text` spells. Raises BadSpec with the place marked."""
    name, colon, rest = text.partition(":")
    if colon and name.strip().isidentifier() and not keyword.iskeyword(name.strip()) and "\n" not in text:
        return Spec(name.strip(), (rest.strip(),), (), text, len(name) - len(name.lstrip()))
    return _spec(parse_expression(text), text)


def parse_expression(text: str) -> ast.expr:
    """Python's own reading of a one-line expression, or BadSpec."""
    if not text.strip():
        raise BadSpec("empty: give a name such as repeat(8)", text)
    if "\n" in text:
        raise BadSpec("a spec is one line", text)
    try:
        with warnings.catch_warnings(action="ignore"):  # a path such as "C:\data" is no reason to warn
            return ast.parse(text.lstrip(), mode="eval").body
    except SyntaxError as error:
        # msg and offset are Python's own; ours only adds what a spec may hold
        indent = len(text) - len(text.lstrip())
        place = min(max((error.offset or 1) - 1, 0), len(text.lstrip())) + indent
        raise BadSpec(f"cannot be read ({error.msg})", text, place) from None
    except (ValueError, RecursionError, MemoryError):
        raise BadSpec("cannot be read", text) from None


def place_of(node: ast.AST, text: str) -> int:
    """Column of `node` in `text`, in characters."""
    indent = len(text) - len(text.lstrip())
    offset = getattr(node, "col_offset", 0)
    return indent + len(text.lstrip().encode()[:offset].decode(errors="replace"))


def spec_of(node: ast.expr, text: str) -> Spec:
    """The spec at one node of a parsed expression."""
    return _spec(node, text)


def _spec(node: ast.expr, text: str, depth: int = 0) -> Spec:
    if depth > MAX_DEPTH:
        raise BadSpec("nested too deeply", text, place_of(node, text))
    if isinstance(node, ast.Name):
        return Spec(node.id, (), (), text, place_of(node, text))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        for arg in node.args:
            if isinstance(arg, ast.Starred):
                raise BadSpec("* cannot be used here", text, place_of(arg, text))
        args = tuple(_value(arg, text, depth) for arg in node.args)
        kwargs: dict[str, Json] = {}
        for named in node.keywords:
            if named.arg is None:
                raise BadSpec("** cannot be used here", text, place_of(named.value, text))
            if named.arg in kwargs:  # Python itself tells when it compiles, which is never done here
                raise BadSpec(f"{named.arg} is given twice", text, place_of(named, text))
            kwargs[named.arg] = _value(named.value, text, depth)
        return Spec(node.func.id, args, tuple(kwargs.items()), text, place_of(node, text))
    raise BadSpec("expected a name or a call such as repeat(8)", text, place_of(node, text))


def _value(node: ast.expr, text: str, depth: int) -> Json:
    if isinstance(node, ast.Name | ast.Call):
        return _spec(node, text, depth + 1)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):  # one part after another
        parts = (_value(node.left, text, depth + 1), _value(node.right, text, depth + 1))
        if all(isinstance(part, Spec) for part in parts):
            return Spec("plus", parts, (), text, place_of(node, text))
    try:
        return _literal(ast.literal_eval(node))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise BadSpec("expected a number, a string or a name", text, place_of(node, text)) from None


def _literal(value: object) -> Json:
    """The same value with its lists as tuples, or ValueError where its text would not give it back."""
    if isinstance(value, list | tuple):
        return tuple(_literal(item) for item in value)
    if isinstance(value, dict):
        return {_literal(k): _literal(v) for k, v in value.items()}
    if value is None or isinstance(value, bool | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, int) and abs(value) < 1 << 64:
        return value
    raise ValueError(f"{type(value).__name__} is no value of a spec")


# --- Spec -> object ---------------------------------------------------------------------------------------------------


def names(kind: Kind) -> tuple[str, ...]:
    """Every registered name of a kind, plugins included, sorted."""
    return tuple(sorted({*BUILT_IN[kind], *_plugins(kind)}))


@functools.cache
def _plugins(kind: Kind) -> Mapping[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=f"samplewise.{kind}")}


def kinds_of(name: str) -> tuple[Kind, ...]:
    """The kinds that have a part of this name."""
    return tuple(kind for kind in KINDS if name in names(kind))


def factory(kind: Kind, name: str, text: str = "", place: int | None = None) -> Callable[..., Any]:
    """The function that makes the part. Raises UnknownName with the nearest names, marked at `place` in `text`."""
    if name in BUILT_IN[kind]:
        module, _, attribute = BUILT_IN[kind][name].partition(":")
        made: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return made
    if name in _plugins(kind):
        try:
            loaded: Callable[..., Any] = _plugins(kind)[name].load()
        except (ImportError, AttributeError) as error:
            raise SetupError(f"the plugin {name} ({_plugins(kind)[name].value}) cannot be loaded: {error}") from error
        return loaded
    raise UnknownName(kind, name, names(kind), text, place)


def build(kind: Kind, spec: Spec | str) -> Any:
    """The part that `spec` names. A nested name stays text (`best(puzzle)` hands over "puzzle").

    Raises UnknownName, or BadSpec where the arguments do not fit, with the place marked.
    """
    if isinstance(spec, str):
        spec = parse(spec)
    make = factory(kind, spec.name, spec.text, spec.place if spec.text != spec.name else None)
    args = [_plain(a) for a in spec.args]
    kwargs = {k: _plain(v) for k, v in spec.kwargs}
    try:
        inspect.signature(make).bind(*args, **kwargs)
    except TypeError as error:
        raise BadSpec(f"{spec.name} takes {signature(kind, spec.name)}: {error}", spec.text, spec.place) from None
    try:
        return make(*args, **kwargs)
    except SamplewiseError:
        raise
    except (ValueError, TypeError, ArithmeticError) as error:
        raise BadSpec(f"{spec.name}: {error}", spec.text, spec.place) from error


def _plain(value: Json) -> Json:
    return str(value) if isinstance(value, Spec) else value


def signature(kind: Kind, name: str) -> str:
    """How the part is called, without annotations: "(num_samples, *, temperature=1.0)"."""
    parameters = inspect.signature(factory(kind, name)).parameters.values()
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return str(inspect.Signature(bare))


def summary(kind: Kind, name: str) -> str:
    """The first sentence of the part's docstring."""
    text = " ".join((inspect.getdoc(factory(kind, name)) or "").split())
    return re.split(r"(?<=[a-z)`])\. ", text, maxsplit=1)[0].rstrip(".") + "."
