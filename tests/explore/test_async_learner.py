"""Learning aside: waited for it is learning in place, bit for bit; dropped it is counted; nothing is left behind."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from samplewise.explore.async_learner import AsyncLearner, ThreadRunner, Work, maybe_async
from samplewise.explore.base import EngineStep, Head, Layout, PolicyStep
from samplewise.explore.controls import frozen_distiller, zero
from samplewise.explore.esamp import EsampPolicy, make_learner
from samplewise.explore.explorer import Explorer
from samplewise.explore.learn import Adam, Change, Ridge, Stepwise
from samplewise.explore.settings import Esamp, esamp

CPU, V, D = torch.device("cpu"), 11, 6
LEARNERS: list[dict[str, Any]] = [
    {"width": 8, "rate": 0.01},
    {"width": 8, "rate": 0.01, "steps": 3, "compensate": "entropy", "input_norm": False},
    {"learner": "ridge", "penalty": 0.1},
    {"learner": "ridge", "features": 9, "forget": 0.9, "forking": 0.5},
]
learners = pytest.mark.parametrize("given", LEARNERS, ids=str)


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


HEAD = Head(normal(V, D, seed=9))


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("samplewise-aside"):
            thread.join(120.0)  # it is told to end, and takes its time
    assert not [t.name for t in threading.enumerate() if t.name.startswith("samplewise-aside")]


class HeldRunner:
    """A place where work waits until somebody lets it go, as a slow machine would have it."""

    def __init__(self) -> None:
        self.queue: list[HeldRunner.Piece] = []
        self.stopped = 0

    class Piece:
        def __init__(self, work: Work) -> None:
            self.work = work
            self.change: Change | None = None

        def done(self) -> bool:
            return self.change is not None

        def result(self) -> Any:
            self.change = self.work() if self.change is None else self.change
            return self.change

    def start(self, work: Work) -> Any:
        self.queue.append(self.Piece(work))
        return self.queue[-1]

    def stop(self) -> None:
        self.stopped += 1


# --- waited for -------------------------------------------------------------------------------------------------------


def story(settings: Esamp, *, reuse: bool = False, steps: int = 60) -> tuple[list[Tensor], list[Any]]:
    """The guided laws of a story in which groups come and go and rows leave, and what each group says at its end. With
    `reuse` states lie in buffers that are written over as soon as the tokens are drawn, as captured graphs do."""
    explorer, rng = Explorer(HEAD), np.random.default_rng(5)
    open_: dict[int, list[int]] = {}
    distributions, told, made = [], [], 0
    drawn: dict[int, int] = {}
    buffers = torch.zeros(2, 64, D)
    for at in range(steps):
        if at % 7 == 0:
            number = explorer.open(f"g{made}", settings, made)
            open_[number], drawn[number] = list(range(int(rng.integers(2, 6)))), 0
            if settings.warm_start:
                explorer.warm(number, normal(20, D, seed=made), normal(20, D, seed=50 + made))
            made += 1
        for number, samples in list(open_.items()):
            if rng.random() < 0.15:
                samples.pop(int(rng.integers(len(samples))))
            if not samples:
                explorer.leave(number)
                told.append(explorer.close(number, drawn[number]))
                del open_[number]
        live = [number for number in open_ if rng.random() < 0.9]  # some groups have no rows for a while
        group = np.array([number for number in live for _ in open_[number]], dtype=np.int64)
        if not len(group):
            continue
        sample = np.array([s for number in live for s in open_[number]], dtype=np.int64)
        states = buffers[:, : len(group)] if reuse else torch.empty(2, len(group), D)
        states[0], states[1] = 2 * normal(len(group), D, seed=at), normal(len(group), D, seed=1000 + at)
        logits = states[0] @ HEAD.weight.T
        heat = torch.ones(len(group))
        step = EngineStep(
            group, sample, np.full(len(group), at), heat, logits, logits.double().log_softmax(-1), *states
        )
        for advice in explorer.advise(step):
            assert advice.log_probs is not None
            distributions.append(advice.log_probs)
        explorer.took(torch.from_numpy(rng.integers(0, V, len(group))))
        states.fill_(torch.nan) if reuse else None
        for number in live:
            drawn[number] += len(open_[number])
    for number in list(open_):
        told.append(explorer.close(number, drawn[number]))
    assert not explorer._policies
    return distributions, told


@pytest.mark.parametrize("warm", [False, True])
@learners
def test_waited_for_it_is_learning_in_place(given: dict[str, Any], warm: bool) -> None:
    """Bit for bit over 60 steps: laws, and what every group says at its end."""
    distributions, told = story(esamp(0.5, warm_start=warm, **given))
    beside, told_beside = story(esamp(0.5, warm_start=warm, aside="wait", **given), reuse=True)
    assert len(distributions) == len(beside) > 50
    assert all(torch.equal(a, b) for a, b in zip(distributions, beside, strict=True))
    assert len(told) > 8
    for one, other in zip(told, told_beside, strict=True):
        assert (one.problem, other.problem) == ("", "")
        assert one.numbers.keys() == other.numbers.keys()
        np.testing.assert_array_equal([*one.numbers.values()], [*other.numbers.values()])
        assert one.numbers["trained"] == one.numbers["seen"]
        assert one.numbers["warmed"] == 20 * warm
    assert len({log_probs.shape for log_probs in distributions}) > 3


@pytest.mark.parametrize("threads", [1, 2])
def test_the_bits_do_not_hang_on_how_many_threads_the_engine_has(threads: int) -> None:
    """Wide enough that torch shares out the work; and who asks keeps its number of threads, as do threads to come."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layout = Layout(np.repeat([0, 1, 2], 8), np.tile(np.arange(8), 3), CPU)
        for settings in (esamp(width=256), esamp(learner="ridge", features=128)):
            plain = make_learner(settings, 128, CPU)
            beside = maybe_async(make_learner(settings, 128, CPU), "wait", CPU)
            for made in (plain, beside):
                for seed in range(3):
                    made.open(seed)
            for at in range(4):
                x, y = normal(3, 8, 128, seed=at), normal(3, 8, 128, seed=100 + at)
                found = []
                for made in (plain, beside):
                    found.append(made.predict(layout.live, x))
                    made.learn(layout, x, y, found[-1])
                assert torch.equal(*found)
            assert torch.get_num_threads() == threads
            seen: list[int] = []
            new = threading.Thread(target=lambda seen=seen: seen.append(torch.get_num_threads()))
            new.start()
            new.join()
            assert seen == [threads]
            assert beside._runner._pool.submit(torch.get_num_threads).result() == 1  # type: ignore[attr-defined]
            for _ in range(3):
                beside.close(0)
    finally:
        torch.set_num_threads(before)


