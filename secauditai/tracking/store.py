"""Where a workspace's runs and models are recorded: its own sqlite file, or what MLFLOW_TRACKING_URI names."""

import json
import os
import sqlite3
import uuid
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secauditai.errors import ConfigError, RunError
from secauditai.files import write_json
from secauditai.mirror import fetch_files, mirror_of, send
from secauditai.tracking.connection import (
    BRIEF,
    call,
    connect,
    error_code,
    failures,
    load_mlflow,
    probe,
    sqlite_path,
    tracking_error,
)
from secauditai.tracking.redact import redact_text

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "secauditai"
VARIABLE = "MLFLOW_TRACKING_URI"
HOSTED = ("databricks", "databricks-uc", "uc")
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", *HOSTED)
LOCK_SECONDS = 180.0


@dataclass(frozen=True)
class Store:
    """An opened tracking store."""

    uri: str
    client: "MlflowClient"
    workspace_id: str

    @property
    def experiment_id(self) -> str:
        """The experiment that all runs belong to."""
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is None or found.lifecycle_stage != "active":
            raise RunError(
                f"MLflow's experiment {EXPERIMENT!r} is deleted",
                where=redact_text(self.uri),
                hint="Restore it with `mlflow experiments restore`, or delete it for good with `mlflow gc`.",
            )
        return str(found.experiment_id)


def tracking_uri(workspace: Path) -> str:
    """MLFLOW_TRACKING_URI when it is set, else the workspace's own sqlite file; absolute.

    Raises:
        ConfigError: when the variable names what MLflow cannot use.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if mirror_of(workspace) is not None and not given.startswith(("http://", "https://")):
        named = f"not {redact_text(given)}" if given else "and none is named"
        raise ConfigError(
            f"a workspace on an object store needs an MLflow server, {named}",
            where=VARIABLE,
            hint="Set it to http(s)://host:port; `mlflow server` starts one.",
        )
    if not given:
        return _sqlite_uri(workspace / "mlflow.db")
    scheme = given.partition(":")[0].partition("+")[0].lower()
    if scheme not in SCHEMES or ("://" not in given and given not in HOSTED):
        raise ConfigError(
            f"MLflow cannot track to {redact_text(given)!r}: it keeps no runs in plain files any more",
            where=VARIABLE,
            hint="Use http(s)://host:port or sqlite:////absolute/path/mlflow.db, or unset it.",
        )
    path = sqlite_path(given)
    return given if path is None else _sqlite_uri(path)


def shared_uri(workspace: Path) -> str:
    """The tracking URI without user info, to be written into files and sent to workers."""
    return redact_text(tracking_uri(workspace))


def own_uri(shared: str) -> str:
    """A shared URI as this process may use it: with the credentials that its own MLFLOW_TRACKING_URI has for it."""
    given = os.environ.get(VARIABLE, "").strip()
    return given if given and redact_text(given) == shared else shared


def open_store(workspace: Path, *, patience: float = BRIEF) -> Store:
    """Open the tracking store; its first use creates schema and experiment, once, whoever else tries at the same time.

    Args:
        workspace: the workspace directory.
        patience: seconds to wait for a store that is down.

    Raises:
        ConfigError: when MLFLOW_TRACKING_URI is unusable.
        RunError: when the server or database is out of reach or refuses.
    """
    uri = tracking_uri(workspace)
    return call(lambda: _open(uri, workspace), uri=uri, patience=patience, what="open the tracking store")


def probe_store(workspace: Path) -> None:
    """Find out in a moment, without importing MLflow, what would keep the tracking store from being opened later.

    Raises:
        ConfigError: when MLFLOW_TRACKING_URI is unusable.
        RunError: when no server answers, or the database file is none.
    """
    uri = tracking_uri(workspace)
    try:
        probe(uri)
    except OSError as error:
        raise tracking_error(error, uri, "open the tracking store") from None


def open_existing_store(workspace: Path) -> Store | None:
    """Open the tracking store to look something up; None when this workspace has recorded nothing yet."""
    path = sqlite_path(tracking_uri(workspace))
    return None if path is not None and not path.exists() else open_store(workspace)


def may_be_registered(workspace: Path, name: str) -> bool:
    """Whether a model of this name may be registered: False only when a local database surely has none.

    Looked up without MLflow, whose import costs seconds; what MLflow itself would say decides in all other cases.
    """
    path = sqlite_path(tracking_uri(workspace))
    if path is None:
        return True
    if not path.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            found = database.execute("SELECT 1 FROM registered_models WHERE name = ?", (name,)).fetchone()
    except sqlite3.Error:
        return True
    return found is not None


def _open(uri: str, workspace: Path) -> Store:
    from filelock import FileLock

    probe(uri)
    path = sqlite_path(uri)
    workspace.mkdir(parents=True, exist_ok=True)
    home = workspace if path is None else path.parent  # workspaces may share a database
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".tracking.lock", timeout=LOCK_SECONDS):
        identity = read_workspace_id(workspace)
        if path is not None and not path.exists():
            _create_database(path, workspace)
        client = connect(uri)
        if client.get_experiment_by_name(EXPERIMENT) is None:
            _create_experiment(client, None if uri.startswith("http") else workspace)
    return Store(uri, client, identity)


def _create_database(path: Path, workspace: Path) -> None:
    """Build the schema in a file of another name: a process killed meanwhile leaves no half-made database."""
    load_mlflow()
    from mlflow import MlflowClient

    partial = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial")
    try:
        _create_experiment(MlflowClient(_sqlite_uri(partial)), workspace)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _create_experiment(client: "MlflowClient", workspace: Path | None) -> None:
    """Create the experiment; a database needs to be told where artifacts go, a server knows."""
    location = None if workspace is None else (workspace.absolute() / "artifacts").as_uri()
    try:
        client.create_experiment(EXPERIMENT, artifact_location=location)
    except failures() as error:
        if error_code(error) != "RESOURCE_ALREADY_EXISTS":
            raise


def read_workspace_id(workspace: Path) -> str:
    """What tells this workspace's models from others' on a shared server; made at first use."""
    path = workspace / "workspace.json"
    if not path.exists():
        fetch_files(path)
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["workspace_id"])
    except FileNotFoundError:
        identity = uuid.uuid4().hex
        write_json(path, {"workspace_id": identity})
        send(path)
        return identity
    except (ValueError, KeyError, TypeError):
        raise ConfigError("damaged workspace.json", where=str(path), hint="Delete it; it is made anew.") from None


def _sqlite_uri(path: Path) -> str:
    absolute = str(path.absolute())
    if "?" in absolute or "%" in absolute:
        raise ConfigError("MLflow cannot open a database whose path has a '?' or '%'", where=absolute)
    return f"sqlite:///{absolute}"
