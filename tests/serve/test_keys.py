"""Key files, and whose key a request carries."""

from __future__ import annotations

import base64
import re
import secrets
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from samplewise.core.errors import BadInput, UsageError
from samplewise.core.secrets import hide_secrets
from samplewise.serve.keys import KeyRing, Policy, key_digest, new_key, token_of

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256 of "abc", from FIPS 180-4
FILE = f"""
[policy.team]
recipes = "presets"
tokens_per_request = 40_000
tokens_per_day = 2_000_000
concurrency = 4

[key.alice]
sha256 = "{ABC}"
policy = "team"
concurrency = 8
usd_per_request = 0.5
seconds_per_request = 90

[key.bob]
sha256 = "{key_digest("bob's").upper()}"
recipes = "free"
"""


def load(tmp_path: Path, text: str) -> KeyRing:
    path = tmp_path / "keys.toml"
    path.write_text(text, "utf-8")
    return KeyRing.load(path)


def test_a_key_has_its_policy(tmp_path: Path) -> None:
    keys = load(tmp_path, "\ufeff" + FILE)  # as some editors write it
    assert len(keys) == 2
    assert keys.names == ("alice", "bob")
    assert keys.has_daily_limits
    assert not KeyRing({ABC: Policy("a", tokens_per_request=5)}).has_daily_limits
    assert keys.policy_of("abc") == Policy(
        "alice", "presets", 40_000, 0.5, 2_000_000, concurrency=8, seconds_per_request=90
    )
    assert keys.policy_of("bob's") == Policy("bob", "free")


@pytest.mark.parametrize("token", [None, "", "abd", "ABC", " abc", "abc ", ABC, "bob", "\udcff", "abc\0"])
def test_other_tokens_have_none(tmp_path: Path, token: str | None) -> None:
    assert load(tmp_path, FILE).policy_of(token) is None


@given(token=st.text(st.characters(), max_size=80))
def test_no_text_is_an_error(token: str) -> None:
    keys = KeyRing({key_digest("the key"): Policy("k")})
    assert (keys.policy_of(token) is not None) == (token == "the key")


def test_the_empty_key_opens_nothing() -> None:
    """Also where somebody stored the digest of nothing."""
    keys = KeyRing({key_digest(""): Policy("nothing")})
    assert keys.policy_of("") is None
    assert keys.policy_of(None) is None


