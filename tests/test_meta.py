"""What holds for the whole source: who imports whom, where randomness comes from, how long and how quick it is."""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import pkgutil
import re
import statistics
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import samplewise

SRC = Path(samplewise.__file__).parent
ROOT = SRC.parents[1]
FILES = sorted(SRC.rglob("*.py"))
names_of_files = pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(SRC)) for path in FILES])

# Imports run downhill only: a room may import those named before it. A new room is put where it stands here.
ROOMS = (
    "core",
    "models",
    "store",
    "recorded",
    "measure",
    "samplers",
    "vary",
    "stop",
    "select",
    "explore",
    "engines",
    "verify",
    "tasks",
    "recipe",
    "loop",
    "runs",
    "analysis",
    "report",
    "api",
    "serve",
    "testing",
    "cli",
    "integrations",
)
RANK = {room: rank for rank, room in enumerate(ROOMS)}
PURE = ("samplers", "vary", "stop", "select", "measure")
PURE_FILES = ("core/types.py", "core/errors.py", "core/keys.py", "core/numerics.py")
IMPURE = (
    "asyncio",
    "socket",
    "pathlib",
    "os",
    "io",
    "sqlite3",
    "subprocess",
    "threading",
    "torch",
    "transformers",
    "time",
)


def room_of(path: Path) -> str:
    first = path.relative_to(SRC).parts[0]
    return first.removesuffix(".py")


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports anywhere in it, and the line."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ("samplewise", *path.relative_to(SRC).parent.parts)
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


@names_of_files
def test_imports_run_downhill(path: Path) -> None:
    """Late imports too, inside functions, count."""
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return
    assert room in RANK, f"samplewise.{room} has no rank yet: say in this test where it stands"
    for module, line in imports_of(path):
        parts = module.split(".")
        if parts[0] == "samplewise" and len(parts) > 1 and parts[1] in RANK:
            assert RANK[parts[1]] <= RANK[room], (
                f"{path.name}:{line}: {room} must not import {parts[1]}, which is above it"
            )


@names_of_files
def test_pure_rooms_import_nothing_that_acts(path: Path) -> None:
    if room_of(path) in PURE or path.relative_to(SRC).as_posix() in PURE_FILES:
        for module, line in imports_of(path):
            assert module.partition(".")[0] not in IMPURE, f"{path.name}:{line} imports {module}"


SHARED = {  # the transport of the reward server, and the command that starts vLLM's server
    "verify/reward/server.py": "samplewise.engines.http.",
    "cli/vllm.py": "samplewise.engines.vllm.launch",
}


@names_of_files
def test_engines_are_named_by_the_registry_alone(path: Path) -> None:
    """The conformance check is told apart: it is made of the toy engine."""
    room = room_of(path)
    allowed = {"base", "distribution"} | ({"toy"} if room == "testing" else set())
    if room == "engines":
        return
    for module, line in imports_of(path):
        shared = module.startswith(SHARED.get(path.relative_to(SRC).as_posix(), ()))
        if module.startswith("samplewise.engines.") and not shared:
            assert module.split(".")[2] in allowed, (
                f"{path.name}:{line}: {module} is named outside engines/ and the registry"
            )


GLOBAL = {
    "random": None,  # the whole module
    "numpy.random": {"Generator", "PCG64", "SeedSequence", "Philox", "BitGenerator"},  # what may be used
    "torch": {"manual_seed", "seed", "initial_seed", "set_rng_state"},  # what may not
}


@names_of_files
def test_no_randomness_without_a_key(path: Path) -> None:
    for module, line in imports_of(path):
        assert module.partition(".")[0] != "random", f"{path.name}:{line} imports random"
        assert not module.startswith("numpy.random") or module.split(".")[-1] in {"random", *GLOBAL["numpy.random"]}  # type: ignore[misc]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute):
            words = ast.unparse(node).split(".")
            if words[:2] in (["np", "random"], ["numpy", "random"]) and len(words) == 3:
                assert words[2] in GLOBAL["numpy.random"], f"{path.name}:{node.lineno}: {ast.unparse(node)}"  # type: ignore[operator]
            if words[0] == "torch":
                assert words[-1] not in GLOBAL["torch"], f"{path.name}:{node.lineno}: {ast.unparse(node)}"  # type: ignore[operator]


@names_of_files
def test_nothing_is_evaluated(path: Path) -> None:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "compile", "__import__"), f"{path.name}:{node.lineno}"


@names_of_files
def test_files_say_what_they_are(path: Path) -> None:
    source = path.read_text()
    if source.strip():
        assert ast.get_docstring(ast.parse(source)), f"{path} has no docstring"


