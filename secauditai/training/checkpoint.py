"""Checkpoints: directories with a manifest, written whole or not at all; they are the only truth a run continues from.

`checkpoint_<step>/` holds `model.safetensors`, `optimizer.safetensors`, `state.json` and, written last,
`manifest.json` with the size and sha256 of each. A directory without a valid manifest is not a checkpoint.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_file
from torch import Tensor, nn

from secauditai.errors import RunError
from secauditai.files import describe_file, write_json

logger = logging.getLogger("secauditai.training")

_NAME = re.compile(r"checkpoint_(\d+)")


@dataclass(frozen=True)
class CheckpointLayout:
    """The file names of a checkpoint directory."""

    root: Path

    @property
    def weights(self) -> Path:
        """All weights of the model."""
        return self.root / "model.safetensors"

    @property
    def optimizer(self) -> Path:
        """The optimizer's tensors, `<parameter number>.<name>`."""
        return self.root / "optimizer.safetensors"

    @property
    def state(self) -> Path:
        """`TrainState`."""
        return self.root / "state.json"

    @property
    def manifest(self) -> Path:
        """Sizes and digests of the other files."""
        return self.root / "manifest.json"

    @property
    def step(self) -> int:
        """The global step after which it was written."""
        match = _NAME.fullmatch(self.root.name)
        return int(match[1]) if match else -1


@dataclass
class TrainState:
    """What the loop must know to go on as if it had never stopped, besides weights and optimizer."""

    global_step: int = 0
    best_value: float | None = None
    """The selection metric; None while no validation has defined it, and the loss decides."""
    best_loss: float | None = None
    best_step: int | None = None
    stale_validations: int = 0
    """Validations since the best one."""
    health: dict[str, Any] = field(default_factory=dict)
    """What `health.Health` remembers; plain values."""
    micro_batch_tokens: int = 0
    """The budget in force; out of memory halves it."""
    metrics_bytes: int = 0
    """Length of `metrics.jsonl` when the checkpoint was written."""
    world_size: int = 0
    """Ranks that trained last; 0 when not known."""
    finished: bool = False
    """Whether training ended here, by its steps or by early stopping."""
    stopped_by: str | None = None
    """Who asked to stop here before the end: `request` (a user, a scheduler) or `sweep`; None while it goes on."""


@dataclass(frozen=True)
class Snapshot:
    """All that a checkpoint holds at one moment of the training."""

    step: int
    weights: dict[str, Tensor]
    """The model's tensors by name; of tied ones only the first."""
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def take_snapshot(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainState, *, copy: bool = True
) -> Snapshot:
    """Take weights, optimizer and state: copies, so that training may go on, or what is there on the CPU as it is."""
    tensors, scalars = _flatten(optimizer)
    return Snapshot(
        step=state.global_step,
        weights=_to_cpu(_untied(model.state_dict()), copy=copy),
        optimizer=_to_cpu(tensors, copy=copy),
        state={**asdict(state), "optimizer_scalars": scalars},
    )


def write_snapshot(directory: Path, snapshot: Snapshot, history: Path | None = None) -> CheckpointLayout:
    """Write a checkpoint below `directory`; one of the same step that exists already is replaced.

    Args:
        directory: where checkpoints are.
        snapshot: what to write.
        history: `metrics.jsonl`; what the state counts of it is on the disk before the manifest is.

    Raises:
        OSError, SafetensorError: when it cannot be written; nothing of it is left then.
    """
    final = CheckpointLayout(directory / f"checkpoint_{snapshot.step}")
    partial = CheckpointLayout(directory / f".{final.root.name}.{os.getpid()}.partial")
    shutil.rmtree(partial.root, ignore_errors=True)
    partial.root.mkdir(parents=True)
    try:
        save_file(snapshot.weights, str(partial.weights))
        save_file(snapshot.optimizer, str(partial.optimizer))
        write_json(partial.state, snapshot.state)
        written = (partial.weights, partial.optimizer, partial.state)
        for path in (*written, *([history] if history else [])):
            _sync(path)
        files = {path.name: describe_file(path) for path in written}
        write_json(partial.manifest, {"version": 1, "global_step": snapshot.step, "files": files})
        _sync(partial.manifest)
        _sync(partial.root)
        delete_checkpoint(final)
        partial.root.rename(final.root)
        _sync(directory)
    finally:
        shutil.rmtree(partial.root, ignore_errors=True)
    return final


