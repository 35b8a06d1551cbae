"""Settings of the command line: `samplewise.toml`, or `[tool.samplewise]` in `pyproject.toml`.

    engine = "qwen"                        # what a command uses that is given no --engine; so recipe, store
    [engines]                              # names for --engine, and for helpers and judges in recipes
    qwen = 'http("qwen3-8b", base_url="http://127.0.0.1:8000/v1")'
    [presets]                              # names for --recipe, and what `serve` offers
    fast = "repeat(8) | until(lead(3)) | vote"
    [prices]                               # USD per million tokens, see core/prices.py
    "qwen3-8b" = { input = 0.1, output = 0.4 }

The file is looked for in the working folder and above it, up to the root of a repository. A flag beats an environment
variable, and that beats the file. The library itself reads no settings: `solve` is given all that it uses.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from samplewise.core import registry
from samplewise.core.errors import BadInput, BadSpec, SamplewiseError, UnknownName, UsageError
from samplewise.core.prices import parse_prices
from samplewise.core.spec import Spec, parse_spec
from samplewise.core.types import Json

FILE, SHARED_FILE = "samplewise.toml", "pyproject.toml"
TEAM = "team"  # the engine that holds others
NO_CONFIG = "none"  # as a file's name: look for none
NEAR = 0.75  # a name of an engine this like one that is not there is taken for a slip
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# Options that a setting is the default of, by the name of the command's parameter.
DEFAULTS = ("engine", "recipe", "store", "confirm_above_usd")
TABLES = ("engines", "presets", "prices")
# What each command takes from it; any other reads a store. `ask` and `serve` keep draws only where they are told to.
USED_BY: Mapping[str, tuple[str, ...]] = {
    "ask": ("engine", "recipe"),
    "run": DEFAULTS,
    "compare": ("engine", "store", "confirm_above_usd"),
    "serve": ("engine",),
    "doctor": ("engine",),
}


@dataclass(frozen=True, slots=True)
class Config:
    """What a file of settings says. Specs and recipes are text that has been parsed once, to find its mistakes."""

    path: Path | None = None
    engine: str | None = None
    recipe: str | None = None
    store: str | None = None
    confirm_above_usd: float | None = None
    engines: Mapping[str, str] = field(default_factory=dict)
    presets: Mapping[str, str] = field(default_factory=dict)
    has_prices: bool = False

    def engine_spec(self, text: str) -> str:
        """Return the spec of an engine that is given by its name here, or as a spec; names within a team are replaced.

        Raises UsageError for a team that is a part of itself.
        """
        whole = self.engines.get(text.strip(), text)
        with contextlib.suppress(BadSpec):  # is said where the engine is built
            if (spec := parse_spec(whole)).name == TEAM:
                return str(self._team(spec, (text.strip(),) if text.strip() in self.engines else ()))
        return whole

    def engine_for(self, text: str, asked: Iterable[str]) -> Spec:
        """Return the spec of an engine, with the engines of these names here as its helpers and judges.

        `text` is what `engine_spec` returned, `asked` the names that recipes ask. A name that the engine has itself
        stays what it is; one that is found nowhere is left to the check of the recipe. Raises BadSpec, and UnknownName
        for a name that is nearly one of these.
        """
        spec = parse_spec(text)
        has = dict(spec.kwargs) if spec.name == TEAM else {}
        helpers = []
        for name in sorted(set(asked) - has.keys()):
            if name in self.engines:
                helpers.append((name, parse_spec(self.engine_spec(name))))
            elif difflib.get_close_matches(name, self.engines, n=1, cutoff=NEAR):
                raise UnknownName("engine", name, [*has, *self.engines])
        if not helpers:
            return spec
        team = spec if spec.name == TEAM else Spec(TEAM, (spec,))
        return team._replace(kwargs=(*team.kwargs, *helpers))

    def _team(self, spec: Spec, within: tuple[str, ...]) -> Spec:
        """Return a team's spec with the specs of the engines that it names. `within` are the names that lead here."""

        def whole(member: Json) -> Json:
            name = member if isinstance(member, str) else str(member)
            if name in within:
                raise UsageError(f"the engine {name} of the settings is a team that is a part of itself")
            inner = parse_spec(self.engines[name]) if name in self.engines else member
            if isinstance(inner, Spec) and inner.name == TEAM:
                return self._team(inner, (*within, name))
            return inner

        members = tuple((name, whole(member)) for name, member in spec.kwargs)
        return spec._replace(args=tuple(map(whole, spec.args)), kwargs=members)

    def recipe_line(self, text: str) -> str:
        """Return the line of a recipe that is given by a preset's name, or as a line."""
        return self.presets.get(text.strip(), text)

    def defaults_of(self, command: str) -> dict[str, Json]:
        """Return the defaults of a command's options, by the name of its parameter."""
        names = USED_BY.get(command, ("store",))
        values: dict[str, Json] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if command == "serve" and self.engine is not None:
            values["engine"] = [self.engine]
        return values


