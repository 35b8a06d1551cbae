"""Who is alike, and how a cluster's tokens are ordered and drawn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samplewise.explore import counters
from samplewise.explore.base import SMALL, Head, Layout
from samplewise.explore.clusters import (
    ClusterCandidates,
    chain,
    cluster_candidates,
    drawn_outside,
    drawn_within,
    find_clusters,
    reached,
    similarity,
)

CPU = torch.device("cpu")


def normal(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 9), st.integers(0, 1000), st.floats(0, 0.6))
def test_reaching_is_the_transitive_closure(num: int, seed: int, share: float) -> None:
    near = np.random.default_rng(seed).random((num, num)) < share
    near = near | near.T | np.eye(num, dtype=bool)
    slow = near.copy()
    for k, i, j in itertools.product(range(num), repeat=3):  # Warshall's, k outermost
        slow[i, j] |= slow[i, k] and slow[k, j]
    assert (reached(torch.from_numpy(near)[None])[0].numpy() == slow).all()


def test_clusters_are_rows_in_an_order_of_their_own() -> None:
    group, sample = np.array([1, 0, 1, 0, 1, 1]), np.array([3, 1, 0, 0, 2, 1])
    layout = Layout(group, sample, CPU)  # group 0: rows 3, 1; group 1: rows 2, 5, 4, 0
    near = torch.zeros(2, 4, 4, dtype=torch.bool)
    near[:, range(4), range(4)] = True
    near[1, 0, 3] = near[1, 3, 0] = True  # rows 2 and 0
    found = find_clusters(layout, near, layout.mask, np.arange(6, dtype=np.uint64)[::-1].copy(), least=1)
    assert found is not None
    rows = [r[m].tolist() for r, m in zip(found.rows, found.mask, strict=True)]
    assert sorted(rows) == [[1], [2, 0], [3], [4], [5]]  # the bits of row 2 are lower than those of row 0
    assert found.leader.tolist() == [3, 1, 2, 5, 4]
    only = find_clusters(layout, near, layout.mask, np.arange(6, dtype=np.uint64), least=2)
    assert only is not None
    assert only.rows.tolist() == [[0, 2]]
    assert find_clusters(layout, near, torch.zeros_like(layout.mask), np.arange(6, dtype=np.uint64), least=1) is None


def test_cosines_of_a_large_vocabulary_are_those_of_the_table() -> None:
    weight = normal(SMALL + 1, 5) + 1.0
    tokens, others = torch.tensor([[3, 9, 700]]), torch.tensor([[9, 1024]])
    centred = weight - weight.mean(0)
    centred = centred / centred.norm(dim=-1, keepdim=True)
    direct = centred[tokens[0]] @ centred[others[0]].T
    torch.testing.assert_close(Head(weight).cosines(tokens, others)[0], direct, rtol=1e-4, atol=1e-5)
    small = Head(weight[:SMALL])
    again = weight[:SMALL] - weight[:SMALL].mean(0)
    again = again / again.norm(dim=-1, keepdim=True)
    inside = torch.tensor([[3, 9, 700]])
    torch.testing.assert_close(
        small.cosines(inside, inside)[0], again[inside[0]] @ again[inside[0]].T, rtol=1e-4, atol=1e-5
    )
    alike = similarity(small, inside, inside)[0]
    torch.testing.assert_close(alike.diagonal(), torch.ones(3), rtol=0, atol=1e-5)
    assert ((alike >= 0) & (alike < 1 + 1e-5)).all()


def test_a_chain_goes_from_the_likeliest_to_the_most_similar() -> None:
    angles = torch.tensor([0.0, 0.9, 0.1, 1.0, 0.2, 3.5])
    head = Head(torch.stack([angles.cos(), angles.sin()], dim=1) - 0.0)
    tokens = torch.arange(5)[None]
    mass = torch.tensor([[[0.1, 0.2, 0.5, 0.1, 0.05, 0.05]]]).double()
    order = chain(head, ClusterCandidates(tokens, mass))[0].tolist()
    assert order[0] == 2
    cosine, left, slow = head.cosines(tokens, tokens)[0], [0, 1, 3, 4], [2]
    while left:
        slow.append(max(left, key=lambda token: float(cosine[slow[-1], token])))
        left.remove(slow[-1])
    assert order == slow


def test_candidates_and_the_rest_are_the_whole_law() -> None:
    log_probs = torch.tensor([[0.5, 0.3, 0.1, 0.0999, 0.0001], [0.1, 0.5, 0.3, 0.0999, 0.0001]]).double().log()
    layout = Layout(np.zeros(2, dtype=np.int64), np.arange(2), CPU)
    near = torch.ones(1, 2, 2, dtype=torch.bool)
    found = find_clusters(layout, near, layout.mask, counters.random_bits(0, np.arange(2)), least=2)
    assert found is not None
    choice = cluster_candidates(log_probs, found, 2, filtered=False)
    assert sorted(choice.tokens[0].tolist()) == [0, 1]  # the likeliest of any row
    torch.testing.assert_close(choice.mass.sum(-1), torch.ones(1, 2).double())
    assert choice.rest == 2
    assert cluster_candidates(log_probs, found, 64, filtered=False).rest == 4  # what matters nowhere is no candidate


@pytest.mark.parametrize("filtered", [False, True])
def test_candidates_of_a_large_vocabulary(filtered: bool) -> None:
    """Those of the maximum over rows, each once; the rest is what the others have, and exactly 0 where they are cut."""
    vocab, most = 5000, 8
    log_probs = torch.log_softmax(3 * torch.randn(6, vocab, generator=torch.Generator().manual_seed(4)), dim=-1)
    if filtered:
        kept = log_probs[:1].topk(7).indices.expand(2, -1)
        some = torch.full((2, vocab), -torch.inf).scatter(1, kept, log_probs[:2].gather(1, kept))
        log_probs[:2] = torch.log_softmax(some, dim=-1)
    layout = Layout(np.array([0, 0, 1, 1, 1, 1]), np.arange(6), CPU)
    order = counters.random_bits(0, np.arange(6))
    found = find_clusters(layout, torch.ones(2, 4, 4, dtype=torch.bool), layout.mask, order, least=2)
    assert found is not None
    choice = cluster_candidates(log_probs, found, most, filtered)
    for rows, tokens, mass, mask in zip(found.rows, choice.tokens, choice.mass, found.mask, strict=True):
        best = log_probs[rows].amax(0)
        num = min(choice.rest, int(torch.isfinite(best).sum()))
        assert tokens[:num].tolist() == best.topk(num).indices.tolist()
        probabilities = log_probs[rows][mask].double().exp()
        torch.testing.assert_close(mass[mask, :-1], probabilities[:, tokens])
        others = probabilities.index_fill(1, tokens, 0.0).sum(-1)
        torch.testing.assert_close(mass[mask, -1], others, atol=1e-6, rtol=1e-5)
        if filtered and 0 in rows:
            assert others.tolist() == mass[mask, -1].tolist() == [0.0, 0.0]


def test_draws_are_by_mass() -> None:
    mass = torch.tensor([1.0, 0.0, 2.0, 1.0]).double()
    goals = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9999]).double()
    assert drawn_within(mass.expand(6, 4), goals).tolist() == [0, 0, 2, 2, 3, 3]
    log_probs = torch.tensor([[0.25, 0.25, 0.0, 0.5]]).double().log().expand(3, 4)
    outside = drawn_outside(log_probs, torch.tensor([[0]]).expand(3, 1), torch.tensor([0.0, 0.34, 1 - 2**-53]).double())
    assert outside.tolist() == [1, 3, 3]
