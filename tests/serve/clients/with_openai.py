"""The official OpenAI client against the server: prints one JSON object of what it got."""

import asyncio
import json
import sys

import openai

url, key, wrong_model = sys.argv[1:]
PUZZLE = [{"role": "user", "content": "make 24 from 1 2 3 4"}]
client = openai.OpenAI(base_url=url, api_key=key)
seen: dict[str, object] = {"version": openai.__version__}

seen["models"] = [model.id for model in client.models.list()]
seen["model"] = client.models.retrieve("solve@tiny").id

raw = client.chat.completions.with_raw_response.create(model="solve@tiny", messages=PUZZLE, max_tokens=64, seed=1)
whole = raw.parse()
seen["sync"] = {
    "text": whole.choices[0].message.content,
    "finish": whole.choices[0].finish_reason,
    "usage": whole.usage.model_dump() if whole.usage else None,
    "evidence": whole.model_extra["samplewise"],
    "headers": {name: value for name, value in raw.headers.items() if name.startswith("x-samplewise")},
}

stream = client.chat.completions.create(
    model="solve@tiny", messages=PUZZLE, max_tokens=64, seed=2, stream=True, stream_options={"include_usage": True}
)
chunks = list(stream)
seen["stream"] = {
    "text": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
    "finish": [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1],
    "usage": chunks[-1].usage.model_dump() if chunks[-1].usage else None,
    "evidence": next(chunk.model_extra["samplewise"] for chunk in chunks if "samplewise" in (chunk.model_extra or {})),
}

several = client.chat.completions.create(
    model="repeat(16) | vote@tiny",
    messages=PUZZLE,
    max_tokens=64,
    n=3,
    logprobs=True,
    extra_body={"samplewise": {"return": ["votes"]}},
)
seen["n"] = {
    "texts": [choice.message.content for choice in several.choices],
    "logprobs": [len(choice.logprobs.content) if choice.logprobs else None for choice in several.choices],
    "evidence": several.model_extra["samplewise"],
}
seen["header"] = client.chat.completions.create(
    model="tiny", messages=PUZZLE, max_tokens=64, extra_headers={"X-Samplewise-Recipe": "repeat(4) | vote"}
).model_extra["samplewise"]["draws"]

old = client.completions.create(model="solve@tiny", prompt="make 24 from 1 2 3 4", max_tokens=64, seed=3)
seen["completions"] = old.choices[0].text


async def at_once() -> list[str]:
    async with openai.AsyncOpenAI(base_url=url, api_key=key) as many:
        requests = [
            many.chat.completions.create(model="solve@tiny", messages=PUZZLE, max_tokens=64, seed=seed)
            for seed in range(4)
        ]
        return [reply.choices[0].message.content or "" for reply in await asyncio.gather(*requests)]


seen["async"] = asyncio.run(at_once())

refused: dict[str, object] = {}
tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
for name, go in {
    "tools": lambda: client.chat.completions.create(model="solve@tiny", messages=PUZZLE, tools=[tool]),
    "temperature": lambda: client.chat.completions.create(model="solve@tiny", messages=PUZZLE, temperature=9),
    "unknown": lambda: client.chat.completions.create(
        model="solve@tiny", messages=PUZZLE, extra_body={"temprature": 1}
    ),
    "model": lambda: client.chat.completions.create(model=wrong_model, messages=PUZZLE),
    "key": lambda: openai.OpenAI(base_url=url, api_key="wrong").models.list(),
}.items():
    try:
        go()
        refused[name] = None
    except openai.APIStatusError as error:
        refused[name] = [error.status_code, error.param, error.code, error.message]
seen["refused"] = refused
print(json.dumps(seen))
