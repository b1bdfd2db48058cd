"""Which run a `resume` goes on with: the same one from its latest checkpoint, or a branch from an older one."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from secauditai.config.files import read_layer, resolve_config, write_layer
from secauditai.config.leaves import leaves
from secauditai.config.settings import TrainConfig
from secauditai.data.dataset import Dataset
from secauditai.data.tokens import build_token_store, open_token_store
from secauditai.errors import DataError, RunError
from secauditai.mirror import fetch, fetch_once
from secauditai.progress import Progress, silent
from secauditai.runs import FINISHED, Run, RunLayout, create_run, model_runs, open_run, read_metrics
from secauditai.training.attempt import held
from secauditai.training.changes import Changes, change_settings
from secauditai.training.checkpoint import (
    CheckpointLayout,
    check_checkpoint,
    newest_checkpoint,
    read_state,
    resolve_checkpoint,
)
from secauditai.training.memory import budget_at, read_budgets, write_budgets
from secauditai.training.mirrored import fetch_run
from secauditai.training.preparation import build_augmentation
from secauditai.training.promise import check_promise, open_same_dataset, token_digest
from secauditai.training.recipe import Recipe, read_recipe, write_recipe


@dataclass(frozen=True)
class Resumption:
    """The run to go on with and how it came about."""

    run: Run
    """The model's newest run, or the one that a path names."""
    checkpoint: CheckpointLayout | None
    """Where it goes on; None when it was interrupted before its first checkpoint."""
    branches: bool
    """Whether the checkpoint is not the run's latest, so that a new run begins there."""
    damaged: tuple[str, ...] = ()
    """What is wrong with the newer checkpoints that were passed over."""
    changes: Changes | None = None
    """Settings for the rest of the run; None when nothing is left to do."""
    dataset: Dataset | None = None
    """The run's data, compared with what it was; None when nothing is left to do."""
    noted: tuple[str, ...] = ()
    """What changed around the run without weight for the result."""

    @property
    def complete(self) -> bool:
        """Nothing is left to do: it is trained to the end and registered."""
        return _complete(self.run, branches=self.branches)

    @property
    def step(self) -> int:
        """The global step it goes on from."""
        return self.checkpoint.step if self.checkpoint else 0

    def begin(self, workspace: Path, progress: Progress = silent) -> Run:
        """The run to go on with, the run itself or a new branch of it, with its settings and token stores in place.

        Raises:
            RunError: when the data no longer yields the same tokens, or another process trains the run.
        """
        assert self.changes is not None
        assert self.dataset is not None
        config, recipe = self.changes.config, self.changes.recipe
        if self.branches and self.checkpoint:
            restore_stores(recipe, self.dataset, config, progress)
            return branch(workspace, self.run, self.checkpoint, self.changes)
        with held(self.run.layout.driver_lock):  # a run that is trained keeps the settings it is trained with
            restore_stores(recipe, self.dataset, config, progress)
            write_layer(self.run.layout.config, config.flat())
            if self.changes.forgets_memory:
                write_budgets(self.run.layout.memory, [])  # not deleted: it may be in a store as well
            write_recipe(self.run.layout.recipe, recipe)
        return self.run


