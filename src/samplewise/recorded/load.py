"""A name or a path to its recording."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from samplewise.errors import SetupError, UnknownName
from samplewise.files import data_folder
from samplewise.types import Message, Problem, Question, Sampling

from . import jsonl
from .base import Draw, Recording
from .folders import FOLDERS


def load(name: str, problems: Sequence[Problem] = (), engine: str = "") -> Recording:
    """The recording called `name`: a published folder of `SAMPLEWISE_DATA`, a JSON-lines file, a folder of files called
    output-rs*.jsonl, or a samplewise store (*.db). `problems` are those of the task that a file without prompts was
    drawn for; `engine` is a part of the name of the engine whose draws are meant, where a store has those of several.
    Raises SetupError or BadInput.
    """
    head, _, part = name.partition("/")
    if head in FOLDERS:
        return _of_folder(head, part, _folder(head))
    path = Path(name)
    if path.is_dir():
        files = sorted([*path.glob("output-rs*.jsonl"), *path.glob("output-rs*.jsonl.gz")])
        if files:
            return jsonl.recording(files, path.name, problems)
    if not path.is_file():
        raise UnknownName("recording", name, FOLDERS)
    with path.open("rb") as file:
        is_store = file.read(15) == b"SQLite format 3"
    return _of_store(path, engine) if is_store else jsonl.recording([path], path.name, problems)


@functools.lru_cache(maxsize=4)
def _of_folder(name: str, part: str, folder: Path) -> Recording:
    """Engine, task and verifier of one command ask for the same one."""
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
    """Every prompt of a store is a question of its own, its draws in the order of their seeds."""
    from samplewise.store import Store

    found: dict[tuple[Message, ...], list[tuple[int, Draw]]] = {}
    engines = set()
    with Store(path, must_exist=True) as store:
        for identity, text, completion in store.all_draws():
            ask = json.loads(text)
            if engine in identity and ask["ask"] == "generate" and "prefix" not in ask:
                engines.add(identity)
                messages = tuple(Message(m["role"], m["content"]) for m in ask["messages"])
                draw = Draw(completion, Sampling(**ask.get("sampling", {})))
                found.setdefault(messages, []).append((ask.get("seed", 0), draw))
    if not found:
        raise SetupError(f"{path} holds no draws to replay")
    if len(engines) > 1:
        names = " and ".join(sorted(engines))
        raise SetupError(f"{path} holds draws of {names}; say whose: replay({path.name!r}, engine=...)")
    problems = tuple(Problem(Question(_digest(messages), messages)) for messages in found)
    draws = tuple(tuple(draw for _, draw in sorted(kept, key=lambda each: each[0])) for kept in found.values())
    return Recording(path.name, problems, draws, is_exact=True, source=engines.pop())


def _digest(messages: tuple[Message, ...]) -> str:
    return hashlib.blake2b(repr(messages).encode(errors="surrogatepass"), digest_size=8).hexdigest()
