"""The history of a run: timestamped records in `metrics.jsonl`, written by rank 0."""

import json
import os
import time
from pathlib import Path
from typing import Any


class Recorder:
    """Appends records; a run that goes on from a checkpoint first forgets what came after it."""

    def __init__(self, path: Path, keep_bytes: int) -> None:
        """Open the file and cut off what came after the checkpoint.

        Args:
            path: `metrics.jsonl`; made when it is missing.
            keep_bytes: its length when the checkpoint was written.
        """
        # Unbuffered: a record is in the file or refused, and closing writes nothing more.
        self._file = path.open("ab", buffering=0)
        self.lost = max(0, keep_bytes - path.stat().st_size)
        """Bytes of history that the checkpoint counts on and the file does not have."""
        if not self.lost:
            self._file.truncate(keep_bytes)
        self._position = self._file.seek(0, os.SEEK_END)

    def record(self, kind: str, step: int, epoch: float, values: dict[str, Any]) -> None:
        """Append one record: `kind` is train, val or event; `epoch` counts from 0, with its fraction.

        Raises:
            OSError: when the disk takes no more.
        """
        record = {"kind": kind, "step": step, "epoch": round(epoch, 4), "time": time.time(), **values}
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        while line:
            written = self._file.write(line)
            self._position += written
            line = line[written:]

    def position(self) -> int:
        """Bytes written so far."""
        return self._position

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