def find_config(start: Path, home: Path) -> Path | None:
    """Return the nearest file of settings in `start` or a folder above it, None if there is none.

    The search ends with the first folder that holds `.git`, and with the home folder. In one folder `samplewise.toml`
    comes before `pyproject.toml`.
    """
    for folder in (start, *start.parents):
        if (folder / FILE).is_file():
            return folder / FILE
        shared = folder / SHARED_FILE
        with contextlib.suppress(OSError):  # none here, or one that is not ours to read
            if "tool.samplewise" in shared.read_text(encoding="utf-8", errors="replace"):
                return shared
        if folder == home or (folder / ".git").exists():
            return None
    return None


def load_config(given: str | None) -> Config:
    """Return the settings of the file that is given, or of the nearest one; without any, settings that say nothing.

    Raises BadInput for a file with a mistake: it names the file, the key, and what is allowed. Raises UsageError where
    the nearest file belongs to another user: what it says of engines decides where questions and keys are sent.
    """
    if given == NO_CONFIG:
        return Config()
    start = Path.cwd()
    path = Path(given) if given else find_config(start, Path.home())
    if path is None:
        return Config()
    if not given and os.name == "posix" and path.stat().st_uid not in (os.getuid(), 0):
        raise UsageError(f"{path} belongs to another user; --config {path} uses it, --config {NO_CONFIG} does not")
    config = read_config(path)
    if not given and path.parent != start:
        print(f"samplewise: settings from {path}", file=sys.stderr)
    return config


def read_config(path: Path) -> Config:
    """Return the settings of a file. Raises BadInput."""
    try:
        table: Json = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BadInput(f"the settings {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BadInput(f"the settings {path} cannot be read: {error}") from None
    if path.name == SHARED_FILE:
        table = table.get("tool", {}).get("samplewise", {})
    _check_keys(path, table)
    values: dict[str, Json] = {name: table[name] for name in DEFAULTS if name in table}
    for name in ("engine", "recipe", "store"):
        if name in values and not (isinstance(values[name], str) and values[name].strip()):
            raise BadInput(f"{path}: {name} must be a text, got {values[name]!r}")
    limit = values.get("confirm_above_usd", 0.0)
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 0:
        raise BadInput(f"{path}: confirm_above_usd must be a number of US dollars, 0 or more, got {limit!r}")
    engines = dict(_named(path, "engines", table, "engine"))
    presets = dict(_named(path, "presets", table, None))
    parse_prices(table.get("prices", {}), str(path))
    if "store" in values:
        values["store"] = str(path.parent / values["store"])  # the same store, wherever below the command is given
    config = Config(path, engines=engines, presets=presets, has_prices=bool(table.get("prices")), **values)
    if config.engine is not None:
        _check_spec(path, "engine", config.engine_spec(config.engine))
    if config.recipe is not None:
        _check_recipe(path, "recipe", config.recipe_line(config.recipe))
    return config


def _check_keys(path: Path, table: Json) -> None:
    if not isinstance(table, dict):
        raise BadInput(f"{path}: tool.samplewise must be a table, got {table!r}")
    allowed = (*DEFAULTS, *TABLES)
    for key in table:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(allowed)}"
            raise BadInput(f"{path}: no setting is called {key!r}; {hint}")


def _named(path: Path, kind: str, table: Json, part: registry.Kind | None) -> Iterator[tuple[str, str]]:
    """Yield the entries of a table of names, each checked. A name that a part has already would hide the part."""
    entries = table.get(kind, {})
    if not isinstance(entries, dict):
        raise BadInput(f"{path}: {kind} must be a table of names, [{kind}], got {entries!r}")
    for name, text in entries.items():
        where = f"{kind}.{name}"
        if not NAME.fullmatch(name):
            raise BadInput(f"{path}: {where}: a name has letters, digits, '.', '-' and '_', at most 64")
        if registry.kinds_of(name) if part is None else name in registry.names(part):
            raise BadInput(f"{path}: {where}: this is the name of a part of samplewise; choose another")
        if not isinstance(text, str):
            what = "an engine, such as 'http(\"MODEL\")'" if part else "a recipe, such as 'repeat(8) | vote'"
            raise BadInput(f"{path}: {where} must be the text of {what}, got {text!r}")
        if part is None:
            _check_recipe(path, where, text)
        else:
            _check_spec(path, where, text)
        yield name, text


def _check_spec(path: Path, where: str, text: str) -> None:
    try:
        spec = parse_spec(text)
        if spec.name not in registry.names("engine"):
            registry.factory("engine", spec.name, text, spec.column)  # raises, with the nearest names
    except SamplewiseError as error:
        raise BadInput(f"{path}: {where}: {error}") from None


def _check_recipe(path: Path, where: str, text: str) -> None:
    from samplewise.recipe import parse_stages

    try:
        parse_stages(text)
    except SamplewiseError as error:
        raise BadInput(f"{path}: {where}: {error}") from None
