"""The command `doctor`: test what an engine supports, and say what samplewise does about it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import typer
from rich.table import Table
from rich.text import Text

from samplewise.core import registry
from samplewise.core.errors import UsageError
from samplewise.core.spec import Spec, parse_spec
from samplewise.core.types import Capability, Json

from .app import AsJson, Engine, app, out, print_json, say


class _Finding(NamedTuple):
    """A line of the table: a feature, and what samplewise does if it is supported, unsupported, or not known."""

    feature: str
    yes: str
    no: str
    unknown: str


# By the field of an endpoint's profile, in the order of the table.
FINDINGS: Mapping[str, _Finding] = {
    "json_schema": _Finding(
        "follows a JSON schema",
        "possible by extra={'response_format': ...}",
        "read answers from the text",
        "not used",
    ),
    "tools": _Finding("calls tools", "possible by extra={'tools': ...}", "not possible", "not used"),
    "n": _Finding(
        "several draws per request (n)",
        "asks for up to 64 draws at once, and counts the choices",
        "makes one request for each draw",
        "tries n, and counts the choices",
    ),
    "seed": _Finding(
        "seeds",
        'n="never" makes every draw repeatable; a stored draw is repeatable anyway',
        "draws cannot be repeated, except from the store: keep one with --store",
        "sends them, does not rely on them",
    ),
    "frozen_seed": _Finding(
        "every draw is the same",
        "more draws add nothing: look for a fixed seed or a cache in front of the model",
        "draws are independent, as far as a few can show; a run watches them",
        "watches the draws, and warns when they repeat",
    ),
    "temperature": _Finding(
        "any temperature",
        "follows the recipe",
        "only its default: refuses recipes that ask for another; vary the prompt instead",
        "sends it; a refusal is an error, never another distribution",
    ),
    "max_tokens_field": _Finding(
        "limit on tokens", "sent as {value}", "", "sends max_tokens, and its other name if that is refused"
    ),
    "reasons": _Finding(
        "reasons before it answers",
        "gives a draw 16,384 tokens unless the recipe says max_tokens",
        "does not",
        "looks at each reply",
    ),
    "usage": _Finding(
        "counts tokens",
        "bills by its counts",
        "counts token ids, or charges a bound, or an estimate from the text",
        "believes a count only if it is plausible",
    ),
    "logprobs": _Finding(
        "log-probabilities",
        "likelihood, logp and confidence work",
        "choose by vote, checker or judge",
        "asks if a recipe needs them",
    ),
    "raw_logprobs": _Finding(
        "log-probabilities at any temperature",
        "the model's own, whatever a draw's temperature and filters",
        "those after the temperature: the model's own at 1 alone, refuses recipes that need them elsewhere",
        "relied on at temperature 1 alone: refuses recipes that need them elsewhere",
    ),
    "top_logprobs": _Finding("alternatives per token", "up to {value}", "none", "asks for none"),
    "top_ids": _Finding(
        "alternatives by their token ids",
        "the distribution of a next token is known: chains need it",
        "chains of power sampling cannot run here",
        "not used: chains of power sampling cannot run here",
    ),
    "token_ids_out": _Finding(
        "token ids of a draw",
        "counts and continues exactly",
        "estimates where it must",
        "asks if a recipe needs them",
    ),
    "token_ids_in": _Finding(
        "prompts as token ids",
        "responses can be continued from any token",
        "samplers that continue a response cannot run here",
        "not used: samplers that continue a response cannot run here",
    ),
    "forces_token": _Finding(
        "a token forced by logit_bias",
        "tells which tokens end a response: chains need it",
        "chains of power sampling cannot run here",
        "not used: chains of power sampling cannot run here",
    ),
    "detokenize": _Finding(
        "texts of token ids",
        "the text of a continued response: chains need it",
        "chains of power sampling cannot run here",
        "not used: chains of power sampling cannot run here",
    ),
    "likelihood": _Finding(
        "log-probabilities of a given text",
        "scores responses that others drew",
        "scores only its own draws",
        "not used",
    ),
    "continues": _Finding(
        "continues the beginning of a response", "possible by text", "not possible by text", "not used"
    ),
    "tokenize": _Finding(
        "tokenizes prompts",
        "prompts are counted exactly before they are paid for",
        "bounds a prompt by its bytes until the first reply",
        "bounds a prompt by its bytes until the first reply",
    ),
}

MIN_MOVED = 1e-3  # nats (KL) that a large beta must move a distribution by

ABOUT: Mapping[Capability, str] = {
    Capability.GENERATE: "draws completions",
    Capability.SEED: "the same ask gives the same completion",
    Capability.TOKENS: "gives the token ids of what it drew",
    Capability.LOGP: "gives log-probabilities at temperature 1",
    Capability.LOGQ: "gives log-probabilities under the distribution drawn from",
    Capability.TOP: "gives the likeliest tokens at every position with their log-probabilities",
    Capability.SCORE_FIRST: "gives the log-probabilities of the letters that a judge grades by",
    Capability.LOGZ: "gives sums of powers of the distribution at every position, at any exponents",
    Capability.CERTAINTY: "gives the distance from the uniform distribution at every position",
    Capability.PREFIX: "continues a given prefix of a response",
    Capability.REJECT_BELOW: "rejects an unlikely draft early, and forbids a first token",
    Capability.EXPLORE: "draws diverse groups (coordinated sampling)",
    Capability.LIKELIHOOD: "scores a given response",
    Capability.ENUMERATE: "lists every response with its probability",
}


@app.command()
def doctor(
    engine: Engine = "tiny",
    fresh: Annotated[bool, typer.Option("--fresh", help="Probe the endpoint again, whatever is known of it")] = False,
    as_json: AsJson = False,
) -> None:
    """Test what an engine supports: n, seeds, log-probs, token ids, usage ...

    An endpoint is probed once, by a dozen tiny requests or two; the result is kept for 30 days. For other engines this
    shows their capabilities. For a local model it shows what its files say, how it is run and how fast that is now, and
    what it offers to token policies that explore, tried on a few tokens; for vLLM its version, those that were
    tested, and what its internals allow. Last it says which limits hold for programs
    that a model wrote.
    """
    opened, model = asyncio.run(_open_engine(parse_spec(engine), fresh))
    profile = opened.findings()
    say(f"{opened.name}: {opened.identity}" if opened.identity != opened.name else opened.name)
    if profile is not None:
        _print_profile(profile)
        say(f"capabilities: {', '.join(sorted(opened.can))}")
    else:
        table = Table("capability", "", "meaning", box=None)
        for capability in Capability:
            table.add_row(capability, _word(capability in opened.can), ABOUT.get(capability, ""))
        out.print(table)
    runtime = opened.runtime()
    if runtime:
        table = Table("runtime", "what holds here", box=None)
        for name, value in runtime.items():
            table.add_row(name, Text(value))
        out.print(table)
    if model is not None:
        _print_model(model)
    exploration = opened.exploration()
    if exploration is not None:
        _print_exploration(exploration)
    from samplewise.verify.sandbox import limits_here

    programs = limits_here()
    table = Table("programs", "what holds here", box=None)
    for limit, holds in programs.items():
        table.add_row(limit, Text(holds))
    out.print(table)
    for note in opened.notes:
        out.print(f"note: {note}", highlight=False)
    if as_json:
        print_json(
            engine=opened.name,
            identity=opened.identity,
            can=sorted(opened.can),
            profile=profile,
            notes=list(opened.notes),
            runtime=dict(runtime),
            model=model,
            exploration=exploration,
            programs=programs,
        )


class _Opened(NamedTuple):
    engine: Any
    model: Mapping[str, Any] | None  # what a model in this process is


async def _open_engine(spec: Spec, fresh: bool) -> _Opened:
    """Return the engine, opened to find out what it can do and how fast it is, and closed again."""
    if fresh:
        if spec.name != "http":
            raise UsageError(f"--fresh is for endpoints (http); leave it out for {spec.name}")
        spec = spec._replace(kwargs=(*(pair for pair in spec.kwargs if pair[0] != "probe"), ("probe", "fresh")))
    opened = registry.build("engine", spec)
    try:
        await opened.open()
        return _Opened(opened, await opened.examine_model())
    finally:
        await opened.close()


def _print_profile(profile: Mapping[str, Json]) -> None:
    table = Table("feature", "found", "what samplewise does", box=None)
    for name, finding in FINDINGS.items():
        value = profile[name]
        if value is None:
            table.add_row(finding.feature, "not known", finding.unknown)
        else:
            does = (finding.yes if value else finding.no).replace("{value}", str(value))
            table.add_row(finding.feature, _word(value), does)
    if profile["refused"]:
        table.add_row("refuses", ", ".join(profile["refused"]), "leaves them out; refuses a recipe that needs one")
    out.print(table)


def _print_model(model: Mapping[str, Any]) -> None:
    context = "no limit is known" if model["context"] is None else f"{model['context']:,} tokens"
    ends = ", ".join(f"{index} {text}" for index, text in model["end_tokens"].items())
    template = "prompts are written by it" if model["chat_template"] else "a prompt is the text of its messages, joined"
    reasons = (
        "gives a draw more tokens unless the recipe says max_tokens" if model["reasons"] else "its template has no tag"
    )
    speeds = [f"{value:,.{0 if value >= 10 else 1}f} at {rows}" for rows, value in model["tokens_per_s"].items()]
    slow = "every token costs a pass over all tokens before it" if model["path"] == "recomputed" else ""
    rows = [
        (
            "kind",
            model["architecture"],
            f"{_short(model['parameters'])} parameters, {model['dtype']} on {model['device']}",
        ),
        ("context", context, "prompt and response together"),
        ("chat template", _word(model["chat_template"]), template),
        ("reasons", _word(model["reasons"]), reasons),
        ("end tokens", ends or "none", "each ends a response" if ends else "every response runs to its limit"),
        ("path", model["path"], slow or "keys and values are reused"),
        *(("refused", *reason.partition(": ")[::2]) for reason in model["refused"]),
        ("rounding", f"{model['rounding_nats']:.1g} nats", "how far plain passes of other shapes are from one another"),
        ("distance", "none" if slow else f"{model['gap_nats']:.1g} nats", "of this path from a plain pass"),
        ("tokens per second", ", ".join(speeds) + " rows", "measured now; what else runs here slows it"),
        ("explores", _word(model["explores"]), "whether token policies can read its states"),
    ]
    table = Table("model", "found", "meaning", box=None)
    for row in rows:
        table.add_row(*map(Text, row))  # a token's text may look like markup
    out.print(table)


def _short(number: int) -> str:
    """Return a count in the unit that models are named by: 134.5M, 7.2B."""
    unit, letter = (1e9, "B") if number >= 1e9 else (1e6, "M")
    return f"{number / unit:.1f}{letter}"


def _print_exploration(exploration: Mapping[str, Json]) -> None:
    if exploration["why"]:
        out.print(f"cannot explore: {exploration['why']}", highlight=False)
        return
    table = Table("exploring", "found", "meaning", box=None)
    taps = f"after block 1 of {exploration['blocks']} ({exploration['block']}), and before the head"
    zero = "changes nothing" if exploration["unmoved"] else "changes the draw: do not explore"
    moved = f"moves the distribution by {exploration['moved_nats']:.2g} nats (KL)"
    large = moved if exploration["moved_nats"] > MIN_MOVED else "changes nothing: do not explore"
    table.add_row("taps", taps, "the hidden states that policies read")
    table.add_row("states", f"{exploration['dim']} numbers", "per token, at both taps")
    table.add_row("vocabulary", f"{exploration['vocab']} tokens", "rows of the head")
    table.add_row("head", ", ".join(exploration["head"]), "from a state to logits")
    table.add_row(
        "head(state) = logits", f"to {exploration['apart']:.1g}", "relative error, which should be rounding alone"
    )
    table.add_row("beta = 0", zero, "zero strength must be the plain draw")
    table.add_row("beta = 5", large, "a large strength must show")
    out.print(table)


def _word(value: Json) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
