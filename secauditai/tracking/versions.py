"""Registered versions: finding them, and the bundle that each one is."""

import hashlib
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secauditai.errors import ModelError
from secauditai.models.bundle import BundleLayout
from secauditai.tracking.connection import BRIEF, call, error_code, failures
from secauditai.tracking.store import Store, open_existing_store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as Entity

ARTIFACT = "bundle"
"""The bundle's name among the artifacts of a registered model."""
PAGE = 200


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model."""

    name: str
    version: int
    mlflow_run_id: str | None = None
    created: float = 0.0
    """Seconds since 1970."""
    here: bool = True
    """Registered from this workspace."""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def bundle_sha256(self) -> str | None:
        """Digest of the bundle's manifest; None when something else registered this version."""
        return self.tags.get("bundle_sha256")


def find_version(store: Store, name: str, version: int) -> ModelVersion | None:
    """A version by its number."""
    return _find(store, lambda: store.client.get_model_version(name, str(version)))


def find_alias(store: Store, name: str, alias: str) -> ModelVersion | None:
    """The version that an alias stands for."""
    return _find(store, lambda: store.client.get_model_version_by_alias(name, alias))


def newest_version(store: Store, name: str, *, here: bool) -> ModelVersion | None:
    """The newest version of a name, of those from this workspace when `here`."""
    conditions = {"name": name} | ({"tags.workspace_id": store.workspace_id} if here else {})
    return next(iter(search_versions(store, conditions, newest_only=True)), None)


def search_versions(store: Store, conditions: Mapping[str, str], *, newest_only: bool = False) -> list[ModelVersion]:
    """The versions that meet all conditions, newest first within a name."""
    if any("'" in value for value in conditions.values()):
        return []  # MLflow's filter has no way to quote it, and no name of ours has it
    query = " AND ".join(f"{key} = '{value}'" for key, value in conditions.items())
    order = ["name ASC", "version_number DESC"]

    def search() -> list[ModelVersion]:
        found: list[ModelVersion] = []
        token = None
        while True:
            page = store.client.search_model_versions(query, 1 if newest_only else PAGE, order, token)
            found += [_version(store, entity) for entity in page]
            token = page.token
            if newest_only or not token:
                return found

    return call(search, uri=store.uri, patience=BRIEF, what="search the model registry")


def registered_names(store: Store) -> list[str]:
    """Names of the registered models, up to a thousand."""
    search = store.client.search_registered_models
    models = call(lambda: search(max_results=1000), uri=store.uri, patience=BRIEF, what="list the registered models")
    return [str(model.name) for model in models]


def list_models(workspace: Path, *, everyone: bool = False) -> list[ModelVersion]:
    """Versions registered from this workspace, or by everyone on its server; by name, newest first."""
    store = open_existing_store(workspace)
    if store is None:
        return []
    return search_versions(store, {} if everyone else {"tags.workspace_id": store.workspace_id})


def locate_bundle(store: Store, version: ModelVersion, workspace: Path) -> Path:
    """The bundle of a version: where training left it when it is still the same, else downloaded into the cache.

    Raises:
        ModelError: when the version is no bundle of ours, or what MLflow has is not what was registered.
        RunError: when the download fails.
    """
    label, digest = f"{version.name}/{version.version}", version.bundle_sha256
    if digest is None:
        raise ModelError(f"{label} was not registered by SecAuditAI", where="model", hint="Choose another version.")
    cached = workspace / "cache" / "models" / digest
    run = workspace / "runs" / version.name / version.tags.get("run_id", "-") / "bundle"
    for candidate in (Path(version.tags.get("bundle_dir", "-")), run, cached):
        if manifest_sha256(candidate) == digest:
            return candidate
    partial = cached.with_name(f".{digest}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir(parents=True)
    try:
        found = _download(store, version, partial)
        if manifest_sha256(found) != digest:
            raise ModelError(f"MLflow's copy of {label} is damaged", where="model", hint="Choose another version.")
        shutil.rmtree(cached, ignore_errors=True)
        found.rename(cached)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return cached


def manifest_sha256(bundle: Path) -> str | None:
    """Digest of a bundle's manifest, and so of all its files; None when there is none."""
    try:
        return hashlib.sha256(BundleLayout(bundle).manifest.read_bytes()).hexdigest()
    except OSError:
        return None


def _download(store: Store, version: ModelVersion, directory: Path) -> Path:
    from mlflow.artifacts import download_artifacts

    def download() -> Path:
        source = store.client.get_model_version_download_uri(version.name, str(version.version))
        uri = f"{source.rstrip('/')}/artifacts/{ARTIFACT}"
        return Path(download_artifacts(artifact_uri=uri, dst_path=str(directory), tracking_uri=store.uri))

    return call(download, uri=store.uri, patience=BRIEF, what=f"download {version.name}/{version.version}")


def _find(store: Store, get: Any) -> ModelVersion | None:
    def find() -> ModelVersion | None:
        try:
            return _version(store, get())
        except failures() as error:
            if error_code(error) in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    return call(find, uri=store.uri, patience=BRIEF, what="search the model registry")


def _version(store: Store, entity: "Entity") -> ModelVersion:
    tags = {str(key): str(value) for key, value in entity.tags.items()}
    return ModelVersion(
        name=str(entity.name),
        version=int(entity.version),
        mlflow_run_id=entity.run_id or None,
        created=(entity.creation_timestamp or 0) / 1000,
        here=tags.get("workspace_id") == store.workspace_id,
        tags=tags,
    )
