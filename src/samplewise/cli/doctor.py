"""The command that looks at an engine: what it really does, and what follows from it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import typer
from rich.table import Table

from samplewise import spec as specs
from samplewise.errors import UsageError
from samplewise.types import Capability, Json

from .app import AsJson, Engine, app, out, print_json, say


class _Finding(NamedTuple):
    """A line of the table: its name, and what samplewise does about a yes, a no, and where it is not known."""

    what: str
    yes: str
    no: str
    unknown: str


# By the fields of an endpoint's profile, in the order of the table.
FINDINGS: Mapping[str, _Finding] = {
    "json_schema": _Finding(
        "responses by a JSON schema",
        "possible by extra={'response_format': ...}",
        "read answers out of the text",
        "not used",
    ),
    "tools": _Finding("calls of tools", "possible by extra={'tools': ...}", "not possible", "not used"),
    "n": _Finding(
        "several draws by one request (n)",
        "asks for up to 64 draws at once, and counts what comes",
        "makes one request for each draw",
        "tries n, and counts what comes",
    ),
    "seed": _Finding(
        "seeds",
        'n="never" makes every draw repeatable; a stored draw is repeatable anyway',
        "draws cannot be repeated, except from the store: keep one with --store",
        "sends them, relies on nothing",
    ),
    "frozen_seed": _Finding(
        "every draw is the same",
        "more draws bring nothing: look for a fixed seed or a cache in front of the model",
        "draws are independent, as far as a few can tell",
        "watches the draws, and says when they repeat",
    ),
    "temperature": _Finding(
        "any temperature",
        "as the recipe says",
        "only its own: recipes that ask for another are refused; vary the prompt instead",
        "sends it; a refusal is an error, never another law",
    ),
    "max_tokens_field": _Finding(
        "limit on tokens", "sent as {value}", "", "sends max_tokens, takes the other name when told to"
    ),
    "usage": _Finding(
        "counts tokens",
        "its counts are the bill",
        "counts token ids, or charges the most that a request can cost",
        "believes a count only where it can be true",
    ),
    "logprobs": _Finding(
        "log-probabilities",
        "likelihood, logp and confidence work",
        "choose by vote, checker or judge",
        "asks where a recipe needs them",
    ),
    "top_logprobs": _Finding("alternatives per token", "up to {value}", "none", "asks for none"),
    "token_ids_out": _Finding(
        "token ids of a draw",
        "counts and continues exactly",
        "estimates where it must",
        "asks where a recipe needs them",
    ),
    "token_ids_in": _Finding(
        "prompts as token ids",
        "responses can be continued from any token",
        "samplers that continue a response cannot run here",
        "not used: samplers that continue a response cannot run here",
    ),
    "likelihood": _Finding(
        "log-probabilities of a given text",
        "scores responses that it did not draw",
        "scores only what it drew",
        "not used",
    ),
    "continues": _Finding(
        "goes on from the beginning of a response", "possible by text", "not possible by text", "not used"
    ),
    "tokenize": _Finding(
        "tokenizes prompts",
        "prompts are counted exactly before they are paid for",
        "counts a prompt by its bytes until the first reply tells",
        "counts a prompt by its bytes until the first reply tells",
    ),
}

LEAST = 1e-3  # nats that great strength moves a law by, at least

ABOUT: Mapping[Capability, str] = {
    Capability.GENERATE: "draws completions",
    Capability.SEED: "the same ask gives the same completion",
    Capability.TOKENS: "gives the token ids of what it drew",
    Capability.LOGP: "gives log-probabilities at temperature 1",
    Capability.LOGQ: "gives log-probabilities under the law really drawn from",
    Capability.TOP: "gives the likeliest tokens of every place with their log-probabilities",
    Capability.LOGZ: "gives sums of powers of every place's law, at any exponents",
    Capability.CERTAINTY: "gives how far every place's law is from the uniform one",
    Capability.PREFIX: "continues a given beginning of a response",
    Capability.FLOOR: "gives up early on an unlikely response",
    Capability.EXPLORE: "lets the samples of a group keep out of each other's way",
    Capability.LIKELIHOOD: "scores a given response",
    Capability.ENUMERATE: "lists every response with its probability",
}


@app.command()
def doctor(
    engine: Engine = "tiny",
    fresh: Annotated[bool, typer.Option("--fresh", help="Ask the endpoint again, whatever is known of it")] = False,
    as_json: AsJson = False,
) -> None:
    """Find out what an engine really does: n, seeds, log-probs, token ids, usage ...

    An endpoint is asked about a dozen tiny requests, once; what it answers is kept for 30 days. For other engines this
    shows what they can do, and for a local model what it has to offer to samples that explore, tried on a few tokens.
    """
    made = asyncio.run(_opened(specs.parse(engine), fresh))
    profile = getattr(made, "profile", None)
    notes = tuple(getattr(made, "notes", ()))
    say(f"{made.name}: {made.identity}" if made.identity != made.name else made.name)
    if profile is not None:
        _print_profile(profile._asdict())
        say(f"so it can: {', '.join(sorted(made.can))}")
    else:
        table = Table("capability", "", "what it is", box=None)
        for capability in Capability:
            table.add_row(capability, _word(capability in made.can), ABOUT.get(capability, ""))
        out.print(table)
    exploration = None if (look := getattr(made, "exploration", None)) is None else look()
    if exploration is not None:
        _print_exploration(exploration)
    for note in notes:
        out.print(f"note: {note}", markup=False, highlight=False)
    if as_json:
        print_json(
            engine=made.name,
            identity=made.identity,
            can=sorted(made.can),
            profile=None if profile is None else profile.to_json(),
            notes=list(notes),
            exploration=exploration,
        )


async def _opened(spec: specs.Spec, fresh: bool) -> Any:
    """The engine, once it knows what it can do. It is closed again: what it knows can be read all the same."""
    if fresh:
        if spec.name != "http":
            raise UsageError(f"--fresh is for endpoints; nothing is kept of {spec.name}")
        spec = spec._replace(kwargs=(*(pair for pair in spec.kwargs if pair[0] != "probe"), ("probe", "fresh")))
    made = specs.build("engine", spec)
    try:
        await made.open()
    finally:
        await made.close()
    return made


def _print_profile(profile: Mapping[str, Json]) -> None:
    table = Table("what", "found", "what samplewise does", box=None)
    for name, finding in FINDINGS.items():
        value = profile[name]
        if value is None:
            table.add_row(finding.what, "not known", finding.unknown)
        else:
            does = (finding.yes if value else finding.no).format(value=value)
            table.add_row(finding.what, _word(value), does)
    if profile["refused"]:
        table.add_row("refuses", ", ".join(profile["refused"]), "leaves them out; a recipe that needs one is refused")
    out.print(table)


def _print_exploration(found: Mapping[str, Json]) -> None:
    if found["why"]:
        out.print(f"cannot explore: {found['why']}", markup=False, highlight=False)
        return
    table = Table("exploring", "found", "what it is", box=None)
    tapped = f"after block 1 of {found['blocks']} ({found['block']}), and before the head"
    none = "changes nothing" if found["unmoved"] else "changes the draw: do not explore"
    moved = f"moves the law by {found['moved_nats']:.2g} nats (KL)"
    strong = moved if found["moved_nats"] > LEAST else "changes nothing: do not explore"
    table.add_row("taps", tapped, "the states that policies look at")
    table.add_row("states", f"{found['dim']} numbers", "of a token, at both taps")
    table.add_row("vocabulary", f"{found['vocab']} tokens", "rows of the head")
    table.add_row("head", ", ".join(found["head"]), "from a state to logits")
    table.add_row(
        "head(state) = logits", f"to {found['apart']:.1g}", "relative error, which may be rounding and no more"
    )
    table.add_row("beta = 0", none, "no strength is the plain draw")
    table.add_row("beta = 5", strong, "great strength shows")
    out.print(table)


def _word(value: Json) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
