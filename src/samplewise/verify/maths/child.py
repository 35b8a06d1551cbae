"""The symbolic step, in a separate process: reads one request per line, writes one reply per line, both JSON.

    {"do": "equal", "left": latex, "right": latex}   ->  {"equal": true | false | null}    null: not decidable
    {"do": "key", "left": latex}                     ->  {"key": latex | null}             null: cannot be parsed

This is the only file that imports `sympy` and `math_verify`. It is started by path and imports nothing of samplewise.
Text is parsed by the LaTeX grammar alone; the library's other parser, which evaluates Python, is never reached. Still,
the process is expendable: its memory is capped, the kernel ends it when a request has used too much processor time
(even if nobody waits for it any more), and it cannot write files. POSIX only.

Exactness: two expressions are equal if the library says so in both directions. A decimal is the rational number that it
writes down and nothing near it: 3.141593 is not pi.
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
MAX_DIGITS = 500  # to which two constants are worked out to find a digit of their distance
RATIONALS = 5040  # whose multiples are tried as such


def limit(memory_bytes: int) -> None:
    """Set the caps of this process."""
    with contextlib.suppress(ValueError, OSError):  # a lower cap is set already
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_processor(seconds: float) -> None:
    """End this process by SIGPROF after `seconds` of processor time from now, even inside a library call."""
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
        """Return a sympy object with exact numbers; None if the text is no mathematics."""
        candidates = self.library.parse(
            f"${text}$",
            extraction_config=self._extraction,
            fallback_mode="no_fallback",
            extraction_mode="first_match",
            parsing_timeout=None,
        )
        if not candidates or isinstance(candidates[0], str):
            return None
        parsed = candidates[0]
        return parsed.xreplace({number: self.sympy.Rational(str(number)) for number in parsed.atoms(self.sympy.Float)})

    def equal(self, left: str, right: str) -> bool | None:
        """Return whether two expressions are equal; None if that cannot be decided."""
        first, second = self.parse(left), self.parse(right)
        if first is None or second is None:
            return False if (first is None) != (second is None) else None  # two unreadable ones: unknown
        # The library takes the first for the reference and is not symmetric: either order must say yes.
        orders = ((first, second), (second, first))
        if all(self.library.verify(gold, target, timeout_seconds=None) for gold, target in orders):
            return not self._numbers_differ(first, second)
        equations = isinstance(first, self.sympy.Eq) and isinstance(second, self.sympy.Eq)  # it does not scale these
        return equations and self._written(first) == self._written(second)

    def _numbers_differ(self, first: Any, second: Any) -> bool:
        """Return whether two constants are apart, however little: the library rounds to six digits after the point."""
        if not (isinstance(first, self.sympy.Expr) and isinstance(second, self.sympy.Expr)):
            return False
        if first.free_symbols or second.free_symbols:
            return False
        distance = abs(first - second).evalf(DIGITS, maxn=MAX_DIGITS)
        # a result of precision 1 is noise: not one digit of the distance could be found
        return bool(distance.is_Float and distance != 0 and distance._prec > 1)

    def key(self, text: str) -> str | None:
        """Return a standard form: equal expressions give equal keys as far as rewriting goes; a key is its own key."""
        parsed = self.parse(text)
        if parsed is None:
            return None
        key = self._written(parsed)
        reparsed = self.parse(key)
        return key if reparsed is not None and self._written(reparsed) == key else None

    def _written(self, parsed: Any) -> str:
        return str(self.sympy.latex(self._standard(parsed), ln_notation=True))

    def _standard(self, parsed: Any) -> Any:
        sympy = self.sympy
        if isinstance(parsed, sympy.core.relational.Relational):
            if not isinstance(parsed, sympy.Eq):
                return parsed
            difference = self._standard(parsed.lhs - parsed.rhs)
            numerator = sympy.fraction(sympy.together(difference))[0]
            _, primitive = sympy.expand(numerator).as_content_primitive()
            return sympy.Eq(-primitive if primitive.could_extract_minus_sign() else primitive, 0, evaluate=False)
        if not isinstance(parsed, sympy.Expr):
            return parsed
        exact = parsed.doit()
        if exact.free_symbols:
            special = (sympy.functions.elementary.trigonometric.TrigonometricFunction, sympy.exp, sympy.log)
            simple = self._inverses(sympy.simplify(exact)) if exact.has(*special) else exact
            return sympy.cancel(sympy.together(simple))
        plain = sympy.expand_log(sympy.expand(exact), factor=True)
        standard = sympy.expand(sympy.radsimp(sympy.sqrtdenest(plain)))
        return self._rational(standard) or standard

    def _inverses(self, expression: Any) -> Any:
        """Rewrite to one function of each pair of reciprocals."""
        pairs = ((self.sympy.cot, self.sympy.tan), (self.sympy.sec, self.sympy.cos), (self.sympy.csc, self.sympy.sin))
        for inverse, function in pairs:
            expression = expression.replace(inverse, lambda x, function=function: 1 / function(x))
        return expression

    def _rational(self, constant: Any) -> Any:
        """Return the rational number that a constant is, None if it is none with a small denominator."""
        sympy = self.sympy
        value = constant.evalf(DIGITS)
        if not value.is_Float or constant.is_Rational:
            return None
        nearest = sympy.Rational(int(sympy.floor(value * RATIONALS + sympy.Rational(1, 2))), RATIONALS)
        if abs(value - nearest) > sympy.Float(10, DIGITS) ** (8 - DIGITS):
            return None
        return nearest if sympy.simplify(constant - nearest) == 0 else None


def answer_request(algebra: Algebra, request: dict[str, Any]) -> dict[str, Any]:
    """Return the reply to one request. If the libraries raise, it is not decidable."""
    try:
        if request["do"] == "key":
            return {"key": algebra.key(request["left"])}
        return {"equal": algebra.equal(request["left"], request["right"])}
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # any text may upset a parser or an algorithm in any way
        return {"equal": None, "key": None, "error": type(error).__name__}


def serve_requests(memory_bytes: int, seconds: float) -> None:
    """Answer requests until there are no more."""

    def send(reply: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()

    limit(memory_bytes)
    try:
        algebra = Algebra()
    except ImportError as error:
        send({"missing": error.name})
        return
    send({"ready": True})
    for line in sys.stdin:
        limit_processor(seconds)
        send(answer_request(algebra, json.loads(line)))


if __name__ == "__main__":
    serve_requests(int(sys.argv[1]), float(sys.argv[2]))
