"""Many programs at a time: a sandbox is a few threads, each with a worker of its own that it starts when it needs one.

A worker that is lost is replaced. The program that it was running is tried once more on a new one: lost again, it is
the program's doing, and its verdict; where no new worker can be started, the verdict is "broken", which is no verdict.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple

from samplewise.errors import SetupError
from samplewise.verify.sandbox.check import check
from samplewise.verify.sandbox.isolation import chosen, command
from samplewise.verify.sandbox.words import USUAL, Isolation, Limits, Program, Verdict
from samplewise.verify.sandbox.worker import Worker, WorkerLost

LOOK_AHEAD = 4  # programs handed to a worker's thread before it has time for them


class Numbered(NamedTuple):
    """The verdict of the program at `position`."""

    position: int
    verdict: Verdict


class Sandbox:
    """Runs programs, several at a time; from any thread. Close it, or use it as a context manager."""

    def __init__(self, num_workers: int | None = None, isolation: Isolation | None = None) -> None:
        """`num_workers` None: one per core. Raises SetupError where the isolation that is asked for is not here."""
        if num_workers is not None and num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {num_workers}")
        self.isolation: Isolation = isolation or chosen()
        self.num_workers = num_workers or _cores()
        command(self.isolation, 0)  # says at once that bubblewrap is missing
        self._own = threading.local()
        self._workers: set[Worker] = set()
        self._lock = threading.Lock()
        self._closed = self._has_worked = False
        self._threads = ThreadPoolExecutor(self.num_workers, thread_name_prefix="sandbox")

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def run(self, program: Program, limits: Limits = USUAL) -> Verdict:
        """The verdict of one program. Raises SetupError where the sandbox cannot be started at all."""
        return self._submit(program, limits).result()

    def run_all(self, programs: Iterable[Program], limits: Limits = USUAL) -> Iterator[Numbered]:
        """The verdicts in the order in which they come. Takes from `programs` as it goes; few are held at a time."""
        waiting: dict[Future[Verdict], int] = {}
        try:
            for position, program in enumerate(programs):
                waiting[self._submit(program, limits)] = position
                while len(waiting) >= self.num_workers * LOOK_AHEAD:
                    yield from _done(waiting)
            while waiting:
                yield from _done(waiting)
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """End every worker. What is still waiting is cancelled."""
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

    def _submit(self, program: Program, limits: Limits) -> Future[Verdict]:
        limits.check()
        return self._threads.submit(self._run, program, limits)

    def _run(self, program: Program, limits: Limits) -> Verdict:
        lost = ""
        for _ in range(2):
            try:
                worker = self._worker() or self._start()
            except SetupError as error:
                if not self._has_worked:
                    raise
                return Verdict("broken", reason=f"the sandbox cannot be started again: {error}")
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
            return Verdict("broken", reason="the sandbox was closed")
        return Verdict("crashed", reason=f"{lost}, twice", isolation=self.isolation)

    def _worker(self) -> Worker | None:
        worker: Worker | None = getattr(self._own, "worker", None)
        return worker

    def _start(self) -> Worker:
        worker = Worker(self.isolation)
        try:
            if self.isolation == "bubblewrap":
                check(worker)
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


def _done(waiting: dict[Future[Verdict], int]) -> Iterator[Numbered]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        yield Numbered(waiting.pop(future), future.result())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_shared: dict[tuple[int, Isolation], Sandbox] = {}
_shared_lock = threading.Lock()


def shared() -> Sandbox:
    """The sandbox of this process, made when it is first asked for and closed at its end. A fork gets its own."""
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