def test_work_is_done_in_the_mode_of_who_asks() -> None:
    """An engine runs in inference mode, and what is made in it can be written to in it alone."""
    for given in LEARNERS:
        with torch.inference_mode():
            distributions, told = story(esamp(0.5, aside="wait", **given), steps=15)
        assert distributions
        assert not [each.problem for each in told if each.problem]


def test_only_what_learns_is_done_aside() -> None:
    for settings in (zero(), frozen_distiller()):
        made = make_learner(settings, D, CPU)
        assert maybe_async(made, "wait", CPU) is made
    made = make_learner(esamp(), D, CPU)
    assert maybe_async(made, "no", CPU) is made
    assert isinstance(maybe_async(made, "drop", CPU), AsyncLearner)


# --- dropped ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: Adam(esamp(width=8, rate=0.1), D, CPU), lambda: Ridge(esamp(), D, CPU)])
def test_what_is_late_is_dropped_and_predictions_are_whole(make: Callable[[], Stepwise]) -> None:
    """While a step runs, half done or just begun, predictions are those of before it, bit for bit. A step that was
    begun on an older prediction is the step from the weights that it finds."""
    made, runner = make(), HeldRunner()
    beside = AsyncLearner(made, runner, drop=True)
    beside.open(0)
    beside.open(1)
    layout = Layout(np.repeat([0, 1], 4), np.tile(np.arange(4), 2), CPU)
    x, y = normal(2, 4, D), normal(2, 4, D, seed=1)
    first = beside.predict(layout.live, x)
    assert not beside.learn(layout, x, y, first)
    (piece,) = runner.queue
    for _ in range(3):
        assert torch.equal(beside.predict(layout.live, x), first)
        (told,) = beside.learn(layout, x, y, first)
        assert (told.layout, told.end) == (layout, "dropped")
    piece.result()  # it is done: what it made is not in anybody's sight yet
    assert torch.equal(made.predict(layout.live, x), first)
    second = beside.predict(layout.live, x)
    assert not torch.equal(second, first)
    told = beside.learn(layout, x, y, second)[0]
    assert told.end == "learnt"
    # The next step is in the queue. By the time that it is taken in between a prediction and its learning:
    third = beside.predict(layout.live, x)
    assert torch.equal(third, second)
    runner.queue[1].result()
    beside.learn(layout, x, y, third)
    twin = make()
    for seed in range(2):
        twin.open(seed)
    for _ in range(3):
        twin.learn(layout, x, y, twin.predict(layout.live, x))
    assert [each.end for each in beside.settle()] == ["learnt"]
    torch.testing.assert_close(beside.predict(layout.live, x), twin.predict(layout.live, x), rtol=0, atol=1e-6)
    assert runner.stopped == 0
    beside.close(0)
    beside.close(0)
    assert runner.stopped == 1


