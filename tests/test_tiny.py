"""The tiny test: from a line to an answer in well under a second. If this fails, nothing else matters."""

from __future__ import annotations

from samplewise import solve


def test_from_a_line_to_an_answer() -> None:
    result = solve("spell a word", engine="toy", recipe="repeat(8, max_tokens=6) | vote")
    assert result.stop.reason == "finished"
    assert len(result.pool.candidates) == 8
    assert result.answer in result.answers
    assert result.spent == result.paid
    assert result.spent.requests == 8
