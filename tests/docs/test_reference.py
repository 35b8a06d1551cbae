"""The reference page is what the registry says today."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_reference_is_made_from_the_registry() -> None:
    """Tables of signatures that were written by hand went stale."""
    spec = importlib.util.spec_from_file_location("docs_reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.PAGE.read_text(encoding="utf-8")
    assert page == module.reference(), "docs/reference.md is out of date: make docs"
    assert "| `repeat(num_samples" in page or "| `repeat(num_draws" in page
