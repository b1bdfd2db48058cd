"""What `--folds` prints: the plan, each fold beside the baselines, mean and spread."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from secauditai.cli.output import Output, duration, number
from secauditai.config.leaves import leaves
from secauditai.cross_validation import FoldsPlan, cross_validate, plan_folds
from secauditai.doctor.preflight import check_request
from secauditai.errors import ConfigError
from secauditai.fold_records import FoldsRequest, Record

SHOWN = ("roc_auc", "f1", "precision", "recall", "accuracy")
BASELINES = {"majority": "majority", "tfidf_logistic_regression": "TF-IDF + logistic regression"}


def run_folds(request: FoldsRequest, out: Output, *, dry_run: bool, begun: Record | None = None) -> None:
    """Carry out a cross-validation, or go on with it, and report."""
    with out.progress() as progress:
        plan = plan_folds(request, progress, begun)
        first = plan.plans[0]
        if first.devices.warning:
            out.warn(first.devices.warning)
        out.say(f"Model: {first.model.description}")
        _say_data(plan, out)
        if dry_run:
            _show_plan(plan, out)
            return
        record = cross_validate(plan, progress=progress, notify=out.say)
    _report(record, out)


def resume_folds(
    record: Record, workspace: Path, given: Collection[str], out: Output, *, address: str | None, dry_run: bool
) -> None:
    """Go on with a cross-validation that was interrupted, or say that it is complete."""
    if given:
        flags = ", ".join(leaves()[name].flag for name in given)
        raise ConfigError(
            f"the cross-validation of {record.name} goes on with its own settings: {flags}",
            hint="Leave that out, or start a new one.",
        )
    if record.finished is not None:
        out.say(f"The cross-validation of {record.name} is complete: nothing is left to do.")
        _report(record, out)
        return
    request = record.request(workspace, address)
    if not dry_run:
        check_request(request.training)
    run_folds(request, out, dry_run=dry_run, begun=record)


def _say_data(plan: FoldsPlan, out: Output) -> None:
    samples = sum(fold["test"] for fold in plan.describe())
    kept = f"; its {plan.pool.left_out} test samples stay unseen" if plan.pool.left_out else ""
    out.say(f"Data: {plan.pool.dataset.name}, {samples} samples in {len(plan.plans)} folds{kept}")
    if plan.record.runs:
        out.say(f"  {len(plan.record.runs)} folds are done already")


def _show_plan(plan: FoldsPlan, out: Output) -> None:
    from secauditai.training.estimate import estimate

    folds, first = plan.describe(), estimate(plan.plans[0])
    out.table([[str(fold[key]) for key in fold] for fold in folds], list(folds[0]))
    for key, value in first.items():
        out.say(f"  {key.replace('_', ' ')} of fold 0: {number(value) if isinstance(value, int | float) else value}")
    out.say("This was a dry run: nothing was trained or registered.")
    out.document({"folds": folds, "first_fold": first, "left_out": plan.pool.left_out})


def _report(record: Record, out: Output) -> None:
    if record.finished is None:
        out.say(f"Stopped with {len(record.runs)} of {record.folds} folds done.")
        out.next_step("train", "resume", "--model", record.name)
        out.document({"cross_validation_id": record.record_id, "model": record.name, "done": sorted(record.runs)})
        return
    document = record.document
    _show_folds(document, out)
    versions = ", ".join(f"{record.name}/{version} (fold {fold})" for fold, version in sorted(record.versions.items()))
    out.say(f"{record.folds} folds in {duration(document['seconds'])}. Registered {versions}")
    out.next_step("train", "report", "--model", record.name, "--output", "report.html")
    out.document(document)


def _show_folds(document: Mapping[str, Any], out: Output) -> None:
    names = [name for name in SHOWN if name in document["metrics"]]
    rows = [[f"fold {fold['fold']}", *(number(fold["metrics"][name]) for name in names)] for fold in document["folds"]]
    rows.append(_row("mean", document["metrics"], names, "mean"))
    rows.append(_row("standard deviation", document["metrics"], names, "std"))
    rows.append(["95 % interval of the mean", *(_interval(document["metrics"][name]["interval"]) for name in names)])
    rows.append(["all out-of-fold decisions", *(number(document["pooled"]["metrics"].get(name)) for name in names)])
    for baseline, values in document["baselines"].items():
        rows.append(_row(f"{BASELINES.get(baseline, baseline)}, mean", values, names, "mean"))
        above = document["above_baseline"][baseline]
        rows.append(["  model above it by", *(_interval(above[name]["interval"]) for name in names)])
    out.table(rows, ["on held-out samples", *(name.replace("_", " ") for name in names)])


def _row(title: str, values: Mapping[str, Any], names: list[str], key: str) -> list[str]:
    return [title, *(number(values[name][key]) for name in names)]


def _interval(interval: list[float] | None) -> str:
    return f"{number(interval[0])} to {number(interval[1])}" if interval else "-"
