"""The package as people get it: built, checked, and installed without the repository, in environments of its own.

`make test-package` makes `.venv-package` with the tools. The wheel is built from the unpacked sdist, so what the sdist
lacks is seen. Nothing here imports samplewise: all that is tested runs in the environment that the wheel was put into.
"""

from __future__ import annotations

import contextlib
import email
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".venv-package" / "bin"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = sorted(set(PROJECT["optional-dependencies"]))
# What is in the wheel beside Python modules. A new kind of file is named here, or does not belong there.
DATA = {".css", ".html", ".jinja", ".js", ".json", ".md", ".safetensors", ".toml", ".typed"}
NEWER = ("3.12", "3.13", "3.14")  # than the Python that the other tests run in
MAX_WHEEL_MB = 9.0
TIMEOUT_S = 120
ALL_OUTPUT = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}

pytestmark = [
    pytest.mark.package,
    pytest.mark.slow,
    pytest.mark.skipif(not TOOLS.exists(), reason="needs .venv-package: make test-package installs it"),
]


def call(*command: str | Path, cwd: Path, code: int = 0, extra: Mapping[str, str] | None = None) -> str:
    """Run a command outside the repository, with nothing of this process's Python; return what it prints."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment = {name: value for name, value in environment.items() if not name.startswith("SAMPLEWISE_")}
    environment |= {"HOME": str(cwd), "NO_COLOR": "1", "OMP_NUM_THREADS": "1", **(extra or {})}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=environment,
        timeout=TIMEOUT_S,
        text=True,
        **ALL_OUTPUT,
    )
    assert done.returncode == code, f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def uv(*words: str | Path, cwd: Path) -> str:
    """Run uv, with the user's own cache of downloads."""
    cache = os.environ.get("UV_CACHE_DIR") or str(Path.home() / ".cache" / "uv")
    return call(TOOLS / "uv", *words, cwd=cwd, extra={"UV_CACHE_DIR": cache})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    call(TOOLS / "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    source = tmp_path_factory.mktemp("source")
    with tarfile.open(sdist_of(folder)) as archive:
        archive.extractall(source, filter="data")
    call(TOOLS / "hatchling", "build", "-t", "wheel", "-d", folder, cwd=next(source.iterdir()))
    return folder


def sdist_of(folder: Path) -> Path:
    return next(folder.glob("*.tar.gz"))


def wheel_of(folder: Path) -> Path:
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def core(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a clean environment with the wheel, and what it cannot do without."""
    return install(built, tmp_path_factory.mktemp("core"))


def install(built: Path, folder: Path, python: str = sys.executable) -> Path:
    uv("venv", "--quiet", "--python", python, folder / "venv", cwd=folder)
    constraints = ROOT / "constraints.txt"
    made = folder / "venv" / "bin" / "python"
    uv("pip", "install", "--quiet", "--python", made, "--constraint", constraints, wheel_of(built), cwd=folder)
    return made.parent


def python_of(version: str) -> str | None:
    """Return a Python of this version, None where there is none on this computer."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for path in (shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python3"))):
        if path is not None and subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0:
            return str(path)
    return None


def files_of(wheel: Path) -> list[PurePosixPath]:
    with zipfile.ZipFile(wheel) as archive:
        return [PurePosixPath(name) for name in archive.namelist()]


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_the_wheel_is_the_package_and_nothing_else(built: Path) -> None:
    """Every tracked file below src/samplewise and no other; one top-level package; no test, no store, no leftovers."""
    names = files_of(wheel_of(built))
    info = f"samplewise-{PROJECT['version']}.dist-info"
    assert {name.parts[0] for name in names} == {"samplewise", info}
    tracked = call("git", "ls-files", "src/samplewise", cwd=ROOT).split() if (ROOT / ".git").exists() else []
    if tracked:
        assert {str(name) for name in names if name.parts[0] == "samplewise"} == {
            name.removeprefix("src/") for name in tracked
        }
    modules = [name for name in names if name.parts[0] == "samplewise"]
    assert {name.suffix for name in modules} - {".py"} <= DATA
    assert not [name for name in modules if name.name.startswith(("test_", "conftest")) or "tests" in name.parts]
    assert wheel_of(built).stat().st_size < MAX_WHEEL_MB * 1e6


