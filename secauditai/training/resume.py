"""Which run a `resume` goes on with: the same one from its latest checkpoint, or a branch from an older one."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from secauditai.errors import RunError
from secauditai.files import write_json
from secauditai.runs import FINISHED, Run, create_run, newest_run
from secauditai.training.checkpoint import (
    CheckpointLayout,
    check_checkpoint,
    list_checkpoints,
    read_state,
    resolve_checkpoint,
)
from secauditai.training.preparation import HASHED_VERSIONS, installed_versions
from secauditai.training.recipe import read_recipe


@dataclass(frozen=True)
class Resumption:
    """The run to go on with and how it came about."""

    run: Run
    """The model's newest run."""
    checkpoint: CheckpointLayout
    branches: bool
    """Whether the checkpoint is not the run's latest, so that a new run begins there."""

    @property
    def complete(self) -> bool:
        """Nothing is left to do: it is trained to the end and registered."""
        info = self.run.info
        return not self.branches and info.status == FINISHED and info.model_version is not None

    def begin(self, workspace: Path) -> Run:
        """The run to go on with: the run itself, or a new branch of it."""
        return branch(workspace, self.run, self.checkpoint) if self.branches else self.run


def resolve_resume(workspace: Path, name: str, checkpoint: str) -> Resumption:
    """Find the model's newest run and the checkpoint to go on from; nothing is written yet.

    Args:
        workspace: the workspace directory.
        name: the model's name.
        checkpoint: `latest`, `best`, a step, `checkpoint_1000.pt` or a path.

    Raises:
        RunError: when there is no such run or checkpoint, it is damaged, or other library versions made it.
    """
    run = newest_run(workspace, name)
    found = resolve_checkpoint(run.layout.checkpoints, checkpoint)
    if checkpoint != "latest":
        check_checkpoint(found)
    check_versions(run)
    latest = list_checkpoints(run.layout.checkpoints)[-1]
    return Resumption(run, found, branches=found.root != latest.root)


def branch(workspace: Path, parent: Run, checkpoint: CheckpointLayout) -> Run:
    """A new run that begins where the parent stood at a checkpoint, with its history and its best weights so far."""
    info = parent.info
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
    shutil.copyfile(parent.layout.config, run.layout.config)
    if parent.layout.memory.exists():
        shutil.copyfile(parent.layout.memory, run.layout.memory)
    recipe = read_recipe(parent.layout.recipe)
    write_json(run.layout.recipe, recipe.model_copy(update={"initial": str(run.layout.initial)}).model_dump())
    history = parent.layout.metrics.read_bytes()[: read_state(checkpoint).metrics_bytes]
    run.layout.metrics.write_bytes(history)
    best = read_state(checkpoint).best_step
    for kept_step in {checkpoint.step, best} - {None}:
        name = f"checkpoint_{kept_step}"
        source = checkpoint.root if kept_step == checkpoint.step else parent.layout.checkpoints / name
        if source.exists():
            shutil.copytree(source, run.layout.checkpoints / name)
    return run


def check_versions(run: Run) -> None:
    """Refuse to go on with other libraries than the run began with: the result would not be the same run's.

    Raises:
        RunError: naming what has changed.
    """
    recorded = read_recipe(run.layout.recipe).versions
    now = installed_versions()
    changed = [
        f"{name} {recorded.get(name)} → {now[name]}" for name in HASHED_VERSIONS if recorded.get(name) != now[name]
    ]
    if changed:
        raise RunError(
            f"this run began with other library versions: {', '.join(changed)}",
            where=str(run.root),
            hint="Install those versions again, or start a new run.",
        )


def describe(resumption: Resumption) -> str:
    """What a user should know about where training goes on."""
    info, step = resumption.run.info, resumption.checkpoint.step
    left = f"step {step} of {info.total_steps}"
    if resumption.branches:
        return f"Branching from run {info.run_id} at {left}, as a new run"
    return f"Continuing run {info.run_id} at {left}"
