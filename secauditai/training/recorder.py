"""The history of a run: timestamped records in `metrics.jsonl`, written by rank 0."""

import json
import time
from pathlib import Path
from typing import Any


class Recorder:
    """Appends records; a run that goes on from a checkpoint first forgets what came after it."""

    def __init__(self, path: Path, keep_bytes: int) -> None:
        path.touch()
        with path.open("r+b") as file:
            file.truncate(min(keep_bytes, path.stat().st_size))
        self._file = path.open("a", encoding="utf-8")

    def record(self, kind: str, step: int, epoch: float, values: dict[str, Any]) -> None:
        """Append one record: `kind` is train, val or event; `epoch` counts from 0, with its fraction."""
        record = {"kind": kind, "step": step, "epoch": round(epoch, 4), "time": time.time(), **values}
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()

    def position(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Speed:
    """Samples and tokens per second between two records."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._samples = 0
        self._tokens = 0

    def add(self, samples: int, tokens: int) -> None:
        """Count the work of one step."""
        self._samples += samples
        self._tokens += tokens

    def pause(self, seconds: float) -> None:
        """Leave out time spent on something else, such as a validation."""
        self._since += seconds

    def take(self) -> dict[str, float]:
        """Rates since the last call."""
        elapsed = max(time.monotonic() - self._since, 1e-9)
        rates = {"samples_per_second": self._samples / elapsed, "tokens_per_second": self._tokens / elapsed}
        self._since, self._samples, self._tokens = time.monotonic(), 0, 0
        return {name: round(value, 2) for name, value in rates.items()}
