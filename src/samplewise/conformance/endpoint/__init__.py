"""A faulty endpoint, for tests and benches of anything that speaks to one.

    settings = Settings(faults={"500": 0.05, "half": 0.05}, marks=True)
    endpoint = Endpoint(settings)
    async with endpoint as url:
        ...                      # any OpenAI-style client against `url`
    assert endpoint.tally.tokens <= 1000

`serving(settings)` is the same for code that is not asynchronous. It speaks chat and completions as the OpenAI API and
vLLM have them, draws from the toy model's law, so that laws can be checked against `endpoint.model.toy`, does wrong
what it is told to do wrong, and keeps an exact tally. As a process: `python -m samplewise.conformance.endpoint --help`.
"""

from __future__ import annotations

from samplewise.conformance.endpoint.server import Endpoint
from samplewise.conformance.endpoint.settings import FAULTS, ROUTES, TRAITS, Fault, Settings, Tally
from samplewise.conformance.endpoint.thread import serving

__all__ = ["FAULTS", "ROUTES", "TRAITS", "Endpoint", "Fault", "Settings", "Tally", "serving"]
