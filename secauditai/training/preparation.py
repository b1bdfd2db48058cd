"""From a request to a recipe: resolve model, data and devices, tokenise, and write the run directory.

`plan_training` looks and counts and writes nothing but caches; `open_run_for` makes the run.
"""

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import pyarrow as pa

from secauditai.config.files import write_layer
from secauditai.config.settings import ArchitectureSettings, TrainConfig
from secauditai.data.dataset import Dataset
from secauditai.data.plan import steps_per_epoch
from secauditai.data.sources import keep_in_workspace, open_data
from secauditai.data.tokens import Augmentation, TokenStore, build_token_store
from secauditai.data.windows import Windowing
from secauditai.errors import ConfigError, DataError, SecAuditError
from secauditai.mirror import portable
from secauditai.progress import Progress, silent
from secauditai.runs import FAILED, Run, create_run
from secauditai.tracking.registry import ResolvedModel, resolve_model
from secauditai.tracking.store import shared_uri, tracking_uri
from secauditai.training.devices import Devices, choose_devices_at, measure_precision_at
from secauditai.training.goal import check_selection, choose_labels, notices_of_selection, selection_metric
from secauditai.training.promise import installed_versions, record_promise
from secauditai.training.recipe import Recipe, write_recipe
from secauditai.training.request import TrainRequest

LEARNING_RATES = {128: 1e-3, 256: 5e-4}
"""Peak learning rate up to this width of the encoder, whether it has learnt already or not. Measured from scratch for
128, where 2e-3 diverges; for adapted encoders of these widths it is an assumption."""
WIDE_FRESH, WIDE_PRETRAINED = 1e-4, 2e-5
"""Of wider encoders: from scratch, and pretrained, the usual value of BERT's descendants."""

VOCABULARY = ArchitectureSettings.model_fields["vocab_size"].default
"""Entries of the vocabulary that `transformer` gets unless it is told otherwise."""


@dataclass(frozen=True)
class TrainingPlan:
    """What a request comes to, before anything is written."""

    request: TrainRequest
    dataset: Dataset
    train: pa.Table
    val: pa.Table
    model: ResolvedModel
    devices: Devices
    heads: dict[str, list[str]]
    steps_per_epoch: int
    total_steps: int

    @property
    def model_size(self) -> str:
        """The size of a from-scratch encoder."""
        return self.request.config.architecture.model_size or ("small" if self.devices.device == "cuda" else "tiny")


def plan_training(request: TrainRequest, progress: Progress = silent) -> TrainingPlan:
    """Resolve the model, open the data, choose devices and count steps.

    Raises:
        ConfigError, DataError, ModelError: when the request cannot be carried out.
    """
    config = request.config
    if config.input.data is None:
        raise ConfigError(
            "there is no training data", where="data", hint="Name it with --data, or set `data` in the configuration."
        )
    tracking_uri(request.workspace)  # what is wrong with it is told before anything begins
    model = resolve_model(config.architecture.model, request.workspace, catalogue_first=request.is_base)
    if config.architecture.model_size and model.kind != "scratch":
        raise ConfigError(
            f"model_size {config.architecture.model_size} does not apply to {model.description}, whose size is fixed",
            hint="Leave --model-size out, or train `--model transformer` from scratch.",
        )
    if model.kind != "scratch":
        from secauditai.models.encoders import check_saved_max_length

        check_saved_max_length(encoder_directory(model), config.input.max_length)
    dataset = open_data(
        config.input.data,
        cache=request.workspace / "cache",
        seed=config.execution.seed,
        split=True,
        ray_data_min_mb=config.input.ray_data_min_mb,
        settings=config.cleaning,
        progress=progress,
    )
    dataset = keep_in_workspace(dataset, request.workspace / "cache")
    train, val = _training_tables(dataset)
    heads = {} if request.is_base else {task: choose_labels(task, train) for task in config.tasks}
    check_selection(config, heads, val, str(dataset.root))
    per_epoch = steps_per_epoch(train.num_rows, config.optimization.batch_size)
    return TrainingPlan(
        request=request,
        dataset=dataset,
        train=train,
        val=val,
        model=model,
        devices=choose_request_devices(request),
        heads=heads,
        steps_per_epoch=per_epoch,
        total_steps=config.optimization.max_steps or per_epoch * config.optimization.epochs,
    )


def encoder_directory(model: ResolvedModel) -> Path:
    """Where the encoder is that training starts from; one of the hub is downloaded when it is not cached.

    Raises:
        ModelError: when it is neither cached nor reachable.
    """
    from secauditai.models.bundle import BundleLayout
    from secauditai.models.encoders import hub_directory

    if model.bundle is not None:
        return BundleLayout(model.bundle).encoder
    return hub_directory(model.hub_id, model.revision) if model.hub_id else Path(model.spec).expanduser()


