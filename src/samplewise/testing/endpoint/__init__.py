"""A faulty OpenAI-compatible endpoint, for tests and benchmarks of clients.

    settings = EndpointSettings(faults={"500": 0.05, "half": 0.05}, marks=True)
    endpoint = Endpoint(settings)
    async with endpoint as url:
        ...                      # any OpenAI-style client against `url`
    assert endpoint.tally.tokens <= 1000

`serving(settings)` does the same for synchronous code. The endpoint speaks chat and completions as the OpenAI API and
vLLM do, and draws from the toy model, so that distributions can be checked against `endpoint.model.toy`. It injects the
faults and attacks of its settings, and keeps an exact tally. As a process:
`python -m samplewise.testing.endpoint --help`.
"""

from __future__ import annotations

from samplewise.testing.endpoint.server import Endpoint
from samplewise.testing.endpoint.settings import ATTACKS, FAULTS, ROUTES, TRAITS, EndpointSettings, EndpointTally, Fault
from samplewise.testing.endpoint.thread import serving

__all__ = ["ATTACKS", "FAULTS", "ROUTES", "TRAITS", "Endpoint", "EndpointSettings", "EndpointTally", "Fault", "serving"]
