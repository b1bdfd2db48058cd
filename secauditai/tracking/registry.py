"""The model registry: finished models become versions there, and names become models again.

MLflow's registry is the only one. A version made here says in its tags which workspace, run and bundle it is.
"""

import json
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from secauditai.config.leaves import did_you_mean
from secauditai.errors import ModelError
from secauditai.models.bundle import Bundle, BundleCard, BundleLayout, is_bundle, open_bundle
from secauditai.models.catalogue import CatalogueEntry, open_catalogue
from secauditai.runs import RunLayout
from secauditai.tracking.connection import PATIENT, call, error_code, failures
from secauditai.tracking.packaging import save_package
from secauditai.tracking.redact import clean_tags
from secauditai.tracking.store import Store, may_be_registered, open_existing_store, open_store
from secauditai.tracking.versions import (
    ModelVersion,
    find_alias,
    find_version,
    list_models,
    locate_bundle,
    newest_version,
    registered_names,
    search_versions,
)

__all__ = ["ModelVersion", "ResolvedModel", "list_models", "register_bundle", "resolve_model"]

HUB = "hub:"
WAYS = "A model is a path, a registered name (name, name/3, name@alias), a name of the catalogue ({names}), or hub:ID"


@dataclass(frozen=True)
class ResolvedModel:
    """What a model's name on the command line stands for."""

    spec: str
    origin: str
    """path | registry | catalogue | hub"""
    kind: str
    """classifier | encoder | pretrained | scratch"""
    name: str
    description: str
    """What is printed."""
    bundle: Path | None = None
    """The saved model, when it is one of ours."""
    hub_id: str | None = None
    revision: str | None = None
    version: int | None = None
    run_id: str | None = None


def register_bundle(
    workspace: Path, bundle_root: Path, *, name: str, mlflow_run_id: str | None, tags: Mapping[str, str]
) -> ModelVersion:
    """Register a saved model as a new version, which `mlflow.pyfunc.load_model("models:/<name>/<version>")` loads.

    Called again for the same run and bundle, after a crash, it returns the version that is there.

    Args:
        workspace: the workspace directory.
        bundle_root: the saved model, with its ONNX graph.
        name: what to register it as.
        mlflow_run_id: the MLflow run that made it.
        tags: lineage: `run_id`, `run_dir`, `dataset_hash` and what else is known.

    Raises:
        ModelError: when the bundle is damaged or has no graph.
        RunError: when MLflow refuses or is out of reach for minutes.
    """
    bundle = open_bundle(bundle_root)
    if not bundle.layout.onnx.exists():
        raise ModelError("only an exported model can be registered", where=str(bundle_root))
    store = open_store(workspace, patience=PATIENT)
    identity = _version_tags(store, bundle, tags)
    known = _find_same(store, name, mlflow_run_id, identity)
    if known is not None:
        return known
    model_id, location = _log_package(store, workspace, bundle, name, mlflow_run_id, identity)

    def register() -> ModelVersion:
        _create_name(store, name)
        there = _find_same(store, name, mlflow_run_id, identity)  # an earlier attempt may have got through
        if there is not None:
            return there
        # With the source `models:/<id>`, or an id without a run, MLflow's SQL store would ask the global tracking URI.
        linked = model_id if mlflow_run_id is not None or store.uri.startswith("http") else None
        made = store.client.create_model_version(name, location, run_id=mlflow_run_id, tags=identity, model_id=linked)
        link = json.dumps([{"name": name, "version": made.version}])
        store.client.set_logged_model_tags(model_id, {"mlflow.modelVersions": link})
        return ModelVersion(name, int(made.version), mlflow_run_id, made.creation_timestamp / 1000, True, identity)

    return call(register, uri=store.uri, patience=PATIENT, what=f"register {name}")


def resolve_model(spec: str, workspace: Path, *, catalogue_first: bool = False) -> ResolvedModel:
    """Find what a name means: a path, a registered model, a name of the catalogue or `hub:ID`, in this order.

    Args:
        spec: what the user wrote after `--model`.
        workspace: the workspace directory.
        catalogue_first: prefer the catalogue to registered models, as `train base` does.

    Raises:
        ModelError: when it is none of them, or no model.
        RunError: when the registry has to be asked and is out of reach.
    """
    found = _resolve_path(spec)
    if found is not None:
        return found
    if spec.startswith(HUB):
        hub_id = spec.removeprefix(HUB)
        return ResolvedModel(spec, "hub", "pretrained", hub_id, f"{hub_id} from the Hugging Face hub", hub_id=hub_id)
    catalogue = open_catalogue(workspace)
    entry = catalogue.get(spec)
    if entry is not None and (catalogue_first or not may_be_registered(workspace, spec)):
        return _from_catalogue(entry)
    store = open_existing_store(workspace)
    version = _find_version(store, spec) if store is not None else None
    if store is not None and version is not None:
        return _from_registry(store, spec, version, workspace)
    if entry is not None:
        return _from_catalogue(entry)
    raise _unknown(spec, store, list(catalogue))


def _resolve_path(spec: str) -> ResolvedModel | None:
    path = Path(spec).expanduser()
    run = RunLayout(path)
    if is_bundle(path):
        return _from_bundle(spec, path)
    if run.info.is_file():
        if is_bundle(run.bundle):
            return _from_bundle(spec, run.bundle)
        raise ModelError("this run has saved no model yet", where=spec, hint="`secauditai train resume` finishes it.")
    if (path / "config.json").is_file():
        return ResolvedModel(spec, "path", "pretrained", path.absolute().name, f"the encoder in {spec}")
    if spec.startswith(("/", "./", "../", "~")):
        problem = "there is no model here" if path.exists() else "there is no such directory"
        raise ModelError(problem, where=spec, hint="A model's directory has a secauditai.json or a config.json.")
    return None