def choose_request_devices(request: TrainRequest) -> Devices:
    """Devices, workers and threads of a request, here or on its cluster."""
    return choose_devices_at(request.address, request.config.execution)


def _training_tables(dataset: Dataset) -> tuple[pa.Table, pa.Table]:
    splits = dataset.splits()
    if "train" not in splits or "val" not in splits:
        raise DataError(
            f"{dataset.name} has no train and val splits",
            where=str(dataset.root),
            hint=f"`secauditai train split --dataset {quote(dataset.name)}` makes them.",
        )
    return dataset.table("train"), dataset.table("val")


def prepare_run(plan: TrainingPlan, progress: Progress = silent) -> Run:
    """Make the run directory: settings first, then the initial encoder, the token stores and the recipe."""
    request, config = plan.request, plan.request.config
    run = create_run(
        request.workspace,
        request.name,
        kind=request.kind,
        task="masked_language_modelling" if request.is_base else config.objective.task,
        config_name=request.config_name,
        start_layer=dict(request.start_layer),
        total_steps=plan.total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        dataset=str(plan.dataset.root),
        dataset_hash=plan.dataset.content_hash,
        sweep_id=request.sweep_id,
        trial_id=request.trial_id,
    )
    try:
        _fill_run(plan, run, progress)
    except (SecAuditError, KeyboardInterrupt) as error:
        with suppress(OSError):  # a full disk takes not even this
            run.update(status=FAILED, message=str(error) or "interrupted before training began")
        raise
    return run


def _fill_run(plan: TrainingPlan, run: Run, progress: Progress) -> None:
    config = plan.request.config
    named = {"data": portable(config.input.data, run.root)} if config.input.data else {}  # the same on every machine
    write_layer(run.layout.config, config.flat() | named)
    initial = _save_initial(plan, run.layout.initial)
    stores = _token_stores(plan, run.layout.initial, progress)
    recipe = {**_recipe(plan), **initial, **_objective(plan, stores["train"])}
    recipe |= {f"{split}_store": str(store.root) for split, store in stores.items()}
    recipe["promise"] = record_promise(plan.dataset, run.layout.initial, stores).model_dump()
    loss = _windowing(config).describe_loss(stores["train"].lengths[:, 0])
    recipe["notices"] = [*initial["notices"], *([loss] if loss else []), *notices_of_selection(plan)]
    write_recipe(run.layout.recipe, Recipe.model_validate(recipe))


def _windowing(config: TrainConfig) -> Windowing:
    return Windowing(config.input.max_length, config.stride, config.input.long_code, config.input.max_windows)


def _save_initial(plan: TrainingPlan, directory: Path) -> dict[str, Any]:
    """Save the encoder and tokenizer that training starts from, whatever they come from."""
    from secauditai.models.bundle import keep_bundle, open_bundle
    from secauditai.models.encoders import build_encoder, check_max_length, load_encoder, save_encoder
    from secauditai.models.masked_language import FRESH_HEAD, save_head_state

    config, model = plan.request.config, plan.model
    donor = None
    if model.kind == "scratch":
        encoder = build_encoder(
            plan.model_size,
            tokenizer=_scratch_tokenizer(plan),
            max_length=config.input.max_length,
            dropout=config.architecture.dropout,
            seed=config.execution.seed,
        )
    elif model.bundle is not None:
        bundle = open_bundle(model.bundle)
        encoder = load_encoder(bundle.layout.encoder)
        if plan.heads and bundle.card.heads == plan.heads:
            donor = str(keep_bundle(bundle, plan.request.workspace / "cache").layout.root)
    elif model.hub_id is not None:
        encoder = load_encoder(model.hub_id, revision=model.revision)
    else:
        encoder = load_encoder(Path(model.spec).expanduser())
    check_max_length(encoder, config.input.max_length)
    save_encoder(encoder.module, encoder.tokenizer, directory)
    notices = []
    if encoder.masked_language_head is not None:
        save_head_state(encoder.masked_language_head, directory)
    elif plan.request.is_base and model.kind != "scratch":
        notices.append(FRESH_HEAD)
    wanted = config.architecture.vocab_size
    if model.kind != "scratch" and wanted not in (VOCABULARY, encoder.tokenizer.vocab_size):
        size = encoder.tokenizer.vocab_size
        notices.append(f"vocab_size {wanted} says nothing here: the encoder comes with a vocabulary of {size}")
    tokenizer = encoder.tokenizer
    return {
        "initial": str(directory),
        "initial_bundle": donor,
        "encoder_source": encoder.source,
        "notices": notices,
        "pooling": "mean_max",
        "learning_rate": config.optimization.learning_rate
        or default_learning_rate(encoder.hidden_size, scratch=model.kind == "scratch"),
        "vocab_size": tokenizer.vocab_size,
        "special_ids": tokenizer.special_ids,
    }


