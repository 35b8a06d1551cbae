"""Every argument of every registered part is checked: a wrong value is one clear error, and never takes long.

The parts come from the registry, plugins included, so a part that is added is checked without a line here.
"""

from __future__ import annotations

import contextlib
import inspect
import signal
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from samplewise.core import registry
from samplewise.core.errors import BadSpec, SamplewiseError
from samplewise.core.keys import Key
from samplewise.core.registry import KINDS, build, factory, names
from samplewise.core.spec import Spec
from samplewise.core.types import Candidate, Completion, Message, Pool, Question, Usage
from samplewise.engines.toy import Toy
from samplewise.samplers.base import direct
from samplewise.vary import vary

LIMIT_S = 5.0
MAX_STEPS = 20
WRONG: tuple[Any, ...] = (
    1.5, -1, 0, 2, 10**18, 2**63, -(2**63), 1e308, -1e308, 5e-324, True, None, "", "x", "\0", "a" * 300,
    (), (1.5,), ("a",), ((),), (None,), {}, {"a": 1},
)  # fmt: skip
QUESTION = Question("q", (Message("user", "make 24 from 4 6 7 8"),), {"numbers": [4, 6, 7, 8], "target": 24})
CANDIDATES = tuple(
    Candidate(str(i % 3), num_tokens=3 + i, logp_sum=-2.0 - i, scores={"reward": i / 8}) for i in range(8)
)
PARAMETERS = [
    (kind, name, parameter)
    for kind in KINDS
    for name in names(kind)
    for parameter in inspect.signature(factory(kind, name)).parameters.values()
]


@contextlib.contextmanager
def time_limit(what: str) -> Iterator[None]:
    """Fail beyond `LIMIT_S` of processor time, so that a busy computer fails nothing."""

    def fail(number: int, frame: Any) -> None:
        raise AssertionError(f"{what} took more than {LIMIT_S:g} s")

    before = signal.signal(signal.SIGPROF, fail)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def fitting(parameter: inspect.Parameter) -> Any:
    """Return a value for a required argument, by its declared type."""
    by_name = {"verifier": "reward", "shapes": ((1.0, 1.0), (2.0, 1.0)), "model": "x", "url": "http://127.0.0.1:9"}
    if parameter.name in by_name:
        return by_name[parameter.name]
    return {"int": 2, "float": 0.5}.get(str(parameter.annotation), "x")


def spec_with(kind: registry.Kind, name: str, changed: inspect.Parameter, value: Any) -> Spec:
    args: list[Any] = []
    kwargs: list[tuple[str, Any]] = []
    for parameter in inspect.signature(factory(kind, name)).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            args += [value] if parameter.name == changed.name else []
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            kwargs += [("member", value)] if parameter.name == changed.name else []
        elif parameter.name == changed.name:
            kwargs.append((parameter.name, value))
        elif parameter.default is inspect.Parameter.empty:
            kwargs.append((parameter.name, fitting(parameter)))
    return Spec(name, tuple(args), tuple(kwargs), text="")


def use(kind: registry.Kind, part: Any) -> None:
    """Take a part's first steps, as the loop does."""
    if kind == "stop":
        state = part.start(QUESTION)
        for candidate in CANDIDATES:
            state = part.see(state, candidate, candidate.text)
            part.verdict(state, Usage(1, 10, 10))
            part.at_least(state)
    elif kind == "sampler":
        toy = Toy(2, seed=3)
        state, step = part.step(Key(0), part.init((direct(QUESTION),)), ())
        for _ in range(MAX_STEPS):
            if step.asks:
                state, step = part.step(Key(0), state, tuple(map(toy.one, step.asks)))
        part.pool(state)
    elif kind == "arm":
        mix = vary(part)
        state, step = mix.step(Key(0), mix.init(QUESTION), ())
        for _ in range(MAX_STEPS):
            if step.asks:
                state, step = mix.step(Key(0), state, tuple(Completion("an idea: x", "stop") for _ in step.asks))
        mix.variants(state)
    elif kind == "selector":
        pool = Pool(tuple(c._replace(scores=dict.fromkeys(part.verifiers, 0.5)) for c in CANDIDATES))
        part.choose(Key(0), pool, tuple(c.text for c in CANDIDATES))


@pytest.fixture(scope="module", autouse=True)
def heavy_modules() -> Iterator[None]:
    """What parts import when they are first built is no part of their time. No name is looked up on the Hub."""
    pytest.importorskip("transformers", reason="needs the extra [local]")
    for spec in ("tiny", "toy", "http('x', base_url='http://127.0.0.1:9')"):
        build("engine", spec)
    build("verifier", "reward")
    build("task", "game24")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.mark.parametrize(("kind", "name", "parameter"), PARAMETERS, ids=lambda v: getattr(v, "name", v))
