"""The bridge on made-up logits, against the reference distribution. What vLLM does around it needs no vLLM here."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the local engine's extra is not installed")

from samplewise.core.errors import SetupError  # noqa: E402
from samplewise.core.keys import Key  # noqa: E402
from samplewise.core.numerics import log_softmax  # noqa: E402
from samplewise.core.types import Sampling  # noqa: E402
from samplewise.engines.distribution import certainty, draw_log_probs, draw_token, powers  # noqa: E402
from samplewise.engines.vllm.bridge import Row, WorkerBridge  # noqa: E402
from samplewise.engines.vllm.guided import GuidedDraw  # noqa: E402
from samplewise.explore.base import Head  # noqa: E402

VOCAB, DIM, PROMPT, END = 24, 6, 5, 3


class Model:
    """A head and a state for each (sequence, position): logits that follow from both."""

    def __init__(self) -> None:
        rng = Key(1).generator()
        self.head = Head(torch.tensor(rng.normal(size=(VOCAB, DIM)), dtype=torch.float32))
        self.states = torch.tensor(rng.normal(size=(8, 200, DIM)), dtype=torch.float32)
        self.deep = self.shallow = torch.zeros(0)

    def step(self, cells: Sequence[tuple[int, int]]) -> Any:
        """Return the logits of (sequence, position) cells, and keep their states."""
        self.deep = torch.stack([self.states[cell] for cell in cells])
        self.shallow = self.deep.flip(-1)
        return self.head(self.deep).clone()

    def logp(self, sequence: int, position: int) -> Any:
        return log_softmax(self.head(self.states[sequence, position]).double().numpy())


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def bridge(model: Model) -> WorkerBridge:
    return WorkerBridge(torch.device("cpu"), model, lambda: model.head)


def guided(uid: str = "a", **changes: Any) -> GuidedDraw:
    return GuidedDraw(uid, PROMPT, **{"seed": 7, "end": END, **changes})


def step(
    bridge: WorkerBridge, model: Model, rows: Sequence[Row | None], cells: Sequence[tuple[int, int]], drawn: Any = None
) -> list[int]:
    """Run a step. Return what vLLM's sampler takes: the only token of a one-hot row, -1 for a row that is not one."""
    is_drawn = np.ones(len(rows), dtype=bool) if drawn is None else np.array(drawn)
    positions = np.array([position for _, position in cells], dtype=np.int64)
    logits = bridge.draw(model.step(cells), rows, is_drawn, positions + PROMPT)
    return [int(line.argmax()) if int(torch.isfinite(line).sum()) == 1 else -1 for line in logits]


def run(bridge: WorkerBridge, model: Model, row: Row, num: int, sequence: int = 0, first: int = 0) -> list[int]:
    return [step(bridge, model, [row], [(sequence, first + t)])[0] for t in range(num)]


SAMPLINGS = (Sampling(), Sampling(0.5), Sampling(1.5, top_k=5), Sampling(1.0, top_p=0.7), Sampling(1.2, min_p=0.1))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_draws_are_the_seeds_own_from_the_reference_distribution(
    bridge: WorkerBridge, model: Model, sampling: Sampling
) -> None:
    temperature, top_k, top_p, min_p, _ = sampling
    row = bridge.join(guided(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p))
    tokens = run(bridge, model, row, 130)
    uniforms = Key(7).generator().random(130)
    logq = [draw_log_probs(model.logp(0, t), sampling) for t in range(130)]
    assert tokens == [draw_token(line, u) for line, u in zip(logq, uniforms, strict=True)]
    record = bridge.take(["a"])["a"]
    assert record.tokens == tokens
    np.testing.assert_allclose(record.logq, [line[token] for line, token in zip(logq, tokens, strict=True)], atol=1e-6)
    np.testing.assert_allclose(record.logp, [model.logp(0, t)[token] for t, token in enumerate(tokens)], atol=1e-6)
    assert (record.end, record.error, record.explored) == ("", "", None)
    assert len(bridge) == 0
    assert bridge.take(["a"]) == {}


