"""Every setting of a training run: its name, type, range, default and help, declared once.

Flags, YAML keys, `config set` keys, MLflow params, sweep samples and the generated reference page derive from here.
Leaf names are unique over all sections: `--learning-rate` and `optimization.learning_rate` are one setting.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

TASKS = ("vulnerability_detection", "category_classification", "severity_prediction")
MULTI_TASK = "multi_task"


class Section(BaseModel):
    """A group of settings; immutable, and strict about unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class InputSettings(Section):
    """What is read and how code becomes token windows."""

    data: str | None = Field(
        None, description="Training data: a file, directory, glob, prepared dataset or `security_dataset`."
    )
    max_length: int = Field(512, ge=16, le=8192, description="Tokens per window, special tokens included.")
    stride: int | None = Field(
        None, ge=0, le=4096, description="Tokens that neighbouring windows share; default an eighth of `max_length`."
    )
    max_windows: int = Field(
        8, ge=1, le=1024, description="Windows of one sample used per epoch in training; evaluation uses all."
    )
    long_code: Literal["windows", "truncate", "head-tail"] = Field(
        "windows",
        description="What happens to code longer than `max_length`: all windows, its beginning, or both ends.",
    )
    augment: bool = Field(False, description="Train on label-preserving rewrites of the code as well.")
    augment_variants: int = Field(4, ge=1, le=64, description="Rewrites precomputed per sample when `augment` is on.")
    ray_data_min_mb: float = Field(
        64.0,
        ge=0.0,
        description="Input size in MiB from which Ray Data does the work; smaller input stays in the process.",
    )


class CleaningSettings(Section):
    """How raw data becomes a clean dataset."""

    data_format: Literal[
        "auto",
        "guide",
        "devign",
        "diversevul",
        "primevul",
        "primevul-paired",
        "big-vul",
        "sven",
        "juliet",
        "sard",
        "owasp-benchmark",
        "prepared",
    ] = Field("auto", description="Layout of the records of JSON, CSV and Parquet files; auto looks at the first one.")
    conflicts: Literal["drop", "keep", "majority"] = Field(
        "drop", description="What becomes of the same code with both labels outside a group."
    )
    near_duplicates: bool = Field(True, description="Cluster near duplicates, so that they share a split.")
    similarity: float = Field(
        0.8, ge=0.7, le=1.0, description="Jaccard similarity of token sets from which samples are near duplicates."
    )
    strip_comments: bool = Field(False, description="Remove comments from the code.")
    min_characters: int = Field(1, ge=1, description="Code with fewer characters, white space aside, is refused.")
    max_characters: int = Field(1_000_000, ge=1, description="Code with more characters is refused.")
    max_rejected: float = Field(
        0.05, ge=0.0, le=1.0, description="Share of samples that may be refused before data counts as broken."
    )


class ArchitectureSettings(Section):
    """The encoder and what is put on it."""

    model: str = Field("transformer", description="A path, registered model, catalogue name or `hub:ID` to start from.")
    model_size: Literal["tiny", "small", "base", "large"] | None = Field(
        None, description="Size of the from-scratch `transformer`; default tiny without a GPU, small with one."
    )
    vocab_size: int = Field(
        8192, ge=300, le=100_000, description="Entries of the tokenizer trained for the from-scratch `transformer`."
    )
    dropout: float = Field(0.1, ge=0.0, lt=1.0, description="Share of activations dropped in training.")


class ObjectiveSettings(Section):
    """What the model learns."""

    task: Literal["vulnerability_detection", "category_classification", "severity_prediction", "multi_task"] = Field(
        "vulnerability_detection", description="What the heads predict; `multi_task` trains all of them on one encoder."
    )
    class_weights: Literal["none", "balanced"] = Field("none", description="Weigh the loss by inverse class frequency.")
    sampling: Literal["natural", "balanced"] = Field(
        "natural", description="Show every sample once per epoch, or every class of the first task equally often."
    )
    loss_function: Literal["cross_entropy", "focal"] = Field(
        "cross_entropy", description="Focal loss (arXiv 1708.02002) counts samples less that are already right."
    )
    focal_gamma: float = Field(2.0, ge=0.0, le=10.0, description="How much less focal loss counts them.")
    mlm_probability: float = Field(0.15, gt=0.0, lt=1.0, description="Share of tokens masked by `train base`.")


class OptimizationSettings(Section):
    """How the weights move."""

    epochs: int = Field(3, ge=1, le=10_000, description="Passes over the training split.")
    max_steps: int | None = Field(
        None, ge=1, description="Stop after this many optimizer steps, whatever `epochs` says."
    )
    batch_size: int = Field(32, ge=1, le=65_536, description="Samples per optimizer step, over all workers.")
    learning_rate: float | None = Field(
        None,
        gt=0.0,
        le=10.0,
        description="Peak learning rate; default by the encoder's width: 1e-3 up to 128, 5e-4 up to 256, beyond "
        "that 1e-4 from scratch and 2e-5 pretrained.",
    )
    optimizer: Literal["adamw", "adam", "sgd", "adafactor"] = Field("adamw", description="Update rule.")
    weight_decay: float = Field(
        0.01, ge=0.0, le=1.0, description="Decay of weight matrices; biases and norms are exempt."
    )
    scheduler: Literal["constant", "linear", "cosine"] = Field("linear", description="Learning rate after the warm-up.")
    warmup_ratio: float = Field(
        0.06, ge=0.0, le=1.0, description="Share of all steps in which the learning rate rises."
    )
    gradient_clip: float = Field(1.0, ge=0.0, description="Largest gradient norm; 0 turns clipping off.")


