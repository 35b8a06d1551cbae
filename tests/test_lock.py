"""constraints.txt, the lock that the Makefile installs from: all of it, and nothing of the machine that made it."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path

import pytest

packaging = pytest.importorskip("packaging")

from packaging.requirements import Requirement  # noqa: E402
from packaging.utils import canonicalize_name  # noqa: E402

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ADDED = [line for line in (ROOT / "constraints.in").read_text().splitlines() if line and not line.startswith("#")]
LOCK = (ROOT / "constraints.txt").read_text()
LINES = [Requirement(line) for line in LOCK.splitlines() if not line.startswith("#")]


def test_every_line_is_one_version() -> None:
    for line in LINES:
        (version,) = line.specifier
        assert version.operator == "==", line
        assert "*" not in version.version, line


def test_it_says_nothing_of_a_machine() -> None:
    assert not re.search(r"://|/(tmp|home|root|work|opt)/|--(extra-)?index|--find-links", LOCK)


def test_every_package_of_the_project_is_in_it_within_its_range() -> None:
    extras = itertools.chain.from_iterable(PROJECT["optional-dependencies"].values())
    for wanted in map(Requirement, [*PROJECT["dependencies"], *extras, *ADDED]):
        name = canonicalize_name(wanted.name)
        versions = [next(iter(line.specifier)).version for line in LINES if canonicalize_name(line.name) == name]
        assert versions or name == PROJECT["name"], f"{wanted} is not in the lock: make lock"
        assert all(wanted.specifier.contains(version) for version in versions), f"{wanted}: make lock"
