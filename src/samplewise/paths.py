"""Where files lie that are not part of the package."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder() -> Path | None:
    """Where benchmark files and recorded draws lie: `SAMPLEWISE_DATA`, else `../shared/data` beside a source checkout;
    None if nowhere."""
    named = os.environ.get("SAMPLEWISE_DATA")
    folder = Path(named) if named else Path(__file__).parents[3] / "shared" / "data"
    return folder if folder.is_dir() else None
