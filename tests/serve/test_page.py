"""The page: what it says, that no text of a client becomes markup, and that no key sees another's requests."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve.running import running

from samplewise.serve.page import Board, KeyActivity, ServedName, ShownAnswer, content_policy, render_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
NAMES = (ServedName("qwen", ""), ServedName("fast@qwen", "repeat(8) | vote"))
ANSWER = ShownAnswer(NOW, "fast@qwen", "42", {"42": 5, "41": 1}, 6, 600, 200, "settled")


class Reader(HTMLParser):
    """Collect the elements with their attributes, and the texts."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page(activity: KeyActivity, names: tuple[ServedName, ...] = NAMES, **options: int) -> str:
    return render_page(names, activity, NOW, engine="http:qwen", version="0.1.0", **options)


def words(html: str) -> str:
    reader = Reader()
    reader.feed(html.partition("</style>")[2])
    return " ".join(" ".join(reader.texts).split())


def test_an_empty_page() -> None:
    text = words(page(KeyActivity()))
    assert "No request was answered yet." in text
    assert "qwen straight through, one draw fast@qwen repeat(8) | vote" in text
    assert "None at this moment." in text
    assert "samplewise 0.1.0 in front of http:qwen" in text


def test_what_was_answered_runs_and_was_saved() -> None:
    board = Board()
    board.begin("alice", "r1", "fast@qwen", NOW - timedelta(seconds=3))
    board.begin("alice", "r2", "qwen", NOW - timedelta(seconds=9))
    board.progress("alice", "r2", 4)
    board.progress("alice", "gone", 4)
    board.end("alice", "r1", ANSWER)
    text = words(page(board.activity("alice"), queued=7))
    assert (
        "1 request was answered with 600 tokens. The fixed number of draws of each recipe would have taken about "
        "800: 200 (25% of it) were saved."
    ) in text
    assert "7 requests wait." in text
    assert "qwen 4 9.0 s" in text
    assert "12:00:00 fast@qwen 42 5 5 42 1 1 41 6 600 200 settled" in text
    board.end("alice", "r2", tokens=70)
    assert "200 (25% of it) were saved. 1 got no answer, for 70 tokens." in words(page(board.activity("alice")))
    board.end("bob", "r3", tokens=5)
    assert "No request was answered yet. 1 got no answer, for 5 tokens." in words(page(board.activity("bob")))
    assert "None at this moment." in words(page(board.activity("alice")))


def test_a_key_sees_nothing_of_another() -> None:
    board = Board()
    board.begin("alice", "r1", "alice-model", NOW)
    board.begin("alice", "r2", "alice-live", NOW)
    board.end("alice", "r1", ANSWER._replace(answer="alice-answer"))
    assert "alice-answer" in page(board.activity("alice"))
    assert page(board.activity("bob")) == page(KeyActivity())


def test_memory_is_bounded() -> None:
    board = Board()
    for index in range(100):
        board.end("alice", "r", ANSWER._replace(answer=f"answer {index}.", votes={str(i): i for i in range(1000)}))
    activity = board.activity("alice")
    assert (activity.num_requests, activity.spent, len(activity.answers)) == (100, 60_000, 20)
    assert all(len(answer.votes) == 5 for answer in activity.answers)
    assert list(activity.answers[0].votes) == ["999", "998", "997", "996", "995"]
    assert "answer 99." in page(activity)
    assert "answer 79." not in page(activity)
    for index in range(3000):
        board.begin(f"key {index}", "r", "m", NOW)
    assert board.activity("key 2999").live == {}
    for index in range(70):
        board.begin("alice", f"r{index}", "m", NOW)
    assert "and 20 more" in page(board.activity("alice"))


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</table></main><script>",
    "' onmouseover='x",
    "<!-- ",
    "&lt;b&gt;",
    "$policy ${style}",
    "a\u202eb\x1b[31m\x00",
    "\ud800",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_markup(text: str) -> None:
    check_same_elements(text)


@given(text=st.text(max_size=60))
def test_no_drawn_text_becomes_markup(text: str) -> None:
    check_same_elements(text)


def check_same_elements(text: str) -> None:
    """The page has the same elements and attributes as with a harmless text in every place."""

    def elements(word: str) -> list[tuple[str, list[str]]]:
        activity = KeyActivity(1, 1, 1)
        activity.answers.append(ANSWER._replace(model=word, answer=word, votes={word: 3, f"{word}.": 1}, stop=word))
        board = Board()
        board.begin("k", "r", word, NOW)
        activity.live = board.activity("k").live
        html = render_page((ServedName(word, word or "x"),), activity, NOW, engine=word, version="1")
        html.encode("utf-8")
        reader = Reader()
        reader.feed(html)
        assert not re.search(r"[\x00-\x08\x1b\u202e]", html)
        return [(tag, sorted(attributes)) for tag, attributes in reader.elements]

    assert elements(text) == elements("word")


def test_nothing_comes_from_elsewhere() -> None:
    """No script, no link, no image, no address; the policy admits the page's own style alone."""
    board = Board()
    board.end("a", "r", ANSWER)
    html = page(board.activity("a"))
    reader = Reader()
    reader.feed(html)
    assert not {tag for tag, _ in reader.elements} & {"script", "link", "img", "iframe", "object", "form", "svg", "a"}
    assert not {name for _, attributes in reader.elements for name in attributes} & {"src", "href", "style", "action"}
    assert "url(" not in html
    assert "http-equiv" in html
    metas = [attributes for tag, attributes in reader.elements if tag == "meta" and "http-equiv" in attributes]
    assert [meta["content"] for meta in metas] == [content_policy()]
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[\w+/=]+'; base-uri 'none'; form-action 'none'", content_policy()
    )


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_page_of_an_allowed_origin_may_ask_as_clients_in_a_browser_do(tmp_path: Path) -> None:
    """With headers of the client's own; and it sees all of the reply's."""
    assert CHROMIUM is not None
    script = """
    fetch("URL/chat/completions", {
        method: "POST",
        headers: {"Authorization": "Bearer x", "Content-Type": "application/json", "X-Stainless-Lang": "js"},
        body: JSON.stringify({model: "toy", max_tokens: 4, messages: [{role: "user", content: "hi"}]}),
    }).then(reply => { document.title = reply.status + " " + reply.headers.get("X-Samplewise-Draws") + " draws"; });
    """
    with running(tmp_path / "log", "--engine", "toy", "--cors", "null") as url:
        html = tmp_path / "page.html"
        html.write_text(f"<!doctype html><title>waiting</title><script>{script.replace('URL', url)}</script>")
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
        done = subprocess.run([*command, html.as_uri()], capture_output=True, text=True, timeout=60, check=False)
    assert "<title>200 1 draws</title>" in done.stdout, done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium to render the page")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """Under its own policy the style holds, and a script in an answer is a text."""
    board = Board()
    board.end("a", "r", ANSWER._replace(answer="<script>document.title='x'</script>"))
    path = tmp_path / "page.html"
    path.write_text(page(board.activity("a")), "utf-8")
    flags = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--virtual-time-budget=1000",
        "--dump-dom",
    )
    command = [str(CHROMIUM), *flags, f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "<title>samplewise serve</title>" in done.stdout
    assert "&lt;script&gt;" in done.stdout
    assert "Content Security Policy" not in done.stderr
    assert done.stdout.count("<meter ") == 2
