"""Every hostile program is held, the host is unharmed, and an honest program beside it is still right."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.hostile import HONEST, LIMITS, TESTS, Hostile, Site, contained, hostile

from samplewise.verify.sandbox import Level, Program, Sandbox

ALL = [(case, level) for case in hostile() for level in case.levels]
QUICK = [
    (case, level)
    for case, level in ALL
    if case.group == "claims to have passed" or (level == "apart" and case.group != "takes more than its share")
]
REST = [pair for pair in ALL if pair not in QUICK]
SAMPLE = ("fork bomb", "memory bomb over many processes", "endless output", "fills the disk", "stops itself")


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as made:
        yield made


def hold(sandbox: Sandbox, site: Site, case: Hostile, level: Level) -> None:
    verdict = sandbox.run(case.program(level, site), LIMITS)
    wrong = contained(verdict, site)
    assert wrong is None, f"{case.name}: {wrong} ({verdict})"
    assert verdict.seconds != verdict.seconds or verdict.seconds < LIMITS.wall_s + 20
    honest = sandbox.run(Program(HONEST, TESTS, level=level, entry_point="add"))
    assert honest.passed, f"after {case.name}: {honest}"


@pytest.mark.parametrize(("case", "level"), QUICK, ids=[f"{case.name}, {level}" for case, level in QUICK])
def test_held(sandbox: Sandbox, site: Site, case: Hostile, level: Level) -> None:
    hold(sandbox, site, case, level)


@pytest.mark.parametrize("name", SAMPLE)
def test_greedy_ones_are_held(sandbox: Sandbox, site: Site, name: str) -> None:
    (case,) = [case for case in hostile() if case.name == name]
    hold(sandbox, site, case, "apart")


@pytest.mark.slow
@pytest.mark.parametrize(("case", "level"), REST, ids=[f"{case.name}, {level}" for case, level in REST])
def test_the_rest_are_held(sandbox: Sandbox, site: Site, case: Hostile, level: Level) -> None:
    hold(sandbox, site, case, level)


def test_the_table_is_what_it_says() -> None:
    table = hostile()
    assert len(table) == len({case.name for case in table}) >= 120
    assert {case.group for case in table} == {
        "claims to have passed",
        "takes more than its share",
        "reaches out",
        "stays behind",
    }
    for case in table:
        assert "def add(" in case.source or case.name.startswith("replaces"), case.name
        assert "===" not in case.source.replace("====", "")


def test_an_attack_that_works_would_be_seen(site: Site) -> None:
    """The same programs without isolation get through, so the table can fail. Only harmless ones are run this way."""
    harmless = (
        "reads a file of the host",
        "tcp to the host",
        "unix socket of the host",
        "reads users",
        "starts a shell",
    )
    with Sandbox(1, "none") as open_door:
        for case in hostile():
            if case.name in harmless:
                verdict = open_door.run(case.program("apart", site))
                assert verdict.passed, f"{case.name}: {verdict}"
                assert contained(verdict, site) == "it passed"
    assert site.harm() == ["a socket was reached", "a socket was reached"]
    assert site.harm() == []


def test_the_weaker_level_is_weaker(sandbox: Sandbox, site: Site) -> None:
    """What the reason of such a verdict warns of: within one process, a search through the frames finds the secret."""
    for name in ("frames", "equal to everything"):
        (case,) = [case for case in hostile() if case.name == name]
        verdict = sandbox.run(case.program("together", site), LIMITS)
        assert verdict.passed
        assert "weaker" in verdict.reason
