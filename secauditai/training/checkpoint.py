"""Checkpoints: directories with a manifest, written whole or not at all; they are the only truth a run continues from.

`checkpoint_<step>/` holds `model.safetensors`, `optimizer.safetensors`, `state.json` and, written last,
`manifest.json` with the size and sha256 of each. A directory without a valid manifest is not a checkpoint.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from secauditai.errors import RunError
from secauditai.files import describe_file, write_json

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
    best_step: int | None = None
    stale_validations: int = 0
    """Validations since the best one."""
    skipped: int = 0
    """Steps in a row skipped for a non-finite gradient."""
    micro_batch_tokens: int = 0
    """The budget in force; out of memory halves it."""
    metrics_bytes: int = 0
    """Length of `metrics.jsonl` when the checkpoint was written."""
    finished: bool = False
    """Whether training ended here, by its steps or by early stopping."""
    stopped_by: str | None = None
    """Who asked to stop here before the end: `request` (a user, a scheduler) or `sweep`; None while it goes on."""


def save_checkpoint(
    directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainState
) -> CheckpointLayout:
    """Write the checkpoint of the state's step below `directory`; one that exists already is replaced."""
    final = CheckpointLayout(directory / f"checkpoint_{state.global_step}")
    partial = CheckpointLayout(directory / f".{final.root.name}.{os.getpid()}.partial")
    shutil.rmtree(partial.root, ignore_errors=True)
    partial.root.mkdir(parents=True)
    save_model(model, str(partial.weights))
    tensors, scalars = _flatten(optimizer)
    save_file(tensors, str(partial.optimizer))
    write_json(partial.state, {**asdict(state), "optimizer_scalars": scalars})
    files = {path.name: describe_file(path) for path in (partial.weights, partial.optimizer, partial.state)}
    write_json(partial.manifest, {"version": 1, "global_step": state.global_step, "files": files})
    for path in partial.root.iterdir():
        _sync(path)
    if final.root.exists():
        final.root.rename(partial.root.with_suffix(".old"))
    partial.root.rename(final.root)
    _sync(directory)
    shutil.rmtree(partial.root.with_suffix(".old"), ignore_errors=True)
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
        files = json.loads(checkpoint.manifest.read_text(encoding="utf-8"))["files"]
        for name, expected in files.items():
            path = checkpoint.root / name
            if path.stat().st_size != expected["bytes"] or describe_file(path) != expected:
                raise RunError(f"damaged checkpoint: {name} differs from its manifest", where=str(checkpoint.root))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"damaged checkpoint: {error}", where=str(checkpoint.root)) from None


def list_checkpoints(directory: Path) -> list[CheckpointLayout]:
    """The checkpoints that have a manifest, oldest first; whether they are whole is not checked."""
    found = [CheckpointLayout(path) for path in directory.glob("checkpoint_*") if _NAME.fullmatch(path.name)]
    return sorted((item for item in found if item.manifest.exists()), key=lambda item: item.step)


def newest_checkpoint(directory: Path, report_damage: Callable[[str], None]) -> CheckpointLayout | None:
    """The newest checkpoint that is whole; damaged ones are reported and passed over."""
    for checkpoint in reversed(list_checkpoints(directory)):
        try:
            check_checkpoint(checkpoint)
        except RunError as error:
            report_damage(str(error))
        else:
            return checkpoint
    return None


def resolve_checkpoint(directory: Path, wanted: str) -> CheckpointLayout:
    """Find `checkpoint_1000.pt`, `checkpoint_1000`, `1000`, `latest`, `best` or a path.

    Raises:
        RunError: when there is no such checkpoint, with those there are.
    """
    checkpoints = list_checkpoints(directory)
    name = wanted.removesuffix(".pt").removeprefix("checkpoint_")
    found: CheckpointLayout | None = None
    if name == "latest":
        found = checkpoints[-1] if checkpoints else None
    elif name == "best":
        best = read_state(checkpoints[-1]).best_step if checkpoints else None
        found = next((item for item in checkpoints if item.step == best), None)
    elif name.isdigit():
        found = next((item for item in checkpoints if item.step == int(name)), None)
    elif (Path(wanted) / "manifest.json").exists():
        found = CheckpointLayout(Path(wanted).absolute())
    if found is None:
        steps = ", ".join(str(item.step) for item in checkpoints) or "none"
        raise RunError(
            f"there is no checkpoint {wanted!r}", where=str(directory), hint=f"Steps with a checkpoint: {steps}."
        )
    return found


def prune_checkpoints(directory: Path, keep: int, best_step: int | None) -> None:
    """Delete all but the newest `keep` checkpoints and the best one."""
    for checkpoint in list_checkpoints(directory)[:-keep]:
        if checkpoint.step != best_step:
            shutil.rmtree(checkpoint.root)


def _flatten(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, float]]:
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, float] = {}
    for number, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{name}"] = value.contiguous()
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
