"""A task of Inspect: puzzles, right where the answer reaches 24. Needs puzzles.py beside it."""

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import CORRECT, INCORRECT, Score, accuracy, scorer
from inspect_ai.solver import generate
from puzzles import PUZZLES, is_24


@scorer(metrics=[accuracy()])
def reaches_24():
    async def score(state, target):
        right = is_24(state.output.completion, target.text)
        return Score(value=CORRECT if right else INCORRECT, answer=state.output.completion)

    return score


@task
def puzzles():
    """Ask the puzzles."""
    samples = [Sample(input=f"make 24 from {numbers}", target=numbers, id=numbers) for numbers in PUZZLES]
    return Task(dataset=MemoryDataset(samples), solver=generate(), scorer=reaches_24())
