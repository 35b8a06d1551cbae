"""One vLLM server for all tests of this folder, which are skipped without vLLM."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("samplewise_vllm_serve", HERE / "serve.py")
assert _spec is not None
assert _spec.loader is not None
serve = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = serve
_spec.loader.exec_module(serve)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vllm: needs vLLM in .venv-vllm (make test-vllm)")


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the base URL of the bundled model, served in float32 by `samplewise vllm`: vLLM's own routes and ours."""
    if not serve.PYTHON.exists():
        pytest.skip("vLLM is not installed in .venv-vllm: make test-vllm installs it")
    from samplewise.models import TINY

    log = tmp_path_factory.mktemp("vllm") / "log"
    options = ("--max-model-len", "256", "--enforce-eager")
    with serve.serving(Path(TINY), "tiny", log, *options, command=serve.OURS) as served:
        yield served


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use an empty cache: the profile of another run's endpoint on the same port may be wrong."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
