"""What the sandbox withstands and what it costs: every hostile program of the table, honest ones in between, then
speed.

Each hostile program runs at each level at which it must be contained, on one worker, which thus meets what the program
before has left behind. After each the host is inspected, and an honest program must be graded right.

    hostile, contained       programs that attack, and those that neither passed nor touched the host
    honest, honest_passed    right programs in between, and those that were graded right
    programs_per_s           trivial right programs, on a warm worker per core, with tests in a process of their own;
                             also as a script, and with tests in the program's process
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from tests.support.hostile import HONEST, LIMITS, TESTS, Site, contained, hostile

from bench.about import about
from samplewise.verify.sandbox import Program, Sandbox

SEED = 0  # nothing here is drawn
TRIVIAL = {
    "script": Program("print(1)"),
    "apart": Program("def add(a, b):\n    return a + b", TESTS),
    "together": Program("def add(a, b):\n    return a + b", TESTS, level="together"),
}


def table() -> dict[str, Any]:
    """Run the whole table, and print a line for each program."""
    num = held = honest = honest_passed = 0
    group = ""
    with Site() as site, Sandbox(1) as sandbox:
        for case in hostile():
            if case.group != group:
                group = case.group
                print(f"\n{group}\n")
            told = []
            for level in case.levels:
                verdict = sandbox.run(case.program(level, site), LIMITS)
                wrong = contained(verdict, site)
                after = sandbox.run(Program(HONEST, TESTS, level=level, entry_point="add"))
                num, held = num + 1, held + (wrong is None)
                honest, honest_passed = honest + 1, honest_passed + after.passed
                told.append(verdict.status if wrong is None else f"NOT CONTAINED: {wrong}")
                if not after.passed:
                    told.append(f"THE HONEST PROGRAM AFTER IT: {after.reason}")
            print(f"  {case.name:45} {', '.join(dict.fromkeys(told))}", flush=True)
    return {"hostile": num, "contained": held, "honest": honest, "honest_passed": honest_passed}


def speed(num: int) -> dict[str, float]:
    """Measure trivial programs per second, all workers together."""
    found = {}
    with Sandbox() as sandbox:
        warm = [program for program in TRIVIAL.values() for _ in range(4 * sandbox.num_workers)]
        if not all(verdict.passed for _, verdict in sandbox.run_all(warm)):
            raise SystemExit("a trivial program did not pass")
        for name, program in TRIVIAL.items():
            started = time.perf_counter()
            passed = sum(verdict.passed for _, verdict in sandbox.run_all([program] * num))
            found[name] = passed / (time.perf_counter() - started)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--programs", type=int, default=1000, help="trivial programs of each kind")
    options = parser.parse_args()
    started = time.monotonic()
    rates = speed(options.programs)
    figures = table()
    print(
        "\n{contained} of {hostile} contained, {honest_passed} of {honest} honest programs graded right".format(
            **figures
        )
    )
    print(", ".join(f"{name}: {rate:.0f} programs/s" for name, rate in rates.items()))
    speeds = {f"programs_per_s_{name}": round(rate, 1) for name, rate in rates.items()}
    head = {"programs_per_s": round(rates["apart"], 1)}
    print(json.dumps({**about("sandbox", SEED, started), **figures, **head, **speeds}))


if __name__ == "__main__":
    main()
