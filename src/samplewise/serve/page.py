"""The page on `/`: what is served, what runs, what was saved, and the last answers with their votes.

One static page: no script, no external asset, no request but for itself. All texts come from clients and models; they
are escaped, and the page's policy admits nothing but its own style, by digest. Each key sees its own requests alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from importlib.resources import files
from string import Template
from typing import NamedTuple

from samplewise.core.text import as_one_line, printable

MAX_ANSWERS = 20  # kept for each key
MAX_KEYS = 1000  # of which answers are kept
MAX_VOTES = 4  # answers shown with their votes
MAX_LIVE = 50  # requests shown
SHOWN = 160  # characters of a text
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


class ServedName(NamedTuple):
    """A model as clients name it, and the recipe behind it, "" where it goes straight through."""

    name: str
    recipe: str


class LiveRequest(NamedTuple):
    """A request that runs."""

    model: str
    started: datetime
    num_draws: int


class ShownAnswer(NamedTuple):
    """An answer that was given. `votes` has how many draws gave each answer; `saved` is in tokens."""

    when: datetime
    model: str
    answer: str
    votes: dict[str, int]
    num_draws: int
    tokens: int
    saved: int
    stop: str


@dataclass(slots=True)
class KeyActivity:
    """What the requests of one key did since the server started: those that were answered, with the tokens that they
    spent and saved, and the others, which failed or whose clients left, with theirs."""

    num_requests: int = 0
    spent: int = 0
    saved: int = 0
    num_unanswered: int = 0
    lost: int = 0
    answers: deque[ShownAnswer] = field(default_factory=lambda: deque(maxlen=MAX_ANSWERS))
    live: dict[str, LiveRequest] = field(default_factory=dict)


class Board:
    """What the page shows, by key."""

    def __init__(self) -> None:
        self._keys: dict[str, KeyActivity] = {}

    def activity(self, key: str) -> KeyActivity:
        """Return what one key's requests did; of names beyond `MAX_KEYS` nothing is kept."""
        if (activity := self._keys.get(key)) is None:
            activity = KeyActivity()
            if len(self._keys) < MAX_KEYS:
                self._keys[key] = activity
        return activity

    def begin(self, key: str, request: str, model: str, started: datetime) -> None:
        """Note that a request runs."""
        self.activity(key).live[request] = LiveRequest(model, started, 0)

    def progress(self, key: str, request: str, num_draws: int) -> None:
        """Note how many draws a running request has."""
        live = self.activity(key).live
        if request in live:
            live[request] = live[request]._replace(num_draws=num_draws)

    def end(self, key: str, request: str, answer: ShownAnswer | None = None, tokens: int = 0) -> None:
        """Note that a request is done, and its answer, or what it cost without one."""
        activity = self.activity(key)
        activity.live.pop(request, None)
        if answer is None:
            activity.num_unanswered += 1
            activity.lost += tokens
            return
        activity.num_requests += 1
        activity.spent += answer.tokens
        activity.saved += answer.saved
        if len(answer.votes) > 1:
            answer = answer._replace(votes=dict(Counter(answer.votes).most_common(MAX_VOTES + 1)))
        activity.answers.appendleft(answer)


def render_page(
    names: Sequence[ServedName], activity: KeyActivity, now: datetime, *, engine: str, version: str, queued: int = 0
) -> str:
    """Return the page for one key. Write it as UTF-8, with `HEADERS` and `content_policy`."""
    style = _style()
    page = Template(files("samplewise.serve").joinpath("page.html").read_text("utf-8")).substitute(
        policy=content_policy(),
        style=style,
        reading=escape(_reading(activity)),
        state=escape(f"{now:%Y-%m-%d %H:%M:%S} UTC, {queued:,} requests wait. Load the page again to renew it."),
        models=_models(names),
        live=_live(activity, now),
        answers=_answers(activity),
        footer=escape(f"samplewise {version} in front of {printable(engine)}"),
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate could not be written


def content_policy() -> str:
    """Return the page's Content-Security-Policy: its own style by digest, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _style() -> str:
    return files("samplewise.serve").joinpath("page.css").read_text("utf-8")


def _reading(activity: KeyActivity) -> str:
    num = activity.num_unanswered
    others = f" {num:,} got no answer, for {activity.lost:,} tokens." if num else ""
    if not activity.num_requests:
        return f"No request was answered yet.{others}"
    fixed = activity.spent + activity.saved
    share = f" ({activity.saved / fixed:.0%} of it)" if fixed else ""
    requests = "1 request was" if activity.num_requests == 1 else f"{activity.num_requests:,} requests were"
    return (
        f"{requests} answered with {activity.spent:,} tokens. The fixed number of draws "
        f"of each recipe would have taken about {fixed:,}: {activity.saved:,}{share} were saved.{others}"
    )


def _models(names: Sequence[ServedName]) -> str:
    rows = [
        f'<tr><th scope="row"><code>{_text(name)}</code></th>'
        f"<td>{f'<code>{_text(recipe)}</code>' if recipe else 'straight through, one draw'}</td></tr>"
        for name, recipe in names
    ]
    return _table(("model", "recipe"), rows) if rows else '<p class="soft">None.</p>'


def _live(activity: KeyActivity, now: datetime) -> str:
    requests = list(activity.live.values())
    rows = [
        f'<tr><th scope="row"><code>{_text(live.model)}</code></th><td class="number">{live.num_draws:,}</td>'
        f'<td class="number">{max(0.0, (now - live.started).total_seconds()):,.1f} s</td></tr>'
        for live in requests[:MAX_LIVE]
    ]
    if not rows:
        return '<p class="soft">None at this moment.</p>'
    more = len(requests) - len(rows)
    return _table(("model", "draws", "running for"), rows) + (f'<p class="soft">and {more:,} more</p>' if more else "")


def _answers(activity: KeyActivity) -> str:
    rows = [
        f'<tr><th scope="row"><time datetime="{shown.when.isoformat()}">{shown.when:%H:%M:%S}</time></th>'
        f'<td><code>{_text(shown.model)}</code></td><td class="answer">{_text(shown.answer)}</td>'
        f'<td class="votes">{_votes(shown)}</td><td class="number">{shown.num_draws:,}</td>'
        f'<td class="number">{shown.tokens:,}</td><td class="number">{shown.saved:,}</td>'
        f"<td>{_text(shown.stop)}</td></tr>"
        for shown in activity.answers
    ]
    heads = ("time", "model", "answer", "votes", "draws", "tokens", "saved", "stopped")
    return _table(heads, rows) if rows else '<p class="soft">None yet.</p>'


def _votes(shown: ShownAnswer) -> str:
    total = max(shown.num_draws, sum(shown.votes.values()), 1)
    rows = [
        f"<div{' class=chosen' if answer == shown.answer else ''}>"
        f'<meter min="0" max="{total}" value="{num}">{num}</meter>{num:,} <span>{_text(answer, 40)}</span></div>'
        for answer, num in list(shown.votes.items())[:MAX_VOTES]
    ]
    return "".join(rows) + ("<div>…</div>" if len(shown.votes) > MAX_VOTES else "")


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    numbers = {"draws", "tokens", "saved", "running for"}
    head = "".join(f'<th scope="col"{" class=number" if name in numbers else ""}>{name}</th>' for name in heads)
    body = "\n".join(rows)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
    )


def _text(text: str, most: int = SHOWN) -> str:
    """Return a text of a client or a model in one line, cut and escaped."""
    return escape(as_one_line(text, most))
