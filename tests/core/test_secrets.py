"""No credential of a spec, a URL or a setting is shown; nothing else is hidden."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.errors import BadSpec, SamplewiseError
from samplewise.core.registry import build
from samplewise.core.secrets import KnownSecrets, hide_fields, hide_secrets, mark_hidden, secret_values
from samplewise.core.text import as_one_line, printable

KEY = "zq7Xk-19 vEr/y+secret"
URL = 'base_url="http://127.0.0.1:9/v1"'


@pytest.mark.parametrize(
    "spec",
    [
        f'http("toy", {URL}, api_key="{KEY}", no_such=1)',  # an unknown argument
        f'http("toy", {URL}, api_kye="{KEY}")',  # misspelt
        f'http("toy", {URL}, apikey="{KEY}")',
        f'http("toy", {URL}, API-KEY="{KEY}")',
        f'http("toy", api_key="{KEY}" {URL})',  # syntax
        f"http('toy', api_key='{KEY}, {URL})",  # a string that does not end
        f'http("toy", {URL}, api_key="{KEY}", timeout_s=-1)',  # a bad value
        f'http("toy", {URL}, api_key="{KEY}", n="sometimes")',
        f'htp("toy", {URL}, api_key="{KEY}")',  # another name
        f'http("toy", {URL}, headers={{"Authorization": "{KEY}", "a": [1}})',
        f'http("toy", {URL}, headers={{"x-api-key": "{KEY}"}}, max_n=0)',
        f'http("toy", {URL}, extra={{"provider": {{"access_token": "{KEY}"}}}}, api="chats")',
    ],
)
def test_wrong_words_in_a_spec_never_show_its_key(spec: str) -> None:
    with pytest.raises(SamplewiseError) as caught:
        build("engine", spec)
    for part in (KEY, KEY.split()[0], KEY.split()[1]):
        assert part not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("http(api_key=sk-12345678abc, max_n=3)", "http(api_key=***, max_n=3)"),
        ('ask("Bearer abc.def", 3)', 'ask("Bearer ***", 3)'),
        ("https://me:pass@host/v1?api-version=1&api-key=abc", "https://***@host/v1?api-version=1&api-key=***"),
        ("look: gsk_abcdefgh1234", "look: ***"),
        ('{"password": "x y", "user": "me"}', '{"password": "***", "user": "me"}'),
    ],
)
def test_what_is_hidden(text: str, hidden: str) -> None:
    assert hide_secrets(text) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "repeat(64, max_tokens=64, temperature=0.8) | best(reward)",
        'http("gpt-4o-mini", base_url="https://api.openai.com/v1", price=(0.15, 0.6))',
        'jsonl("keys.jsonl", key=None)',
        'http("x", extra={"eos_token": "</s>", "prompt_cache_key": "a", "user": "me"})',
        "api_key=3",
    ],
)
def test_what_is_not(text: str) -> None:
    assert hide_secrets(text) == text


@given(st.text(max_size=60), st.data())
def test_a_marked_column_stays_within_the_text(text: str, data: st.DataObject) -> None:
    spec = f'http(api_key="{text}", n=2)'
    column = data.draw(st.integers(0, len(spec)))
    shown, moved = mark_hidden(spec, column)
    assert 0 <= moved <= len(shown)


def test_the_column_is_marked_where_it_was() -> None:
    with pytest.raises(BadSpec) as caught:
        build("engine", f'http("toy", api_key="{KEY}", n=[)')
    _, line, mark = str(caught.value).splitlines()
    assert line.strip() == 'http("toy", api_key="***", n=[)'
    assert line[mark.index("^")] in "[)"


def test_settings_without_credentials_are_unchanged() -> None:
    settings = {"reasoning_effort": "low", "stop_token": "x", "chat_template_kwargs": {"enable_thinking": False}}
    assert json.dumps(hide_fields(settings)) == json.dumps(settings)
    secret = {"user": "me", "auth_token": KEY, "deep": [{"secret": "abc"}], "token": ""}
    assert hide_fields(secret) == {"user": "me", "auth_token": "***", "deep": [{"secret": "***"}], "token": ""}
    assert list(secret_values(secret)) == [KEY, "abc"]


def test_what_a_server_repeats_is_hidden_in_every_form() -> None:
    known = KnownSecrets([KEY, "", "abcde"])
    body = {"error": {"message": f"bad {KEY}"}, KEY: [1, KEY, {"a": f"{KEY}{KEY}"}]}
    assert KEY not in json.dumps(known.hide_in(body, is_error=False))
    assert known.hide("?k=zq7Xk-19%20vEr%2Fy%2Bsecret") == "?k=***"
    draw = {"choices": [{"text": "abcde", "token_ids": [1, 2]}]}
    assert known.hide_in(draw, is_error=False) is draw, "a short key may be a word"
    assert known.hide_in(draw, is_error=True)["choices"][0]["text"] == "***"


def test_control_characters_are_shown_and_never_obeyed() -> None:
    assert printable("a\x1b[31m\x00\x9b\u202eb\n\tc\r\nd\re\ud800") == (
        "a\\x1b[31m\\x00\\x9b\\u202eb\n\tc\nd\\re\\ud800"
    )
    assert printable("Zoë 東京 \U0001f600") == "Zoë 東京 \U0001f600"
    assert as_one_line("a\r\n  b\x00\n" * 200, 20) == "a b\\x00 a b\\x00 a..."


@given(st.text())
def test_a_line_can_be_printed(text: str) -> None:
    line = as_one_line(text, 50)
    assert len(line) <= 50
    assert line.isprintable() or all(c.isprintable() or ord(c) > 127 for c in line)
    line.encode()
