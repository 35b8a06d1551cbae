"""The symbolic step, in a process of its own: reads one request a line, writes one reply a line, both JSON.

    {"do": "equal", "left": latex, "right": latex}   ->  {"equal": true | false | null}    null: not to be decided
    {"do": "key", "left": latex}                     ->  {"key": latex | null}             null: not to be parsed

This is the only file that imports `sympy` and `math_verify`. It is started by path and imports nothing of ours. Text is
parsed by the LaTeX grammar alone; the library's other parser, which evaluates Python, is never reached. All the same
the process is meant to be lost: its memory is capped, the kernel ends it when a request has taken too much processor
time (also when nobody waits for it any more), and it cannot write files. POSIX only.

Exactness: an expression is equal to another if the library says so in both directions. A decimal is the rational number
that it writes down and nothing near it: 3.141593 is not pi.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import resource
import signal
import sys
from typing import Any

DIGITS = 30  # significant digits by which a constant is recognised as rational
RATIONALS = 5040  # whose multiples are tried as such


def limit(memory_bytes: int) -> None:
    """Caps that hold from here on."""
    with contextlib.suppress(ValueError, OSError):  # a lower cap is set already
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_processor(seconds: float) -> None:
    """Ends this process, by SIGPROF, when it has computed for so long from now on, in whatever library it is."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)


class Algebra:
    """The libraries, loaded and warm."""

    def __init__(self) -> None:
        import logging

        logging.disable(logging.CRITICAL)
        self.sympy: Any = importlib.import_module("sympy")
        self.library: Any = importlib.import_module("math_verify")
        self._extraction = [self.library.LatexExtractionConfig()]
        self.equal(r"\sqrt{8}x+1", r"2\sqrt{2}x+1")  # much is loaded at first use
        self.key(r"\frac{\sin x}{1+\sqrt{2}}")

    def parse(self, text: str) -> Any:
        """A sympy object with exact numbers; None where the text is no mathematics."""
        found = self.library.parse(
            f"${text}$",
            extraction_config=self._extraction,
            fallback_mode="no_fallback",
            extraction_mode="first_match",
            parsing_timeout=None,
        )
        if not found or isinstance(found[0], str):
            return None
        parsed = found[0]
        return parsed.xreplace({number: self.sympy.Rational(str(number)) for number in parsed.atoms(self.sympy.Float)})

    def equal(self, left: str, right: str) -> bool | None:
        ours, theirs = self.parse(left), self.parse(right)
        if ours is None or theirs is None:
            return False if (ours is None) != (theirs is None) else None  # of two unreadable ones nobody knows
        # The library takes the first for the reference and is not symmetric: either order must say yes.
        orders = ((ours, theirs), (theirs, ours))
        if all(self.library.verify(gold, target, timeout_seconds=None) for gold, target in orders):
            return True
        equations = isinstance(ours, self.sympy.Eq) and isinstance(theirs, self.sympy.Eq)  # it does not scale these
        return equations and self._written(ours) == self._written(theirs)

    def key(self, text: str) -> str | None:
        """Equal expressions give equal keys as far as rewriting into a standard form goes; a key's key is itself."""
        found = self.parse(text)
        if found is None:
            return None
        key = self._written(found)
        again = self.parse(key)
        return key if again is not None and self._written(again) == key else None

    def _written(self, found: Any) -> str:
        return str(self.sympy.latex(self._standard(found), ln_notation=True))

    def _standard(self, found: Any) -> Any:
        sympy = self.sympy
        if isinstance(found, sympy.core.relational.Relational):
            if not isinstance(found, sympy.Eq):
                return found
            difference = self._standard(found.lhs - found.rhs)
            numerator = sympy.fraction(sympy.together(difference))[0]
            _, primitive = sympy.expand(numerator).as_content_primitive()
            return sympy.Eq(-primitive if primitive.could_extract_minus_sign() else primitive, 0, evaluate=False)
        if not isinstance(found, sympy.Expr):
            return found
        exact = found.doit()
        if exact.free_symbols:
            special = (sympy.functions.elementary.trigonometric.TrigonometricFunction, sympy.exp, sympy.log)
            simple = self._inverses(sympy.simplify(exact)) if exact.has(*special) else exact
            return sympy.cancel(sympy.together(simple))
        plain = sympy.expand_log(sympy.expand(exact), factor=True)
        standard = sympy.expand(sympy.radsimp(sympy.sqrtdenest(plain)))
        return self._rational(standard) or standard

    def _inverses(self, found: Any) -> Any:
        """With one function of each pair that are each other's inverse."""
        pairs = ((self.sympy.cot, self.sympy.tan), (self.sympy.sec, self.sympy.cos), (self.sympy.csc, self.sympy.sin))
        for inverse, function in pairs:
            found = found.replace(inverse, lambda x, function=function: 1 / function(x))
        return found

    def _rational(self, constant: Any) -> Any:
        """The rational number that a constant is, None where it is none with a small denominator."""
        sympy = self.sympy
        value = constant.evalf(DIGITS)
        if not value.is_Float or constant.is_Rational:
            return None
        nearest = sympy.Rational(int(sympy.floor(value * RATIONALS + sympy.Rational(1, 2))), RATIONALS)
        if abs(value - nearest) > sympy.Float(10, DIGITS) ** (8 - DIGITS):
            return None
        return nearest if sympy.simplify(constant - nearest) == 0 else None


def reply(algebra: Algebra, request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request. What the libraries stumble over is not to be decided."""
    try:
        if request["do"] == "key":
            return {"key": algebra.key(request["left"])}
        return {"equal": algebra.equal(request["left"], request["right"])}
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # any text may upset a parser or an algorithm in any way
        return {"equal": None, "key": None, "error": type(error).__name__}


def main(memory_bytes: int, seconds: float) -> None:
    """Answer requests until there are no more."""

    def say(what: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()

    limit(memory_bytes)
    try:
        algebra = Algebra()
    except ImportError as error:
        say({"missing": error.name})
        return
    say({"ready": True})
    for line in sys.stdin:
        limit_processor(seconds)
        say(reply(algebra, json.loads(line)))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
