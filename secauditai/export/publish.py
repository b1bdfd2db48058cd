"""Publishing a finished run: bundle, graph, MLflow summary, registered version."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from secauditai.cluster import away_from_work, call_on_worker
from secauditai.export.onnx import export_onnx, load_exporter
from secauditai.mirror import address_of, mirror_of
from secauditai.models.baseline import load_learners
from secauditai.models.bundle import Bundle, open_bundle, refresh_manifest
from secauditai.models.encoders import load_transformers
from secauditai.progress import Progress, silent
from secauditai.runs import Run, open_run
from secauditai.tracking.registry import register_bundle
from secauditai.tracking.runs import log_artifacts, log_summary
from secauditai.training.finish import save_best
from secauditai.training.recipe import read_recipe


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
    if mirror_of(run.root) is None and away_from_work():  # a mirror is this machine's
        progress("Saving the model on a worker", 0, None)
        metrics = call_on_worker(save_and_export, str(run.root), cpus=read_recipe(run.layout.recipe).threads)
    else:
        metrics = save_and_export(str(run.root), progress)
    bundle = open_bundle(run.layout.bundle)
    mlflow_run_id = run.info.mlflow_run_id
    if mlflow_run_id is not None:
        best = {f"best/{name}": value for name, value in metrics.items()}
        log_summary(workspace, mlflow_run_id, best, step=int(str(bundle.card.provenance["checkpoint_step"])))
        log_artifacts(workspace, mlflow_run_id, [run.layout.config])
    progress("Registering", 0, None)
    return Published(bundle, register(run, workspace) if register_model else None, metrics)


def imports_ahead() -> list[Callable[[], object]]:
    """What imports the libraries that publishing uses, a second or two each: to be called where there is time."""
    return [] if away_from_work() else [load_transformers, load_learners, load_exporter]


def save_and_export(run_root: str, progress: Progress = silent) -> dict[str, float | None]:
    """Save the best weights of a run and their graph; the metrics on the validation split."""
    bundle, metrics = save_best(open_run(Path(run_root)), progress)
    export_onnx(bundle, bundle.layout.onnx, progress=progress)
    refresh_manifest(bundle.layout)
    return metrics


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