def test_statistics_and_first_scores_are_those_of_the_model(bridge: WorkerBridge, model: Model) -> None:
    row = bridge.join(guided(statistics=True, exponents=(2.0, 0.5), score_first=(4, 9), temperature=0.7))
    other = bridge.join(guided("b", seed=8))
    for t in range(3):
        step(bridge, model, [None, other, row], [(5, t), (1, t), (2, t)])
    records = bridge.take(["a", "b"])
    expected = [(certainty(model.logp(2, t)), *powers(model.logp(2, t), (2.0, 0.5))) for t in range(3)]
    np.testing.assert_allclose(records["a"].statistics, expected, atol=1e-6)
    np.testing.assert_allclose(records["a"].score_first, model.logp(2, 0)[[4, 9]], atol=1e-6)
    assert records["b"].statistics == records["b"].score_first == []


def test_rows_of_others_and_prompts_under_way_are_left_alone(bridge: WorkerBridge, model: Model) -> None:
    row = bridge.join(guided())
    cells = [(1, 0), (0, 0), (2, 0)]
    before = model.step(cells)
    after = bridge.draw(before.clone(), [None, row, None], np.array([True, False, True]), np.full(3, PROMPT))
    assert torch.equal(after, before), "nothing is drawn while a prompt is being computed"
    after = bridge.draw(before.clone(), [None, row, None], np.array([True, True, True]), np.full(3, PROMPT))
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert int(torch.isfinite(after[1]).sum()) == 1
    assert len(bridge.take(["a"])["a"].tokens) == 1


def test_a_token_that_is_drawn_again_is_the_same_and_counts_once(bridge: WorkerBridge, model: Model) -> None:
    """As after preemption, and where a scheduler runs ahead. Running sums must not count it twice."""
    bound = (4.0, -1e9)
    row, plain = bridge.join(guided(bound=bound, temperature=0.25)), WorkerBridge(torch.device("cpu"), model, list)
    once = plain.join(guided(bound=bound, temperature=0.25))
    expected = run(plain, model, once, 6)
    assert run(bridge, model, row, 4) == expected[:4]
    assert bridge.join(guided(bound=bound, temperature=0.25)) is row, "it comes back under its own name"
    assert run(bridge, model, row, 4, first=2) == expected[2:]
    sums = [b._columns.reals(slice(r.slot, r.slot + 1)).log_ratio.item() for b, r in ((bridge, row), (plain, once))]
    assert sums[0] == pytest.approx(sums[1], abs=1e-12)
    record = bridge.take(["a"])["a"]
    assert record.tokens == expected
    assert sums[1] == pytest.approx(4.0 * sum(record.logp) - sum(record.logq), abs=1e-9)


@pytest.mark.parametrize("temperature", [0.25, 1.0])
def test_a_draft_below_its_bound_is_ended_in_the_same_step(
    bridge: WorkerBridge, model: Model, temperature: float
) -> None:
    """At 1/4 and alpha 4 the sum can only fall, so it ends before a token is drawn; with alpha .9 it may rise."""
    alpha = 4.0 if temperature == 0.25 else 0.9
    free = WorkerBridge(torch.device("cpu"), model, list)
    whole = free.join(guided(bound=(alpha, -1e9), temperature=temperature))
    run(free, model, whole, 30)
    record = free.take(["a"])["a"]
    sums = np.cumsum(alpha * np.array(record.logp) - np.array(record.logq))
    value = float(sums[:12].min()) + 1e-9  # reached for the first time within the first twelve
    at = int(np.flatnonzero(sums < value)[0])
    row = bridge.join(guided(bound=(alpha, value), temperature=temperature))
    taken = run(bridge, model, row, at + 1)
    assert taken[:at] == record.tokens[:at]
    assert taken[at] == END
    after = run(bridge, model, row, 2, first=at + 1)
    assert after == [END, END], "a scheduler that runs ahead draws nothing more from it"
    ended = bridge.take(["a"])["a"]
    assert (ended.end, ended.end_at) == ("doomed" if temperature == 0.25 else "rejected", at)
    assert ended.tokens[: at + 1] == record.tokens[: at + 1], "what was drawn is kept, not what ended it"


