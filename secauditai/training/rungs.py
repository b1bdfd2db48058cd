"""Whether a sweep's trial goes on: asked by the loop after each validation, answered from files that trials share.

Asynchronous successive halving (ASHA, arXiv 1810.05934) in its stopping variant: a trial that reaches a rung notes
its value there and goes on if it is among the best 1/factor of all that got there so far. Rungs count samples seen,
so that trials of other batch sizes compare. A decision, once written, stands.

In a remote workspace the files are exchanged through its store. While that is away, a trial is judged by what its
machine knows.
"""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from secauditai.errors import ClusterError
from secauditai.files import write_json
from secauditai.mirror import mirror_directory, mirror_of

logger = logging.getLogger("secauditai.training")

PATIENCE = 10.0
"""Seconds that a decision waits for a store that is away."""


@dataclass(frozen=True)
class RungRule:
    """One trial's part in a sweep; plain data, so that it can travel to workers. Call it after each validation."""

    root: str
    """The sweep's directory; below the workspace when that is remote."""
    trial: str
    metric: str
    higher_is_better: bool
    batch_size: int
    grace_samples: int
    """Samples seen by the first rung; the others follow by the factor."""
    factor: int | None
    """None never stops a trial for its value."""
    workspace: str | None = None
    """Address of a remote workspace, which every machine has a mirror of."""

    @property
    def directory(self) -> Path:
        """The sweep's directory on this machine."""
        return Path(self.root) if self.workspace is None else mirror_directory(self.workspace) / self.root

    def __call__(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Whether the trial shall stop here, after this global step, with these validation metrics."""
        rung = None if self.factor is None else self._rung(step)
        if rung is not None and not self._goes_on(rung, metrics.get(self.metric)):
            return True
        return asked_to_end(self.directory / "stop")

    def stopped_at(self) -> int | None:
        """The rung where the trial was found wanting; None when it was not."""
        for path in sorted((self.directory / "rungs").glob(f"*/{self.trial}.json")):
            if not json.loads(path.read_text(encoding="utf-8"))["goes_on"]:
                return int(path.parent.name)
        return None

    def exchange(self, rung: int | None = None) -> None:
        """Bring this trial's decisions, and all of a rung, and leave this trial's there, if the workspace is remote."""
        rungs = self.directory / "rungs"
        mirror = mirror_of(rungs)
        if mirror is None or self.factor is None:
            return
        mirror.storage.patience = PATIENCE
        try:
            there = {mirror.root / file.key for file in mirror.storage.files(mirror.key(rungs))}
            for path in there:
                wanted = path.name == f"{self.trial}.json" or path.parent.name == str(rung)
                if wanted and not path.exists():
                    mirror.fetch_file(path)
            for path in rungs.glob(f"*/{self.trial}.json"):
                if path not in there:
                    mirror.send_file(path)
        except ClusterError as error:
            logger.warning("%s; the trial is judged by what this machine knows", error)

    def _rung(self, step: int) -> int | None:
        """The highest rung reached, from 0."""
        seen = step * self.batch_size
        if self.factor is None or seen < self.grace_samples:
            return None
        return int(math.log(seen / self.grace_samples, self.factor) + 1e-9)

    def _goes_on(self, rung: int, value: float | None) -> bool:
        directory = self.directory / "rungs" / str(rung)
        mine = directory / f"{self.trial}.json"
        self.exchange(rung)
        if mine.exists():
            return bool(json.loads(mine.read_text(encoding="utf-8"))["goes_on"])
        directory.mkdir(parents=True, exist_ok=True)
        others = [json.loads(path.read_text(encoding="utf-8"))["value"] for path in directory.glob("[!.]*.json")]
        goes_on = self._among_the_best(value, others)
        write_json(mine, {"value": value, "goes_on": goes_on})
        self.exchange()
        return goes_on

    def _among_the_best(self, value: float | None, others: list[float | None]) -> bool:
        """Whether fewer trials are better than the rung keeps; an undefined value is the worst."""
        assert self.factor is not None
        sign = 1.0 if self.higher_is_better else -1.0
        ranks = [-math.inf if other is None else sign * other for other in others]
        mine = -math.inf if value is None else sign * value
        return sum(rank > mine for rank in ranks) < max(1, (len(others) + 1) // self.factor)


def asked_to_end(stop: Path) -> bool:
    """Whether the mark is there by which a sweep asks its trials to end.

    In a remote workspace the store says so: what this machine has may be left from an earlier session.
    """
    mirror = mirror_of(stop)
    if mirror is None:
        return stop.exists()
    mirror.storage.patience = PATIENCE
    try:
        return mirror.storage.exists(mirror.key(stop))
    except ClusterError as error:
        logger.warning("%s; whether the sweep ends is asked after the next validation", error)
        return stop.exists()


def rung_samples(grace_samples: int, factor: int, total_samples: int) -> list[int]:
    """Samples seen at each rung that has a validation before the end of training."""
    found, samples = [], grace_samples
    while samples <= total_samples - grace_samples:
        found.append(samples)
        samples *= factor
    return found


def loop_config(run_root: Path, after_validation: object) -> dict[str, str]:
    """What Ray Train hands to a worker: the run, and the rule if there is one, as plain text."""
    if after_validation is None:
        return {"run_root": str(run_root)}
    if not isinstance(after_validation, RungRule):
        raise TypeError("only a RungRule can travel to workers")
    return {"run_root": str(run_root), "rungs": json.dumps(asdict(after_validation))}


def rule_in(config: Mapping[str, str]) -> RungRule | None:
    """The rule that `loop_config` put in."""
    return RungRule(**json.loads(config["rungs"])) if "rungs" in config else None
