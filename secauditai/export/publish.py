"""Publishing a finished run: bundle, graph, MLflow summary, registered version."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from secauditai.export.onnx import export_onnx
from secauditai.mirror import address_of
from secauditai.models.bundle import Bundle, refresh_manifest
from secauditai.progress import Progress, silent
from secauditai.runs import Run
from secauditai.tracking.registry import register_bundle
from secauditai.tracking.runs import log_artifacts, log_summary
from secauditai.tracking.shipper import ship_remaining
from secauditai.training.finish import save_best


@dataclass(frozen=True)
class Published:
    """A saved model."""

    bundle: Bundle
    version: int | None
    """Its registered version; None when it was not to be registered."""
    metrics: dict[str, float | None]
    """On the validation split."""


def publish(run: Run, workspace: Path, *, register_model: bool = True, progress: Progress = silent) -> Published:
    """Save the best weights of a finished run, export them, and register them as a new version of its name."""
    bundle, metrics = save_best(run, progress)
    export_onnx(bundle, bundle.layout.onnx, progress=progress)
    refresh_manifest(bundle.layout)
    mlflow_run_id = run.info.mlflow_run_id
    if mlflow_run_id is not None:
        ship_remaining(workspace, mlflow_run_id, run.layout.metrics)
        best = {f"best/{name}": value for name, value in metrics.items()}
        log_summary(workspace, mlflow_run_id, best, step=int(str(bundle.card.provenance["checkpoint_step"])))
        log_artifacts(workspace, mlflow_run_id, [run.layout.config])
    progress("Registering", 0, None)
    return Published(bundle, register(run, workspace) if register_model else None, metrics)


def register(run: Run, workspace: Path, tags: Mapping[str, str] | None = None) -> int:
    """Register the saved model of a run as a new version of its name; return the version."""
    info = run.info
    lineage = {"run_id": info.run_id, "run_dir": address_of(run.root), "dataset_hash": info.dataset_hash or ""}
    registered = register_bundle(
        workspace,
        run.layout.bundle,
        name=info.name,
        mlflow_run_id=info.mlflow_run_id,
        tags={**lineage, **(tags or {})},
    )
    return registered.version