def load_checkpoint(
    checkpoint: CheckpointLayout, model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> TrainState:
    """Put weights and optimizer state back and return the loop's state.

    Raises:
        RunError: when the model has other parameters than the checkpoint.
    """
    try:
        load_model(model, str(checkpoint.weights))
    except RuntimeError as error:
        raise RunError(f"the checkpoint does not fit the model: {error}", where=str(checkpoint.root)) from None
    raw = json.loads(checkpoint.state.read_text(encoding="utf-8"))
    if optimizer is not None:
        _restore(optimizer, load_file(str(checkpoint.optimizer)), raw["optimizer_scalars"])
    return TrainState(**{item.name: raw[item.name] for item in fields(TrainState) if item.name in raw})


def read_state(checkpoint: CheckpointLayout) -> TrainState:
    """The loop's state in a checkpoint, without its tensors."""
    raw = json.loads(checkpoint.state.read_text(encoding="utf-8"))
    return TrainState(**{item.name: raw[item.name] for item in fields(TrainState) if item.name in raw})


def check_checkpoint(checkpoint: CheckpointLayout) -> None:
    """Compare every file with the manifest.

    Raises:
        RunError: naming the file that is missing or differs.
    """
    try:
        manifest = json.loads(checkpoint.manifest.read_text(encoding="utf-8"))
        if manifest["global_step"] != checkpoint.step:
            raise ValueError(f"its manifest is of step {manifest['global_step']}")
        for path in (checkpoint.weights, checkpoint.optimizer, checkpoint.state):
            expected = manifest["files"][path.name]
            if path.stat().st_size != expected["bytes"] or describe_file(path) != expected:
                raise ValueError(f"{path.name} differs from its manifest")
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise RunError(f"damaged checkpoint: {missing} is missing", where=str(checkpoint.root)) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"damaged checkpoint: {error}", where=str(checkpoint.root)) from None


def list_checkpoints(directory: Path) -> list[CheckpointLayout]:
    """The checkpoints that have a manifest, oldest first; whether they are whole is not checked."""
    return [item for item in _directories(directory) if item.manifest.exists()]


def newest_checkpoint(
    directory: Path, report_damage: Callable[[str], None], until: int | None = None
) -> CheckpointLayout | None:
    """The newest checkpoint (until a step) that training can go on from; damaged ones are reported and passed over.

    One whose best checkpoint so far is damaged or missing is passed over too: going on from an earlier one makes the
    best one again.

    Raises:
        RunError: when there are checkpoints and all of them are damaged.
    """
    reasons: list[str] = []
    for checkpoint in reversed(_directories(directory)):
        if until is not None and checkpoint.step > until:
            continue
        try:
            check_checkpoint(checkpoint)
            _check_best(checkpoint)
        except RunError as error:
            report_damage(str(error))
            reasons.append(error.message)
        else:
            return checkpoint
    if reasons:
        raise RunError(
            f"all {len(reasons)} checkpoints are damaged, the newest: {reasons[0]}",
            where=str(directory),
            hint="Restore one of them from a copy, or start a new run.",
        )
    return None


def _check_best(checkpoint: CheckpointLayout) -> None:
    best = read_state(checkpoint).best_step
    if best not in (None, checkpoint.step):
        try:
            check_checkpoint(CheckpointLayout(checkpoint.root.with_name(f"checkpoint_{best}")))
        except RunError as error:
            raise RunError(f"its best checkpoint so far is of no use: {error}", where=str(checkpoint.root)) from None