def rows(at: int, sizes: tuple[int, ...] = (4, 3)) -> PolicyStep:
    num = sum(sizes)
    group = np.repeat(np.arange(len(sizes)), sizes)
    layout = Layout(group, np.concatenate([np.arange(size) for size in sizes]), CPU)
    deep, shallow = 2 * normal(num, D, seed=at), normal(num, D, seed=1000 + at)
    logits = deep @ HEAD.weight.T
    log_probs = logits.double().log_softmax(-1)
    return PolicyStep(layout, np.full(num, at), torch.ones(num), logits, log_probs, deep, shallow, False)


def held(settings: Esamp) -> tuple[EsampPolicy, HeldRunner]:
    policy, runner = EsampPolicy(settings, HEAD), HeldRunner()
    assert isinstance(policy.learner, AsyncLearner)
    policy.learner._runner = runner
    policy.open(0)
    policy.open(1)
    return policy, runner


@learners
def test_rows_trained_and_rows_dropped_are_rows_seen(given: dict[str, Any]) -> None:
    """Every third step finds the one before done."""
    policy, runner = held(esamp(0.5, aside="drop", **given))
    for at in range(12):
        policy.advise(rows(at))
        policy.took(torch.zeros(7, dtype=torch.int64))
        if at % 3 == 1:
            runner.queue[-1].result()
    assert len(runner.queue) == 5
    for size in (4, 3):
        told = policy.close(0)
        assert told["seen"] == 12 * size
        assert (told["trained"], told["dropped"]) == (5 * size, 7 * size)
    assert runner.stopped == 1


def test_steps_that_are_dropped_are_no_problem_and_lost_ones_are(monkeypatch: pytest.MonkeyPatch) -> None:
    distributions, told = story(esamp(0.5, aside="drop", width=64))
    assert len(distributions) > 50
    assert not [each.problem for each in told if each.problem]
    assert all(n["trained"] + n["dropped"] == n["seen"] for n in (each.numbers for each in told))

    def silent(self: AsyncLearner) -> tuple[()]:  # steps at the end are not told of
        self._wait()
        self._outcomes.clear()
        return ()

    monkeypatch.setattr(AsyncLearner, "settle", silent)
    _, told = story(esamp(0.5, aside="wait", width=8))
    assert any("of its group" in each.problem for each in told)


# --- comings and goings, and what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["wait", "drop"])
def test_who_opens_or_closes_waits_for_what_runs(when: Any) -> None:
    """Places move when a group closes: a step that ended later would learn for the wrong one."""
    policy, runner = held(esamp(0.5, aside=when, width=8))
    policy.advise(rows(0))
    policy.took(torch.zeros(7, dtype=torch.int64))
    (piece,) = runner.queue
    assert not piece.done()
    policy.open(2)
    assert piece.done()
    policy.advise(rows(1, (4, 3, 2)))
    policy.took(torch.zeros(9, dtype=torch.int64))
    assert policy.close(0)["trained"] == 8
    assert runner.queue[1].done()
    assert policy.close(0)["trained"] == 6
    assert policy.close(0)["trained"] == 2


def test_a_learner_aside_waits_by_itself_as_well() -> None:
    """Whoever did not settle before does not learn for the wrong group."""
    leaves: tuple[Callable[[AsyncLearner], None], ...] = (lambda made: made.open(1), lambda made: made.close(0))
    for leave in leaves:
        runner = HeldRunner()
        beside = AsyncLearner(Adam(esamp(width=8), D, CPU), runner, drop=True)
        beside.open(0)
        layout, x = Layout(np.zeros(3, dtype=np.int64), np.arange(3), CPU), normal(1, 3, D)
        beside.learn(layout, x, x, beside.predict(layout.live, x))
        leave(beside)
        assert runner.queue[0].done()
        (told,) = beside.settle()
        assert told.end == "learnt"


