"""Reward models: learned verifiers that read a question and a response, from a folder or the Hugging Face Hub.

torch and transformers are imported when a verifier is made, never before.

Two kinds of checkpoint are supported, and recognized by the architecture in their config:

* an outcome model, `...ForSequenceClassification` with one label, scores the whole response. The score is its raw
  logit, a real number, larger is better. If the config says `"calibrated": true`, it is sigmoid(logit), the probability
  that the response is right, in [0, 1]; the bundled model is of this kind.
* a process model, `...ForTokenClassification` with one or two labels, scores every step at the last token of the
  separator after it: sigmoid(logit), or with two labels the softmax probability of label 1, in [0, 1]. Step scores
  are aggregated by their last, their minimum or their product (2305.20050 and later work).

Cost: no output tokens. Scoring reads L_q + L_s prompt tokens of the reward model for each distinct response. A verifier
reports no usage, so `Reward.tokens_of` returns the number for accounting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from samplewise.core.checks import check_choice
from samplewise.models import require_torch

from .server_replies import Aggregate

if TYPE_CHECKING:
    from .score import Reward


def reward(
    model: str = "tiny", *, aggregate: Aggregate = "last", separator: str = "\n\n", device: str | None = None
) -> Reward:
    """Score by a reward model, a folder or a name on the Hugging Face Hub; "tiny" is the bundled one.

    `aggregate` and `separator` are for process models: how step scores become one (last, min or product), and the text
    between two steps. `device` is "cpu" or "cuda" (default: CUDA if available). nan for a response that does not fit
    into the model's context, or has no steps. Raises MissingExtra without torch, and SetupError for what is no reward
    model of the two kinds.
    """
    check_choice("aggregate", aggregate, get_args(Aggregate))
    if not separator:
        raise ValueError("separator must be the text that stands between two steps, got ''")
    require_torch("a reward model")
    from .score import Reward

    return Reward(model, aggregate=aggregate, separator=separator, device=device)
