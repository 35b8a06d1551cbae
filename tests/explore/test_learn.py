"""The distiller and its learners, against autograd, torch.optim.Adam and a direct solve."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from samplewise.explore.base import Layout
from samplewise.explore.controls import frozen_distiller, zero
from samplewise.explore.distiller import Shape, backward, forward
from samplewise.explore.esamp import make_learner
from samplewise.explore.learn import Adam, Ridge
from samplewise.explore.settings import esamp

CPU = torch.device("cpu")


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def groups(*sizes: int) -> Layout:
    """A layout of groups 0 ... with so many rows each."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    return Layout(group, np.concatenate([np.arange(size) for size in sizes]), CPU)


def twin(shape: Shape, weights: Tensor, x: Tensor) -> Tensor:
    """One group's distiller, in plain words."""
    for block in shape.blocks(weights[None]):
        gate, value = x @ block.up[0, :, : shape.width], x @ block.up[0, :, shape.width :]
        x = x + (torch.nn.functional.silu(gate) * value) @ block.down[0]
    return x


def test_the_distiller_and_its_gradient_are_those_of_autograd() -> None:
    shape, change = Shape(6, 5), normal(3, 4, 6, seed=1)
    weights = torch.cat([shape.fresh(seed, CPU) for seed in range(3)]).requires_grad_()
    x = normal(3, 4, 6)
    slow = torch.stack([twin(shape, weights[i], x[i]) for i in range(3)])
    (slow * change).sum().backward()
    with torch.inference_mode():  # where engines run: autograd itself would not work there
        quick, tapes = forward(shape, weights.detach(), x)
        gradient = backward(shape, weights.detach(), tapes, change)
    torch.testing.assert_close(quick, slow.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, weights.grad, rtol=1e-4, atol=1e-5)


def test_first_weights_are_those_of_linear_layers_and_follow_from_the_seed() -> None:
    shape = Shape(96, 384)
    weights = shape.fresh(5, CPU)
    assert weights.shape == (1, 6 * 96 * 384)
    for block in shape.blocks(weights):
        assert 0.95 * 96**-0.5 < block.up.abs().max() <= 96**-0.5
        assert 0.95 * 384**-0.5 < block.down.abs().max() <= 384**-0.5
    assert torch.equal(weights, shape.fresh(5, CPU))
    assert not torch.equal(weights, shape.fresh(6, CPU))


@pytest.mark.parametrize("loss", ["sum", "mean"])
def test_adam_is_torchs_with_groups_of_different_size_and_age(loss: Any) -> None:
    """Each group against a distiller of its own, the second one younger, the third with fewer rows."""
    settings = esamp(width=5, rate=0.01, loss=loss, clip=0.5)
    made = Adam(settings, 6, CPU)
    own: list[Tensor] = []
    optimisers: list[torch.optim.Adam] = []
    for at in range(6):
        if at in (0, 3):  # group 0 from the start, two more later
            for seed in (0,) if at == 0 else (1, 2):
                made.open(seed)
                own.append(Shape(6, 5).fresh(seed, CPU)[0].clone().requires_grad_())
                optimisers.append(torch.optim.Adam([own[-1]], lr=0.01, eps=1e-4))
        sizes = (4, 4, 2)[: len(own)]
        layout = groups(*sizes)
        x, y = normal(sum(sizes), 6, seed=at), 3 * normal(sum(sizes), 6, seed=100 + at)
        px, py = layout.pad(x), layout.pad(y)
        predicted = made.predict(layout.live, px)
        made.learn(layout, px, py, predicted)
        for i, (weights, optimiser) in enumerate(zip(own, optimisers, strict=True)):
            optimiser.zero_grad()
            part = slice(sum(sizes[:i]), sum(sizes[: i + 1]))
            error = (twin(Shape(6, 5), weights, x[part]) - y[part]).square()
            (error.sum(-1) if loss == "sum" else error.mean(-1)).mean().backward()
            torch.nn.utils.clip_grad_norm_([weights], 0.5)
            optimiser.step()
    torch.testing.assert_close(made.weights, torch.stack([w.detach() for w in own]), rtol=1e-4, atol=1e-5)