def resolve_resume(
    workspace: Path, name: str, checkpoint: str, flags: Mapping[str, Any] | None = None, address: str | None = None
) -> Resumption:
    """Find the run and the checkpoint to go on from; nothing is written yet.

    Args:
        workspace: the workspace directory.
        name: the model's name.
        checkpoint: `latest`, `best`, a step, `checkpoint_1000.pt` or a path.
        flags: settings that the command line names.
        address: the Ray cluster it goes on on, when it is not this machine.

    Raises:
        RunError: when there is no such run or checkpoint, it is damaged, or what decides the result has changed.
    """
    run = _begun_run(workspace, name, checkpoint)
    if checkpoint == "latest" and _complete(run, branches=False):
        _refuse_late(run, flags or {})
        return Resumption(run, None, branches=False)
    fetch_run(run, checkpoint)
    damaged: list[str] = []
    latest = newest_checkpoint(run.layout.checkpoints, damaged.append)
    found = latest
    if checkpoint != "latest":
        found = resolve_checkpoint(run.layout.checkpoints, checkpoint, lambda _text: None)
    branches = found is not None and latest is not None and found.root != latest.root
    if _complete(run, branches=branches):
        _refuse_late(run, flags or {})
        return Resumption(run, found, branches, tuple(damaged))
    recipe = read_recipe(run.layout.recipe)
    noted = check_versions(run)
    fetch_once(Path(run.info.dataset or ""))
    if recipe.initial_bundle:
        fetch(Path(recipe.initial_bundle))
    dataset = open_same_dataset(Path(run.info.dataset or ""), recipe.promise)
    budget = budget_at(read_budgets(run.layout.memory), (found.step if found else 0) + 1, recipe.micro_batch_tokens)
    changes = change_settings(resolve_config(read_layer(run.layout.config)), recipe, flags or {}, budget, address)
    if address is None:
        _check_device(changes.recipe, run)
    return Resumption(run, found, branches, tuple(damaged), changes, dataset, tuple(noted))


def _refuse_late(run: Run, flags: Mapping[str, Any]) -> None:
    """Refuse settings of a run that is complete, where nothing would heed them."""
    before = resolve_config(read_layer(run.layout.config)).flat()
    late = [f"{leaves()[name].flag} {value}" for name, value in flags.items() if value != before[name]]
    if late:
        raise RunError(
            f"run {run.info.run_id} is complete, so this would change nothing: {', '.join(late)}",
            hint="Leave it out, branch from an older --checkpoint, or start a new run.",
        )


def check_versions(run: Run) -> list[str]:
    """Refuse to go on where the code is not what the run began with; tell what else changed around it.

    Raises:
        RunError: naming what has changed.
    """
    recipe = read_recipe(run.layout.recipe)
    return check_promise(recipe.promise, recipe.versions, run.layout.initial)


def _complete(run: Run, *, branches: bool) -> bool:
    return not branches and run.info.status == FINISHED and run.info.model_version is not None


def _begun_run(workspace: Path, name: str, checkpoint: str) -> Run:
    """The run that a checkpoint's path lies in, else the newest one that was prepared to its end.

    Raises:
        RunError: when there is none, or it is of another model.
    """
    path = Path(checkpoint).absolute()
    if (path / "manifest.json").exists():
        root = path.parent.parent
        if not RunLayout(root).info.exists():
            hint = "Name latest, best, a step, or a directory below a run's `checkpoints`."
            raise RunError("this is no checkpoint of a run", where=checkpoint, hint=hint)
        run = open_run(root)
        if run.info.name != name:
            raise RunError(f"this checkpoint belongs to a run of {run.info.name!r}, not of {name!r}", where=str(path))
        return run
    begun = [run for run in model_runs(workspace, name) if run.layout.recipe.exists()]
    if not begun:
        raise RunError(
            f"no run of {name!r} came so far that it could go on; it was interrupted while being prepared",
            where=str(workspace / "runs" / name),
            hint="Start it again.",
        )
    return begun[-1]


def _check_device(recipe: Recipe, run: Run) -> None:
    import torch

    from secauditai.cluster import in_ray_job

    if recipe.device == "cuda" and recipe.world_size == 1 and not in_ray_job() and not torch.cuda.is_available():
        raise RunError(
            "this run trains on a CUDA device, and there is none here",
            where=str(run.root),
            hint="--gpu 0 goes on with the CPU when there is no such device, but not bit for bit.",
        )


def restore_stores(recipe: Recipe, dataset: Dataset, config: TrainConfig, progress: Progress = silent) -> None:
    """Build the run's token stores again from the same data where the cache has lost or damaged them.

    Raises:
        RunError: when the data no longer yields the same tokens.
    """
    from secauditai.models.tokenizer import load_tokenizer

    for split, root in (("train", Path(recipe.train_store)), ("val", Path(recipe.val_store))):
        digest = recipe.promise.tokens[split]
        fetch_once(root)
        if _is_intact(root, digest):
            continue
        shutil.rmtree(root, ignore_errors=True)
        built = build_token_store(
            dataset.table(split),
            load_tokenizer(Path(recipe.initial)),
            root.parent,
            augmentation=build_augmentation(config) if split == "train" else None,
            progress=progress,
        )
        if built.root != root or token_digest(built) != digest:
            raise RunError(f"the {split} split no longer yields the tokens the run began with", where=str(root))


