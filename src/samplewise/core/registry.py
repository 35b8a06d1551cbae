"""The registry: which parts there are, by kind and name, and how a spec becomes one.

Built-in parts are in the table below; plugins are found among the entry points of the groups `samplewise.<kind>`
(`samplewise.sampler`, `samplewise.engine` ...). A part's module is imported when the part is first asked for.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import re
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from samplewise.core.checks import check_declared
from samplewise.core.errors import BadSpec, SamplewiseError, SetupError, UnknownName
from samplewise.core.spec import Spec, parse_spec
from samplewise.core.types import Json

Kind = Literal["engine", "arm", "share", "sampler", "explore", "stop", "selector", "verifier", "reader", "task"]
KINDS: tuple[Kind, ...] = get_args(Kind)

BUILT_IN: Mapping[Kind, Mapping[str, str]] = {
    "engine": {
        "team": "samplewise.engines.team:team",
        "http": "samplewise.engines.http:http",
        "local": "samplewise.engines.local:local",
        "replay": "samplewise.engines.replay:replay",
        "tiny": "samplewise.engines.local:tiny",
        "toy": "samplewise.engines.toy:toy",
        "vllm": "samplewise.engines.vllm:vllm",
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
        "plan": "samplewise.vary.plan:plan_search",
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
        "adaptive": "samplewise.samplers.power.adaptive:adaptive",
        "greedy": "samplewise.samplers.power.chains:greedy",
        "power": "samplewise.samplers.power.chains:power",
        "repeat": "samplewise.samplers.repeat:repeat",
        "sir": "samplewise.samplers.power.importance:sir",
        "smc": "samplewise.samplers.power.smc:smc",
        "tempering": "samplewise.samplers.power.ladder:tempering",
    },
    "explore": {
        "arithmetic": "samplewise.explore.settings:arithmetic",
        "consensus": "samplewise.explore.settings:consensus",
        "css": "samplewise.explore.settings:css",
        "esamp": "samplewise.explore.settings:esamp",
        "lss": "samplewise.explore.settings:lss",
        # Controls: they are there only to compare with.
        "cold": "samplewise.explore.controls:cold",
        "frozen": "samplewise.explore.controls:frozen_distiller",
        "hot": "samplewise.explore.controls:hot",
        "noise": "samplewise.explore.controls:noise",
        "reshape": "samplewise.explore.controls:reshape",
        "top_entropy": "samplewise.explore.controls:top_entropy",
        "top_sigma": "samplewise.explore.controls:top_sigma",
        "zero": "samplewise.explore.controls:zero",
    },
    "stop": {
        "agreement": "samplewise.stop.published.consistency:agreement",
        "asc": "samplewise.stop.consistency:asc",
        "asc_dirichlet": "samplewise.stop.published.dirichlet:asc_dirichlet",
        "bayes_factor": "samplewise.stop.published.dirichlet:bayes_factor",
        "bayes_l3": "samplewise.stop.published.shapes:bayes_l3",
        "beacon": "samplewise.stop.reward:beacon",
        "blend_asc": "samplewise.stop.budget:blend_asc",
        "cap": "samplewise.stop.fixed:cap",
        "certify": "samplewise.stop.published.e_values:certify",
        "cges": "samplewise.stop.published.confident:cges",
        "deepconf": "samplewise.stop.confident:deepconf",
        "either": "samplewise.stop.either:either",
        "entropy": "samplewise.stop.published.consistency:entropy",
        "esc": "samplewise.stop.consistency:esc",
        "ias": "samplewise.stop.published.confident:ias",
        "lead": "samplewise.stop.fixed:lead",
        "mmc": "samplewise.stop.published.e_values:mmc",
        "optscale": "samplewise.stop.optscale:optscale",
        "pandora": "samplewise.stop.reward:pandora",
        "passed": "samplewise.stop.first_pass:passed",
        "ppr_1v1": "samplewise.stop.published.e_values:ppr_1v1",
        "reasc": "samplewise.stop.published.confident:reasc",
        "sprt": "samplewise.stop.sequential:sprt",
        "ucb_pandora": "samplewise.stop.published.ucb_pandora:ucb_pandora",
        "vote_e": "samplewise.stop.certified:vote_e",
        "vote_plan": "samplewise.stop.waves:vote_plan",
        "vote_share": "samplewise.stop.published.consistency:vote_share",
    },
    "selector": {
        "arm_vote": "samplewise.select.arms:arm_vote",
        "behaviour": "samplewise.select.behaviour:behaviour",
        "best": "samplewise.select.best:best",
        "bom": "samplewise.select.ranked:bom",
        "borda": "samplewise.select.ranked:borda",
        "dawid_skene": "samplewise.select.learned:dawid_skene",
        "first": "samplewise.select.votes:first",
        "learned": "samplewise.select.learned:learned",
        "log_pool": "samplewise.select.arms:log_pool",
        "merged": "samplewise.select.merged:merged",
        "mob": "samplewise.select.ranked:mob",
        "only": "samplewise.select.arms:only",
        "sharpened": "samplewise.select.sharpened:sharpened",
        "softsat": "samplewise.select.ranked:softsat",
        "usc": "samplewise.select.usc:usc",
        "vote": "samplewise.select.votes:vote",
        "weighted": "samplewise.select.votes:weighted",
    },
    "verifier": {
        "codet": "samplewise.verify.codet:codet",
        "consistent": "samplewise.verify.consistent:consistent",
        "deepconf": "samplewise.verify.confidence:deepconf_score",
        "judge": "samplewise.verify.judge:judge",
        "knockout": "samplewise.verify.judge:knockout",
        "likelihood": "samplewise.verify.confidence:likelihood_score",
        "listwise": "samplewise.verify.consistent:listwise",
        "logp": "samplewise.verify.confidence:logp_score",
        "outputs": "samplewise.verify.outputs:outputs",
        "pivot": "samplewise.verify.pivot:pivot",
        "public_tests": "samplewise.verify.code:public_tests",
        "puzzle": "samplewise.verify.puzzle:puzzle",
        "recorded": "samplewise.verify.recorded:recorded_score",
        "reward": "samplewise.verify.reward:reward",
        "reward_server": "samplewise.verify.reward.server:reward_server",
        "same": "samplewise.verify.same:same",
        "self_certainty": "samplewise.verify.confidence:self_certainty_score",
    },
    "reader": {
        "auto": "samplewise.verify.auto:auto_reader",
        "choice": "samplewise.verify.choice:choice_reader",
        "json": "samplewise.verify.readers:json_reader",
        "last_line": "samplewise.verify.readers:last_line_reader",
        "maths": "samplewise.verify.maths:maths_reader",
        "number": "samplewise.verify.readers:number_reader",
        "text": "samplewise.verify.readers:text_reader",
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
        "recorded": "samplewise.tasks.recorded:recorded_task",
        "svamp": "samplewise.tasks.arithmetic:svamp",
    },
}


def names(kind: Kind) -> tuple[str, ...]:
    """Return every registered name of a kind, plugins included, sorted."""
    return tuple(sorted({*BUILT_IN[kind], *_plugins()[kind]}))


@functools.cache
def _plugins() -> Mapping[str, Mapping[str, importlib.metadata.EntryPoint]]:
    """Return the plugins of every kind by name. Every installed package is looked at, so once."""
    points = importlib.metadata.entry_points()
    return {kind: {point.name: point for point in points.select(group=f"samplewise.{kind}")} for kind in KINDS}


def published(kind: Kind, name: str) -> bool:
    """Return whether the part is a published rule that is kept for comparison and not advised."""
    return ".published." in BUILT_IN[kind].get(name, "")


def kinds_of(name: str) -> tuple[Kind, ...]:
    """Return the kinds that have a part of this name."""
    return tuple(kind for kind in KINDS if name in names(kind))


def factory(kind: Kind, name: str, text: str = "", column: int | None = None) -> Callable[..., Any]:
    """Return the function that makes the part. Raises UnknownName with the nearest names, the column marked."""
    if name in BUILT_IN[kind]:
        module, _, attribute = BUILT_IN[kind][name].partition(":")
        make: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return make
    if name in _plugins()[kind]:
        try:
            loaded: Callable[..., Any] = _plugins()[kind][name].load()
        except (ImportError, AttributeError) as error:
            raise SetupError(f"the plugin {name} ({_plugins()[kind][name].value}) cannot be loaded: {error}") from error
        return loaded
    raise UnknownName(kind, name, names(kind), text, column)


def build(kind: Kind, spec: Spec | str) -> Any:
    """Build the part that `spec` names. A nested spec is handed over as its text: `best(puzzle)` gets "puzzle".

    Raises UnknownName, or BadSpec where the arguments do not fit, with the column marked.
    """
    if isinstance(spec, str):
        spec = parse_spec(spec)
    make = factory(kind, spec.name, spec.text, spec.column if spec.text != spec.name else None)
    args = [_plain(a) for a in spec.args]
    kwargs = {k: _plain(v) for k, v in spec.kwargs}
    try:
        bound = inspect.signature(make).bind(*args, **kwargs)
    except TypeError as error:
        raise BadSpec(f"{spec.name} takes {signature(kind, spec.name)}: {error}", spec.text, spec.column) from None
    try:
        _check_arguments(make, bound)
        return make(*args, **kwargs)
    except SamplewiseError:
        raise
    except (ValueError, TypeError, ArithmeticError) as error:
        raise BadSpec(f"{spec.name}: {error}", spec.text, spec.column) from error


def _check_arguments(make: Callable[..., Any], bound: inspect.BoundArguments) -> None:
    """Check every argument by the annotation of its parameter. Raises ValueError that names the argument."""
    declared = _annotations(make)
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            values = [(name, each) for each in value]
        else:
            values = list(value.items()) if kind is inspect.Parameter.VAR_KEYWORD else [(name, value)]
        for shown, each in values:
            check_declared(shown, each, declared.get(name, Any))


@functools.cache
def _annotations(make: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the types of a part's parameters, by name. One that is imported for type checkers only stands for
    anything."""
    function: Any = vars(make)["__init__"] if isinstance(make, type) else inspect.unwrap(make)
    known = vars(sys.modules[function.__module__]) | getattr(function, "__globals__", {})
    unknown: dict[str, Any] = {}
    while True:
        try:
            return typing.get_type_hints(function, known, unknown)
        except NameError as missing:
            if missing.name is None or missing.name in unknown:
                raise
            unknown[missing.name] = object


def _plain(value: Json) -> Json:
    return str(value) if isinstance(value, Spec) else value


def signature(kind: Kind, name: str) -> str:
    """Return how the part is called, without annotations: "(num_draws, *, temperature=1.0)"."""
    parameters = inspect.signature(factory(kind, name)).parameters.values()
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return str(inspect.Signature(bare))


def summary(kind: Kind, name: str) -> str:
    """Return the first sentence of the part's docstring."""
    text = " ".join((inspect.getdoc(factory(kind, name)) or "").split())
    return re.split(r"(?<=[a-z)`])\. ", text, maxsplit=1)[0].rstrip(".") + "."
