"""`train evaluate`, `report` and `predict`: what a trained model is worth, and what it says."""

import math
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secauditai.cli.app import EXIT_GATE
from secauditai.cli.lookup import FoundModel, find_model, own_dataset
from secauditai.cli.options import address_option, json_option, workspace_option
from secauditai.cli.output import Output, number
from secauditai.cli.submit import OneProcessCommand
from secauditai.errors import ConfigError
from secauditai.mirror import address_of, send
from secauditai.progress import Progress

if TYPE_CHECKING:
    from secauditai.evaluation.evaluate import Evaluation

DEFAULT_METRICS = "accuracy,precision,recall,f1,roc_auc,average_precision,mcc,brier,ece"
BASELINE_NAMES = {"majority": "majority", "tfidf_logistic_regression": "TF-IDF + logistic regression"}
model_option = click.option(
    "--model", "spec", required=True, help="A path, or a registered name, name/3 or name@alias."
)
backend_option = click.option(
    "--backend", type=click.Choice(["torch", "onnx"]), default="torch", show_default=True, help="What runs the model."
)


class MetricsOption(click.Option):
    """An option whose help lists all metrics, which are imported for the help alone: numpy takes its time."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The flag and its help."""
        from secauditai.metrics import METRICS

        listed = copy(self)
        listed.help = f"{self.help} of {', '.join(METRICS)}."
        return super(MetricsOption, listed).get_help_record(ctx)


@click.command(cls=OneProcessCommand)
@model_option
@click.option("--test-data", default=None, help="Data to evaluate on; default the model's own test split.")
@click.option(
    "--metrics", cls=MetricsOption, default=DEFAULT_METRICS, show_default=True, help="Comma-separated metrics"
)
@click.option(
    "--min",
    "gates",
    multiple=True,
    metavar="METRIC=VALUE",
    help="Exit with 3 when this metric is worse: below, or for brier, ece and loss above. May be given several times.",
)
@backend_option
@address_option
@workspace_option
@json_option
@click.pass_context
def evaluate(
    ctx: click.Context,
    /,
    spec: str,
    test_data: str | None,
    metrics: str,
    gates: tuple[str, ...],
    backend: str,
    workspace: Path,
    as_json: bool,
) -> None:
    """Measure a model beside baselines on the same samples.

    \b
    Example:
      secauditai train evaluate --model trained_model --test-data test_set --metrics accuracy,precision,recall,f1
    """
    from secauditai.evaluation.evaluate import save_evaluation
    from secauditai.metrics import resolve_metrics

    out = Output(as_json=as_json)
    names, limits = resolve_metrics(metrics), _parse_gates(gates)
    found = find_model(spec, workspace)
    out.say(f"Model: {found.description}")
    with out.progress() as progress:
        result = run_evaluation(
            found, test_data, [*names, *(n for n in limits if n not in names)], workspace, backend, progress, out
        )
    path = save_evaluation(result, found.evaluations)
    send(found.evaluations)
    _show(result, list(names), out)
    out.say(f"Stored in {address_of(path)}")
    out.next_step("train", "report", "--model", spec, "--output", "report.html")
    out.document(result.document)
    from secauditai.metrics import METRICS

    missed = [
        f"{name} {number(result.metrics[name])} {'<' if METRICS[name].higher_is_better else '>'} {limit:g}"
        for name, limit in limits.items()
        if _below(result, name, limit)
    ]
    if missed:
        click.echo(f"Below the gate: {', '.join(missed)}", err=True)
        ctx.exit(EXIT_GATE)


def run_evaluation(
    found: FoundModel,
    test_data: str | None,
    names: list[str],
    workspace: Path,
    backend: str,
    progress: Progress,
    out: Output,
) -> "Evaluation":
    """Evaluate on the named data, or on the model's own test split."""
    from secauditai.data.scoring import labelled_for_scoring, open_labelled
    from secauditai.evaluation.evaluate import evaluate as evaluate_model

    stripped = found.bundle.card.strip_comments
    if test_data is None:
        dataset = own_dataset(found)
    else:
        dataset = open_labelled(
            test_data,
            cache=workspace / "cache",
            comments=not stripped,
            unlabelled="score code without labels with `secauditai train predict`",
            progress=progress,
        )
    table = labelled_for_scoring(dataset, comments=not stripped)
    out.say(
        f"Data: {dataset.origin} ({table.num_rows} samples{', without comments as in training' if stripped else ''})"
    )
    name = test_data or f"the test split of {address_of(dataset.root)}"
    return evaluate_model(found.bundle, table, names, model=found.label, data=name, backend=backend, progress=progress)


