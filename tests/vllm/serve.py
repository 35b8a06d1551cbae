"""A vLLM server on the loopback as a child process, from the environment in .venv-vllm (see `make test-vllm`): vLLM's
own, or the one that `samplewise vllm` starts."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
START_S = 300.0  # half a minute where nothing else runs
STOP_S = 20.0

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; the model needs a few MB
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "2",
}


STOCK, OURS = ("vllm.entrypoints.openai.api_server", "--model"), ("samplewise", "vllm")


def installed(folder: Path) -> str:
    """Return a PYTHONPATH by which samplewise is as if installed: its sources, and entry points in `folder`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    info = folder / "samplewise-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: samplewise\nVersion: 1\n")
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in p.items()) for group, p in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return os.pathsep.join([str(ROOT / "src"), str(folder)])


@contextlib.contextmanager
def serving(model: Path, name: str, log: Path, *options: str, command: tuple[str, ...] = STOCK) -> Iterator[str]:
    """Serve a checkpoint in float32, and yield the base URL, which ends with /v1.

    Raises RuntimeError with the log's end if the server does not start. It and its children are ended on leaving.
    """
    port = _free_port()
    arguments = ["-m", *command, str(model), "--served-model-name", name, "--port", str(port)]
    arguments += ["--dtype", "float32", "--seed", "0", *options]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))} | ENVIRONMENT
    if command == OURS:
        environment["PYTHONPATH"] = installed(log.with_name("installed"))
    else:
        arguments += ["--host", "127.0.0.1"]
    with log.open("wb") as written:
        server = subprocess.Popen(  # a session of its own, so that its children can be ended with it
            [str(PYTHON), *arguments], stdout=written, stderr=written, env=environment, cwd=ROOT, start_new_session=True
        )
        try:
            _await(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            _end(server)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(url, timeout=5) as reply:
            if reply.status == 200:
                return
        time.sleep(0.25)
    raise RuntimeError(f"vLLM did not start:\n{log.read_text(errors='replace')[-4000:]}")


def _end(server: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait(STOP_S)