def test_a_first_token_that_is_forbidden_leaves_log_q_as_it_was(bridge: WorkerBridge, model: Model) -> None:
    logp = model.logp(0, 0)
    likely = int(np.argmax(logp))
    tokens, logq = [], []
    for seed in range(40):
        row = bridge.join(guided(seed=seed, forbid_first=likely))
        tokens += run(bridge, model, row, 2)
        logq.append(bridge.take(["a"])["a"].logq[0])
    assert likely not in tokens[::2]
    np.testing.assert_allclose(logq, logp[tokens[::2]], atol=1e-6)
    likeliest = [[int(np.argmax(model.logp(sequence, position))) for position in (0, 1)] for sequence in range(8)]
    other, second = next((i, second) for i, (first, second) in enumerate(likeliest) if END != second != first)
    row = bridge.join(guided(forbid_first=second, top_k=1))
    assert run(bridge, model, row, 2, other)[1] == second, "only the first token is forbidden"
    late = bridge.join(guided("late", forbid_first=likely))
    cells = [(other, 1), (0, 0)]
    assert step(bridge, model, [row, late], cells)[0] == second, "nor where another row's first is drawn"
    assert [record.end for record in bridge.take(["a", "late"]).values()] == ["", ""]
    row = bridge.join(guided(forbid_first=likely, top_k=1))
    assert run(bridge, model, row, 1) == [END]
    assert bridge.take(["a"])["a"].end == "stuck"


def test_a_model_that_gives_nan_is_an_error_of_its_row(bridge: WorkerBridge, model: Model) -> None:
    rows = [bridge.join(guided("a")), bridge.join(guided("b", seed=9))]
    logits = model.step([(0, 0), (1, 0)])
    logits[0, 5] = float("nan")
    taken = bridge.draw(logits, rows, np.ones(2, dtype=bool), np.full(2, PROMPT))
    assert int(taken[0].argmax()) == END
    records = bridge.take(["a", "b"])
    assert (records["a"].end, records["b"].end) == ("broken", "")


def group(explore: str, size: int = 4) -> list[GuidedDraw]:
    return [
        guided(f"g{i}", seed=50 + i, explore=explore, group="g", draw=i, group_size=size, end=END) for i in range(size)
    ]


@pytest.mark.parametrize("explore", ["css", "lss", "esamp(beta=0.5)"])
def test_a_group_that_draws_in_step_reports_once_and_says_so(bridge: WorkerBridge, model: Model, explore: str) -> None:
    rows: list[Row | None] = [None, *(bridge.join(draw) for draw in group(explore))]
    for t in range(5):
        step(bridge, model, rows, [(i, t) for i in range(5)])
    step(bridge, model, rows[:4], [(i, 5) for i in range(4)])  # one has ended
    first = bridge.take(["g3"])
    assert first["g3"].explored is None
    last = bridge.take(["g0", "g1", "g2"])
    assert [last[f"g{i}"].explored is None for i in range(3)] == [True, True, False]
    explored = last["g2"].explored
    assert explored is not None
    assert (explored["policy"], explored["samples"], explored["problem"]) == (explore, 4, "")
    assert explored["numbers"]["seen"] == 5 * 4 + 3
    assert explored["together"] is True


@pytest.mark.parametrize("late", [1, 2, 3])
def test_a_group_that_does_not_draw_in_step_says_so(bridge: WorkerBridge, model: Model, late: int) -> None:
    rows = [bridge.join(draw) for draw in group("css")]
    for t in range(3):
        step(bridge, model, rows[:late], [(i, t) for i in range(late)])
    for t in range(3):
        step(bridge, model, rows[late:], [(i, t) for i in range(late, 4)])
    explored = bridge.take([f"g{i}" for i in range(4)])["g3"].explored
    assert explored is not None
    assert (explored["together"], explored["problem"], explored["numbers"]["seen"]) == (False, "", 12.0)


def test_a_row_that_falls_behind_its_group_is_seen(bridge: WorkerBridge, model: Model) -> None:
    """As when one of them is preempted."""
    rows = [bridge.join(draw) for draw in group("css")]
    step(bridge, model, rows, [(i, 0) for i in range(4)])
    step(bridge, model, rows[:3], [(i, 1) for i in range(3)])
    step(bridge, model, rows, [(0, 2), (1, 2), (2, 2), (3, 1)])
    explored = bridge.take([f"g{i}" for i in range(4)])["g3"].explored
    assert explored is not None
    assert explored["together"] is False