class SelectionSettings(Section):
    """How the best weights are found on the validation split."""

    selection_metric: Literal[
        "auto",
        "f1",
        "roc_auc",
        "average_precision",
        "accuracy",
        "mcc",
        "loss",
        "precision",
        "recall",
        "macro_f1",
        "balanced_accuracy",
        "specificity",
        "brier",
        "ece",
    ] = Field(
        "auto",
        description="Validation metric that picks the best checkpoint; auto: roc_auc, many classes f1, `base` loss.",
    )
    eval_interval: int | None = Field(None, ge=1, description="Steps between validations; default once per epoch.")
    early_stopping: int = Field(
        0, ge=0, description="Stop after this many validations without a better one; 0 never stops early."
    )


class ExecutionSettings(Section):
    """Where and how the run executes."""

    seed: int = Field(13, ge=0, le=2**31 - 1, description="Seed of everything random.")
    num_workers: int | Literal["auto"] | Annotated[str, Field(pattern=r"^\d+-\d+$")] = Field(
        "auto",
        description="Training processes; auto is one per GPU, or one; `2-4`: as many of a range as there is room for.",
    )
    gpu: str | None = Field(
        None, pattern=r"^\d+(,\d+)*$", description="Local CUDA devices to use, such as `0` or `0,1`."
    )
    threads: int | Literal["auto"] = Field(
        "auto", description="CPU threads per worker; auto shares a node's cores among its workers."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Arithmetic of the forward pass; auto measures where it trains."
    )
    micro_batch_tokens: int = Field(
        8192, ge=16, description="Tokens per forward pass; a memory knob, not a training setting."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass to save memory."
    )
    checkpoint_interval: int | None = Field(
        None, ge=1, description="Steps between checkpoints; default the smaller of one epoch and five minutes."
    )
    keep_checkpoints: int | None = Field(
        None, ge=1, description="Newest checkpoints kept, besides the best; default all."
    )
    log_interval: int | None = Field(
        None, ge=1, description="Steps between logged steps; default so that a run logs about a thousand."
    )
    max_failures: int = Field(
        3, ge=0, le=100, description="Worker deaths survived by restarting before the run gives up."
    )
    hang_timeout: float = Field(
        600.0, ge=1.0, description="Seconds without progress in a micro-batch after which a worker counts as hung."
    )

    @property
    def worker_range(self) -> tuple[int, int] | None:
        """Fewest and most training processes; None leaves it to the devices."""
        if isinstance(self.num_workers, int):
            return self.num_workers, self.num_workers
        fewest, dash, most = self.num_workers.partition("-")
        return (int(fewest), int(most)) if dash else None


class HealthSettings(Section):
    """What is done about a training that goes wrong; each finding is told, logged and recorded as an event."""

    max_skipped: int = Field(
        3, ge=0, le=1000, description="Steps in a row with a non-finite gradient that are skipped before the run stops."
    )
    on_spike: Literal["warn", "skip", "stop"] = Field(
        "warn",
        description="When a gradient norm is far above those of the last 100 steps: tell and let `gradient_clip` bound "
        "the update, leave the weights alone for this step, or stop.",
    )
    max_spikes: int = Field(10, ge=0, le=100, description="Spikes within 100 steps after which the run stops.")
    on_collapse: Literal["warn", "stop"] = Field(
        "warn",
        description="When nearly all decisions on the validation split are one class, though the labels are not.",
    )
    collapse_validations: int = Field(
        2, ge=1, le=1000, description="Validations in a row that have to find a collapse before it counts."
    )


class TrainConfig(Section):
    """All settings of one training run."""

    input: InputSettings = InputSettings()
    cleaning: CleaningSettings = CleaningSettings()
    architecture: ArchitectureSettings = ArchitectureSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    optimization: OptimizationSettings = OptimizationSettings()
    selection: SelectionSettings = SelectionSettings()
    execution: ExecutionSettings = ExecutionSettings()
    health: HealthSettings = HealthSettings()

    @model_validator(mode="after")
    def _settings_agree(self) -> "TrainConfig":
        window, stride = self.input.max_length, self.input.stride
        if stride is not None and stride > (window - 2) // 2:
            raise ValueError(
                f"stride ({stride}) must be at most half of max_length ({window}) less two; lower --stride"
            )
        threads, workers = self.execution.threads, self.execution.worker_range
        if isinstance(threads, int) and threads < 1:
            raise ValueError(f"threads must be at least 1 or auto, not {threads}; change --threads")
        if workers is not None and not 1 <= workers[0] <= workers[1]:
            raise ValueError(
                f"num_workers must be at least 1, auto, or a range such as 2-4, not {self.execution.num_workers}; "
                "change --num-workers"
            )
        return self

    @property
    def tasks(self) -> tuple[str, ...]:
        """The heads that `task` stands for."""
        return TASKS if self.objective.task == MULTI_TASK else (self.objective.task,)

    @property
    def stride(self) -> int:
        """Tokens that neighbouring windows share, resolved."""
        return self.input.max_length // 8 if self.input.stride is None else self.input.stride

    def flat(self) -> dict[str, Any]:
        """Every leaf by its own name."""
        return {leaf: value for section in self.model_dump().values() for leaf, value in section.items()}
