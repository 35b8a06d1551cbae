"""The trackers: Weights & Biases, MLflow, OpenTelemetry. Each is imported when it is opened, and is an extra.

Where they send to is theirs to say, by their own variables: WANDB_PROJECT, WANDB_MODE, WANDB_DIR and a key;
MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME; OTEL_EXPORTER_OTLP_ENDPOINT. A run that is started again goes on in the
same run of the tracker, which bears the run's id. No prompt and no response is sent, but for answers and references.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from samplewise.core.errors import MissingExtra, UsageError
from samplewise.core.types import Json
from samplewise.runs.tracking.follow import Figures, Row, Tracker
from samplewise.store.records import Run

PROJECT = "samplewise"  # where the user names none
OURS = "samplewise."  # before names of attributes and tags
MAX_PARAMETER = 500  # characters of a setting, for MLflow


class WandbTracker:
    """Logs to Weights & Biases."""

    def __init__(self, wandb: ModuleType) -> None:
        self._wandb = wandb
        self._run: Any = None

    def begin(self, run: Run, settings: Mapping[str, Json]) -> None:
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=run.id,
            name=os.environ.get("WANDB_NAME") or f"{run.task}: {run.recipe}",
            resume="allow",
            config=dict(settings),
            settings=self._wandb.Settings(silent=True, console="off"),
        )

    def log(self, num_done: int, figures: Figures) -> None:
        self._run.log(dict(figures), step=num_done)

    def end(self, figures: Figures, rows: Sequence[Row], is_complete: bool) -> None:
        if rows:
            table = self._wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
            self._run.log({"questions_table": table})
        self._run.summary.update(dict(figures))
        self._run.finish(exit_code=0 if is_complete else 1)


class MlflowTracker:
    """Logs to MLflow, by its client: nothing of the process's own active run is touched."""

    def __init__(self, mlflow: ModuleType) -> None:
        self._client: Any = None
        self._mlflow, self._id = mlflow, ""

    def begin(self, run: Run, settings: Mapping[str, Json]) -> None:
        client = self._client = self._mlflow.MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        experiment = client.get_experiment_by_name(name)
        number = client.create_experiment(name) if experiment is None else experiment.experiment_id
        tag = f"{OURS}run"
        earlier = client.search_runs([number], filter_string=f"tags.`{tag}` = '{run.id}'", max_results=1)
        if earlier:
            self._id = earlier[0].info.run_id
            client.update_run(self._id, status="RUNNING")
            return
        title = f"{run.task}: {run.recipe}"[:MAX_PARAMETER]
        self._id = client.create_run(number, run_name=title, tags={tag: run.id}).info.run_id
        for key, value in _flat(settings):
            client.log_param(self._id, key, value[:MAX_PARAMETER])

    def log(self, num_done: int, figures: Figures) -> None:
        for name, value in figures.items():
            self._client.log_metric(self._id, name, value, step=num_done)

    def end(self, figures: Figures, rows: Sequence[Row], is_complete: bool) -> None:
        for name in sorted(figures.keys() & {"accuracy_low", "accuracy_high"}):
            self._client.log_metric(self._id, name, figures[name])
        if rows:  # as its own `log_table` writes it, which would need pandas
            table = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
            self._client.log_text(self._id, json.dumps(table, ensure_ascii=False), "questions.json")
        self._client.set_terminated(self._id, "FINISHED" if is_complete else "KILLED")


class OtelTracker:
    """A span for the run, with an event for each question, by the tracer that the process has."""

    def __init__(self, trace: ModuleType) -> None:
        self._tracer: Any = trace.get_tracer("samplewise")
        self._span: Any = None

    def begin(self, run: Run, settings: Mapping[str, Json]) -> None:
        attributes = {f"{OURS}{name}": value for name, value in _flat(settings)}
        self._span = self._tracer.start_span("run samplewise", attributes=attributes)

    def log(self, num_done: int, figures: Figures) -> None:
        self._span.add_event("question", {f"{OURS}{name}": value for name, value in figures.items()})

    def end(self, figures: Figures, rows: Sequence[Row], is_complete: bool) -> None:
        for name, value in figures.items():
            self._span.set_attribute(f"{OURS}{name}", value)
        self._span.set_attribute(f"{OURS}complete", is_complete)
        self._span.end()


MODULES = {"wandb": "wandb", "mlflow": "mlflow", "otel": "opentelemetry.trace"}


def open_tracker(name: str) -> Tracker:
    """Return the tracker of a name. Raises UsageError for another name, MissingExtra."""
    if name not in MODULES:
        raise UsageError(f"a run is followed by {', '.join(MODULES)}, not by {name!r}")
    try:
        module = importlib.import_module(MODULES[name])
    except ImportError:
        raise MissingExtra(f"--log {name}", name) from None
    if name == "wandb":
        return WandbTracker(module)
    return MlflowTracker(module) if name == "mlflow" else OtelTracker(module)


def _flat(settings: Mapping[str, Json], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield settings as texts, those within others as `engine.name`. What is not set is left out."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name or 'solver'}.")
        elif value is not None:
            yield f"{before}{name or 'solver'}", value if isinstance(value, str) else json.dumps(value)