def tokenise(plan: TrainingPlan, progress: Progress = silent) -> None:
    """Build the token stores that a run of this plan will open, and nothing else."""
    from secauditai.models.tokenizer import save_tokenizer

    with tempfile.TemporaryDirectory() as directory:
        initial = Path(directory) / "initial"
        if plan.model.kind == "scratch":
            save_tokenizer(_scratch_tokenizer(plan), initial)
        else:
            _save_initial(plan, initial)
        _token_stores(plan, initial, progress)


def _scratch_tokenizer(plan: TrainingPlan) -> Any:
    from secauditai.models.tokenizer import train_tokenizer

    return train_tokenizer(plan.train.column("code").to_pylist(), plan.request.config.architecture.vocab_size)


def _token_stores(plan: TrainingPlan, tokenizer_directory: Path, progress: Progress) -> dict[str, TokenStore]:
    from secauditai.models.tokenizer import load_tokenizer

    config = plan.request.config
    megabytes = plan.train.nbytes / 2**20
    use_ray_data = megabytes >= config.input.ray_data_min_mb
    if use_ray_data:
        from secauditai.cluster import ensure_ray

        ensure_ray(plan.request.address)
    tokenizer = load_tokenizer(tokenizer_directory)
    directory = plan.request.workspace / "cache" / "tokens"
    return {
        split: build_token_store(
            table,
            tokenizer,
            directory,
            augmentation=build_augmentation(config) if split == "train" else None,
            use_ray_data=use_ray_data,
            progress=progress,
        )
        for split, table in (("train", plan.train), ("val", plan.val))
    }


def build_augmentation(config: TrainConfig) -> Augmentation | None:
    """The rewrites that the training split is tokenised with, if any."""
    if not config.input.augment:
        return None
    from secauditai.data.augment import build_rewrite

    return build_rewrite(variants=config.input.augment_variants, seed=config.execution.seed)


def _objective(plan: TrainingPlan, store: TokenStore) -> dict[str, Any]:
    from secauditai.training.objectives import balanced_weights, encode_labels

    config = plan.request.config
    weights = None
    if config.objective.class_weights == "balanced" and plan.heads:
        weights = {
            task: balanced_weights(encode_labels(store, task, labels), len(labels))
            for task, labels in plan.heads.items()
        }
    return {
        "objective": "masked_language" if plan.request.is_base else "classification",
        "heads": plan.heads,
        "class_weights": weights,
        "sampling": config.objective.sampling if plan.heads else "natural",
        "focal_gamma": config.objective.focal_gamma if config.objective.loss_function == "focal" else 0.0,
        "mlm_probability": config.objective.mlm_probability,
        "selection_metric": selection_metric(plan),
    }


def _recipe(plan: TrainingPlan) -> dict[str, Any]:
    config, devices = plan.request.config, plan.devices
    execution, precision = config.execution, str(config.execution.precision)
    if precision == "auto":
        precision = measure_precision_at(plan.request.address, execution, devices.device)
    return {
        "dropout": config.architecture.dropout,
        "max_length": config.input.max_length,
        "stride": config.stride,
        "long_code": config.input.long_code,
        "max_windows": config.input.max_windows,
        "optimization": config.optimization.model_dump(),
        "total_steps": plan.total_steps,
        "steps_per_epoch": plan.steps_per_epoch,
        "eval_interval": config.selection.eval_interval or plan.steps_per_epoch,
        "early_stopping": config.selection.early_stopping,
        "seed": execution.seed,
        "device": devices.device,
        "world_size": devices.world_size,
        "threads": devices.threads,
        "precision": precision,
        "micro_batch_tokens": execution.micro_batch_tokens,
        "gradient_checkpointing": execution.gradient_checkpointing,
        "checkpoint_interval": execution.checkpoint_interval,
        "keep_checkpoints": execution.keep_checkpoints,
        "log_interval": execution.log_interval or max(1, plan.total_steps // 1000),
        "health": config.health.model_dump(),
        "hang_timeout": execution.hang_timeout,
        "min_workers": devices.min_workers,
        "tracking_uri": shared_uri(plan.request.workspace),
        "versions": installed_versions(),
    }


def default_learning_rate(width: int, *, scratch: bool) -> float:
    """The peak learning rate for an encoder of this hidden size, fresh or pretrained."""
    for limit, rate in LEARNING_RATES.items():
        if width <= limit:
            return rate
    return WIDE_FRESH if scratch else WIDE_PRETRAINED
