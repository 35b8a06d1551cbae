"""Read what wandb (offline) and MLflow (a database) keep of runs in a folder; print it as one JSON object."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, WHOLE, LAST = 32768, 1, 4


def read_mlflow(folder: Path) -> list[dict[str, Any]]:
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("samplewise")
    runs = []
    for run in client.search_runs([experiment.experiment_id]):
        table = Path(run.info.artifact_uri.removeprefix("file://")) / "questions.json"
        history = client.get_metric_history(run.info.run_id, "tokens")
        runs.append(
            {
                "params": run.data.params,
                "metrics": run.data.metrics,
                "status": run.info.status,
                "tokens": [(metric.step, metric.value) for metric in history],
                "table": json.loads(table.read_text()),
            }
        )
    return runs


def records_of(data: bytes) -> Iterator[bytes]:
    """Yield the records of a file of wandb: a log as LevelDB has it, in blocks, behind a header of 7 bytes."""
    position, record = 7, b""
    while position + 7 <= len(data):
        if BLOCK - position % BLOCK < 7:  # no room for the head of a part
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (WHOLE, LAST):
            yield record
            record = b""


def read_wandb(folder: Path) -> list[dict[str, Any]]:
    from wandb.proto import wandb_internal_pb2

    runs = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        run: dict[str, Any] = {"history": [], "summary": {}, "config": {}}
        for data in records_of(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run["id"] = record.run.run_id
                run["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif kind == "history":
                row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                run["history"].append(row)
            elif kind == "summary":
                for item in record.summary.update:
                    run["summary"][item.key or item.nested_key[0]] = json.loads(item.value_json)
            elif kind == "exit":
                run["exit_code"] = record.exit.exit_code
        (table,) = path.parent.glob("files/media/table/*.json")
        run["num_rows"] = len(json.loads(table.read_text())["data"])
        runs.append(run)
    return runs


if __name__ == "__main__":
    place = Path(sys.argv[1])
    print(json.dumps({"mlflow": read_mlflow(place), "wandb": read_wandb(place)}))
