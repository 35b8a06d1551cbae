"""Load a recording by its name or path."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from samplewise.core.errors import SetupError, UnknownName
from samplewise.core.files import data_folder, is_file, is_folder
from samplewise.core.types import Message, Problem, Question, Sampling

from . import inspect_logs, jsonl
from .base import Draw, Recording
from .folders import FOLDERS


def load_recording(name: str, problems: Sequence[Problem] = (), engine: str = "") -> Recording:
    """Load a published folder of `SAMPLEWISE_DATA`, a JSON-lines file, a folder of output-rs*.jsonl, a store (*.db), or
    a log of Inspect (*.eval, *.json).

    `problems` are those of the task that a file without prompts was drawn for. `engine` is part of the name of the
    engine whose draws are meant, if a store has those of several. Raises SetupError or BadInput.
    """
    head, _, part = name.partition("/")
    if head in FOLDERS:
        return _of_folder(head, part, _folder(head))
    path = Path(name)
    if is_folder(path):
        files = sorted([*path.glob("output-rs*.jsonl"), *path.glob("output-rs*.jsonl.gz")])
        if files:
            return jsonl.read_recording(files, path.name, problems)
    if not is_file(path):
        raise UnknownName("recording", name, FOLDERS)
    if inspect_logs.is_log(path):
        return inspect_logs.read_log(path)
    with path.open("rb") as file:
        is_store = file.read(15) == b"SQLite format 3"
    return _of_store(path, engine) if is_store else jsonl.read_recording([path], path.name, problems)


@functools.lru_cache(maxsize=4)
def _of_folder(name: str, part: str, folder: Path) -> Recording:
    """Read a folder once: engine, task and verifier of one command use the same recording."""
    return FOLDERS[name](folder, part)


def _folder(name: str) -> Path:
    data = data_folder()
    if data is None:
        raise SetupError(f"{name} is not at hand; set SAMPLEWISE_DATA to a folder that has recorded/{name}")
    folder = data / "recorded" / name
    if not folder.is_dir():
        raise SetupError(f"{data} has no recorded/{name}; point SAMPLEWISE_DATA at a folder that does")
    return folder


def _of_store(path: Path, engine: str) -> Recording:
    """Read a store: every distinct prompt is a question, with its draws in the order of their seeds."""
    from samplewise.store.database import Store

    draws_by_prompt: dict[tuple[Message, ...], list[tuple[int, Draw]]] = {}
    engines = set()
    with Store(path, must_exist=True) as store:
        for identity, text, completion in store.all_draws():
            ask = json.loads(text)
            if engine in identity and ask["ask"] == "generate" and "prefix" not in ask:
                engines.add(identity)
                messages = tuple(Message(m["role"], m["content"]) for m in ask["messages"])
                draw = Draw(completion, Sampling(**ask.get("sampling", {})))
                draws_by_prompt.setdefault(messages, []).append((ask.get("seed", 0), draw))
    if not draws_by_prompt:
        raise SetupError(f"{path} holds no draws to replay")
    if len(engines) > 1:
        names = " and ".join(sorted(engines))
        raise SetupError(f"{path} holds draws of {names}; choose one: replay({path.name!r}, engine=...)")
    problems = tuple(Problem(Question(_digest(messages), messages)) for messages in draws_by_prompt)
    draws = tuple(
        tuple(draw for _, draw in sorted(seeded, key=lambda entry: entry[0])) for seeded in draws_by_prompt.values()
    )
    return Recording(path.name, problems, draws, is_exact=True, source=engines.pop())


def _digest(messages: tuple[Message, ...]) -> str:
    return hashlib.blake2b(repr(messages).encode(errors="surrogatepass"), digest_size=8).hexdigest()
