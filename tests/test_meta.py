"""What holds for the whole source: who imports whom, where randomness comes from, how long and how quick it is."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import samplewise

SRC = Path(samplewise.__file__).parent
ROOT = SRC.parents[1]
FILES = sorted(SRC.rglob("*.py"))
names_of_files = pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(SRC)) for path in FILES])

# Imports run downhill only. A new part of the house is put on its floor here.
FLOORS = (
    ("types", "errors", "keys", "numerics"),
    ("samplers", "vary", "stop", "select", "measure", "events", "spec", "files"),
    ("engines", "store", "verify", "explore", "models", "recorded"),
    ("recipe", "purse", "pot", "run", "tasks", "evaluate", "predictor", "recheck"),
    ("api", "effect", "plan", "conformance", "report", "progress", "demo", "cli"),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PURE = ("samplers", "vary", "stop", "select", "measure")
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
LONGEST = 400  # lines; a file that must be longer is named here with its reason
MAY_BE_LONGER = {"store.py": 470}  # one file, one schema


def room_of(path: Path) -> str:
    first = path.relative_to(SRC).parts[0]
    return first.removesuffix(".py")


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports anywhere in it, and the line."""
    for node in ast.walk(ast.parse(path.read_text())):
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
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return
    assert room in FLOOR, f"samplewise.{room} has no floor yet: say in this test which it stands on"
    for module, line in imports_of(path):
        parts = module.split(".")
        if parts[0] == "samplewise" and len(parts) > 1 and parts[1] in FLOOR:
            assert FLOOR[parts[1]] <= FLOOR[room], (
                f"{path.name}:{line}: {room} must not import {parts[1]}, which is above it"
            )


@names_of_files
def test_pure_rooms_import_nothing_that_acts(path: Path) -> None:
    if room_of(path) in (*PURE, *FLOORS[0]):
        for module, line in imports_of(path):
            assert module.partition(".")[0] not in IMPURE, f"{path.name}:{line} imports {module}"


@names_of_files
def test_engines_are_named_by_the_registry_alone(path: Path) -> None:
    """The conformance check is told apart: it is made of the toy engine."""
    room = room_of(path)
    allowed = {"base", "law"} | ({"toy"} if room == "conformance" else set())
    if room == "engines":
        return
    for module, line in imports_of(path):
        if module.startswith("samplewise.engines."):
            assert module.split(".")[2] in allowed, (
                f"{path.name}:{line}: {module} is named outside engines/ and spec.py"
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
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            words = ast.unparse(node).split(".")
            if words[:2] in (["np", "random"], ["numpy", "random"]) and len(words) == 3:
                assert words[2] in GLOBAL["numpy.random"], f"{path.name}:{node.lineno}: {ast.unparse(node)}"  # type: ignore[operator]
            if words[0] == "torch":
                assert words[-1] not in GLOBAL["torch"], f"{path.name}:{node.lineno}: {ast.unparse(node)}"  # type: ignore[operator]


@names_of_files
def test_nothing_is_evaluated(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "compile", "__import__"), f"{path.name}:{node.lineno}"


@names_of_files
def test_files_are_short_and_say_what_they_are(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= MAY_BE_LONGER.get(str(path.relative_to(SRC)), LONGEST)
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
    rooms = [room for room in FLOOR if (SRC / room / "__init__.py").exists() or (SRC / f"{room}.py").exists()]
    done = subprocess.run([sys.executable, "-c", code, *rooms], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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
started = time.perf_counter()
import samplewise
print(json.dumps([time.perf_counter() - started, sorted(sys.modules)]))
"""


def test_importing_takes_no_time() -> None:
    """Under 150 ms, the least of several: the machine may be busy with something else, the package may not."""
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    ]
    seconds = [run[0] for run in runs]
    assert min(seconds) < 0.150, f"import samplewise took {statistics.median(seconds):.3f} s"
    loaded = set(runs[0][1])
    assert not loaded & {"torch", "transformers", "numpy", "scipy", "pydantic", "typer", "rich", "sqlite3", "asyncio"}


def test_the_loop_needs_no_heavy_package() -> None:
    code = "import samplewise.run, samplewise.recipe, samplewise.evaluate, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "typer", "rich"} & set(loaded)


def test_the_package_is_typed_and_has_one_version() -> None:
    assert (SRC / "py.typed").exists()
    assert f'version = "{samplewise.__version__}"' in (ROOT / "pyproject.toml").read_text()
