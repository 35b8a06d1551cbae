"""A task of inspect_ai through the server: prints one JSON object with its accuracy."""

import json
import os
import sys
import tempfile

from puzzles import PUZZLES, is_24

url, key, _ = sys.argv[1:]
os.environ |= {"SAMPLEWISE_BASE_URL": url, "SAMPLEWISE_API_KEY": key, "INSPECT_DISPLAY": "none"}

from inspect_ai import Task, eval  # noqa: E402
from inspect_ai.dataset import MemoryDataset, Sample  # noqa: E402
from inspect_ai.scorer import CORRECT, INCORRECT, Score, accuracy, scorer  # noqa: E402
from inspect_ai.solver import generate  # noqa: E402


@scorer(metrics=[accuracy()])
def reaches_24():
    async def score(state, target):
        return Score(value=CORRECT if is_24(state.output.completion, target.text) else INCORRECT)

    return score


task = Task(
    dataset=MemoryDataset([Sample(input=f"make 24 from {numbers}", target=numbers) for numbers in PUZZLES]),
    solver=generate(),
    scorer=reaches_24(),
)
with tempfile.TemporaryDirectory() as folder:
    log = eval(
        task,
        model="openai-api/samplewise/solve@tiny",
        max_tokens=64,
        seed=1,
        log_dir=folder,
        epochs=1,
    )[0]
    print(
        json.dumps(
            {
                "status": log.status,
                "error": log.error.message if log.error else None,
                "accuracy": log.results.scores[0].metrics["accuracy"].value if log.results else None,
                "tokens": sum(usage.total_tokens for usage in log.stats.model_usage.values()),
                "texts": [sample.output.completion for sample in log.samples or []],
            }
        )
    )