def test_a_group_with_a_row_given_up_is_lost_and_begins_anew(bridge: WorkerBridge, model: Model) -> None:
    rows = [bridge.join(draw) for draw in group("css")]
    step(bridge, model, rows, [(i, 0) for i in range(4)])
    bridge.drop(["g2", "nobody"])
    assert all(record.explored is None for record in bridge.take(["g0", "g1", "g3"]).values())
    late = bridge.join(group("css")[2])
    assert "again from its first draw" in late.error
    bridge.take(["g2"])
    rows = [bridge.join(draw) for draw in group("css")]
    assert not any(row.error for row in rows)
    step(bridge, model, rows, [(i, 0) for i in range(4)])
    explored = bridge.take([f"g{i}" for i in range(4)])["g3"].explored
    assert explored is not None
    assert explored["together"] is True


def test_a_fault_ends_its_own_rows_and_nothing_else(bridge: WorkerBridge, model: Model) -> None:
    """A head that is not the model's is found in the first step that explores."""
    model.head = Head(model.head.weight, scale=1.0)
    wrong = WorkerBridge(torch.device("cpu"), model, lambda: Head(model.head.weight, scale=2.0))
    rows = [*(wrong.join(draw) for draw in group("css", 2)), None]
    assert step(wrong, model, rows, [(0, 0), (1, 0), (2, 0)]) == [END, END, -1]
    assert "its head applied to the deep states" in wrong.take(["g0"])["g0"].error
    row = wrong.join(guided("later"))
    run(wrong, model, row, 3)
    assert wrong.take(["later"])["later"].error == ""


def test_rows_find_room_and_leave_none_behind(bridge: WorkerBridge, model: Model) -> None:
    for num in (3, 70, 200, 5):
        draws = [guided(f"r{i}", seed=i, end=END) for i in range(num)]
        rows = [bridge.join(draw) for draw in draws]
        assert len({row.slot for row in rows}) == num
        step(bridge, model, rows, [(i % 8, i % 3) for i in range(num)])
        alone = WorkerBridge(torch.device("cpu"), model, list)
        run(alone, model, alone.join(draws[-1]), 1, (num - 1) % 8, (num - 1) % 3)
        token = alone.take([draws[-1].uid])[draws[-1].uid].tokens[-1]
        assert bridge.take([draw.uid for draw in draws])[draws[-1].uid].tokens[-1] == token
        assert len(bridge) == 0


