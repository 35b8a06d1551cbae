"""How a benchmark's question is put to a model.

A prompt is the name of a wording, or the user's own text with `{question}` in it. All wordings are zero-shot and one
user message; a chat model's template does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping

from samplewise.core.types import Json, Message, Question

QUESTION = "{question}"

STEPS: Mapping[str, str] = {  # answers that are numbers or formulas
    "boxed": "{question}\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
    "plain": "{question}",
}
CHOICE: Mapping[str, str] = {  # answers that are letters
    "steps": "{question}\n\nThink step by step and then finish your answer with "
    '"The answer is (X)" where X is the letter of the correct option.',
    "letter": "{question}\n\nAnswer with the letter of the correct option alone.",
    "plain": "{question}",
}


def checked_wording(prompt: str, wordings: Mapping[str, str]) -> str:
    """Return the wording that `prompt` names, or `prompt` itself if it has a place for the question. ValueError
    otherwise."""
    if prompt in wordings:
        return wordings[prompt]
    if QUESTION not in prompt:
        raise ValueError(f"prompt must be one of {', '.join(wordings)}, or a text with {QUESTION}; got {prompt!r}")
    return prompt


def as_question(id: str, wording: str, question: str, facts: Mapping[str, Json] | None = None) -> Question:
    """Return the question as one user message."""
    return Question(id, (Message("user", wording.replace(QUESTION, question)),), facts or {})