def test_a_wrong_value_is_one_clear_error(kind: registry.Kind, name: str, parameter: inspect.Parameter) -> None:
    for value in WRONG:
        spec = spec_with(kind, name, parameter, value)
        with time_limit(f"{spec}"[:80]):
            try:
                part = build(kind, spec)
                use(kind, part)
            except SamplewiseError as error:
                message = str(error).split("\n  ")[0]
                assert "\n" not in message, message
                assert len(message) < 1000, message


LARGE = "length_preference must be a number of at most 1e+12, got 1e+308"
EXAMPLES = [
    ("stop", "lead(1.5)", "lead: margin must be a whole number, got 1.5"),
    ("stop", "cap(1.5)", "cap: draws must be a whole number, got 1.5"),
    ("stop", "esc(window=1.5)", "esc: window must be a whole number, got 1.5"),
    ("stop", "deepconf(warm_up=1.5)", "deepconf: warm_up must be a whole number, got 1.5"),
    ("stop", "beacon(reward, price=1, cap=1.5)", "beacon: cap must be a whole number, got 1.5"),
    ("stop", "ucb_pandora(reward, price=1, cap=1.5)", "ucb_pandora: cap must be a whole number, got 1.5"),
    ("stop", "ppr_1v1(labels=1e308)", "ppr_1v1: labels must be a whole number, got 1e+308"),
    ("stop", "lead(True)", "lead: margin must be a whole number, got True"),
    ("verifier", "judge(samples=1.5)", "judge: samples must be a whole number, got 1.5"),
    ("verifier", "reward_server(url=2)", "reward_server: url must be a text, got 2"),
    ("verifier", "recorded(recording=2)", "recorded: recording must be a text, got 2"),
    (
        "sampler",
        "sir(8, length_preference=1e308)",
        f"sir: {LARGE}",
    ),
    (
        "sampler",
        "repeat(1000000000000000000)",
        "repeat: num_samples must be at most 10,000,000, got 1000000000000000000",
    ),
    ("sampler", "tempering(alphas=(1, 'a'))", "tempering: alphas must be a list of numbers or a text, got (1, 'a')"),
    ("explore", "css(order='x')", "css: order must be chain or vocabulary, got 'x'"),
    ("engine", "team(tiny, strong=3)", "team: strong must be a text, got 3"),
    ("arm", "ladder(1, 'a')", "ladder: temperatures must be a number, got 'a'"),
]


@pytest.mark.parametrize(("kind", "text", "message"), EXAMPLES, ids=[text for _, text, _ in EXAMPLES])
def test_the_message_names_the_argument_and_what_it_takes(kind: registry.Kind, text: str, message: str) -> None:
    with time_limit(text), pytest.raises(BadSpec) as caught:
        build(kind, text)
    assert str(caught.value).splitlines()[0] == message


def declared(
    whole: int,
    share: float,
    flags: tuple[bool, ...] = (),
    pair: tuple[int, str] | None = None,
    table: Mapping[str, int] | None = None,
    either: Annotated[int, "a note"] | Literal["auto"] = "auto",
    later: NotImported | None = None,  # type: ignore[name-defined]  # noqa: F821
    *more: Path,
) -> tuple[Any, ...]:
    """Return the arguments."""
    return (whole, share, flags, pair, table, either, later, *more)


@pytest.mark.parametrize(
    ("arguments", "fits"),
    [
        ("1, 2", True),
        ("1, 2.5, (True,), (1, 'a'), {'a': 1}, 3, {'any': 'thing'}, 'a', 'b'", True),
        ("1, 2, [], None, None, 'auto', None", True),
        ("1.0, 2", False),
        ("1, '2'", False),
        ("1, 2, (1,)", False),
        ("1, 2, (), (1, 2)", False),
        ("1, 2, (), (1, 'a', 'b')", False),
        ("1, 2, (), None, {'a': 'b'}", False),
        ("1, 2, (), None, None, 'other'", False),
        ("1, 2, (), None, None, True", False),
        ("1, 2, (), None, None, 1, None, 3", False),
    ],
)
def test_a_plugin_is_checked_by_its_annotations(monkeypatch: pytest.MonkeyPatch, arguments: str, fits: bool) -> None:
    """A type that is imported for type checkers alone is left to the part."""
    monkeypatch.setattr(registry, "factory", lambda *names: declared)
    with contextlib.nullcontext() if fits else pytest.raises(BadSpec, match="must be"):
        build("stop", f"declared({arguments})")


def test_types_are_found_where_the_names_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python 3.14 copies them; types that are imported for type checkers only were not found there."""
    hints = typing.get_type_hints
    monkeypatch.setattr(typing, "get_type_hints", lambda part, known, names: hints(part, known, dict(names)))
    registry._annotations.cache_clear()
    for kind in KINDS:
        for name in names(kind):
            assert registry._annotations(factory(kind, name)).keys() >= {
                parameter.name
                for parameter in inspect.signature(factory(kind, name)).parameters.values()
                if parameter.annotation is not inspect.Parameter.empty
            }
