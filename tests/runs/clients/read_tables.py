"""Reads exported tables as their users would, with pandas, polars and DuckDB, and prints the rows of each as JSON.

Run with the Python that has these programs: read_tables.py FOLDER, where the folder holds table.csv, table.jsonl and
table.parquet.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows as JSON has them: what is missing is None."""
    return [
        {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        for row in rows
    ]


def with_duckdb(path: Path) -> list[dict[str, Any]]:
    table = duckdb.sql(f"SELECT * FROM '{path}'")
    return [dict(zip(table.columns, row, strict=True)) for row in table.fetchall()]


folder = Path(sys.argv[1])
rows = {
    "pandas": {
        "csv": pandas.read_csv(folder / "table.csv").to_dict("records"),
        "jsonl": pandas.read_json(folder / "table.jsonl", lines=True).to_dict("records"),
        "parquet": pandas.read_parquet(folder / "table.parquet").to_dict("records"),
    },
    "polars": {
        "csv": polars.read_csv(folder / "table.csv").to_dicts(),
        "jsonl": polars.read_ndjson(folder / "table.jsonl").to_dicts(),
        "parquet": polars.read_parquet(folder / "table.parquet").to_dicts(),
    },
    "duckdb": {form: with_duckdb(folder / f"table.{form}") for form in ("csv", "jsonl", "parquet")},
}
print(json.dumps({name: {form: plain(table) for form, table in forms.items()} for name, forms in rows.items()}))
