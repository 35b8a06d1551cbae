"""LiteLLM against the server: prints one JSON object of what it got."""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no request but those to the server

import litellm

url, key, wrong_model = sys.argv[1:]
PUZZLE = [{"role": "user", "content": "make 24 from 1 2 3 4"}]
litellm.telemetry = False


def ask(model: str = "openai/solve@tiny", **options: object) -> object:
    return litellm.completion(
        model=model, messages=PUZZLE, api_base=url, api_key=key, max_tokens=64, seed=1, num_retries=0, **options
    )


whole = ask()
chunks = list(ask(stream=True, stream_options={"include_usage": True}))
several = ask("openai/repeat(16) | vote@tiny", n=2)
refused = {}
for name, model in {"model": f"openai/{wrong_model}"}.items():
    try:
        ask(model)
        refused[name] = None
    except litellm.exceptions.NotFoundError as error:
        refused[name] = type(error).__name__
print(
    json.dumps(
        {
            "sync": {
                "text": whole.choices[0].message.content,
                "usage": [whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens],
                "evidence": whole.model_extra.get("samplewise") if whole.model_extra else None,
            },
            "stream": {
                "text": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
                "usage": [u.total_tokens for chunk in chunks if (u := getattr(chunk, "usage", None))],
            },
            "n": [choice.message.content for choice in several.choices],
            "refused": refused,
        }
    )
)
