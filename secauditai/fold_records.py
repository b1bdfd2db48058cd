"""The record of a cross-validation: what was asked for, what is done, and the result, as a file in the workspace.

In a remote workspace each change is sent, and paths are relative to the workspace.
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from secauditai.config.files import resolve_config
from secauditai.config.leaves import leaves
from secauditai.data.dataset import open_dataset
from secauditai.data.folds import Pool
from secauditai.errors import RunError
from secauditai.files import write_json
from secauditai.mirror import fetch_files, fetch_once, located, mirror_of, portable, send
from secauditai.runs import RunInfo, list_runs
from secauditai.training.request import TrainRequest


@dataclass(frozen=True)
class FoldsRequest:
    """A cross-validation to do."""

    training: TrainRequest
    folds: int
    register: str
    """best | all: whose models become registered versions."""


@dataclass
class Record:
    """A cross-validation as its file in the workspace has it."""

    path: Path
    record_id: str
    kind: str
    name: str
    folds: int
    register: str
    config: dict[str, Any]
    config_name: str | None
    address: str | None
    pool_hash: str
    begun: float = field(default_factory=time.time)
    """When it began, or went on."""
    finished: float | None = None
    mlflow_run_id: str | None = None
    runs: dict[str, str] = field(default_factory=dict)
    """Run directory of every finished fold, by its number."""
    versions: dict[str, int] = field(default_factory=dict)
    """Registered versions, by fold."""
    values: dict[str, float | None] = field(default_factory=dict)
    """Of every finished fold, the best value on its own validation part."""
    pool: dict[str, Any] = field(default_factory=dict)
    """In a remote workspace, what was dealt out to folds: directory, name, seed, samples left out."""
    document: dict[str, Any] = field(default_factory=dict)
    """The result."""

    def request(self, workspace: Path, address: str | None = None) -> FoldsRequest:
        """What it does, as a request; on another Ray cluster than it began on, if there is an address."""
        config, address = resolve_config(self.config), address or self.address
        training = TrainRequest(self.kind, self.name, config, workspace, self.config_name, address=address)
        return FoldsRequest(training, self.folds, self.register)

    @property
    def lease(self) -> Path:
        """In a remote workspace: signs of life of the machine that works on it."""
        return self.path.with_suffix(".lease")

    def open_pool(self) -> Pool | None:
        """What was dealt out to folds, as the store of a remote workspace keeps it for other machines."""
        if not self.pool:
            return None
        root = Path(self.pool["root"])
        fetch_once(root)
        return Pool(open_dataset(root, name=self.pool["name"]), self.pool["seed"], self.pool["left_out"])

    def save(self) -> None:
        """Write the file, whole or not at all, and leave it in the store of a remote workspace.

        Raises:
            ClusterError: when the store refuses or stays out of reach.
        """
        content = asdict(self)
        del content["path"]
        content["runs"] = {fold: portable(run_dir, self.path) for fold, run_dir in self.runs.items()}
        if self.pool:
            content["pool"]["root"] = portable(self.pool["root"], self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, content)
        send(self.path)

    def as_it_is_now(self) -> "Record":
        """The record with what another process or machine has done since it was read."""
        fetch_files(self.path)
        return read_record(self.path) if self.path.exists() else self


def open_record(request: FoldsRequest, pool: Pool) -> Record:
    """The record of the same request if there is one, else a new one that is not yet written."""
    training = request.training
    config = training.config.flat()
    # Settings at their defaults do not count, so that a later version with more settings finds the record.
    chosen = {name: value for name, value in config.items() if value != leaves()[name].default}
    key = json.dumps(
        [training.kind, chosen, pool.dataset.content_hash, request.folds, request.register], sort_keys=True
    )
    record_id = hashlib.sha256(key.encode()).hexdigest()[:16]
    path = _directory(training.workspace, training.name) / f"{record_id}.json"
    if path.exists():
        return read_record(path)
    return Record(
        path=path,
        record_id=record_id,
        kind=training.kind,
        name=training.name,
        folds=request.folds,
        register=request.register,
        config=config,
        config_name=training.config_name,
        address=training.address,
        pool_hash=pool.dataset.content_hash,
        pool=_kept(pool, training.workspace),
    )


def _kept(pool: Pool, workspace: Path) -> dict[str, Any]:
    if mirror_of(workspace) is None:
        return {}
    dataset = pool.dataset
    return {"root": str(dataset.root), "name": dataset.name, "seed": pool.seed, "left_out": pool.left_out}


def newest_record(workspace: Path, name: str) -> Record | None:
    """The cross-validation of a name that began, or went on, last."""
    records = [read_record(path) for path in _directory(workspace, name).glob("*.json")]
    return max(records, key=lambda record: record.begun, default=None)


def read_record(path: Path) -> Record:
    """Open a record.

    Raises:
        RunError: when it is damaged.
    """
    try:
        record = Record(path=path, **json.loads(path.read_text(encoding="utf-8")))
        record.runs = {fold: located(run_dir, path) for fold, run_dir in record.runs.items()}
        if record.pool:
            record.pool["root"] = located(record.pool["root"], path)
        return record
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise RunError(f"damaged record of a cross-validation: {error}", where=str(path)) from None


def newest_training(workspace: Path, name: str) -> Record | None:
    """The newest training of a name, when that is a cross-validation."""
    record = newest_record(workspace, name)
    if record is None:
        return None
    infos = [run.info for run in list_runs(workspace, name)]
    since = [i for i in infos if i.created >= record.begun and (i.trial_id is None or i.model_version)]
    newest = max(since, key=lambda info: info.created, default=None)
    return record if newest is None or _is_fold(record, newest) else None


def _is_fold(record: Record, info: RunInfo) -> bool:
    """Whether a run is a fold of this cross-validation."""
    dataset = info.dataset or ""
    return Path(dataset).name.startswith(record.pool_hash[:24]) and dataset.endswith(f"of{record.folds}")


def _directory(workspace: Path, name: str) -> Path:
    return workspace / "cross_validations" / name