def test_the_sdist_can_be_tested(built: Path) -> None:
    """It has what `make test` needs, and no environment, cache or store."""
    with tarfile.open(sdist_of(built)) as archive:
        names = [PurePosixPath(*PurePosixPath(name).parts[1:]) for name in archive.getnames()]
    tops = {name.parts[0] for name in names if name.parts}
    wanted = {"src", "tests", "bench", "training", "docs", "Makefile", "pyproject.toml", "LICENSE", "README.md"}
    wanted |= {"constraints.txt", "constraints.in", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff"}
    assert wanted <= tops
    assert tops <= wanted | {"PKG-INFO", ".gitignore", ".dockerignore", ".github", "Dockerfile", "examples"}
    assert not [name for name in names if {"__pycache__", ".venv", "dist"} & set(name.parts) or name.suffix == ".db"]


def test_an_index_would_take_it(built: Path) -> None:
    """Metadata that an index can read, a README that it can show, a wheel without a usual fault."""
    seen = call(TOOLS / "twine", "check", "--strict", wheel_of(built), sdist_of(built), cwd=built)
    assert seen.count("PASSED") == 2
    call(TOOLS / "check-wheel-contents", "--config", ROOT / "pyproject.toml", wheel_of(built), cwd=built)


def test_metadata_is_that_of_the_project(built: Path) -> None:
    with zipfile.ZipFile(wheel_of(built)) as archive:
        text = archive.read(f"samplewise-{PROJECT['version']}.dist-info/METADATA").decode()
        tag = archive.read(f"samplewise-{PROJECT['version']}.dist-info/WHEEL").decode()
    metadata = email.message_from_string(text)
    assert metadata["Name"] == "samplewise"
    assert metadata["Version"] == PROJECT["version"]
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert sorted(metadata.get_all("Provides-Extra") or ()) == EXTRAS
    needed = [line for line in metadata.get_all("Requires-Dist") or () if "extra ==" not in line]
    assert len(needed) == len(PROJECT["dependencies"])
    assert "Tag: py3-none-any" in tag  # no compiler


# --- what it does, with nothing else installed ------------------------------------------------------------------------


def test_it_runs_without_the_repository(core: Path, tmp_path: Path) -> None:
    where = call(core / "python", "-I", "-c", "import samplewise; print(samplewise.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(core.parent)
    assert call(core / "samplewise", "--version", cwd=tmp_path) == f"samplewise {PROJECT['version']}\n"
    listed = uv("pip", "list", "--quiet", "--python", core / "python", "--format", "json", cwd=tmp_path)
    installed = json.loads(listed.splitlines()[-1])
    assert len(installed) <= 30
    assert not {"torch", "transformers", "pyarrow", "datasets"} & {package["name"] for package in installed}


def test_core_asks_runs_and_decides_again(core: Path, tmp_path: Path) -> None:
    """On the toy model, which needs numpy alone."""
    asks_runs_and_decides_again(core, tmp_path)


@pytest.mark.parametrize("version", NEWER)
def test_core_runs_on_a_newer_python(version: str, built: Path, tmp_path: Path) -> None:
    """And behind its own server, through its own http engine, whose arguments have types of every kind."""
    if (python := python_of(version)) is None:
        pytest.skip(f"there is no Python {version} here")
    core = install(built, tmp_path, python)
    assert call(core / "python", "--version", cwd=tmp_path).startswith(f"Python {version}.")
    asks_runs_and_decides_again(core, tmp_path)
    with serving(core, tmp_path, "--engine", "toy") as upstream:
        engine = f'http("toy", base_url="{upstream}/v1", api_key="")'
        with serving(core, tmp_path, "--engine", engine, "--preset", "fast=repeat(4) | vote") as url:
            assert chat(url, "fast@toy", "say a")["samplewise"]["draws"] == 4


def asks_runs_and_decides_again(core: Path, folder: Path) -> None:
    asked = call(core / "samplewise", "ask", "say a", "--engine", "toy", "--json", cwd=folder)
    assert len(json.loads(asked.splitlines()[-1])["answers"]) == 8
    (folder / "mine.jsonl").write_text('{"question": "say a", "answer": "a"}\n')
    recipe = "repeat(8, max_tokens=3) | vote"
    call(core / "samplewise", "run", "mine.jsonl", "--engine", "toy", "--recipe", recipe, cwd=folder)
    call(core / "samplewise", "report", "-o", "report.html", cwd=folder)
    assert (folder / "report.html").stat().st_size > 10_000
    assert " doctor " in call(core / "samplewise", "--help", cwd=folder)


def test_core_says_what_the_embedded_model_needs(core: Path, tmp_path: Path) -> None:
    """The embedded model runs in torch: one line says what to install, before anything is done."""
    for words in (["demo"], ["ask", "make 24 from 4 6 7 8"]):
        seen = call(core / "samplewise", *words, cwd=tmp_path, code=3)
        assert "pip install 'samplewise[local]'" in seen
        assert len(seen.splitlines()) == 1


def test_core_serves(core: Path, tmp_path: Path) -> None:
    with serving(core, tmp_path, "--engine", "toy", "--preset", "fast=repeat(4) | vote") as url:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=30) as reply:
            assert "fast@toy" in {model["id"] for model in json.load(reply)["data"]}
        assert chat(url, "fast@toy", "say a")["usage"]["completion_tokens"] >= 4


def chat(url: str, model: str, question: str) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 8}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return dict(json.load(reply))


