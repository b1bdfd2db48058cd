"""What a model says that it came from, compared with what is there: samples, splits, configuration, checkpoint."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from secauditai.data.dataset import content_hash, is_dataset, open_dataset
from secauditai.data.schema import row_digest
from secauditai.errors import SecAuditError
from secauditai.export.verify import Verification
from secauditai.models.bundle import Bundle
from secauditai.runs import Run
from secauditai.training.checkpoint import CheckpointLayout, check_checkpoint


def check_lineage(run: Run, bundle: Bundle, result: Verification) -> None:
    """Compute again each hash of the chain that the bundle's card names; what is gone by now is skipped.

    Args:
        run: the run that made the bundle.
        bundle: the bundle.
        result: gets a check each for the dataset, the configuration and the checkpoint.
    """
    said = bundle.card.provenance
    root, config = Path(run.info.dataset or ""), run.layout.config
    checkpoint = CheckpointLayout(run.layout.checkpoints / f"checkpoint_{said.get('checkpoint_step')}")
    chain: list[tuple[str, Path, bool, Callable[[], str]]] = [
        ("samples and splits", root, is_dataset(root), lambda: _dataset_problem(root, bundle)),
        ("configuration", config, config.exists(), lambda: _digest_problem(config, str(said["config_hash"]))),
        ("checkpoint", checkpoint.root, checkpoint.manifest.exists(), lambda: _checkpoint_problem(checkpoint, bundle)),
    ]
    for name, place, exists, problem in chain:
        if not exists:
            result.add(name, None, f"{place} is not there any more")
            continue
        try:
            found = problem()
        except SecAuditError as error:
            found = str(error)
        result.add(name, not found, found or f"{place} is what the model was made from")


def _dataset_problem(root: Path, bundle: Bundle) -> str:
    dataset, said = open_dataset(root), bundle.card.provenance
    table = dataset.table()
    found = content_hash((row_digest(row) for row in table.to_pylist()), table.column("group").to_pylist())
    if found != said["dataset_hash"]:
        return f"the samples of {root} are others"
    split = dataset.manifest.get("splits", {}).get("hash")
    return (
        "" if split == said["split_hash"] else f"{root} is {'split in another way' if split else 'not split any more'}"
    )


def _digest_problem(path: Path, said: str) -> str:
    return "" if hashlib.sha256(path.read_bytes()).hexdigest() == said else f"{path} was changed"


def _checkpoint_problem(checkpoint: CheckpointLayout, bundle: Bundle) -> str:
    check_checkpoint(checkpoint)
    return _digest_problem(checkpoint.manifest, str(bundle.card.provenance["checkpoint_hash"]))
