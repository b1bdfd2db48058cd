"""Cross-validation: one training per fold, each judged once, on the fold that it has never seen.

Within the other folds a part is held back for validation, so that neither the choice of the best weights nor the
threshold ever looks at the held-out fold. Every fold is an ordinary run; what is done is not done again, on whichever
machine it was done.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout

from secauditai.config.files import read_layer, resolve_config
from secauditai.data.folds import Pool, open_fold, open_pool
from secauditai.data.sources import keep_in_workspace, open_data
from secauditai.errors import ConfigError, RunError
from secauditai.evaluation.evaluate import Evaluation, evaluate, newest_evaluation, save_evaluation
from secauditai.evaluation.spread import differences, pooled, spread
from secauditai.export.publish import register
from secauditai.fold_records import FoldsRequest, Record, open_record
from secauditai.metrics import METRICS
from secauditai.mirror import address_of, fetch, portable, send
from secauditai.models.bundle import open_bundle
from secauditai.pipeline import Notify, go_on, train
from secauditai.progress import Progress, silent
from secauditai.runs import FAILED, FINISHED, STOPPED, Run, list_runs, open_run
from secauditai.tracking.runs import create_run, finish_run, log_summary, log_tags, reopen_run
from secauditai.training.checkpoint import newest_checkpoint, read_state
from secauditai.training.goal import selection_metric
from secauditai.training.lease import leased
from secauditai.training.mirrored import fetch_inputs, fetch_run
from secauditai.training.preparation import TrainingPlan, plan_training

logger = logging.getLogger("secauditai.training")


@dataclass(frozen=True)
class FoldsPlan:
    """What a request comes to, before anything but caches is written."""

    request: FoldsRequest
    pool: Pool
    plans: list[TrainingPlan]
    record: Record

    def describe(self) -> list[dict[str, Any]]:
        """Of every fold: samples of each split and steps."""
        return [
            {
                "fold": number,
                "train": plan.train.num_rows,
                "val": plan.val.num_rows,
                "test": plan.dataset.table("test").num_rows,
                "total_steps": plan.total_steps,
                "done": str(number) in self.record.runs,
            }
            for number, plan in enumerate(self.plans)
        ]


def plan_folds(request: FoldsRequest, progress: Progress = silent, begun: Record | None = None) -> FoldsPlan:
    """Open the data, deal it out to folds, and find what an earlier attempt has done.

    Args:
        request: what to do.
        progress: told how far it is.
        begun: the record that is to go on: in a remote workspace, it knows where the data is kept.

    Raises:
        ConfigError, DataError, ModelError: when the request cannot be carried out.
    """
    training, config = request.training, request.training.config
    cache = training.workspace / "cache"
    pool = begun.open_pool() if begun is not None else None
    pool = pool or _deal_out(request, cache, progress)
    plans = []
    for number in range(request.folds):
        progress("Dealing out folds", number, request.folds, "folds")
        root = open_fold(pool, request.folds, number, cache=cache).root
        with_data = config.model_copy(update={"input": config.input.model_copy(update={"data": str(root)})})
        plans.append(plan_training(replace(training, config=with_data, start_layer={}), progress))
    return FoldsPlan(request, pool, plans, open_record(request, pool))


def _deal_out(request: FoldsRequest, cache: Path, progress: Progress) -> Pool:
    config = request.training.config
    if config.input.data is None:
        raise ConfigError("there is no training data", where="data", hint="Name it with --data.")
    dataset = open_data(
        config.input.data,
        cache=cache,
        ray_data_min_mb=config.input.ray_data_min_mb,
        settings=config.cleaning,
        progress=progress,
    )
    pool = open_pool(dataset, request.folds, seed=config.execution.seed, cache=cache)
    return replace(pool, dataset=keep_in_workspace(pool.dataset, cache))


def cross_validate(plan: FoldsPlan, *, progress: Progress = silent, notify: Notify = print) -> Record:
    """Train what is left to train, judge every fold, register, and return the record.

    A fold that is asked to stop stops the whole; the record is then not `finished`.

    Raises:
        RunError: when the same cross-validation is going on in another process.
    """
    workspace = plan.request.training.workspace
    plan.record.path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(plan.record):
        plan = replace(plan, record=plan.record.as_it_is_now())
        record = plan.record
        if record.finished is not None:
            return record
        record.begun = time.time()
        _open_parent(record, plan)
        status = FAILED
        try:
            evaluations = []
            for number in range(record.folds):
                done = _one_fold(plan, number, progress, notify)
                if done is None:
                    status = STOPPED
                    return record
                evaluations.append(done)
            _finish(plan, evaluations)
            status = FINISHED
        finally:
            finish_run(workspace, record.mlflow_run_id, status)
    return record


@contextmanager
def _alone(record: Record) -> Iterator[None]:
    lock = FileLock(f"{record.path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError("this cross-validation is going on in another process", where=str(record.path)) from None
    try:
        with leased(record.lease, "works on this cross-validation"):
            yield
    finally:
        lock.release()


def _open_parent(record: Record, plan: FoldsPlan) -> None:
    workspace = plan.request.training.workspace
    if record.mlflow_run_id is not None:
        reopen_run(workspace, record.mlflow_run_id)
        record.save()
        return
    record.mlflow_run_id = create_run(
        workspace,
        name=f"folds {record.name} {record.record_id}",
        params={**record.config, "folds": record.folds},
        tags={"kind": "cross_validation", "dataset_hash": record.pool_hash, "record_id": record.record_id},
    )
    record.save()


def _one_fold(plan: FoldsPlan, number: int, progress: Progress, notify: Notify) -> Evaluation | None:
    """Train a fold, or go on with it, and judge it on the held-out samples; None when it was asked to stop."""
    record, request = plan.record, plan.request
    workspace, fold = request.training.workspace, plan.plans[number]
    run = open_run(Path(record.runs[str(number)])) if str(number) in record.runs else None
    if run is None:
        notify(f"Fold {number + 1} of {record.folds}: {fold.train.num_rows} train, {fold.val.num_rows} val")
        run = _train_fold(plan, number, progress, notify)
        if run.info.status != FINISHED:
            return None
    fetch(run.layout.evaluations)
    evaluation, data = newest_evaluation(run.layout.evaluations), address_of(fold.dataset.root / "test")
    if evaluation is None or evaluation.document["data"] != data:
        fetch(run.layout.bundle)
        evaluation = evaluate(
            open_bundle(run.layout.bundle),
            fold.dataset.table("test"),
            tuple(METRICS),
            model=record.name,
            data=data,
            progress=progress,
        )
        save_evaluation(evaluation, run.layout.evaluations)
        send(run.layout.evaluations)
    if str(number) not in record.runs:
        mlflow_run_id = run.info.mlflow_run_id
        if mlflow_run_id is not None:
            log_summary(workspace, mlflow_run_id, {f"test/{key}": value for key, value in evaluation.metrics.items()})
            log_tags(workspace, mlflow_run_id, {"fold": str(number), "folds": str(record.folds)})
        record.values[str(number)] = _best_value(run)
        record.runs[str(number)] = str(run.root)
        record.save()
    return evaluation


def _train_fold(plan: FoldsPlan, number: int, progress: Progress, notify: Notify) -> Run:
    workspace = plan.request.training.workspace
    fold = plan.plans[number]
    found = _begun(fold)
    if found is None:
        tracked = replace(fold, request=replace(fold.request, parent_mlflow_run=plan.record.mlflow_run_id))
        return train(tracked, register_model=False, progress=progress, notify=notify).run
    fetch_run(found)
    fetch_inputs(found)
    if found.info.status != FINISHED:
        notify(f"Going on with run {found.info.run_id} of this fold")
        go_on(
            found,
            workspace,
            address=fold.request.address,
            parent=plan.record.mlflow_run_id,
            register_model=False,
            progress=progress,
            notify=notify,
        )
    return found


def _begun(fold: TrainingPlan) -> Run | None:
    """The newest run of the same name, data and settings, if its preparation was completed."""
    request = fold.request
    wanted = request.config.flat() | {"data": portable(str(fold.dataset.root), request.workspace)}
    for run in reversed(list_runs(request.workspace, request.name)):
        info = run.info
        if info.dataset != str(fold.dataset.root) or info.kind != request.kind or info.parent_run_id is not None:
            continue
        if run.layout.recipe.exists() and resolve_config(read_layer(run.layout.config)).flat() == wanted:
            return run
    return None


def _finish(plan: FoldsPlan, evaluations: list[Evaluation]) -> None:
    """Register, sum up, and write down that all is done."""
    record, workspace = plan.record, plan.request.training.workspace
    runs = [open_run(Path(record.runs[str(number)])) for number in range(record.folds)]
    best = _best_fold(plan, runs)
    for number in range(record.folds) if record.register == "all" else [best]:
        if str(number) not in record.versions:
            tags = {"fold": str(number), "folds": str(record.folds), "cross_validation": record.record_id}
            fetch(runs[number].layout.bundle)
            version = register(runs[number], workspace, tags=tags)
            runs[number].update(model_version=version)
            send(runs[number].layout.info)
            record.versions[str(number)] = version
            record.save()
    record.document = _summary(plan, runs, evaluations, best)
    numbers = {
        f"{kind}/{name}": values[kind]
        for name, values in record.document["metrics"].items()
        for kind in ("mean", "std")
    }
    numbers |= {f"pooled/{name}": value for name, value in record.document["pooled"]["metrics"].items()}
    if record.mlflow_run_id is not None:
        log_summary(workspace, record.mlflow_run_id, numbers)
    record.finished = time.time()
    record.save()


def _best_fold(plan: FoldsPlan, runs: list[Run]) -> int:
    """The fold whose model did best on its own validation part; held-out folds have no say."""
    sign = 1.0 if METRICS[selection_metric(plan.plans[0])].higher_is_better else -1.0
    known = plan.record.values
    values = [known[str(n)] if str(n) in known else _best_value(run) for n, run in enumerate(runs)]
    ranked = [float("-inf") if value is None else sign * value for value in values]
    return ranked.index(max(ranked))


def _best_value(run: Run) -> float | None:
    """The best value on a run's validation part."""
    fetch_run(run)
    newest = newest_checkpoint(run.layout.checkpoints, logger.warning)
    return read_state(newest).best_value if newest else None