def test_rows_that_nobody_fetched_are_forgotten(
    bridge: WorkerBridge, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    import samplewise.engines.vllm.bridge as module

    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    bridge.join(guided("old"))
    late = bridge.join(guided("late"))
    clock.now = module.FORGET_S - 1
    bridge.join(guided("new"))
    assert len(bridge) == 3
    run(bridge, model, late, 1)
    clock.now = module.FORGET_S + module.FORGET_EVERY_S
    bridge.join(guided("newest"))
    assert sorted(bridge.take(["old", "late", "new", "newest"])) == ["late", "new", "newest"]


def test_a_row_that_has_left_touches_nobody_elses(bridge: WorkerBridge, model: Model) -> None:
    """A runner that is ahead shows a request once more after it was fetched. Its slot may be another's by then."""
    row = bridge.join(guided("a"))
    run(bridge, model, row, 3)
    bridge.take(["a"])
    other = bridge.join(guided("b", seed=8))
    taken = step(bridge, model, [row, other], [(0, 3), (1, 0)])
    assert taken[0] == -1, "left as the model has it"
    assert bridge.take(["b"])["b"].tokens == taken[1:]


@pytest.mark.parametrize(("explore", "why"), [("esamp(warm_start=True)", "warm_start"), ("consensus", "wait")])
def test_policies_that_need_more_than_vllm_gives_are_refused(bridge: WorkerBridge, explore: str, why: str) -> None:
    row = bridge.join(group(explore, 1)[0])
    assert why in row.error
    assert not bridge.take(["g0"])["g0"].explored


CONSENSUS = "consensus(start='x')"
TRACES = (3, 1, 2)  # tokens that each draw reasoned with


def meet(bridge: WorkerBridge, num_before: Sequence[int], members: int = 3) -> list[Row]:
    """Let the draws of a group go on together after so many tokens."""
    return [
        bridge.join(
            draw._replace(explore=CONSENSUS, members=members, group_size=members, num_before=num_before[draw.draw])
        )
        for draw in group(CONSENSUS, 3)
    ]


def reasoned(bridge: WorkerBridge, model: Model, late: int = 0) -> None:
    """Let each draw of a group come to its cue; the worker hears of it `late` tokens later."""
    for draw in group("", 3):
        run(bridge, model, bridge.join(draw._replace(group="")), TRACES[draw.draw] + late, draw.draw)


def test_draws_that_met_take_one_token_from_their_mixture(bridge: WorkerBridge, model: Model) -> None:
    reasoned(bridge, model)
    rows = meet(bridge, TRACES)
    log_weights = np.zeros(3)
    for t in range(4):
        taken = step(bridge, model, rows, [(i, TRACES[i] + t) for i in range(3)])
        assert len(set(taken)) == 1
        lines = np.array([model.logp(i, TRACES[i] + t) for i in range(3)])
        mixed = log_softmax(2 * np.logaddexp.reduce(lines + (log_weights - np.logaddexp.reduce(log_weights))[:, None]))
        uniform = Key(50).generator().random(TRACES[0] + t + 1)[-1]
        assert taken[0] == draw_token(mixed, uniform)
        for row in rows:
            logged = bridge._columns.log[row.slot, :, row.draw.num_before + t]
            assert logged[2] == pytest.approx(mixed[taken[0]], abs=1e-5)
        log_weights += lines[:, taken[0]]
    records = bridge.take(["g0", "g1", "g2"])
    explored = records["g2"].explored
    assert explored is not None
    assert (explored["problem"], explored["samples"]) == ("", 3)
    assert (explored["numbers"]["seen"], explored["numbers"]["guided"]) == (12.0, 12.0)
    assert [len(records[f"g{i}"].tokens) for i in range(3)] == [trace + 4 for trace in TRACES]


def test_a_group_that_is_not_whole_is_ended_and_goes_on_as_if_it_had_been(model: Model) -> None:
    """Some begin late, one is put off in the middle, and a front end that is late lets draws pass their cue."""
    whole, broken = (WorkerBridge(torch.device("cpu"), model, lambda: model.head) for _ in range(2))
    reasoned(whole, model)
    for t in range(4):
        step(whole, model, meet(whole, TRACES), [(i, TRACES[i] + t) for i in range(3)])
    reasoned(broken, model, late=2)
    rows = meet(broken, TRACES)
    assert step(broken, model, rows[:2], [(i, TRACES[i]) for i in range(2)]) == [END, END]
    assert step(broken, model, [None, rows[2]], [(5, 0), (2, TRACES[2])]) == [-1, END]
    assert broken.held(["g0", "g1", "g2", "nobody"]) == ["g0", "g1", "g2"]
    rows = meet(broken, TRACES)
    for t in range(2):
        step(broken, model, rows, [(i, TRACES[i] + t) for i in range(3)])
    assert broken.held(["g0", "g1", "g2"]) == []
    assert step(broken, model, rows[1:], [(i, TRACES[i] + 2) for i in (1, 2)]) == [END, END]
    later = [trace + 2 for trace in TRACES]
    rows = meet(broken, later)
    for t in range(2):
        step(broken, model, rows, [(i, later[i] + t) for i in range(3)])
    wanted, found = (bridge.take(["g0", "g1", "g2"]) for bridge in (whole, broken))
    assert found == wanted
    assert found["g2"].explored is not None


# --- what is read of vLLM's runners -----------------------------------------------------------------------------------


def test_both_runners_are_read_and_left_as_they_are() -> None:
    from samplewise.engines.vllm.runner import RunnerStates, missing_names

    hidden, first = torch.arange(12.0).reshape(6, 2), torch.arange(12.0, 24.0).reshape(6, 2)
    seen: list[Any] = []
    batch = SimpleNamespace(num_reqs=2, req_ids=["x", "y"], num_computed_tokens_cpu=np.array([4, 0, 9], dtype=np.int32))
    state = SimpleNamespace(
        sample_hidden_states=hidden[[1, 5]],
        aux_hidden_states=[first],
        scheduler_output=SimpleNamespace(num_scheduled_tokens={"x": 2, "y": 4}),
    )
    v1 = SimpleNamespace(
        execute_model_state=state,
        input_batch=batch,
        query_start_loc=SimpleNamespace(np=np.array([0, 2, 6, 6], dtype=np.int32)),
        discard_request_mask=SimpleNamespace(np=np.array([False, True, False])),
    )
    v1.sample_tokens = lambda grammar: seen.append((states.deep, states.shallow, states.layout())) or "sampled"
    states = RunnerStates(v1)
    assert v1.sample_tokens(None) == "sampled"
    deep, shallow, layout = seen.pop()
    assert deep.tolist() == hidden[[1, 5]].tolist()
    assert shallow.tolist() == first[[1, 5]].tolist()
    assert layout.is_drawn.tolist() == [True, False]
    assert layout.num_tokens.tolist() == [6, 4]
    assert missing_names(v1) == ""
    with pytest.raises(SetupError, match="without a state of its step"):
        _ = states.deep
    del v1.discard_request_mask
    assert missing_names(v1) == "discard_request_mask"
    indices = SimpleNamespace(logits_indices=torch.tensor([0, 3]))
    v2 = SimpleNamespace(
        req_states=None,
        execute_model_state=SimpleNamespace(hidden_states=hidden, aux_hidden_states=[first], input_batch=indices),
    )
    v2.sample_tokens = lambda grammar: seen.append((states.deep, states.shallow))
    states = RunnerStates(v2)
    v2.sample_tokens(None)
    assert [part.tolist() for part in seen.pop()] == [hidden[[0, 3]].tolist(), first[[0, 3]].tolist()]
    assert missing_names(v2) == ""
    v2.execute_model_state.aux_hidden_states = None
    v2.sample_tokens = lambda grammar: states.shallow
    states = RunnerStates(v2)
    with pytest.raises(SetupError, match="css and lss do not"):
        v2.sample_tokens(None)


def test_the_head_is_read_with_its_scale_cap_and_bias() -> None:
    from samplewise.engines.vllm.runner import read_head, show_first_block

    weight = torch.ones(10, 2)
    lm_head = SimpleNamespace(weight=weight, bias=torch.arange(10.0))
    inner = SimpleNamespace(lm_head=lm_head, logits_processor=SimpleNamespace(scale=0.5, soft_cap=30.0))
    for model in (inner, SimpleNamespace(get_language_model=lambda: inner), SimpleNamespace(language_model=inner)):
        config = SimpleNamespace(get_vocab_size=lambda: 8)
        runner = SimpleNamespace(get_model=lambda model=model: model, model_config=config)
        head = read_head(runner)
        assert (tuple(head.weight.shape), head.scale, head.cap) == ((8, 2), 0.5, 30.0)
        assert head.bias is not None
        assert len(head.bias) == 8
    quantized = SimpleNamespace(lm_head=SimpleNamespace(weight=torch.ones(10, 2, dtype=torch.int8)))
    for model in (quantized, SimpleNamespace()):
        with pytest.raises(SetupError, match="no plain weights"):
            read_head(SimpleNamespace(get_model=lambda model=model: model, model_config=config))
    layers: list[Any] = []
    taps = SimpleNamespace(set_aux_hidden_state_layers=layers.append)
    runner = SimpleNamespace(get_model=lambda: taps, use_aux_hidden_state_outputs=False)
    assert show_first_block(runner) == ""
    assert (layers, runner.use_aux_hidden_state_outputs) == ([(1,)], True)
    assert "no auxiliary" in show_first_block(SimpleNamespace(get_model=lambda: taps))

    def refuse(layers: Any) -> None:
        raise TypeError("no layers")

    refusing = SimpleNamespace(set_aux_hidden_state_layers=refuse)
    runner = SimpleNamespace(get_model=lambda: refusing, use_aux_hidden_state_outputs=False)
    assert show_first_block(runner).endswith("no layers")
    assert runner.use_aux_hidden_state_outputs is False
    old = SimpleNamespace(get_model=lambda: SimpleNamespace(), use_aux_hidden_state_outputs=False)
    assert "gives no auxiliary" in show_first_block(old)
    assert old.use_aux_hidden_state_outputs is False
