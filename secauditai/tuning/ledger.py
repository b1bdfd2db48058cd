"""The ledger of a sweep: our own JSON record of every trial, which outlives Ray."""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from secauditai.files import write_json


@dataclass(frozen=True)
class Trial:
    """One finished trial."""

    trial_id: str
    settings: dict[str, Any]
    """What the sweep chose."""
    value: float | None
    """The goal metric on the validation split; None when the trial failed or it is undefined."""
    run_dir: str | None = None
    error: str | None = None
    seconds: float = 0.0


@dataclass
class Ledger:
    """All trials of a sweep, written after each."""

    path: Path
    sweep_id: str
    metric: str
    higher_is_better: bool
    created: float = field(default_factory=time.time)
    trials: list[Trial] = field(default_factory=list)

    def add(self, trial: Trial) -> None:
        """Append a trial and save."""
        self.trials.append(trial)
        self.save()

    def save(self) -> None:
        """Write the ledger, whole or not at all."""
        document = asdict(self)
        del document["path"]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, document)

    @property
    def best(self) -> Trial | None:
        """The trial with the best value; the earlier one of equals."""
        known = [trial for trial in self.trials if trial.value is not None]
        sign = 1.0 if self.higher_is_better else -1.0
        return max(known, key=lambda trial: sign * (trial.value or 0.0), default=None)


def read_ledger(path: Path) -> Ledger:
    """Open a saved ledger."""
    document = json.loads(path.read_text(encoding="utf-8"))
    document["trials"] = [Trial(**trial) for trial in document["trials"]]
    return Ledger(path=path, **document)