@contextlib.contextmanager
def serving(bin_folder: Path, folder: Path, *options: str) -> Iterator[str]:
    """Run `samplewise serve` of an environment, and yield its address."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONUNBUFFERED": "1", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    command = [str(bin_folder / "samplewise"), "serve", "--port", "0", "--no-log", *options]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            match = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert match is not None, line + server.stdout.read()
            yield match[0]
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) in (0, -signal.SIGTERM)


# --- with extras ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_resolves(extra: str, built: Path, core: Path, tmp_path: Path) -> None:
    """What the extra names can be installed beside the core: with the locked releases, and without."""
    wanted = f"samplewise[{extra}] @ {wheel_of(built).as_uri()}"
    for limits in (["--constraint", str(ROOT / "constraints.txt")], []):
        seen = uv("pip", "install", "--dry-run", "--python", core / "python", *limits, wanted, cwd=tmp_path)
        assert "Would install" in seen


def test_the_embedded_model_answers_and_is_served(built: Path, tmp_path: Path) -> None:
    """The wheel with torch and transformers, those of the environment that runs the tests: a download of torch is
    spared. The wheel stands before them on the path, so the package is its own."""
    pytest.importorskip("transformers", reason="needs the extra [local]")
    bin_folder = install(built, tmp_path)
    site = next(bin_folder.parent.glob("lib/python*/site-packages"))
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    where = call(bin_folder / "python", "-c", "import samplewise; print(samplewise.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(site)
    figures = call(bin_folder / "samplewise", "demo", "--puzzles", "2", "--draws", "2", cwd=tmp_path)
    assert len(json.loads(figures.splitlines()[-1])["demo"]["methods"]) == 12
    with serving(bin_folder, tmp_path, "--engine", "tiny", "--preset", "fast=repeat(2) | vote") as url:
        assert "choices" in chat(url, "fast@tiny", "make 24 from 4 6 7 8")
