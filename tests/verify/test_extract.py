"""Reading programs out of responses: fences, tags, sentences around, continuations, whole programs."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.text import cut_at_stop
from samplewise.core.types import Question
from samplewise.verify.extract import read_code

HEAD = 'import math\n\ndef f(x):\n    """Twice x."""\n'
COMPLETE = Question("q", (), {"entry_point": "f", "preamble": "import math\n\n", "prompt": HEAD})
CHAT = Question("q", (), {"entry_point": "f"})
WHOLE = Question("q", (), {})
F = "def f(x):\n    return 2 * x\n"
MAIN = "n = int(input())\nprint(2 * n)\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("    return 2 * x", HEAD + "    return 2 * x\n"),
        ("    return 2 * x\n\n\n", HEAD + "    return 2 * x\n"),
        ("    return 2 * x\n\ndef g():\n    pass", HEAD + "    return 2 * x\n"),
        ("    return 2 * x\nclass A: pass", HEAD + "    return 2 * x\n"),
        ("    y = x\n    # twice\n    return y + y\n# test\nf(1)", HEAD + "    y = x\n    # twice\n    return y + y\n"),
        ("    return x\nif __name__ == '__main__':\n    f(1)", HEAD + "    return x\n"),
        ("    return x\nprint(f(1))", HEAD + "    return x\n"),
        ("    return x\n```\nThat is it.", HEAD + "    return x\n"),
        ("", HEAD),
        ("```python\ndef f(x):\n    return 2 * x\n```", "import math\n\ndef f(x):\n    return 2 * x\n"),
        ("def f(x):\n    return 2 * x\n", "import math\n\ndef f(x):\n    return 2 * x\n"),
    ],
)
def test_a_completion_is_cut_where_the_function_ends(text: str, code: str) -> None:
    assert read_code(COMPLETE, text) == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Sure!\n```python\ndef f(x):\n    return 2 * x\n```\nThis doubles x.", "def f(x):\n    return 2 * x\n"),
        ("```\ndef f(x):\n    return 2 * x\n```", "def f(x):\n    return 2 * x\n"),
        ("```py\ndef f(x): return 1\n```\nBetter:\n```python\ndef f(x): return 2\n```", "def f(x): return 2\n"),
        ("```python\ndef f(x): return 1\n```\nUse:\n```python\nprint(f(1))\n```", "def f(x): return 1\n"),
        ("```python\ndef f(x): return 1\n```\n```java\nint f(int x) { def f }\n```", "def f(x): return 1\n"),
        ("```python\ndef f(x):\n    return 2 *", "def f(x):\n    return 2 *\n"),
        ("- so:\n  ```python\n  def f(x):\n      return 1\n  ```\n", "def f(x):\n    return 1\n"),
        ("```python\r\ndef f(x):\r\n    return 1\r\n```", "def f(x):\n    return 1\n"),
        ("Here it is:\ndef f(x):\n    return 1", "def f(x):\n    return 1\n"),
        ("import re\ndef f(x):\n    return 1\n[DONE]\nmore", "import re\ndef f(x):\n    return 1\n"),
        ("```python\nclass f:\n    pass\n```", "class f:\n    pass\n"),
        ("```python\nasync def f(x): pass\n```", "async def f(x): pass\n"),
        ("I cannot do that.", None),
        ("", None),
        ("```python\ndef ff(x): return 1\n```", None),
        ("the def f(x) of it", None),
        ("```python\ndef f(x):\n    return " + "1 + " * 50_000 + "1\n```", None),
    ],
)
def test_code_out_of_an_answer(text: str, code: str | None) -> None:
    assert read_code(CHAT, text) == code


@given(st.text(max_size=200), st.sampled_from(["", " ", "\n", "\n\n  ", "\r\n"]))
def test_reading_never_fails_and_trailing_white_space_is_nothing(text: str, tail: str) -> None:
    for question in (COMPLETE, CHAT):
        code = read_code(question, text)
        if not text.rstrip(" \n\r").endswith("\r"):
            assert read_code(question, text.rstrip(" \n\r") + tail) == read_code(question, text.rstrip(" \n\r"))
        assert code is None or code.endswith("\n")


def test_cut() -> None:
    assert cut_at_stop("ab\nclass", ("\ndef", "\nclass", "b")) == "a"
    assert cut_at_stop("ab", ("c",)) == "ab"


SOLUTION = "class Solution:\n    def f(self, x):\n        return 2 * x\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"{F}\nThis adds the two.", F),
        (f"{F}\nDone", F),
        (f"{F}\nNote: see above\n", F),
        (f"Sure, here you are.\n\nimport re\n{F}\nThis doubles x; see the note.", f"import re\n{F}"),
        (f"I use a table: it is quick.\nTABLE = [1, 2]\n\n{F}\n# Doubles\nHope it helps!", f"TABLE = [1, 2]\n\n{F}"),
        (f"@cache\n{F}It is cached.", f"@cache\n{F}"),
        (f"~~~python\n{F}~~~\nDone.", F),
        (f"~~~~\n{F}~~~~", F),
        (f"````python\n{F}````", F),
        (f"[PYTHON]\n{F}[/PYTHON]\nThis is it.", F),
        (f"[PYTHON]{F}[/PYTHON]", F),
        ("1. Write it:\n   ```python\n   def f(x):\n       return 2 * x\n   ```\n2. Run it.", F),
        ("1. ```python\n   def f(x):\n       return 2 * x\n   ```\n2. Run it.", F),
        ("> ```python\n> def f(x):\n>     return 2 * x\n> ```\n", F),
        ("```python def f(x): return 2 * x```", "def f(x): return 2 * x\n"),
        ("``` def f(x): return 2 * x ```\nThis doubles.\n", "def f(x): return 2 * x\n"),
        ("It is `def f(x): return 2 * x`, of course.", "def f(x): return 2 * x\n"),
        ("It is `f = lambda x: 2 * x`.", "f = lambda x: 2 * x\n"),
        ("```python\nf = lambda x: 2 * x\n```", "f = lambda x: 2 * x\n"),
        (f"```python\n{SOLUTION}```", f"{SOLUTION}\n\nf = Solution().f\n"),
        (f"Here:\n\n{SOLUTION}\nIt doubles.", f"{SOLUTION}\n\nf = Solution().f\n"),
        (f"Some thoughts.</think>```python\n{F}```", F),
        (f"```python\n{F}\n>>> f(1)\n2\n```", F),
        (f"```python\n>>> {F.splitlines()[0]}\n...     return 2 * x\n...\n>>> f(2)\n4\n```", f"{F}\nf(2)\n"),
        (f"```python\n{F}\ndef g(x):\n    return f(x", F),
        (f"```python\n{F.rstrip()}```\nThis doubles.", F),
        (f"```Python 3\n{F}```", F),
        (f"```bash\npip install numpy\n```\n```python\n{F}```\n```text\n4\n```", F),
        (f"<think>\nPerhaps\n```python\ndef f(x): return 0\n```\n</think>\n{F}", F),
        (f"<think>Perhaps\n```python\n{F}```\n", None),
        ("class Other:\n    def f(self, x):\n        return 2 * x\n", None),
        ("Say ``` three times.", None),
    ],
)
def test_a_program_in_any_of_its_wrappings(text: str, code: str | None) -> None:
    assert read_code(CHAT, text) == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\n    return 2 * x\n```", f"{HEAD}    return 2 * x\n"),
        ("```python\nreturn 2 * x\n```\nThis doubles.", f"{HEAD}    return 2 * x\n"),
        ("The body:\n\n```\ny = x\nreturn x + y\n```", f"{HEAD}    y = x\n    return x + y\n"),
        ("    return x\n```\n```python\nother\n```", f"{HEAD}    return x\n"),
    ],
)
def test_a_continuation_in_a_block(text: str, code: str) -> None:
    assert read_code(COMPLETE, text) == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"```python\n{MAIN}```", MAIN),
        (f"Here is the program.\n\n{MAIN}\nIt reads a number with `input()` and prints it.", MAIN),
        (f"```python\n{MAIN}```\nFor the input\n```\n3\n```\nit prints\n```\n6\n```", MAIN),
        (f"```python\nprint(1)\n```\nBetter:\n```python\n{MAIN}```", MAIN),
        ("print(input())", "print(input())\n"),
        ("I cannot do that.", None),
        ("", None),
    ],
)
def test_a_program_that_reads_standard_input(text: str, code: str | None) -> None:
    assert read_code(WHOLE, text) == code


sentences = st.lists(
    st.sampled_from(
        ["This adds the two.", "Done", "Note: it is linear", "We return `f(2)`.", "1. First, read x.", "It's O(n)!", ""]
    ),
    max_size=3,
).map("\n".join)
bodies = st.sampled_from(
    [
        F,
        f"import re\n\n\n{F}",
        f"def g(x):\n    return x\n\n\n{F}",
        f"{F}\n\ndef h(y):\n    return f(y)\n",
        'def f(x):\n    """Say\n\n    so."""\n    return 2 * x\n',
    ]
)


@given(sentences, bodies, sentences, st.sampled_from(["{}", "```python\n{}```", "~~~\n{}~~~", "[PYTHON]\n{}[/PYTHON]"]))
def test_sentences_around_a_program_change_nothing(before: str, body: str, after: str, wrap: str) -> None:
    code = read_code(CHAT, f"{before}\n\n{wrap.format(body)}\n\n{after}")
    assert code is not None
    assert ast.dump(ast.parse(code)) == ast.dump(ast.parse(body))


@pytest.mark.parametrize(
    "text", ["def f(x):\n" * 5_000, "import x\n" * 20_000 + "oops oops\ndef f(x): (", "```\n" * 25_000, "`a" * 50_000]
)
def test_long_texts_take_no_time(text: str) -> None:
    """Against the time that Python's parser takes for as long a text; reading every line anew took nine times that."""

    def parse() -> None:
        ast.parse("import x\n" * 20_000)

    def read() -> None:
        for question in (CHAT, COMPLETE, WHOLE):
            read_code(question, text)

    assert _seconds(read) < 4 * _seconds(parse)


def _seconds(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
