"""Run many programs at a time: a sandbox is a few threads, each with its own worker, started when needed.

A lost worker is replaced, and the program that it was running is run once more on a new one. If that one is lost too,
the program is the cause, and its verdict is "crashed". If no new worker can be started, the verdict is "broken", and
nothing is known about the program.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple

from samplewise.core.errors import SetupError
from samplewise.verify.sandbox.check import check_isolation
from samplewise.verify.sandbox.isolation import chosen, command
from samplewise.verify.sandbox.programs import USUAL, Isolation, Limits, Program, ProgramVerdict
from samplewise.verify.sandbox.worker import Worker, WorkerLost

LOOK_AHEAD = 4  # programs handed to a worker's thread before it has time for them


class Numbered(NamedTuple):
    """The verdict of the program at `position`."""

    position: int
    verdict: ProgramVerdict


class Sandbox:
    """Runs programs, several at a time, from any thread. Close it, or use it as a context manager."""

    def __init__(self, num_workers: int | None = None, isolation: Isolation | None = None) -> None:
        """Start no worker yet. `num_workers` None: one per core. SetupError if the requested isolation is missing."""
        if num_workers is not None and num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {num_workers}")
        self.isolation: Isolation = isolation or chosen()
        self.num_workers = num_workers or _cores()
        command(self.isolation, 0, "/tmp")  # says at once that bubblewrap is missing
        self._own = threading.local()
        self._workers: set[Worker] = set()
        self._lock = threading.Lock()
        self._closed = self._has_worked = False
        self._threads = ThreadPoolExecutor(self.num_workers, thread_name_prefix="sandbox")

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def run(self, program: Program, limits: Limits = USUAL) -> ProgramVerdict:
        """Return the verdict of one program. SetupError if the sandbox cannot be started at all."""
        return self._submit(program, limits).result()

    def run_all(self, programs: Iterable[Program], limits: Limits = USUAL) -> Iterator[Numbered]:
        """Yield the verdicts in order of completion. Takes from `programs` as it goes; few are in flight at a time."""
        waiting: dict[Future[ProgramVerdict], int] = {}
        try:
            for position, program in enumerate(programs):
                waiting[self._submit(program, limits)] = position
                while len(waiting) >= self.num_workers * LOOK_AHEAD:
                    yield from _finished(waiting)
            while waiting:
                yield from _finished(waiting)
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """End every worker. Waiting programs are cancelled."""
        with self._lock:
            self._closed = True
            workers = list(self._workers)
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.kill()
        self._threads.shutdown(wait=True)
        for worker in workers:
            worker.close()

    # --- in a thread of the sandbox -----------------------------------------------------------------------------------

    def _submit(self, program: Program, limits: Limits) -> Future[ProgramVerdict]:
        limits.check()
        return self._threads.submit(self._run, program, limits)

    def _run(self, program: Program, limits: Limits) -> ProgramVerdict:
        lost = ""
        for _ in range(2):
            try:
                worker = self._worker() or self._start()
            except SetupError as error:
                if not self._has_worked:
                    raise
                return ProgramVerdict("broken", reason=f"the sandbox cannot be started again: {error}")
            try:
                verdict = worker.run(program, limits)
            except WorkerLost as error:
                lost = str(error)
                self._give_up(worker)
                continue
            if worker.spent:
                self._give_up(worker)
            return verdict
        if self._closed:
            return ProgramVerdict("broken", reason="the sandbox was closed")
        return ProgramVerdict("crashed", reason=f"{lost}, twice", isolation=self.isolation)

    def _worker(self) -> Worker | None:
        worker: Worker | None = getattr(self._own, "worker", None)
        return worker

    def _start(self) -> Worker:
        worker = Worker(self.isolation)
        try:
            if self.isolation == "bubblewrap":
                check_isolation(worker)
            with self._lock:
                if self._closed:
                    raise SetupError("the sandbox is closed")
                self._workers.add(worker)
        except BaseException:
            worker.close()
            raise
        self._own.worker = worker
        self._has_worked = True
        return worker

    def _give_up(self, worker: Worker) -> None:
        self._own.worker = None
        with self._lock:
            self._workers.discard(worker)
        worker.close()


def _finished(waiting: dict[Future[ProgramVerdict], int]) -> Iterator[Numbered]:
    finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in finished:
        yield Numbered(waiting.pop(future), future.result())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_shared: dict[tuple[int, Isolation], Sandbox] = {}
_shared_lock = threading.Lock()


def shared_sandbox() -> Sandbox:
    """Return the sandbox of this process, made on first use and closed at exit. A fork gets its own."""
    with _shared_lock:
        key = (os.getpid(), chosen())
        if key not in _shared:
            _shared[key] = Sandbox()
        return _shared[key]


@atexit.register
def _close_shared() -> None:
    for (process, _), sandbox in list(_shared.items()):
        if process == os.getpid():
            sandbox.close()
