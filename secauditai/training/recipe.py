"""The recipe: everything the training loop needs, resolved to plain values, as `recipe.json` in the run directory.

The driver writes it once; every rank, attempt and resume reads it. Nothing else crosses into a worker.
"""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from secauditai.config.settings import HealthSettings, OptimizationSettings
from secauditai.data.windows import Windowing
from secauditai.errors import RunError
from secauditai.files import write_json
from secauditai.mirror import located, portable
from secauditai.training.promise import Promise

PATHS = ("initial", "initial_bundle", "train_store", "val_store")
"""Fields of the recipe that name a directory."""


class Recipe(BaseModel):
    """One training run, ready to execute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    objective: Literal["classification", "masked_language"]
    heads: dict[str, list[str]]
    """Task name to labels; empty for masked-language modelling."""
    class_weights: dict[str, list[float]] | None
    sampling: Literal["natural", "balanced"] = "natural"
    focal_gamma: float = 0.0
    """0 is plain cross entropy."""
    mlm_probability: float
    initial: str
    """Directory of the encoder and tokenizer that training starts from."""
    initial_bundle: str | None
    """A bundle whose heads are taken over, when its tasks and labels are the same."""
    encoder_source: dict[str, str | None]
    """Where the encoder came from: hub id and commit, path, or from scratch."""
    notices: list[str]
    """What the user should know about the encoder, such as a fresh masked-language head."""
    special_ids: dict[str, int]
    vocab_size: int
    pooling: str
    dropout: float
    train_store: str
    val_store: str
    max_length: int
    stride: int
    long_code: str
    max_windows: int
    optimization: OptimizationSettings
    learning_rate: float
    total_steps: int
    selection_metric: str
    eval_interval: int
    early_stopping: int
    seed: int
    device: Literal["cpu", "cuda"]
    world_size: int
    threads: int
    precision: Literal["fp32", "bf16"]
    micro_batch_tokens: int
    gradient_checkpointing: bool
    checkpoint_interval: int | None
    steps_per_epoch: int
    keep_checkpoints: int | None
    log_interval: int
    health: HealthSettings
    hang_timeout: float = 600.0
    min_workers: int | None = None
    """Fewest workers of an elastic range, whose most is `world_size`; None: exactly `world_size`."""
    tracking_uri: str | None
    """Without credentials; each process adds its own."""
    versions: dict[str, str]
    promise: Promise
    """The surroundings it was prepared in."""

    @property
    def windowing(self) -> Windowing:
        """How code becomes windows."""
        return Windowing(
            max_length=self.max_length, stride=self.stride, long_code=self.long_code, max_windows=self.max_windows
        )


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a run's recipe, whole or not at all; in a remote workspace its paths hold on every machine."""
    document = recipe.model_dump()
    write_json(path, document | {name: portable(document[name], path) for name in PATHS if document[name]})


def read_recipe(path: Path) -> Recipe:
    """Read a run's recipe.

    Raises:
        RunError: when it is missing or damaged.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Recipe.model_validate(
            document | {name: located(document[name], path) for name in PATHS if document.get(name)}
        )
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"the run cannot be continued, its recipe is damaged: {error}", where=str(path)) from None