def _from_bundle(spec: str, root: Path) -> ResolvedModel:
    try:
        card = BundleCard.model_validate_json(BundleLayout(root).card.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ModelError("not a saved model: its card is damaged", where=str(root)) from None
    name, run_id = card.provenance.get("name"), card.provenance.get("run_id")
    return ResolvedModel(
        spec,
        "path",
        card.kind,
        str(name or root.absolute().name),
        f"the {card.kind} in {root}",
        bundle=root.absolute(),
        run_id=str(run_id) if run_id else None,
    )


def _from_catalogue(entry: CatalogueEntry) -> ResolvedModel:
    if entry.hub_id is None:
        return ResolvedModel(entry.name, "catalogue", "scratch", entry.name, f"{entry.name}, trained from scratch")
    return ResolvedModel(
        entry.name,
        "catalogue",
        "pretrained",
        entry.name,
        f"{entry.name} ({entry.hub_id} from the Hugging Face hub)",
        hub_id=entry.hub_id,
        revision=entry.revision,
    )


def _from_registry(store: Store, spec: str, version: ModelVersion, workspace: Path) -> ResolvedModel:
    bundle = locate_bundle(store, version, workspace)
    kind = version.tags.get("kind", "classifier")
    run_id = version.tags.get("run_id")
    whose = "" if version.here else ", registered elsewhere"
    described = f"{version.name}, version {version.version} ({kind}{f' of run {run_id}' if run_id else ''}{whose})"
    return ResolvedModel(
        spec, "registry", kind, version.name, described, bundle=bundle, version=version.version, run_id=run_id
    )


def _find_version(store: Store, spec: str) -> ModelVersion | None:
    """The registered version that `name`, `name/3` or `name@alias` means."""
    numbered, aliased = re.fullmatch(r"([^/@]+)/(\d+)", spec), re.fullmatch(r"([^/@]+)@([^/@]+)", spec)
    if numbered:
        return find_version(store, numbered[1], int(numbered[2]))
    if aliased:
        return find_alias(store, aliased[1], aliased[2])
    return newest_version(store, spec, here=True)


def _unknown(spec: str, store: Store | None, catalogue: list[str]) -> ModelError:
    name = re.split("[/@]", spec)[0]
    others = newest_version(store, name, here=False) if store is not None else None
    if others is not None and name != spec:
        have = f"The newest version is {name}/{others.version}."
        return ModelError(f"there is no registered model {spec!r}", where="model", hint=have)
    if others is not None:
        hint = f"Name a version, such as {name}/{others.version}, or an alias."
        return ModelError(f"{spec!r} is registered, but not from this workspace", where="model", hint=hint)
    ways = WAYS.format(names=", ".join(catalogue)) + "."
    known = catalogue + (registered_names(store) if store is not None else [])
    nearest = did_you_mean(spec, known, see="")
    return ModelError(f"unknown model {spec!r}", where="model", hint=f"{nearest} {ways}".strip())


def _version_tags(store: Store, bundle: Bundle, tags: Mapping[str, str]) -> dict[str, str]:
    given = dict(tags)
    if "kind" in given:
        given["run_kind"] = given.pop("kind")
    provenance = {key: bundle.card.provenance.get(key) for key in ("run_id", "dataset_hash")}
    ours = {
        "workspace_id": store.workspace_id,
        "kind": bundle.card.kind,
        "bundle_sha256": bundle.sha256,
        "bundle_dir": str(bundle.layout.root.absolute()),
    }
    return clean_tags(provenance) | clean_tags(given) | ours


def _find_same(store: Store, name: str, mlflow_run_id: str | None, identity: Mapping[str, str]) -> ModelVersion | None:
    same = {"name": name, "tags.bundle_sha256": identity["bundle_sha256"]}
    return next((item for item in search_versions(store, same) if item.mlflow_run_id == mlflow_run_id), None)


def _create_name(store: Store, name: str) -> None:
    try:
        store.client.create_registered_model(name)
    except failures() as error:
        if error_code(error) != "RESOURCE_ALREADY_EXISTS":
            raise


def _log_package(
    store: Store, workspace: Path, bundle: Bundle, name: str, run_id: str | None, tags: Mapping[str, str]
) -> tuple[str, str]:
    """Store the MLflow model; return its id and where it is."""
    from mlflow.entities import LoggedModelOutput

    client, experiment = store.client, store.experiment_id
    logged = call(
        lambda: client.create_logged_model(
            experiment,
            name=re.sub(r"[^\w-]", "_", name),
            source_run_id=run_id,
            tags=dict(tags),
            model_type="secauditai",
        ),
        uri=store.uri,
        patience=PATIENT,
        what="create a model",
    )
    model_id = str(logged.model_id)
    staging = workspace.absolute() / "cache" / f".package-{uuid.uuid4().hex[:8]}"
    try:
        staging.mkdir(parents=True)
        save_package(staging / "model", bundle.layout, bundle.card, model_id=model_id, run_id=run_id)

        def upload() -> None:
            client.log_model_artifacts(model_id, str(staging / "model"))
            client.finalize_logged_model(model_id, "READY")
            if run_id is not None:
                client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])

        call(upload, uri=store.uri, patience=PATIENT, what="store the model")
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return model_id, str(logged.artifact_location)
