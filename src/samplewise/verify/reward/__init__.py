"""Reward models: learned verifiers that read a question and a response, from a folder or the Hugging Face Hub.

torch and transformers are imported when a verifier is made, never before.

Two kinds of checkpoint are read, and told apart by the architecture that their config names:

* an outcome model, `...ForSequenceClassification` with one label, scores the whole response. The score is its raw
  logit, a real number, larger is better. Where the config says `"calibrated": true` it is sigmoid(logit), the
  probability that the response is right, in [0, 1]; the bundled model is such a one.
* a process model, `...ForTokenClassification` with one or two labels, scores every step at the last token of the
  separator behind it: sigmoid(logit), or with two labels the softmax share of label 1, in [0, 1]. The steps' scores
  become one by their last, their minimum or their product (2305.20050 and what came after).

Cost: no output tokens. Scoring reads L_q + L_s prompt tokens of the reward model for each distinct response; a verifier
has no usage, so `Reward.tokens_of` says how many, for whoever keeps the books.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Literal, get_args

from samplewise.errors import MissingExtra

if TYPE_CHECKING:
    from .score import Reward

Aggregate = Literal["last", "min", "product"]
SPIN = "4000"


def reward(
    model: str = "tiny", *, aggregate: Aggregate = "last", separator: str = "\n\n", device: str | None = None
) -> Reward:
    """Scores by a reward model, a folder or a name on the Hugging Face Hub; "tiny" is the one that is bundled.

    `aggregate` and `separator` are for process models: how step scores become one (last, min or product), and what
    stands between two steps. `device` is "cpu" or "cuda" (default: CUDA where there is one). nan where nothing can be
    said: a response that does not fit into the model's context, or has no steps. Raises MissingExtra without torch, and
    SetupError for what is no reward model of the two kinds.
    """
    if aggregate not in get_args(Aggregate):
        raise ValueError(f"aggregate must be one of {', '.join(get_args(Aggregate))}, got {aggregate!r}")
    if not separator:
        raise ValueError("separator must be the text that stands between two steps, got ''")
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        # As in the local engine: threads of torch that spin for each other slow everything beside them.
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtra("a reward model", "local") from error
    from .score import Reward

    return Reward(model, aggregate=aggregate, separator=separator, device=device)