def resolve_checkpoint(
    directory: Path, wanted: str, report_damage: Callable[[str], None] = logger.warning
) -> CheckpointLayout:
    """Find `checkpoint_1000.pt`, `checkpoint_1000`, `1000`, `latest`, `best` or a path.

    Raises:
        RunError: when there is no such checkpoint, with those there are, or it is damaged.
    """
    name = wanted.removesuffix(".pt").removeprefix("checkpoint_")
    found: CheckpointLayout | None = None
    if name in ("latest", "best"):
        found = newest_checkpoint(directory, report_damage)
        best = read_state(found).best_step if found else None
        if name == "best":
            found = CheckpointLayout(directory / f"checkpoint_{best}") if best is not None else None
    elif name.isdecimal():
        found = next((item for item in _directories(directory) if item.step == int(name)), None)
    elif (Path(wanted) / "manifest.json").exists():
        found = CheckpointLayout(Path(wanted).absolute())
    if found is None:
        steps = ", ".join(str(item.step) for item in list_checkpoints(directory)) or "none"
        raise RunError(
            f"there is no checkpoint {wanted!r}", where=str(directory), hint=f"Steps with a checkpoint: {steps}."
        )
    check_checkpoint(found)
    return found


def prune_checkpoints(directory: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and the best one of each of these; unreadable ones do not count."""
    readable = [(checkpoint, state) for checkpoint in list_checkpoints(directory) if (state := _try_state(checkpoint))]
    best = {state.best_step for _, state in readable[-keep:]}
    for checkpoint, _ in readable[:-keep]:
        if checkpoint.step not in best:
            delete_checkpoint(checkpoint)


def _try_state(checkpoint: CheckpointLayout) -> TrainState | None:
    try:
        return read_state(checkpoint)
    except (OSError, TypeError, ValueError) as error:
        logger.warning("%s is damaged: %s", checkpoint.root.name, error)
        return None


def delete_checkpoint(checkpoint: CheckpointLayout) -> None:
    """Delete a checkpoint so that a process killed meanwhile leaves none that looks damaged."""
    if checkpoint.root.exists():
        doomed = checkpoint.root.with_name(f".{checkpoint.root.name}.{os.getpid()}.old.partial")
        shutil.rmtree(doomed, ignore_errors=True)
        checkpoint.root.rename(doomed)
        shutil.rmtree(doomed)


def clear_directory(directory: Path, step: int) -> list[Path]:
    """Make room for going on from a step.

    What a killed process left half-written is deleted. Checkpoints of later steps, which are damaged or rest on a
    damaged one, are set aside under another name.

    Returns:
        What was set aside.
    """
    for left in directory.glob(".checkpoint_*.partial"):
        shutil.rmtree(left)
    aside: list[Path] = []
    for checkpoint in _directories(directory):
        if checkpoint.step > step:
            target = checkpoint.root.with_name(f"damaged_{checkpoint.root.name}")
            shutil.rmtree(target, ignore_errors=True)
            aside.append(checkpoint.root.rename(target))
    return aside


def _directories(directory: Path) -> list[CheckpointLayout]:
    """Everything that a checkpoint's name stands on, oldest first."""
    found = [CheckpointLayout(path) for path in directory.glob("checkpoint_*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda item: item.step)


def _untied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out tensors that are another one under a second name; `load_model` finds them again."""
    first: dict[tuple[object, ...], str] = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        first.setdefault(place if tensor.numel() else (name,), name)
    return {name: tensors[name] for name in first.values()}


def _to_cpu(tensors: Mapping[str, Tensor], *, copy: bool) -> dict[str, Tensor]:
    return {
        name: tensor.detach().to("cpu", copy=copy, memory_format=torch.contiguous_format).contiguous()
        for name, tensor in tensors.items()
    }


def _flatten(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, float]]:
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, float] = {}
    for number, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{name}"] = value
            elif value is not None:
                scalars[f"{number}.{name}"] = float(value)
    return tensors, scalars


def _restore(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], scalars: dict[str, float]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **scalars}.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _sync(path: Path) -> None:
    """Ask the disk to keep what was written, so that a rename never outlives the data it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
