"""The asks that tests and bench/vllm.py put to both engines."""

from __future__ import annotations

from typing import Any

from samplewise.core.types import Generate, Message, RejectionBound, Sampling

# Of the engine; `more` are further options.
SPEC = "vllm('tiny', in_process=True, max_model_len=256, enforce_eager=True{more})"
PROMPTS = [
    (Message("user", puzzle),) for puzzle in ("make 24 from 4 6 7 8", "make 24 from 3 5 7 9", "make 24 from 2 2 6 12")
]
WANT = ("tokens", "logp", "logq")
POLICIES = ("css", "lss", "esamp(beta=0.5)", "esamp(learner='ridge')")
SAMPLINGS = (
    Sampling(),
    Sampling(0.5),
    Sampling(1.5, top_k=10),
    Sampling(1.0, top_p=0.9),
    Sampling(1.2, min_p=0.05),
    Sampling(0.0),
)
# Power sampling: a prefix with a bound, and a first token that is forbidden.
POWER = [
    *(
        Generate(PROMPTS[0], (14, 222, 11), Sampling(0.25), 40, seed=7 + i, want=WANT)._replace(
            reject_below=RejectionBound(4.0, -2.0 - i)
        )
        for i in range(6)
    ),
    *(Generate(PROMPTS[0], max_tokens=40, seed=70 + i, want=WANT, forbid_first=14) for i in range(3)),
]
PLAIN = [
    Generate(prompt, max_tokens=60, seed=100 + i, want=WANT, sampling=sampling)
    for prompt in PROMPTS
    for i, sampling in enumerate(SAMPLINGS)
]


def group(explore: str, name: str, seed: int, size: int = 8, prompt: int = 0, **changes: Any) -> list[Generate]:
    """Return the asks of a group."""
    ask = Generate(PROMPTS[prompt], max_tokens=40, want=WANT, sampling=Sampling(explore=explore), **changes)
    return [ask._replace(seed=seed + i, group=name, group_size=size, draw=i) for i in range(size)]


GROUPS = [
    ask for k, policy in enumerate(POLICIES) for ask in group(policy, f"g{k}", 700 + 10 * k, prompt=k % len(PROMPTS))
]
ASKS = [*PLAIN, *POWER, *GROUPS]  # 59


def meeting(explore: str, name: str, seed: int, size: int, prompt: int = 0, **changes: Any) -> list[Generate]:
    """Return the asks of a group that reasons hot, so that its draws differ, and then answers together."""
    ask = Generate(PROMPTS[prompt], max_tokens=60, want=WANT, sampling=Sampling(1.5, explore=explore), **changes)
    return [ask._replace(seed=seed + i, group=name, group_size=size, draw=i) for i in range(size)]


CONSENSUS = [
    meeting("consensus(start=',', answer_tokens=12)", "whole", 5, 6),  # all of them answer
    meeting("consensus(gamma=1.0, start='=', answer_tokens=20)", "full", 50, 4, 1),  # they run out of tokens
    meeting("consensus(gamma=3.0, start='left', answer_tokens=20)", "some", 70, 5, 2),  # some never say `left`
    meeting("consensus(start='nothing', answer_tokens=5)", "none", 80, 3),  # nobody does
    # The plain draw has 60 tokens and more; one that is late answers alone.
    meeting("consensus(start='6', answer_tokens=52)", "late", 90, 4),
    meeting("consensus(gamma=1.0, start='7 ', answer_tokens=9)", "alone", 95, 1),
]
