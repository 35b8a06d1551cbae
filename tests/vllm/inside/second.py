"""Answer some of the asks with vLLM's second model runner, and print what came back as the last line, in JSON."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.vllm.inside.asks import CONSENSUS, GROUPS, PLAIN, POWER, SPEC

from samplewise.core.registry import build

# Every kind of draw: sampling, bounds, a forbidden first token, groups of all policies cut to three draws, an answer.
CHOSEN = [*PLAIN[:6], *POWER[:2], *POWER[6:7]]
CHOSEN += [ask._replace(group_size=3, max_tokens=16) for start in range(0, 32, 8) for ask in GROUPS[start : start + 3]]
CHOSEN += [ask._replace(group_size=3) for ask in CONSENSUS[0][:3]]


async def main() -> dict[str, Any]:
    engine = build("engine", SPEC.format(more=""))
    await engine.open()
    found = {arrival.position: arrival.completion async for arrival in engine.answer(CHOSEN)}
    await engine.close()
    fields = ("tokens", "logp", "logq", "finish", "failure", "text", "explored")
    return {
        "runs": engine.runtime()["runs"],
        "completions": [{f: getattr(found[i], f) for f in fields} for i in range(len(CHOSEN))],
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
