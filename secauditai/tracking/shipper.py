"""Ships `metrics.jsonl` to MLflow from a background thread, so that tracking down is not training down.

The file is the truth and MLflow a copy of it. A record is sent only when MLflow has no step of its kind as new, so that
sending again, after a restart or by another process, changes nothing.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secauditai.tracking.connection import connect, failures, first_line, logger, probe
from secauditai.tracking.numbers import finite_numbers, newest_steps
from secauditai.tracking.store import tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

Record = dict[str, Any]

KINDS = ("train", "val")
NOT_METRICS = ("step", "time")
METRICS_PER_BATCH = 1000
LONGEST_PAUSE = 30.0
"""Seconds between two attempts while MLflow stays down."""
CLOSING_PAUSE = 0.5


class MetricShipper:
    """Follows one run's metrics file and sends what MLflow does not have yet."""

    def __init__(
        self, uri: str, mlflow_run_id: str | Callable[[], str | None], metrics_file: Path, *, interval: float = 2.0
    ) -> None:
        """Prepare; nothing happens before `start`.

        Args:
            uri: the tracking URI.
            mlflow_run_id: the run to log to, or what tells it; None as long as it is not open yet.
            metrics_file: `metrics.jsonl`; need not exist yet.
            interval: seconds between two looks at it.
        """
        self._uri, self._path, self._interval = uri, metrics_file, interval
        self._run_id = mlflow_run_id if isinstance(mlflow_run_id, str) else ""
        self._find_run_id = (lambda: self._run_id) if isinstance(mlflow_run_id, str) else mlflow_run_id
        self._tail = RecordTail(metrics_file)
        self._client: MlflowClient | None = None
        self._newest: dict[str, int] = {}
        """The highest step of each kind that is known to have arrived."""
        self._asked = False
        self._closing, self._deadline = threading.Event(), float("inf")
        self._thread = threading.Thread(target=self._run, name="metric-shipper", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, timeout: float) -> int:
        """Send what is left and stop, within `timeout` seconds; return how many records MLflow still misses."""
        self._deadline = time.monotonic() + timeout
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        missing = sum(1 for _ in fresh_records(RecordTail(self._path).read(), self._newest))
        if missing and self._run_id:  # else nobody has opened the run yet, and who does ships the rest
            logger.warning("MLflow misses %d metric records so far; they stay in %s", missing, self._path)
        return missing

    def _run(self) -> None:
        pause = self._interval
        while True:
            last = self._closing.is_set()  # asked before reading, so that the last look sees everything
            try:
                if not self._has_run():
                    if last:
                        return
                    self._closing.wait(self._interval)
                    continue
                self._ship()
                pause = self._interval
                if last:
                    return
            except failures() as error:
                level = logging.WARNING if pause == self._interval else logging.INFO  # one warning per outage
                logger.log(level, "MLflow takes no metrics, trying again: %s", first_line(error))
                self._asked = False  # whether the last batch arrived is not known
                pause = min(2 * pause, LONGEST_PAUSE)
            if time.monotonic() >= self._deadline:
                return
            if last:
                time.sleep(CLOSING_PAUSE)
            else:
                self._closing.wait(pause)

    def _has_run(self) -> bool:
        self._run_id = self._run_id or self._find_run_id() or ""
        return bool(self._run_id)

    def _ship(self) -> None:
        if not self._asked:
            probe(self._uri)
        client = self._client or connect(self._uri)
        self._client = client
        if not self._asked:
            self._newest = newest_of_kinds(newest_steps(client, self._run_id))
            self._tail = RecordTail(self._path)
            self._asked = True
        for records in batches(fresh_records(self._tail.read(), self._newest)):
            if time.monotonic() >= self._deadline:
                return
            self._send(client, records)
            self._newest = self._newest | {record["kind"]: record["step"] for record in records}

    def _send(self, client: "MlflowClient", records: Iterable[Record]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, int(record["time"] * 1000), record["step"])
            for record in records
            for key, value in record_metrics(record).items()
        ]
        for start in range(0, len(metrics), METRICS_PER_BATCH):
            client.log_batch(self._run_id, metrics=metrics[start : start + METRICS_PER_BATCH])


class RecordTail:
    """Reads a growing file of JSON lines, from the beginning again when a restart has cut it short.

    Lines that are damaged, and records that are no metrics, are left out: shipping must survive any file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def read(self) -> list[Record]:
        """The records of complete lines since the last call."""
        started_at = self._position
        records, damaged = self._read()
        if damaged and started_at:
            # Cut short and grown again between two calls: the position is in the middle of a line.
            self._position = 0
            records, _ = self._read()
        return records

    def _read(self) -> tuple[list[Record], bool]:
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._position:
                    self._position = 0
                file.seek(self._position)
                *lines, _unfinished = file.read().split(b"\n")
        except FileNotFoundError:
            return [], False
        self._position += sum(len(line) + 1 for line in lines)
        parsed = [_parse(line) for line in lines if line.strip()]
        return [record for record in parsed if record is not None and _is_metrics(record)], None in parsed


def ship_remaining(workspace: Path, mlflow_run_id: str, metrics_file: Path, *, timeout: float = 60.0) -> int:
    """Send, after a run, what MLflow missed while it was down.

    Returns:
        How many records it still misses, because it stayed down for `timeout` seconds.
    """
    shipper = MetricShipper(tracking_uri(workspace), mlflow_run_id, metrics_file)
    shipper.start()
    return shipper.close(timeout)


def record_metrics(record: Record) -> dict[str, float]:
    """The numbers of a record as MLflow metrics: `train/loss`, `val/f1`."""
    values = {name: value for name, value in record.items() if name not in NOT_METRICS}
    return finite_numbers(values, prefix=f"{record['kind']}/")


def fresh_records(records: Iterable[Record], newest: Mapping[str, int]) -> Iterator[Record]:
    """The records whose step is newer than all of their kind before them."""
    seen = dict(newest)
    for record in records:
        if record["step"] > seen.get(record["kind"], -1):
            seen[record["kind"]] = record["step"]
            yield record


def newest_of_kinds(steps: Mapping[str, int]) -> dict[str, int]:
    """The highest step of each kind of record, from the highest step of each metric."""
    return {
        kind: max(step for key, step in steps.items() if key.startswith(f"{kind}/"))
        for kind in KINDS
        if any(key.startswith(f"{kind}/") for key in steps)
    }


def batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Group records so that each group fits one request; a record is never split between groups."""
    group: list[Record] = []
    room = METRICS_PER_BATCH
    for record in records:
        if group and len(record) > room:
            yield group
            group, room = [], METRICS_PER_BATCH
        group.append(record)
        room -= len(record)
    if group:
        yield group


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _is_metrics(record: Record) -> bool:
    return (
        record.get("kind") in KINDS
        and isinstance(record.get("step"), int)
        and isinstance(record.get("time"), int | float)
    )