def test_the_thread_is_there_from_the_first_step_to_the_last_close() -> None:
    def alive() -> int:
        return sum(t.name.startswith("samplewise-aside") for t in threading.enumerate())

    explorer = Explorer(HEAD)
    for _ in range(2):
        numbers = [explorer.open(name, esamp(aside="wait", width=8), 1) for name in "ab"]
        other = explorer.open("c", esamp(width=8), 1)
        assert alive() == 0
        for at in range(3):
            group = np.array([*numbers, other])
            deep, shallow = normal(3, D, seed=at), normal(3, D, seed=50 + at)
            logits = deep @ HEAD.weight.T
            log_probs = logits.double().log_softmax(-1)
            explorer.advise(
                EngineStep(
                    group, np.zeros(3, dtype=np.int64), np.full(3, at), torch.ones(3), logits, log_probs, deep, shallow
                )
            )
            explorer.took(torch.zeros(3, dtype=torch.int64))
        assert alive() == 1
        explorer.close(numbers[0])
        assert alive() == 1
        explorer.close(numbers[1])
        assert alive() == 0
        explorer.close(other)


def test_a_policy_that_is_forgotten_leaves_no_thread() -> None:
    policy = EsampPolicy(esamp(aside="wait", width=8), HEAD)
    policy.open(0)
    policy.open(1)
    policy.advise(rows(0))
    policy.took(torch.zeros(7, dtype=torch.int64))
    assert any(t.name.startswith("samplewise-aside") for t in threading.enumerate())
    del policy  # and the fixture looks


@pytest.mark.parametrize("when", ["wait", "drop"])
def test_what_fails_beside_is_said_once_and_marks_its_groups(when: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = EsampPolicy(esamp(0.5, aside=when, width=8), HEAD)
    policy.open(0)
    policy.open(1)
    policy.open(2)
    plain = Adam._step

    def broken(*args: Any) -> Change:
        raise MemoryError("no room")

    monkeypatch.setattr(Adam, "_step", broken)
    policy.advise(rows(0))  # groups 0 and 1
    policy.took(torch.zeros(7, dtype=torch.int64))
    monkeypatch.setattr(Adam, "_step", plain)
    assert isinstance(policy.learner, AsyncLearner)
    assert policy.learner._running is not None
    running: Any = policy.learner._running[1]
    wait([running])
    with pytest.raises(MemoryError, match="no room"):
        policy.advise(rows(1, (4, 3, 2)))
    advice = policy.advise(rows(1, (4, 3, 2)))
    assert advice is not None
    policy.took(torch.zeros(9, dtype=torch.int64))
    advice = policy.advise(rows(2, (4, 3, 2)))
    assert advice is not None
    assert advice.rows.tolist() == [7, 8]
    policy.took(torch.zeros(9, dtype=torch.int64))
    assert [policy.close(0)["broken"] for _ in range(3)] == [1.0, 1.0, 0.0]


def test_what_fails_at_the_very_end_is_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = EsampPolicy(esamp(0.5, aside="wait", width=8), HEAD)
    policy.open(0)
    policy.open(1)

    def broken(*args: Any) -> Change:
        raise MemoryError

    monkeypatch.setattr(Adam, "_step", broken)
    policy.advise(rows(0))
    policy.took(torch.zeros(7, dtype=torch.int64))
    assert policy.close(0)["broken"] == 1.0
    with pytest.raises(MemoryError):
        policy.advise(rows(1, (3,)))
    assert policy.close(0)["broken"] == 1.0


def test_what_is_no_number_breaks_the_group_as_it_does_in_place() -> None:
    """Weights that are no numbers come of the step aside; the next prediction finds them."""
    found = []
    whens: tuple[Any, ...] = ("no", "wait")
    for when in whens:
        policy = EsampPolicy(esamp(0.5, aside=when, width=8, rate=1e30), HEAD)
        policy.open(0)
        policy.open(1)
        for at in range(4):
            policy.advise(rows(at))
            policy.took(torch.zeros(7, dtype=torch.int64))
        found.append([[*policy.close(0).values()] for _ in range(2)])
    np.testing.assert_array_equal(found[0], found[1])
    assert found[0][0][-1] == 1.0


def test_a_thread_is_made_once() -> None:
    runner = ThreadRunner()
    change = Change(torch.zeros(1), None)
    names = set()

    def work() -> Change:
        names.add(threading.current_thread().name)
        return change

    assert runner.start(work).result() is change
    assert runner.start(work).result() is change
    assert len(names) == 1
    runner.stop()
    runner.stop()