def _is_intact(root: Path, digest: str) -> bool:
    try:
        return token_digest(open_token_store(root)) == digest
    except DataError:
        return False


def branch(workspace: Path, parent: Run, checkpoint: CheckpointLayout, changes: Changes) -> Run:
    """A new run that begins where the parent stood at a checkpoint, with its history and its best weights so far.

    Raises:
        RunError: when the best checkpoint until then is missing or damaged.
    """
    info, state = parent.info, read_state(checkpoint)
    copied = {checkpoint.root}
    if state.best_step is not None:
        copied.add(parent.layout.checkpoints / f"checkpoint_{state.best_step}")
    for root in copied:
        check_checkpoint(CheckpointLayout(root))
    kept = ("config_name", "total_steps", "steps_per_epoch", "dataset", "dataset_hash")
    run = create_run(
        workspace,
        info.name,
        kind=info.kind,
        task=info.task,
        parent_run_id=info.run_id,
        **{key: value for key, value in asdict(info).items() if key in kept},
    )
    shutil.copytree(parent.layout.initial, run.layout.initial)
    if parent.layout.memory.exists() and not changes.forgets_memory:
        shutil.copyfile(parent.layout.memory, run.layout.memory)
    write_layer(run.layout.config, changes.config.flat())
    run.layout.metrics.write_bytes(parent.layout.metrics.read_bytes()[: state.metrics_bytes])
    for root in copied:
        shutil.copytree(root, run.layout.checkpoints / root.name)
    own = {"initial": str(run.layout.initial)}
    # Last: without a recipe there is no run to go on with.
    write_recipe(run.layout.recipe, changes.recipe.model_copy(update=own))
    return run


@dataclass(frozen=True)
class ResumeSummary:
    """Where a run stands when it goes on."""

    step: int
    total_steps: int
    epoch: float
    samples_seen: int
    samples_per_second: float | None
    """Mean so far; None when nothing was logged yet."""
    damaged_checkpoints: int
    changes: list[str]

    def lines(self) -> list[str]:
        """In words."""
        rate = f", {self.samples_per_second:.1f} samples/s so far" if self.samples_per_second else ""
        return [
            f"  step {self.step} of {self.total_steps}, epoch {self.epoch:.2f}, {self.samples_seen} samples seen{rate}",
            *(f"  {change}" for change in self.changes),
        ]


def summarise(resumption: Resumption) -> ResumeSummary:
    """What a user should know about where training goes on."""
    assert resumption.changes is not None
    assert resumption.dataset is not None
    recipe, step = resumption.changes.recipe, resumption.step
    records = [r for r in read_metrics(resumption.run.layout.metrics) if r["kind"] == "train" and r["step"] <= step]
    rates = [r["samples_per_second"] for r in records if "samples_per_second" in r]
    per_epoch = int(resumption.dataset.manifest["splits"]["counts"]["train"])
    epochs, rest = divmod(step, recipe.steps_per_epoch)
    changes = [*resumption.changes.notes, *resumption.noted]
    return ResumeSummary(
        step=step,
        total_steps=recipe.total_steps,
        epoch=step / recipe.steps_per_epoch,
        samples_seen=epochs * per_epoch + rest * recipe.optimization.batch_size,
        samples_per_second=sum(rates) / len(rates) if rates else None,
        damaged_checkpoints=len(resumption.damaged),
        changes=changes,
    )


def describe(resumption: Resumption) -> str:
    """Which run goes on, and how."""
    info, left = resumption.run.info, f"step {resumption.step} of {resumption.run.info.total_steps}"
    if resumption.branches:
        return f"Branching from run {info.run_id} at {left}, as a new run"
    return f"Continuing run {info.run_id} at {left}"
