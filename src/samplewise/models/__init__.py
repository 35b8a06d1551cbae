"""Models that ship inside: ordinary Hugging Face checkpoints, each with its card."""

from pathlib import Path

TINY = Path(__file__).parent / "tiny"
REWARD = Path(__file__).parent / "reward"
