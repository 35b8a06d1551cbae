"""Consensus on the engine itself: rows wait for their group without a pass, then take one answer's tokens, from the
mixture of their own distributions as stock `transformers` gives them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from scipy.stats import kstest  # noqa: E402

from samplewise.core.types import Completion, Generate, Sampling  # noqa: E402
from samplewise.engines.distribution import draw_log_probs  # noqa: E402
from samplewise.engines.local import local  # noqa: E402
from samplewise.engines.local.batch import Batch  # noqa: E402
from samplewise.engines.local.prepared import Done, PreparedAsk  # noqa: E402

CUE, AFTER, MOST = "w20", 4, 40
EXPLORE = f"consensus(start='{CUE}', answer_tokens={AFTER})"


def group(
    kit: SimpleNamespace,
    number: int,
    size: int,
    explore: str = EXPLORE,
    sampling: Sampling = Sampling(),
    **changed: Any,
) -> list[Generate]:
    given: dict[str, Any] = {"max_tokens": MOST, "want": ("tokens", "logp", "logq"), **changed}
    return [
        Generate(
            given.pop("messages", kit.question(number % 7)),
            sampling=sampling._replace(explore=explore),
            seed=1000 * number + i,
            draw=i,
            **{"group": f"c{number}/{explore}", "group_size": size, **given},
        )
        for i in range(size)
    ]


def arrival(completion: Completion, kit: SimpleNamespace, cue: str = CUE, after: int = AFTER) -> int | None:
    """How many tokens a draw reasoned with, the cue included; None if it never met its group."""
    assert completion.tokens is not None
    word = kit.words.index(cue)
    if word not in completion.tokens:
        return None
    upto = completion.tokens.index(word) + 1
    return upto if MOST - upto >= after and len(completion.tokens) > upto else None


class Step(NamedTuple):
    """A token of an answer, and the distribution it was drawn from."""

    token: int
    q: Any  # (V,)


def check_group(
    engine: Any,
    plain: Any,
    kit: SimpleNamespace,
    asks: Sequence[Generate],
    done: Sequence[Completion],
    gamma: float,
    cue: str = CUE,
    after: int = AFTER,
) -> list[Step]:
    """Compare every log-probability of a group with plain passes and the formula. Return the steps of its answer."""
    members, steps = {}, []
    for i, (ask, completion) in enumerate(zip(asks, done, strict=True)):
        assert completion.failure is None
        prompt = engine._language.prompt(ask.messages)
        raw = plain("llama", [*prompt, *completion.tokens])[len(prompt) - 1 : -1]
        chosen = np.arange(len(completion.tokens)), np.array(completion.tokens)
        np.testing.assert_allclose(completion.logp, raw[chosen], atol=1e-4)
        drawn_from = np.array([draw_log_probs(row, ask.sampling) for row in raw])
        upto = arrival(completion, kit, cue, after)
        alone = len(completion.tokens) if upto is None else upto
        np.testing.assert_allclose(completion.logq[:alone], drawn_from[chosen][:alone], atol=1e-4)
        if upto is not None:
            members[i] = (upto, drawn_from)
    answers = {done[i].tokens[upto:] for i, (upto, _) in members.items()}
    assert len(answers) <= 1, "the members of a group give one answer"
    assert len({done[i].finish for i in members}) <= 1
    for answer in answers:
        assert 1 <= len(answer) <= after
        log_weights = np.zeros(len(members))
        for at, token in enumerate(answer):
            rows = np.array([drawn_from[upto + at] for upto, drawn_from in members.values()])
            mean = np.exp(log_weights - np.logaddexp.reduce(log_weights)) @ np.exp(rows)
            q = mean**gamma / (mean**gamma).sum()
            for i, (upto, _) in members.items():
                assert done[i].logq[upto + at] == pytest.approx(np.log(q[token]), abs=1e-4)
            log_weights = log_weights + rows[:, token]
            steps.append(Step(token, q))
    report = done[-1].explored or next(c.explored for c in done if c.explored)
    assert report["problem"] == ""
    assert report["numbers"]["members"] == len(members)
    assert report["numbers"]["guided"] == sum(len(done[i].tokens) - upto for i, (upto, _) in members.items())
    return steps


@pytest.mark.parametrize(
    ("gamma", "sampling", "num"),
    [
        (2.0, Sampling(), 120),
        (1.0, Sampling(), 30),
        (0.5, Sampling(0.8), 30),
        (3.0, Sampling(top_k=12, min_p=0.01), 30),
    ],
)
def test_an_answer_is_drawn_from_the_mixture(
    gamma: float, sampling: Sampling, num: int, engine: Any, plain: Any, kit: SimpleNamespace
) -> None:
    """Every log-probability of every group, against plain passes and the formula. The tokens taken, as places in their
    distributions, are uniform: Kolmogorov-Smirnov, a false alarm in 1,000 seeds each, which are fixed."""
    explore = f"consensus({gamma}, start='{CUE}', answer_tokens={AFTER})"
    groups = [group(kit, number, 4, explore, sampling) for number in range(num)]
    done = kit.answers(engine, [ask for asks in groups for ask in asks])
    steps, sizes = [], []
    for i, asks in enumerate(groups):
        found = check_group(engine, plain, kit, asks, done[4 * i : 4 * i + 4], gamma)
        sizes.append(sum(arrival(completion, kit) is not None for completion in done[4 * i : 4 * i + 4]))
        steps += found
    assert {1, 2, 3} <= set(sizes)  # some end or run out before the cue, some groups meet in full
    rng = np.random.default_rng(0)
    places = [step.q[: step.token].sum() + rng.random() * step.q[step.token] for step in steps]
    assert len(places) > num
    assert kstest(places, "uniform").pvalue > 1e-3


def test_one_draw_at_gamma_one_is_plain_sampling_to_the_token(engine: Any, kit: SimpleNamespace) -> None:
    """Up to the most tokens of an answer, at which it ends."""
    ends = set()
    for number in range(12):
        (ask,) = group(kit, number, 1, f"consensus(1.0, start='{CUE}', answer_tokens=9)")
        plain = ask._replace(sampling=Sampling(), group="", group_size=0)
        kit.answers(engine, [plain])  # from now on the prompt is at hand, and rounded as it is
        (alone,), (found,) = kit.answers(engine, [plain]), kit.answers(engine, [ask])
        num = len(found.tokens)
        assert (found.tokens, found.logp, found.logq) == (alone.tokens[:num], alone.logp[:num], alone.logq[:num])
        upto = arrival(found, kit, after=9)
        assert num == len(alone.tokens) if upto is None else num == min(len(alone.tokens), upto + 9)
        ends.add(upto is None)
    assert ends == {True, False}


def test_a_group_answers_alike_in_any_traffic(checkpoint: Any, kit: SimpleNamespace) -> None:
    """Beside plain rows, another policy and other groups, in a batch that is full so that some join while rows wait."""
    alone = local(checkpoint("llama"), device="cpu")
    groups = [group(kit, 2, 5), group(kit, 4, 3, sampling=Sampling(0.9)), group(kit, 5, 4, "css")]
    plain = [ask._replace(max_tokens=25) for ask in kit.draws(20)]
    wanted = [kit.answers(alone, asks) for asks in (*groups, plain)]
    busy = local(checkpoint("llama"), device="cpu", max_rows=11)
    asks = [*plain[:4], *groups[0], *plain[4:9], *groups[1], *plain[9:14], *groups[2], *plain[14:]]
    found = kit.answers(busy, asks)
    for ask, completion in zip(asks, found, strict=True):
        if ask in plain:
            assert kit.bare(completion) == kit.bare(wanted[3][plain.index(ask)])
        else:
            which = next(i for i, some in enumerate(groups) if ask in some)
            assert kit.bare(completion) == kit.bare(wanted[which][groups[which].index(ask)])
    assert any(arrival(completion, kit) for completion in wanted[0])
    for engine in (alone, busy):
        assert engine._batch.num_rows == len(engine._batch.exploring) == 0
        asyncio.run(engine.close())


def test_a_cue_that_nobody_says_leaves_plain_draws(engine: Any, kit: SimpleNamespace) -> None:
    asks = group(kit, 6, 5, "consensus(start='nothing', answer_tokens=4)")
    plain = [ask._replace(sampling=Sampling(), group="", group_size=0) for ask in asks]
    kit.answers(engine, plain)
    done = kit.answers(engine, asks)
    assert [c._replace(explored=None) for c in done] == kit.answers(engine, plain)
    (report,) = [c.explored for c in done if c.explored]
    assert (report["numbers"]["members"], report["numbers"]["guided"]) == (0.0, 0.0)
    assert "effective_members" not in report["numbers"]  # unknown


def test_what_cannot_meet_is_refused(engine: Any, kit: SimpleNamespace) -> None:
    for completion in kit.answers(engine, group(kit, 1, 4)[:2]):
        assert completion.failure is not None
        assert completion.failure.message == (
            f"explore={EXPLORE} draws a group at once, and 2 of 4 are asked for; leave out wave="
        )
    for completion in kit.answers(engine, group(kit, 1, 4, max_tokens=AFTER)):
        assert completion.failure is not None
        assert "max_tokens=4 leaves none to reason with" in completion.failure.message
    assert engine._batch.num_rows == len(engine._batch.exploring) == 0


# --- the batch, by hand -----------------------------------------------------------------------------------------------


@pytest.fixture
def batch(engine: Any) -> Batch:
    return Batch(engine._forward, engine._language, (), torch.device("cpu"), max_rows=16, chunk=16, prefix_bytes=0)


def jobs(engine: Any, asks: Sequence[Generate]) -> list[PreparedAsk]:
    return [PreparedAsk(ask, engine._language.prompt(ask.messages), i) for i, ask in enumerate(asks)]


def finished(batch: Batch) -> list[Done]:
    done: list[Done] = []
    for _ in range(10 * MOST):
        if not batch.num_rows:
            return done
        done += batch.step()
    raise AssertionError("rows wait for ever")


def test_waiting_costs_no_pass(batch: Batch, engine: Any, kit: SimpleNamespace) -> None:
    """What goes through the model is the prompt once and each drawn token but the last of a row, as without it."""
    asks = group(kit, 3, 6)
    before = engine._forward.num_forwarded
    with torch.inference_mode():
        done = batch.join(jobs(engine, asks)) + finished(batch)
    completions = [each.completion for each in sorted(done, key=lambda each: int(each.tag))]
    arrivals = {upto for completion in completions if (upto := arrival(completion, kit))}
    assert len(arrivals) > 1  # so somebody waited
    tokens = sum(len(completion.tokens or ()) - 1 for completion in completions)
    assert engine._forward.num_forwarded - before == len(engine._language.prompt(asks[0].messages)) + tokens


def until_some_wait(batch: Batch, engine: Any, kit: SimpleNamespace, first: int) -> int:
    """Run groups of four until in one of them, whole as yet, some rows wait for others. Return its number."""
    for number in range(first, first + 50):
        done = batch.join(jobs(engine, group(kit, number, 4)))
        while batch.num_rows == 4 and not done:
            if 0 < batch.exploring.waiting(4).sum() < 4:
                return number
            done = batch.step()
        finished(batch)
    raise AssertionError("no row ever waits")


def test_others_go_on_where_a_row_is_cancelled(batch: Batch, engine: Any, kit: SimpleNamespace) -> None:
    """The one that the others wait for, or one that waits: nobody waits for ever, and the group is lost."""
    number = 0
    for gone in range(4):
        with torch.inference_mode():
            number = until_some_wait(batch, engine, kit, number + 1)
            num_reports = len(batch.exploring.reports)
            batch.drop([[int(job.tag) for job in batch.jobs].index(gone)])
            done = finished(batch)
        assert len(done) == 3
        assert all(each.completion.finish in ("stop", "length") for each in done)
        assert len(batch.exploring.reports) == num_reports
        assert len(batch.exploring) == batch.exploring.num_rows == 0
        assert not batch.exploring.meets


def test_a_failed_step_does_not_leave_rows_waiting(
    batch: Batch, engine: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.inference_mode():
        until_some_wait(batch, engine, kit, 1)
        with monkeypatch.context() as patch:
            patch.setattr(batch.forward, "decode", lambda *args: 1 / 0)
            lost = batch.step()
        assert {each.completion.finish for each in lost} == {"error"}
        assert 0 < batch.num_rows < 4  # who waited had no part in the step
        done = finished(batch)
    assert len(lost) + len(done) == 4
    assert all(each.completion.finish in ("stop", "length") for each in done)
    assert len(batch.exploring) == batch.exploring.num_rows == 0


@pytest.mark.parametrize("words", [["w9", "w20"], ["w20"]])
def test_what_counts_as_the_end_of_a_response(words: list[str], engine: Any, kit: SimpleNamespace) -> None:
    ids = [kit.words.index(word) for word in words]
    language = engine._language
    assert language.ends_in(ids, "w20")
    assert language.ends_in(ids, "w20 ")
    assert not language.ends_in(ids, "w2")
    assert not language.ends_in([*ids, 9], "w20")
    assert language.ends_in([30] * 500 + ids, "20")
