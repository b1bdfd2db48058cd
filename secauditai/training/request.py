"""What a user asks a training command for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secauditai.config.settings import TrainConfig

BASE, FINETUNE, START = "base", "finetune", "start"


@dataclass(frozen=True)
class TrainRequest:
    """One training to do: settings, and where its result belongs."""

    kind: str
    """base | finetune | start"""
    name: str
    """The name its run and its model go by."""
    config: TrainConfig
    workspace: Path
    config_name: str | None = None
    start_layer: Mapping[str, Any] = field(default_factory=dict)
    """Configuration and data without flags, which a later bare `start` repeats."""
    address: str | None = None
    in_process: bool = False
    """Whether this very process trains, as in a sweep's trial, wherever it runs."""
    parent_mlflow_run: str | None = None
    """MLflow run of the sweep or the run this one belongs to."""

    sweep_id: str | None = None
    """The sweep this training is part of."""
    trial_id: str | None = None
    """The trial of that sweep."""

    @property
    def is_base(self) -> bool:
        """Whether it adapts an encoder by masked-language modelling instead of training heads."""
        return self.kind == BASE