def test_a_group_without_rows_stays_as_it_is_and_a_closed_one_leaves_the_others() -> None:
    for made in (Adam(esamp(width=4), 6, CPU), Ridge(esamp(), 6, CPU)):
        for seed in range(3):
            made.open(seed)
        state = lambda m: m.weights if isinstance(m, Adam) else m.solution  # noqa: E731
        before = state(made).clone()
        layout = Layout(np.array([0, 0, 2]), np.array([0, 1, 0]), CPU)
        x, y = layout.pad(normal(3, 6)), layout.pad(normal(3, 6, seed=1))
        made.learn(layout, x, y, made.predict(layout.live, x))
        after = state(made).clone()
        assert torch.equal(after[1], before[1])
        assert not torch.equal(after[0], before[0])
        assert not torch.equal(after[2], before[2])
        made.close(1)
        assert torch.equal(state(made), after[[0, 2]])


def test_ridge_is_the_direct_solution_after_200_steps() -> None:
    made, rng = Ridge(esamp(learner="ridge", penalty=0.5), 5, CPU), np.random.default_rng(0)
    made.open(0)
    made.open(1)
    xs: list[list[Tensor]] = [[], []]
    ys: list[list[Tensor]] = [[], []]
    for at in range(200):
        sizes = rng.integers(1, 5, 2)
        layout = groups(*sizes.tolist())
        x, y = normal(int(sizes.sum()), 5, seed=at), normal(int(sizes.sum()), 5, seed=1000 + at)
        px, py = layout.pad(x), layout.pad(y)
        made.learn(layout, px, py, made.predict(layout.live, px))
        for g, part in enumerate((slice(0, sizes[0]), slice(sizes[0], None))):
            xs[g].append(made.features(x[None, part])[0])
            ys[g].append(y[part])
    for g in range(2):
        x, y = torch.cat(xs[g]).double(), torch.cat(ys[g]).double()
        direct = torch.linalg.solve(x.T @ x + 0.5 * torch.eye(6).double(), x.T @ y)
        torch.testing.assert_close(made.solution[g].double(), direct, rtol=1e-4, atol=1e-4)