def test_there_is_no_cycle() -> None:
    """Nor a room that cannot be entered first."""
    code = """
import importlib, sys
for room in sys.argv[1:]:
    for name in [name for name in sys.modules if name.startswith("samplewise")]:
        del sys.modules[name]
    importlib.import_module(f"samplewise.{room}")
"""
    rooms = [room for room in RANK if (SRC / room / "__init__.py").exists() or (SRC / f"{room}.py").exists()]
    done = subprocess.run([sys.executable, "-c", code, *rooms], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- names ------------------------------------------------------------------------------------------------------------

# The last column of the glossary: words of the private dialect, with the word to use.
REPLACED = {
    "law": "distribution, log_probs",
    "laws": "distributions",
    "dice": "choices, rng",
    "coin": "choices, rng",
    "purse": "ledger",
    "pot": "shared budget",
    "crew": "team",
    "thinker": "helper",
    "thinkers": "helpers",
    "heard": "replies",
    "talk": "replies",
    "appetite": "max_concurrency",
    "heat": "temperature_factor",
    "thinned": "resample_if_needed",
    "risen": "log_weights",
    "absorbed": "log_weights",
    "aside": "AsyncLearner",
    "floor": "reject_below",
    "chance": "probability",
    "chances": "probabilities",
    "worth": "expected_gain",
    "told": "what it holds",
    "said": "what it holds",
    "found": "what it holds",
    "made": "what it holds",
    "place": "index, position",
    "places": "indices, positions",
    "machine": "what it holds",
}
# The sampler laws are called so in the design; `math.floor` and the like are attributes, and not looked at.
# Keywords of recipe lines that stores hold, and names that other libraries or the web give.
ALLOWED = {"LAWS", "LawCheck", "laws", "connection_made", "explain_not_found", "heat", "aside", "floor"}


def names_of(path: Path) -> Iterator[tuple[str, int]]:
    """Every name that a file defines: its own, functions, classes, parameters, variables."""
    yield path.stem, 0
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno


@names_of_files
def test_names_are_the_fields_own(path: Path) -> None:
    for name, line in names_of(path):
        words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}
        replaced = sorted(words & REPLACED.keys()) if name not in ALLOWED else []
        assert not replaced, f"{path.name}:{line}: {name}; for {replaced[0]} say {REPLACED[replaced[0]]}"


def test_a_public_name_is_defined_once() -> None:
    """A class or function of one name means one thing; one that begins with "_" is its module's own business."""
    homes: dict[str, list[str]] = {}
    for path in FILES:
        for node in parsed(path).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
                homes.setdefault(node.name, []).append(str(path.relative_to(SRC)))
    twice = {name: files for name, files in homes.items() if len(files) > 1}
    assert not twice


def test_modules_import_each_other_in_no_circle() -> None:
    """Imports inside functions count: a circle that is broken by a late import is one all the same."""
    modules = {module_name(path): path for path in FILES}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        imported = [module for module, _ in imports_of(path) if module in modules and module != name]
        # `from package import module` is an import of the module
        graph[name] = {m for m in imported if not any(other.startswith(f"{m}.") for other in imported)}
    done: set[str] = set()
    trail: list[str] = []

    def visit(name: str) -> None:
        assert name not in trail, f"a circle: {' -> '.join([*trail[trail.index(name) :], name])}"
        if name in done:
            return
        trail.append(name)
        for imported in sorted(graph[name]):
            visit(imported)
        trail.pop()
        done.add(name)

    for name in sorted(graph):
        visit(name)


def module_name(path: Path) -> str:
    parts = ("samplewise", *path.relative_to(SRC).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


# --- the package's face -----------------------------------------------------------------------------------------------


def test_exports_are_sorted_and_are_what_they_say() -> None:
    """A function called like its module cannot be exported: importing the module puts the module in its place, and
    `from samplewise import run` gave one or the other, by what had been imported before."""
    assert samplewise.__all__ == sorted(samplewise.__all__, key=lambda name: (name.islower(), name))
    for found in pkgutil.iter_modules(samplewise.__path__):
        if found.name not in ("cli", "demo"):
            importlib.import_module(f"samplewise.{found.name}")
    for name in samplewise.__all__:
        assert not isinstance(getattr(samplewise, name), ModuleType), name
        assert getattr(samplewise, name) is getattr(samplewise, name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = samplewise.nothing
    assert set(samplewise.__all__) <= set(dir(samplewise))


MEASURE = """
import json, sys, time
started = time.process_time()
import samplewise
print(json.dumps([time.process_time() - started, sorted(sys.modules)]))
"""


def test_importing_takes_no_time() -> None:
    """Under 150 ms of processor time, the least of several: the machine may be busy, the package may not."""
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    ]
    seconds = [run[0] for run in runs]
    assert min(seconds) < 0.150, f"import samplewise took {statistics.median(seconds):.3f} s"
    loaded = set(runs[0][1])
    assert not loaded & {"torch", "transformers", "numpy", "scipy", "pydantic", "typer", "rich", "sqlite3", "asyncio"}


def test_the_loop_needs_no_heavy_package() -> None:
    code = "import samplewise.loop.drive, samplewise.recipe, samplewise.runs.run, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "typer", "rich"} & set(loaded)


def test_the_package_is_typed_and_has_one_version() -> None:
    assert (SRC / "py.typed").exists()
    assert f'version = "{samplewise.__version__}"' in (ROOT / "pyproject.toml").read_text()


# --- the tests themselves ---------------------------------------------------------------------------------------------

WARNINGS = [
    (FutureWarning, "samplewise.loop.drive", True),
    (DeprecationWarning, "samplewise", True),
    (DeprecationWarning, "bench.engine", True),
    (UserWarning, "training.tiny.train", True),
    (FutureWarning, __name__, True),
    (RuntimeWarning, "scipy.stats", True),
    (ResourceWarning, "asyncio.base_events", True),
    (FutureWarning, "transformers.models.llama", False),
    (DeprecationWarning, "torch.nn.modules.module", False),
    (DeprecationWarning, "samplewise_extras", False),
]


@pytest.mark.parametrize(("category", "module", "is_error"), WARNINGS)
def test_a_warning_is_an_error_where_it_is_ours(category: type[Warning], module: str, is_error: bool) -> None:
    """A new release of a package that deprecates something of its own does not fail the tests."""
    with warnings.catch_warnings(record=True) as shown:
        with pytest.raises(category) if is_error else contextlib.nullcontext():
            warnings.warn_explicit("once more", category, "somewhere.py", 1, module=module)
        assert len(shown) == (not is_error)