def _summary(plan: FoldsPlan, runs: list[Run], evaluations: list[Evaluation], best: int) -> dict[str, Any]:
    """The JSON document of a cross-validation."""
    record, documents = plan.record, [evaluation.document for evaluation in evaluations]
    ours = [document["metrics"] for document in documents]
    names = list(documents[0]["baselines"])
    rivals = {name: [document["baselines"][name] for document in documents] for name in names}
    clusters = [c for fold in plan.plans for c in fold.dataset.table("test").column("cluster").to_pylist()]
    predictions = pa.concat_tables([evaluation.predictions for evaluation in evaluations])
    folds = [
        {
            **described,
            "run_id": run.info.run_id,
            "run_dir": address_of(run.root),
            "version": record.versions.get(str(number)),
            "metrics": document["metrics"],
            "intervals": document["intervals"],
            "baselines": document["baselines"],
        }
        for number, (described, run, document) in enumerate(zip(plan.describe(), runs, documents, strict=True))
    ]
    main = next(iter(documents[0]["tasks"]))
    return {
        "cross_validation_id": record.record_id,
        "model": record.name,
        "task": main,
        "folds": folds,
        "metrics": spread(ours),
        "baselines": {name: spread(values) for name, values in rivals.items()},
        "above_baseline": {name: spread(differences(ours, values)) for name, values in rivals.items()},
        "pooled": pooled(predictions, clusters, main, tuple(METRICS)),
        "best_fold": best,
        "versions": record.versions,
        "left_out": plan.pool.left_out,
        "mlflow_run_id": record.mlflow_run_id,
        "seconds": round(sum(run.info.summary["seconds"] for run in runs), 3),
    }
