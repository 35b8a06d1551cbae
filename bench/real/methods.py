"""What is drawn: each method's recipe line, in the order in which the methods are drawn.

A line has no selector: who chooses is decided offline, on the same draws. `{top}` is the benchmark's longest response.
Settings that a paper names are the paper's; none was chosen on the problems that are scored.
"""

from __future__ import annotations

from typing import NamedTuple

CODE, MATHS = ("humaneval", "mbpp"), ("gsm8k", "math500")
VARIED = ("mbpp", "humaneval", "gsm8k")  # the shortest responses first
ONE = ("humaneval", "mbpp", "gsm8k")  # where one response is returned


class Method(NamedTuple):
    """A way to draw. `draws` are rows at a time of one question, `rounds` its sequential waves of model calls."""

    name: str
    part: str
    line: str
    benchmarks: tuple[str, ...]
    draws: int
    rounds: int = 1
    seed: int = 0


PLAIN = Method("plain", "plain", "repeat(16, max_tokens={top})", (*CODE, *MATHS), 16)
METHODS = (
    PLAIN,
    # one response
    Method("greedy", "power", "repeat(1, temperature=0, max_tokens={top})", (*ONE, "math500"), 1),
    Method("temperature .25", "power", "repeat(4, temperature=0.25, max_tokens={top})", ONE, 4),
    Method("power", "power", "power(4, 10, cuts='entropy', max_tokens={top})", ONE, 1, 11),
    Method("smc", "power", "smc(8, 4, block=32, max_tokens={top})", ONE, 8, 8),
    Method("power, published", "power", "power(4, 10, blocks=2, block_steps=10, max_tokens={top})", ONE, 1, 22),
    Method("tempering", "power", "tempering((1.5, 2.5, 4), 5, max_tokens={top})", ONE, 3, 6),
    # groups of 16
    Method("lss", "explore", "repeat(16, explore=lss, max_tokens={top})", VARIED, 16),
    Method("esamp", "explore", "repeat(16, explore=esamp, max_tokens={top})", VARIED, 16),
    Method("css", "explore", "repeat(16, explore=css, max_tokens={top})", VARIED, 16),
    Method("temperature .6", "explore", "repeat(16, temperature=0.6, max_tokens={top})", VARIED, 16),
    Method("min-p", "explore", "repeat(16, min_p=0.1, max_tokens={top})", VARIED, 16),
    Method("frozen", "explore", "repeat(16, explore=frozen, max_tokens={top})", ("humaneval",), 16),
    Method("zero", "explore", "repeat(16, explore=zero, max_tokens={top})", ("humaneval",), 16),
    # groups of 8
    Method("lss of 8", "explore", "repeat(8, explore=lss, max_tokens={top})", ("mbpp",), 8),
    Method("esamp of 8", "explore", "repeat(8, explore=esamp, max_tokens={top})", ("mbpp",), 8),
    # arms: two draws of each of four variants, and of the direct one; helpers' costs are told apart by run
    Method(
        "fixed arms", "vary", "vary(role(4), instruction(4), jabberwocky(4)) | repeat(26, max_tokens={top})", VARIED, 26
    ),
    Method("ideas", "vary", "vary(idea(4)) | repeat(10, max_tokens={top})", VARIED, 10, 2),
    Method("rephrasings", "vary", "vary(rephrase(4)) | repeat(10, max_tokens={top})", VARIED, 10, 2),
    Method("ladder", "vary", "vary(ladder) | repeat(15, max_tokens={top})", ("humaneval",), 15),
    # as many direct draws as the arms together have
    Method("plain, more", "vary", "repeat(16, max_tokens={top})", VARIED, 16, seed=1),
)
