"""Finding what evaluation commands work on: a model's bundle, its run, and its own data."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from secauditai.errors import ModelError
from secauditai.mirror import fetch, fetch_once
from secauditai.runs import Run, find_run

if TYPE_CHECKING:
    from secauditai.data.dataset import Dataset
    from secauditai.models.bundle import Bundle


@dataclass(frozen=True)
class FoundModel:
    """A saved model and the run that made it, where this workspace has it."""

    bundle: "Bundle"
    description: str
    label: str
    """`name/version`, or the path."""
    run: Run | None
    evaluations: Path
    """Where its evaluations are stored."""


def find_model(spec: str, workspace: Path) -> FoundModel:
    """Resolve a model that was trained.

    Raises:
        ModelError: when it is unknown, or only an encoder to start training from.
    """
    from secauditai.models.bundle import open_bundle
    from secauditai.tracking.registry import resolve_model

    resolved = resolve_model(spec, workspace)
    if resolved.bundle is None:
        hint = f"`secauditai train finetune --model {quote(spec)} --data …` trains one."
        raise ModelError(f"{resolved.description} is not a trained model", where=spec, hint=hint)
    bundle = open_bundle(resolved.bundle)
    run_id = str(bundle.card.provenance.get("run_id") or "")
    run = find_run(workspace, run_id) if run_id else None
    directory = run.layout.evaluations if run else workspace / "evaluations" / bundle.sha256[:16]
    fetch(directory)
    label = f"{resolved.name}/{resolved.version}" if resolved.version is not None else spec
    return FoundModel(bundle, resolved.description, label, run, directory)


def own_dataset(found: FoundModel) -> "Dataset":
    """The dataset that a model was trained on.

    Raises:
        ModelError: when this workspace does not have it.
    """
    from secauditai.data.dataset import is_dataset, open_dataset

    root = Path(found.run.info.dataset or "") if found.run else None
    if root is not None:
        fetch_once(root)
    if root is None or not is_dataset(root):
        hint = "Name test data with `secauditai train evaluate --model … --test-data …`."
        raise ModelError("the data this model was trained on is not here", where=found.label, hint=hint)
    return open_dataset(root)
