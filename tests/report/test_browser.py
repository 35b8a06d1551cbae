"""The page in a real browser, where one is installed: the script runs under its policy and draws what the data says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from samplewise.measure import Estimate
from samplewise.report.data import ExplorationSummary, RunPasses
from samplewise.report.html import render_html
from samplewise.runs.passk import PassRow, PassTable

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ESTIMATE = Estimate(0.5, 0.4, 0.6, 0.05, 4, 0)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=4000",
    "--dump-dom",
)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium to render the page")
def test_page_in_a_browser(make_report: Any, tmp_path: Path) -> None:
    report = make_report(problems=4, draws=6)
    evil = '<img src=x onerror="document.title=1">'
    view = report.views[2]
    first = view.pools[1].draws[0]._replace(text=evil, logp=-3.5, logq=-2.0)
    pools = (view.pools[0], view.pools[1]._replace(draws=(first, *view.pools[1].draws[1:])))
    views = (*report.views[:2], view._replace(id="a b&c", pools=pools), *report.views[3:])
    path = tmp_path / "report.html"
    rows = (PassRow(1, ESTIMATE, ESTIMATE, 4), PassRow(6, ESTIMATE, ESTIMATE, 3))
    passes = RunPasses("repeat(6)", PassTable("r", rows, ("1 question has fewer than 6 graded draws",)))
    explored = ExplorationSummary("repeat(64, explore=lss)", "lss", 4, 256, guided=0.25, logq=-2.5)
    path.write_text(render_html(report._replace(views=views, explored=(explored,), passes=(passes,))), "utf-8")
    address = f"{path.as_uri()}#problem=a%20b%26c&pool=1&draw=2"
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", address]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert len(re.findall('<tr [^>]*class="method', dom)) == 8
    assert "<span>log-prob −3.5</span><span>as drawn −2.0 (gap +1.5)</span>" in dom
    assert dom.count("<span>as drawn") == 1
    assert len(re.findall('<table class="methods explored"', dom)) == 1
    assert len(re.findall('<table class="methods explored passes"', dom)) == 1
    assert dom.count('data-label="pass@k">0.500 [0.40, 0.60]') == 2
    assert "repeat(6): 1 question has fewer than 6 graded draws." in dom
    assert len(re.findall('<figure class="panel"', dom)) == 2
    assert len(re.findall('<g class="series', dom)) == 16
    assert len(re.findall('<li><a href="#problem=', dom)) == 4
    assert len(re.findall('<li class="draw', dom)) == 6
    assert re.search('<li class="draw[^"]* target" id="draw-2"', dom)
    assert "&lt;img src=x onerror=" in dom
    assert "<img" not in dom
    assert f"<title>{report.title}</title>" in dom