@pytest.mark.parametrize("token", ["first", "second", "third", "none of them", ""])
def test_every_digest_is_compared_whatever_matches(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    """As many comparisons, each of all 64 digits in constant time, for every key and for none."""
    compared: list[tuple[bytes, bytes]] = []
    compare_digest = secrets.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return compare_digest(a, b)

    monkeypatch.setattr("samplewise.serve.keys.secrets.compare_digest", counting)
    names = ("first", "second", "third")
    keys = KeyRing({key_digest(name): Policy(name) for name in names})
    policy = keys.policy_of(token)
    assert (policy.name if policy else None) == (token if token in names else None)
    assert [a for a, _ in compared] == [key_digest(name).encode() for name in names]
    assert {b for _, b in compared} == {key_digest(token).encode()}


GOOD = f'[key.a]\nsha256 = "{ABC}"\n'
BAD_FILES = [
    ("", "no [key.NAME] in it"),
    ("[policy.team]\n", "no [key.NAME] in it"),
    ("key = 3", "key must be tables"),
    ("[key]\na = 3", "'a' is none"),
    (f"{GOOD}[keys.b]\n", "no section called 'keys'"),
    (f"{GOOD}[key.b]\nrecipes = 'free'", "[key.b]: sha256 must be the 64 hexadecimal digits"),
    (f"{GOOD}[key.b]\nsha256 = 12", "[key.b]: sha256 must be"),
    (f"{GOOD}[key.b]\nsha256 = '{ABC[:-1]}'", "--new-key b"),
    (f"{GOOD}[key.b]\nsha256 = '{ABC}'", "[key.b] has the same digest as [key.a]"),
    (f"{GOOD}[key.b]\nsha256 = '{ABC.upper()}'", "[key.b] has the same digest as [key.a]"),
    (f"{GOOD}policy = 'team'", "there is no policy called 'team'; known: none"),
    (f"{GOOD}policy = ['team']", "there is no policy called"),
    (f"{GOOD}recipes = 'all'", "[key.a]: recipes must be"),
    (f"{GOOD}tokens_per_day = 5", "tokens_per_day needs tokens_per_request"),
    (f"{GOOD}usd_per_day = 5", "usd_per_day needs usd_per_request"),
    (f"{GOOD}tokens_per_day = 5\ntokens_per_request = 6", "is more than tokens_per_day"),
    (f"{GOOD}tokens_per_request = 1.5", "tokens_per_request must be a whole number"),
    (f"{GOOD}tokens_per_request = true", "tokens_per_request must be a whole number"),
    (f"{GOOD}requests_per_minute = 0", "requests_per_minute must be a whole number of at least 1"),
    (f"{GOOD}concurrency = 'many'", "concurrency must be a whole number"),
    (f"{GOOD}usd_per_request = nan", "usd_per_request must be a number"),
    (f"{GOOD}usd_per_request = -1", "usd_per_request must be above 0"),
    (f"{GOOD}tokens = 9", "no field called 'tokens'"),
    (f"[policy.p]\nlimit = 9\n{GOOD}", "[policy.p]: no field called 'limit'"),
    (f"[key.'a b']\nsha256 = '{ABC}'", "the name of a key has"),
    (f"{GOOD}oops", "Expected"),
    (f"{GOOD}{GOOD}", "line 3"),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInput) as raised:
        load(tmp_path, text)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "keys.toml" in str(raised.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read the key file .*: No such file"):
        KeyRing.load(tmp_path / "nothing")
    with pytest.raises(BadInput, match=r"cannot read the key file .*: Is a directory"):
        KeyRing.load(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="not UTF-8"):
        KeyRing.load(tmp_path / "bytes")


@pytest.mark.parametrize(
    "text",
    [
        "[key.a]\nsha256 = 'SECRET'",
        "[key.a]\ntoken = 'SECRET'",
        f"{GOOD}policy = 'SECRET'",
        f"{GOOD}SECRET = 1",
        "[key.SECRET]\nx = 1",
        "SECRET = 1",
    ],
)
def test_a_key_in_the_wrong_column_is_not_shown(tmp_path: Path, text: str) -> None:
    token = "sk-sw-0123456789abcdefghijklmnopqrstuvwxyz-_ABCDEF"
    with pytest.raises(BadInput) as raised:
        load(tmp_path, text.replace("SECRET", token))
    assert token not in str(raised.value)


def test_a_new_key_fits_its_entry(tmp_path: Path) -> None:
    token, entry = new_key("carol")
    other, _ = new_key("carol")
    assert token != other
    assert len(token) >= 43  # 256 bits
    assert token not in entry
    assert re.fullmatch(r"sk-sw-[\w-]+", token)
    assert token not in hide_secrets(f"a message with {token} in it")
    assert tomllib.loads(entry)["key"]["carol"]["sha256"] == key_digest(token)
    keys = load(tmp_path, FILE + entry)
    policy = keys.policy_of(token)
    assert policy == Policy("carol", "presets")
    for name in ("", "a b", "a.b", "a\n[key.b]", "x" * 65, "ü"):
        with pytest.raises(UsageError, match="the name of a key"):
            new_key(name)


def basic(text: bytes) -> str:
    return "Basic " + base64.b64encode(text).decode()


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"Authorization": "Bearer abc"}, "abc"),
        ({"authorization": "bearer  abc "}, "abc"),
        ({"Authorization": "Bearer"}, None),
        ({"Authorization": "Bearer "}, None),
        ({"Authorization": "Token abc"}, None),
        ({"Authorization": basic(b"anybody:ab:c")}, "ab:c"),
        ({"Authorization": basic(b"anybody:")}, None),
        ({"Authorization": basic(b"anybody")}, None),
        ({"Authorization": basic(b"\xff:abc")}, None),
        ({"Authorization": "Basic !!!"}, None),
        ({"Authorization": "Basic é"}, None),
        ({"X-Api-Key": "abc"}, "abc"),
        ({"Api-Key": "abc"}, "abc"),
        ({"Authorization": "Bearer abc", "api-key": "def"}, "abc"),
        ({}, None),
    ],
)
def test_where_a_request_carries_its_key(headers: dict[str, str], token: str | None) -> None:
    assert token_of(CIMultiDict(headers)) == token


@given(value=st.text(max_size=60))
def test_no_header_is_an_error(value: str) -> None:
    for scheme in ("", "Basic ", "Bearer "):
        token_of({"Authorization": scheme + value})
