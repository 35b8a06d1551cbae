"""LangChain's ChatOpenAI against the server: prints one JSON object of what it got."""

import asyncio
import json
import sys

from langchain_openai import ChatOpenAI

url, key, _ = sys.argv[1:]
PUZZLE = "make 24 from 1 2 3 4"
chat = ChatOpenAI(model="solve@tiny", base_url=url, api_key=key, max_tokens=64, seed=1, max_retries=0)
whole = chat.invoke(PUZZLE)
chunks = list(chat.stream(PUZZLE))
wishes = ChatOpenAI(
    model="tiny",
    base_url=url,
    api_key=key,
    max_tokens=64,
    extra_body={"samplewise": {"recipe": "repeat(4) | vote"}},
)
print(
    json.dumps(
        {
            "sync": {"text": whole.content, "usage": whole.usage_metadata},
            "stream": {"text": "".join(str(chunk.content) for chunk in chunks)},
            "async": [reply.content for reply in asyncio.run(chat.abatch([PUZZLE, PUZZLE]))],
            "wishes": wishes.invoke(PUZZLE).usage_metadata,
        }
    )
)
