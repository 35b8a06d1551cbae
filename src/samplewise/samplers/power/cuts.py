"""Where a proposal begins to redraw: weights of a response's own cut positions. Positions count from 0.

The weight w_m of position m follows from the tokens before m alone, so it is the same for every response that shares
them. A position is drawn in proportion to its weight. The step back draws the same position with another probability,
as the other response has other positions: the log ratio of the step has one more term, which makes it exact,

    log sum_j w_j(x) - log sum_j w_j(x')        j over each response's own positions

and for equal weights is log(L / L'). Nothing else is known of a chain when it cuts. A cut that depends on more (on how
long its start was, say) has another distribution for each start, and the chain leaves its target.

    uniform   equal weights
    recent    weights that grow with the position, so later positions are cut more often
    entropy   the Renyi entropy (order alpha) of the token's distribution

No step is lost on a cut behind the end. In Peskun's order a step is at least as good as one that draws its cut from all
T positions and stays where the cut is behind the end: it goes to any other response at least as often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

CutKind = Literal["uniform", "recent", "entropy"]
CUT_KINDS: tuple[CutKind, ...] = get_args(CutKind)
LEAST_ENTROPY = 0.05  # nats, added at every position: the chain must be able to move from any of them


def cut_weights(cuts: CutKind, terms: Sequence[float], alpha: float) -> list[float]:
    """Return the weights (L,) of a response's positions.

    At temperature 1 / alpha a token's log-ratio term is log Z(alpha) = (1 - alpha) H, with H the Renyi entropy of order
    alpha of the distribution it was drawn from. So `terms` (L,) hold the entropies, whatever the token.
    """
    if cuts == "uniform":
        return [1.0] * len(terms)
    if cuts == "recent":
        return [float(position + 1) for position in range(len(terms))]
    return [LEAST_ENTROPY + max(0.0, term / (1.0 - alpha)) for term in terms]