def test_ridge_forgets() -> None:
    """With forgetting, the solution is that of rows weighted by how long ago they were."""
    made, rho = Ridge(esamp(learner="ridge", forget=0.9), 3, CPU), 0.9
    made.open(0)
    gram, right = torch.eye(4).double(), torch.zeros(4, 3).double()
    for at in range(30):
        layout = groups(2)
        x, y = layout.pad(normal(2, 3, seed=at)), layout.pad(normal(2, 3, seed=500 + at))
        made.learn(layout, x, y, made.predict(layout.live, x))
        rows = made.features(x)[0].double()
        gram, right = rho * gram + rows.T @ rows, rho * right + rows.T @ y[0].double()
    torch.testing.assert_close(made.solution[0].double(), torch.linalg.solve(gram, right), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("forget", [1.0, 0.7])
def test_more_rows_than_ridge_takes_at_once_come_to_the_same(monkeypatch: pytest.MonkeyPatch, forget: float) -> None:
    """A prompt's rows, in parts of 4 and at once, in groups of different size; a step forgets once."""
    layout = groups(11, 6)
    found = []
    for most in (4, 256):
        monkeypatch.setattr("samplewise.explore.learn.MOST", most)
        made = Ridge(esamp(learner="ridge", penalty=0.5, forget=forget), 5, CPU)
        made.open(0)
        made.open(1)
        for at in range(3):
            x, y = layout.pad(normal(17, 5, seed=at)), layout.pad(normal(17, 5, seed=100 + at))
            (told,) = made.learn(layout, x, y, made.predict(layout.live, x))
            assert (told.layout, told.clipped, told.end) == (layout, None, "learnt")
        found.append((made.solution, made.spread))
    for parts, whole in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_a_group_that_rounding_has_ruined_is_no_number_and_the_others_go_on() -> None:
    one, other = (Ridge(esamp(learner="ridge"), 5, CPU) for _ in range(2))
    layout = groups(3, 3)
    for made in (one, other):
        made.open(0)
        made.open(1)
        made.spread[0] *= -1.0 if made is one else 1.0
        for at in range(2):
            x, y = layout.pad(normal(6, 5, seed=at)), layout.pad(normal(6, 5, seed=100 + at))
            made.learn(layout, x, y, made.predict(layout.live, x))
    assert one.solution[0].isnan().all()
    assert torch.equal(one.solution[1], other.solution[1])
    assert torch.isfinite(other.solution).all()


def relative(made: Any, layout: Layout, x: Tensor, y: Tensor) -> float:
    return float((made.predict(layout.live, x) - y).square().sum() / y.square().sum())


def test_one_published_step_leaves_the_error_and_a_closed_form_does_not() -> None:
    """P7: the assumption of an error near zero after one step holds for ridge alone."""
    layout, x = groups(16), normal(1, 16, 64)
    y = normal(1, 16, 64, seed=1)
    adam, ridge = Adam(esamp(), 64, CPU), Ridge(esamp(learner="ridge", penalty=1e-3), 64, CPU)
    for made in (adam, ridge):
        made.open(0)
        first = relative(made, layout, x, y)
        made.learn(layout, x, y, made.predict(layout.live, x))
        made.last = (first, relative(made, layout, x, y))  # type: ignore[attr-defined]
    assert adam.last[1] > 0.7 * adam.last[0]  # type: ignore[attr-defined]
    assert ridge.last[1] <= 0.05  # type: ignore[attr-defined]


def test_the_learner_learns_what_it_saw_and_not_what_it_did_not() -> None:
    """P8 and P11: after 40 passes the error on seen contexts is below the first and a fifth of that on unseen ones.

    A mutant with learning rate 0, or trained on one row only, fails here.
    """
    made, layout = Adam(esamp(rate=4e-3, width=128), 32, CPU), groups(16)
    made.open(0)
    x, y = normal(1, 16, 32), normal(1, 16, 32, seed=1)
    first = relative(made, layout, x, y)
    for _ in range(40):
        made.learn(layout, x, y, made.predict(layout.live, x))
    rows = (made.predict(layout.live, x) - y).square().sum(-1) / y.square().sum(-1)
    seen, unseen = relative(made, layout, x, y), relative(made, layout, normal(1, 16, 32, seed=2), y)
    assert seen < 0.8 * first
    assert unseen > 5 * seen
    assert rows.max() < 0.5  # every row was learnt from


def test_rows_do_not_share_predictions() -> None:
    """P16: permuting rows permutes predictions, exactly."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(8))
    for settings in (esamp(width=16), esamp(learner="ridge"), frozen_distiller(), zero()):
        made = make_learner(settings, 12, CPU)
        made.open(0)
        x = normal(1, 8, 12)
        there, back = made.predict(np.array([0]), x), made.predict(np.array([0]), x[:, order])
        torch.testing.assert_close(there[:, order], back, rtol=0, atol=1e-6)


def test_which_learner_stands_for_which_settings() -> None:
    kinds = [
        type(make_learner(s, 4, CPU)).__name__ for s in (esamp(), esamp(learner="ridge"), frozen_distiller(), zero())
    ]
    assert kinds == ["Adam", "Ridge", "Frozen", "Zero"]


@pytest.mark.parametrize(
    ("dim", "features", "size"), [(6, 0, 7), (6, 4, 5), (256, 0, 257), (257, 0, 257), (300, 9, 10)]
)
def test_wide_states_have_random_features(dim: int, features: int, size: int) -> None:
    """The work of a step grows with the square of their number."""
    made = Ridge(esamp(learner="ridge", features=features), dim, CPU)
    made.open(1)
    x = torch.randn(1, 3, dim, generator=torch.Generator().manual_seed(0))
    assert made.features(x).shape == (1, 3, size)
    assert made.predict(np.array([0]), x).shape == (1, 3, dim)
    assert bool((made.features(x)[..., -1] == 1).all())
