"""The page about a sweep: its best trial, learning curves, what mattered, and a table of all trials."""

import logging
from pathlib import Path
from typing import Any

from secauditai.evaluation import plots
from secauditai.evaluation.page import render_page, write_page
from secauditai.runs import Run, RunLayout, fetch_history, read_metrics
from secauditai.tuning.ledger import FAILED, Ledger, Trial
from secauditai.tuning.samplers import build_study

LEAST_TRIALS = 4
"""Below this, importance says nothing."""
FEW_TRIALS = 20
"""Below this, the page says that importance is a hint."""
Curve = list[tuple[int, float]]


def write_summary(ledger: Ledger) -> Path:
    """Write the page, whole or not at all; return its place.

    Raises:
        DataError: when the place cannot be written to.
    """
    write_page(render_summary(ledger), ledger.layout.summary)
    return ledger.layout.summary


def render_summary(ledger: Ledger) -> str:
    """The page as text."""
    curves = {trial.trial_id: read_curve(trial, ledger.metric) for trial in ledger.trials}
    importance = parameter_importance(ledger, curves)
    best = ledger.best
    drawn = [curve for trial_id, curve in curves.items() if curve and (best is None or trial_id != best.trial_id)]
    figures = []
    if any(curves.values()):
        caption = f"Validation {ledger.metric} by global step; the best trial stands out"
        figures.append((caption, plots.trial_curves(drawn, curves[best.trial_id] if best else [], ledger.metric)))
    if importance:
        figures.append(("Importance of each setting (functional ANOVA)", plots.shares(importance)))
    return render_page(
        "sweep.html.j2",
        s=ledger,
        best=best,
        settings=list(ledger.spaces),
        rows=sorted(ledger.trials, key=lambda trial: _rank(ledger, trial)),
        failed=[trial for trial in ledger.trials if trial.status == FAILED],
        plots=figures,
        few=importance and len(ledger.trials) < FEW_TRIALS,
        shown=_shown,
    )


def read_curve(trial: Trial, metric: str) -> Curve:
    """Global step and goal metric of each validation of the trial's first seed, or of the run it has."""
    run_dir = trial.seeds[0].run_dir if trial.seeds else trial.run_dir
    if run_dir is None:
        return []
    run = Run(RunLayout(Path(run_dir)))
    fetch_history(run)
    records = read_metrics(run.layout.metrics)
    return [(record["step"], record[metric]) for record in records if record["kind"] == "val" and metric in record]


def parameter_importance(ledger: Ledger, curves: dict[str, Curve]) -> dict[str, float]:
    """Share of the goal's variance that each setting explains (functional ANOVA, Hutter et al. 2014); {} when unknown.

    Trials are compared at the last validation that all of them reached, so that one stopped early is not taken for a
    bad one.
    """
    known = {trial_id: curve for trial_id, curve in curves.items() if curve}
    if len(known) < LEAST_TRIALS or len(ledger.spaces) < 2:
        return {}
    reached = min(len(curve) for curve in known.values())
    values = {trial_id: curve[reached - 1][1] for trial_id, curve in known.items()}
    if len(set(values.values())) < 2:
        return {}
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    study = build_study(ledger.spaces, ledger, ledger.trials, values)
    try:
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=ledger.seed))
    except (ValueError, RuntimeError) as error:
        logging.getLogger("secauditai.tuning").info("no parameter importance: %s", error)
        return {}
    return {name: float(value) for name, value in found.items()}


def _rank(ledger: Ledger, trial: Trial) -> tuple[bool, float]:
    sign = -1.0 if ledger.higher_is_better else 1.0
    return trial.value is None, sign * (trial.value or 0.0)


def _shown(value: Any) -> str:
    """A setting's value as a short text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