@click.command(cls=OneProcessCommand)
@model_option
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="HTML file to write.")
@address_option
@workspace_option
@json_option
def report(spec: str, output: Path, workspace: Path, as_json: bool) -> None:
    """Write the newest evaluation of a model as one HTML page; evaluates on its own test split when there is none.

    \b
    Example:
      secauditai train report --model trained_model --output evaluation_report.html
    """
    from secauditai.evaluation.evaluate import newest_evaluation, save_evaluation
    from secauditai.evaluation.page import check_page
    from secauditai.evaluation.report import write_report
    from secauditai.runs import fetch_history, read_metrics

    out = Output(as_json=as_json)
    check_page(output)
    found = find_model(spec, workspace)
    result = newest_evaluation(found.evaluations)
    if result is None:
        with out.progress() as progress:
            names = DEFAULT_METRICS.split(",")
            result = run_evaluation(found, None, names, workspace, "torch", progress, out)
        save_evaluation(result, found.evaluations)
        send(found.evaluations)
    if found.run:
        fetch_history(found.run)
    history = read_metrics(found.run.layout.metrics) if found.run else []
    write_report(result, output, history=history)
    out.say(f"Wrote {output.absolute()}, about {result.document['model']} on {result.document['data']}")
    out.document({"path": str(output.absolute()), "evaluation_id": result.document["evaluation_id"]})


@click.command(cls=OneProcessCommand)
@model_option
@click.option("--data", required=True, help="Code to score; labels are not needed, nor looked at.")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help=".parquet or .jsonl file."
)
@click.option("--overwrite", is_flag=True, help="Replace the output.")
@backend_option
@address_option
@workspace_option
@json_option
def predict(spec: str, data: str, output: Path, overwrite: bool, backend: str, workspace: Path, as_json: bool) -> None:
    """Score samples: id, label and score of each, and the same of every further head.

    \b
    Example:
      secauditai train predict --model trained_model --data security_dataset --output scores.jsonl
    """
    from secauditai.data.scoring import read_for_scoring
    from secauditai.evaluation.predictions import check_output, predict_table, write_predictions, write_refused

    out = Output(as_json=as_json)
    check_output(output, overwrite=overwrite)
    found = find_model(spec, workspace)
    out.say(f"Model: {found.description}")
    with out.progress() as progress:
        comments = not found.bundle.card.strip_comments
        samples, refused = read_for_scoring(data, cache=workspace / "cache", comments=comments, progress=progress)
        table = predict_table(found.bundle, samples, backend=backend, progress=progress)
    rejected = write_refused(refused, output)
    write_predictions(table, output)
    if refused:
        out.warn(f"{len(refused)} of {len(refused) + table.num_rows} samples cannot be scored: see {rejected}")
    out.say(f"Wrote {table.num_rows} predictions to {output.absolute()}")
    document = {"path": str(output.absolute()), "n": table.num_rows, "rejected": len(refused), "model": found.label}
    out.document(document)


def _show(result: "Evaluation", names: list[str], out: Output) -> None:
    document: dict[str, Any] = result.document
    rows = [["model", *(number(document["metrics"][name]) for name in names)]]
    intervals = [document["intervals"].get(name) for name in names]
    rows.append(["  95 % interval", *(f"{i[0]:.2f}–{i[1]:.2f}" if i else "-" for i in intervals)])
    for baseline, values in document["baselines"].items():
        rows.append([BASELINE_NAMES.get(baseline, baseline), *(number(values[name]) for name in names)])
    out.table(rows, ["", *names])
    for task, values in list(document["tasks"].items())[1:]:
        out.say(f"  {task}: " + ", ".join(f"{name} {number(values['metrics'][name])}" for name in names))
    overlap = document["overlap"]["samples"]
    shown = "unknown" if overlap is None else f"{overlap} of {document['n']} samples"
    out.say(f"Overlap with the model's own training data: {shown}")
    for note in document["notes"]:
        out.warn(note)


def _parse_gates(gates: tuple[str, ...]) -> dict[str, float]:
    from secauditai.metrics import resolve_metrics

    limits = {}
    for gate in gates:
        name, _, value = gate.partition("=")
        if "," in name:
            hint = f"Give one for each: {' '.join(f'--min {part.strip()}={value}' for part in name.split(','))}."
            raise ConfigError(f"{gate!r} names more than one metric", where="--min", hint=hint)
        try:
            limits[resolve_metrics(name, "--min")[0]] = limit = float(value)
            if not math.isfinite(limit):
                raise ValueError(value)
        except ValueError:
            raise ConfigError(f"{gate!r} is no gate", where="--min", hint="For example --min f1=0.6.") from None
    return limits


def _below(result: "Evaluation", name: str, limit: float) -> bool:
    from secauditai.metrics import METRICS

    value = result.metrics[name]
    if value is None:
        return True
    return value < limit if METRICS[name].higher_is_better else value > limit
