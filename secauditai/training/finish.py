"""The end of a run: the best weights become a bundle, calibrated on the validation split, beside its baseline."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from secauditai.config.files import read_layer, resolve_config
from secauditai.data.dataset import Dataset, open_dataset
from secauditai.data.schema import TASK_COLUMNS, code_number
from secauditai.data.tokens import open_token_store
from secauditai.errors import RunError
from secauditai.metrics import Scores, compute_metrics, fit_temperature, fit_threshold
from secauditai.models.baseline import Baseline, fit_baseline
from secauditai.models.bundle import Bundle, BundleCard, Scalar, save_bundle
from secauditai.models.predict import DETECTION, softmax
from secauditai.models.tokenizer import load_tokenizer
from secauditai.progress import Progress, silent
from secauditai.runs import Run
from secauditai.training.checkpoint import CheckpointLayout, load_checkpoint, newest_checkpoint, read_state
from secauditai.training.memory import SMALLEST, budget_at, is_out_of_memory, read_budgets
from secauditai.training.model import build_model
from secauditai.training.objectives import IGNORED, Classification
from secauditai.training.rank import Rank
from secauditai.training.recipe import Recipe, read_recipe
from secauditai.training.validation import METRIC_NAMES, Validator

logger = logging.getLogger("secauditai.training")


def save_best(run: Run, progress: Progress = silent) -> tuple[Bundle, dict[str, float | None]]:
    """Save the best checkpoint of a finished run as its bundle.

    Returns:
        The bundle, and its validation metrics with the fitted threshold and temperatures.

    Raises:
        RunError: when training has neither come to its end nor been stopped by a sweep.
    """
    recipe = read_recipe(run.layout.recipe)
    budget = budget_at(read_budgets(run.layout.memory), recipe.total_steps, recipe.micro_batch_tokens)
    recipe = recipe.model_copy(update={"micro_batch_tokens": budget})  # what memory has been enough for
    checkpoint = best_checkpoint(run)
    progress("Saving the model", 0, None)
    torch.set_num_threads(recipe.threads)
    model = build_model(recipe)
    load_checkpoint(checkpoint, model, None)
    validator, outputs = _score_validation(recipe, model)
    dataset = open_dataset(Path(run.info.dataset or ""))
    train = dataset.table("train")
    card = _card(run, recipe, checkpoint, dataset)
    baseline: Baseline | None = None
    if isinstance(validator.objective, Classification):
        card, metrics = calibrate(card, validator.objective, outputs)
        baseline = _baseline(card, train)
    else:
        metrics = {"loss": float(outputs[:, 0].sum() / max(outputs[:, 1].sum(), 1.0))}
    bundle = save_bundle(
        run.layout.bundle,
        model=model,
        tokenizer=load_tokenizer(Path(recipe.initial)),
        card=card,
        baseline=baseline,
        training_keys=training_keys(train.column("code").to_pylist()),
    )
    return bundle, metrics


def _score_validation(recipe: Recipe, model: torch.nn.Module) -> tuple[Validator, npt.NDArray[np.float32]]:
    """Score the validation split on this machine's CPU, in smaller pieces where memory does not suffice.

    Raises:
        RunError: naming the sample, when one alone does not fit.
    """
    validator = Validator(recipe, Rank(0, 1, torch.device("cpu"), "fp32"), model)
    budget = recipe.micro_batch_tokens
    while True:
        try:
            return validator, validator.outputs()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or budget == SMALLEST:
                raise
            budget = max(SMALLEST, budget // 2)
            logger.warning("out of memory: validating with micro_batch_tokens %d", budget)
            validator.resize(budget)


def best_checkpoint(run: Run) -> CheckpointLayout:
    """The checkpoint with the best validation metric.

    Raises:
        RunError: when it, or the end of training, is missing.
    """
    newest = newest_checkpoint(run.layout.checkpoints, logger.warning)
    state = read_state(newest) if newest else None
    if state is None or not (state.finished or state.stopped_by == "sweep"):
        raise RunError("training has not come to its end", where=str(run.root), hint="Use `secauditai train resume`.")
    return CheckpointLayout(run.layout.checkpoints / f"checkpoint_{state.best_step}")


def calibrate(
    card: BundleCard, objective: Classification, outputs: npt.NDArray[np.float32]
) -> tuple[BundleCard, dict[str, float | None]]:
    """Fit temperatures and threshold on the validation split; return the card with them and the resulting metrics."""
    temperature: dict[str, float] = {}
    threshold = card.threshold
    metrics: dict[str, float | None] = {}
    for number, (task, logits) in enumerate(objective.split(outputs).items()):
        known = objective.targets[task] != IGNORED
        targets, values = objective.targets[task][known], logits[known].astype(np.float64)
        temperature[task] = fit_temperature(targets, values)
        probabilities = softmax(values, temperature[task])
        decisions = probabilities.argmax(axis=1)
        if task == DETECTION:
            threshold = fit_threshold(targets, probabilities[:, 1])
            decisions = (probabilities[:, 1] >= threshold).astype(np.int64)
        prefix = "" if number == 0 else f"{task}."
        found = compute_metrics(Scores(targets, decisions, probabilities), METRIC_NAMES)
        metrics |= {prefix + name: value for name, value in found.items()}
    return card.model_copy(update={"threshold": threshold, "temperature": temperature}), metrics


def training_keys(codes: list[str]) -> npt.NDArray[np.uint64]:
    """Sorted digests of code, to count how much of some test data a model was trained on."""
    return np.unique(np.array([code_number(code) for code in codes], dtype=np.uint64))


def _baseline(card: BundleCard, train: pa.Table) -> Baseline | None:
    column = TASK_COLUMNS[card.main_task]
    labels = card.heads[card.main_task]
    return fit_baseline(train.column("code").to_pylist(), train.column(column).to_pylist(), labels)


def _card(run: Run, recipe: Recipe, checkpoint: CheckpointLayout, dataset: Dataset) -> BundleCard:
    return BundleCard(
        kind="encoder" if recipe.objective == "masked_language" else "classifier",
        task="" if recipe.objective == "masked_language" else run.info.task,
        heads=recipe.heads,
        max_length=recipe.max_length,
        stride=recipe.stride,
        long_code=recipe.long_code,
        max_windows=recipe.max_windows,
        pooling="mean" if recipe.objective == "masked_language" else recipe.pooling,
        special_ids=recipe.special_ids,
        strip_comments=dataset.without_comments,
        provenance=_provenance(run, recipe, checkpoint, dataset),
    )


def _provenance(run: Run, recipe: Recipe, checkpoint: CheckpointLayout, dataset: Dataset) -> dict[str, Scalar]:
    """The hash chain: samples, splits, configuration, checkpoint; and what else a reader would ask."""
    import hashlib

    info = run.info
    config = resolve_config(read_layer(run.layout.config))
    labels = dataset.table("train").column(TASK_COLUMNS[next(iter(recipe.heads), "vulnerability_detection")])
    counts: dict[str, Any] = {item["values"]: item["counts"] for item in labels.value_counts().to_pylist()}
    return {
        "name": info.name,
        "run_id": info.run_id,
        "kind": info.kind,
        "dataset": config.input.data,
        "dataset_hash": dataset.content_hash,
        "split_hash": dataset.manifest["splits"]["hash"],
        "config_hash": hashlib.sha256(run.layout.config.read_bytes()).hexdigest(),
        "checkpoint_step": checkpoint.step,
        "checkpoint_hash": hashlib.sha256(checkpoint.manifest.read_bytes()).hexdigest(),
        "store": Path(recipe.train_store).name,
        "train_samples": open_token_store(Path(recipe.train_store)).n_samples,
        "seed": recipe.seed,
        **{f"train_{label}": count for label, count in sorted(counts.items())},
        **{f"encoder_{key}": value for key, value in recipe.encoder_source.items()},
        **{f"version_{key}": value for key, value in recipe.versions.items()},
    }
