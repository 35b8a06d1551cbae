"""The solver over a scripted model of Inspect, with a judge as a model role: prints what each case came to, as JSON."""

import json
import os
import sys
import tempfile

os.environ |= {"INSPECT_DISPLAY": "none"}

from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import match

from samplewise.integrations.inspect import samplewise_solver


def reply(text, reasoning=0):
    """Make a reply of 10 tokens that a prompt of 5 was billed for."""
    output = ModelOutput.from_content("mockllm/model", text)
    output.usage = ModelUsage(input_tokens=5, output_tokens=10, total_tokens=15, reasoning_tokens=reasoning)
    return output


def run(texts, recipe, *, roles=None, limit=None, **wishes):
    """Evaluate one sample with the solver; return what its log says."""
    task = Task(
        dataset=MemoryDataset([Sample(input="six times seven?", target="42")]),
        solver=samplewise_solver(recipe, **wishes),
        scorer=match(numeric=True),
        token_limit=limit,
    )
    model = get_model("mockllm/model", custom_outputs=[reply(text) for text in texts], memoize=False)
    others = {
        name: get_model("mockllm/judge", custom_outputs=[reply(text) for text in replies], memoize=False)
        for name, replies in (roles or {}).items()
    }
    with tempfile.TemporaryDirectory() as folder:
        (log,) = eval(task, model=model, model_roles=others, log_dir=folder)
        sample = log.samples[0] if log.samples else None
        return {
            "status": log.status,
            "error": None if sample is None or sample.error is None else sample.error.message,
            "limit": None if sample is None or sample.limit is None else sample.limit.type,
            "text": None if sample is None or sample.output is None else sample.output.completion,
            "evidence": ((sample.output.metadata or {}) if sample else {}).get("samplewise"),
            "right": None if not log.results else log.results.scores[0].metrics["accuracy"].value,
            "usage": {name: usage.total_tokens for name, usage in log.stats.model_usage.items()},
            "messages": [] if sample is None else [message.role for message in sample.messages],
        }


CASES = {
    "vote": lambda: run(["41", "42", "42"], "repeat(3) | vote"),
    "judge": lambda: run(
        ["41", "42"], "repeat(2) | best(judge(grader))", roles={"grader": ["2", "9", "2", "2", "9", "9"]}
    ),
    "no_role": lambda: run(["42"], "repeat(1) | best(judge(grader))"),
    "limit": lambda: run(["41", "42", "42", "42"], "repeat(4) | vote", limit=40),
    "budget": lambda: run(["42"] * 9, "repeat(9) | vote", budget_tokens=100, max_tokens=20),
}
names = sys.argv[1:] or list(CASES)
print(json.dumps({name: CASES[name]() for name in names}))
