"""What `--address` may name: a Jobs API, a Ray cluster to attach to, or an entry of the workspace's `clusters.yaml`.

lab:
  address: http://ray-head:8265
  workspace: s3://models/secauditai
  tracking_uri: http://mlflow:5000
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from secauditai.config.leaves import did_you_mean
from secauditai.config.reading import place_of, read_yaml
from secauditai.errors import ConfigError
from secauditai.mirror import address_of
from secauditai.tracking.redact import redact_text

CLUSTERS_FILE = "clusters.yaml"


class ClusterEntry(BaseModel):
    """One cluster of `clusters.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str
    """The Jobs API, `http://head:8265`, or a Ray address."""
    workspace: str | None = None
    """The workspace that its nodes share; default the command's own."""
    tracking_uri: str | None = None
    """The MLflow server as the cluster reaches it, without credentials."""


@dataclass(frozen=True)
class Target:
    """Where a command is to run."""

    address: str
    workspace: str
    tracking_uri: str | None

    @property
    def through_jobs(self) -> bool:
        """Whether the command is submitted as a job; otherwise this process attaches to the cluster."""
        return _is_jobs_api(self.address)


def resolve_target(address: str, workspace: Path, *, shared_workspace: str | None = None) -> Target:
    """Resolve what a user said after `--address`.

    Args:
        address: the words.
        workspace: the local workspace, which may hold `clusters.yaml`.
        shared_workspace: the workspace's own address when it is remote.

    Raises:
        ConfigError: when `clusters.yaml` is broken, or the words name none of its clusters.
    """
    entry = ClusterEntry(address=address)
    if _is_name(address):
        known = read_clusters(workspace)
        if address not in known:
            see = f"Clusters are named in {address_of(workspace / CLUSTERS_FILE)}."
            raise ConfigError(f"there is no cluster {address!r}", hint=did_you_mean(address, list(known), see=see))
        entry = known[address]
    _refuse_credentials(entry)
    _refuse_idle(address, entry)
    tracking_uri = entry.tracking_uri or redact_text(os.environ.get("MLFLOW_TRACKING_URI", "")) or None
    return Target(entry.address, entry.workspace or shared_workspace or str(workspace), tracking_uri)


def _is_name(address: str) -> bool:
    """Whether it can only be the name of a cluster."""
    return ":" not in address and address not in ("auto", "local")


def read_clusters(workspace: Path) -> dict[str, ClusterEntry]:
    """The clusters that a workspace names; {} without a file.

    Raises:
        ConfigError: naming the entry that is wrong.
    """
    path = workspace / CLUSTERS_FILE
    if not path.is_file():
        return {}
    raw = read_yaml(path) or {}
    if not isinstance(raw, dict):
        raise ConfigError("a mapping of cluster names is expected", where=str(path))
    return {str(name): _entry(str(name), entry, place_of(raw, name, str(path))) for name, entry in raw.items()}


def _entry(name: str, raw: object, place: str | None) -> ClusterEntry:
    if not _is_name(name):
        hint = "Give it another name, without a colon."
        raise ConfigError(f"{name} is an address and cannot name a cluster", where=place, hint=hint)
    try:
        return ClusterEntry.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        hint = f"A cluster has {', '.join(ClusterEntry.model_fields)}."
        raise ConfigError(f"{key}: {first['msg']}", where=place, hint=hint) from None


def _refuse_idle(name: str, entry: ClusterEntry) -> None:
    """Refuse what would not be heeded: a process that attaches to a cluster has workspace and tracking of its own."""
    idle = [key for key in ("workspace", "tracking_uri") if getattr(entry, key)]
    if idle and not _is_jobs_api(entry.address):
        raise ConfigError(
            f"the cluster {name} has {' and '.join(idle)}, which count for a Jobs API only, not for {entry.address}",
            hint="Remove them there, and give --workspace and MLFLOW_TRACKING_URI to the command.",
        )
    if entry.workspace and "://" not in entry.workspace and not Path(entry.workspace).expanduser().is_absolute():
        raise ConfigError(
            f"the workspace of the cluster {name}, {entry.workspace}, means another directory on each machine",
            hint="Give an absolute path that all of them see, or s3://bucket/prefix.",
        )


def _is_jobs_api(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def _refuse_credentials(entry: ClusterEntry) -> None:
    for name, value in entry.model_dump().items():
        if value and "@" in value.split("://", 1)[-1].split("/", 1)[0]:
            raise ConfigError(
                f"the cluster's {name} must not hold credentials: they would show in its dashboard",
                hint="Set them in the environment of its nodes; RAY_AUTH_TOKEN for Ray itself.",
            )
