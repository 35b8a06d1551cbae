"""A task of lm-eval through the server, by its `local-chat-completions`: prints one JSON object with its accuracy."""

import json
import os
import sys
import tempfile
from pathlib import Path

from puzzles import PUZZLES, is_24

url, key, _ = sys.argv[1:]
os.environ |= {"OPENAI_API_KEY": key, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

from datasets import Dataset  # noqa: E402
from lm_eval import simple_evaluate  # noqa: E402
from lm_eval.api.task import ConfigurableTask  # noqa: E402
from lm_eval.loggers import EvaluationTracker  # noqa: E402


def solved(document, results):
    """Score an answer of the task's."""
    return {"solved": float(is_24(results[0], document["numbers"]))}


rows = [{"question": f"make 24 from {numbers}", "numbers": numbers} for numbers in PUZZLES]
task = ConfigurableTask(
    config={
        "task": "puzzles",
        "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{numbers}}",
        "process_results": solved,
        "metric_list": [{"metric": "solved", "aggregation": "mean", "higher_is_better": True}],
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 64, "temperature": 1.0, "do_sample": True},
    }
)
folder = tempfile.mkdtemp()
tracker = EvaluationTracker(output_path=folder)
results = simple_evaluate(
    model="local-chat-completions",
    model_args={
        "model": "solve@tiny",
        "base_url": f"{url}/chat/completions",
        "tokenizer_backend": None,
        "num_concurrent": 2,
        "max_retries": 1,
    },
    tasks=[task],
    apply_chat_template=True,
    bootstrap_iters=0,
    evaluation_tracker=tracker,
)
figures, samples = results["results"]["puzzles"], results.pop("samples")
tracker.save_results_aggregated(results, samples)  # as its command line does with --log_samples
tracker.save_results_samples("puzzles", samples["puzzles"])
(path,) = Path(folder).rglob("samples_puzzles_*.jsonl")
share = next(v for k, v in figures.items() if k.startswith("solved"))
print(json.dumps({"solved": share, "n": len(rows), "samples": path.read_text(encoding="utf-8")}))
