"""The page in a real browser, where one is installed: the script runs under its policy and draws what the data says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from samplewise.report.data import Explored
from samplewise.report.html import html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
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
    report = make_report(problems=4, samples=6)
    evil = '<img src=x onerror="document.title=1">'
    view = report.views[2]
    first = view.draws[1].samples[0]._replace(text=evil, logp_sum=-3.5, logq_sum=-2.0)
    draws = (view.draws[0], view.draws[1]._replace(samples=(first, *view.draws[1].samples[1:])))
    views = (*report.views[:2], view._replace(id="a b&c", draws=draws), *report.views[3:])
    path = tmp_path / "report.html"
    explored = Explored("repeat(64, explore=lss)", "lss", 4, 256, guided=0.25, logq=-2.5)
    path.write_text(html(report._replace(views=views, explored=(explored,))), "utf-8")
    address = f"{path.as_uri()}#problem=a%20b%26c&pool=1&sample=2"
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", address]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert len(re.findall('<tr [^>]*class="method', dom)) == 8
    assert "<span>log-prob −3.5</span><span>as drawn −2.0 (gap +1.5)</span>" in dom
    assert dom.count("<span>as drawn") == 1
    assert len(re.findall('<table class="methods explored"', dom)) == 1
    assert len(re.findall('<figure class="panel"', dom)) == 2
    assert len(re.findall('<g class="series', dom)) == 16
    assert len(re.findall('<li><a href="#problem=', dom)) == 4
    assert len(re.findall('<li class="sample', dom)) == 6
    assert re.search('<li class="sample[^"]* target" id="sample-2"', dom)
    assert "&lt;img src=x onerror=" in dom
    assert "<img" not in dom
    assert f"<title>{report.title}</title>" in dom
