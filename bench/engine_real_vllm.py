"""Serve bench/engine_real.py from the environment that has vLLM: requests come as lines of JSON, figures go back.

A request is `{"prompts": [[token ids]], "samples": n, "max_tokens": t, "stops": [ids]}`; the answer, on a line that
begins with `FIGURES `, is `{"tokens": ..., "seconds": ...}`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time

SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "4",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def main() -> None:
    os.environ.update(SETTINGS)  # before vLLM is imported
    vllm = importlib.import_module("vllm")
    folder, rows = sys.argv[1], int(sys.argv[2])
    model = vllm.LLM(model=folder, dtype="float32", enforce_eager=True, max_model_len=2048, max_num_seqs=rows)
    print("FIGURES {}", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        settings = vllm.SamplingParams(
            n=request["samples"],
            temperature=1.0,
            max_tokens=request["max_tokens"],
            stop_token_ids=request["stops"],
            detokenize=False,
        )
        started = time.perf_counter()
        prompts = [{"prompt_token_ids": ids} for ids in request["prompts"]]
        replies = model.generate(prompts, settings, use_tqdm=False)
        seconds = time.perf_counter() - started
        tokens = sum(len(output.token_ids) for reply in replies for output in reply.outputs)
        print(f"FIGURES {json.dumps({'tokens': tokens, 'seconds': seconds})}", flush=True)


if __name__ == "__main__":
    main()
