"""The door to Ray Tune: trials of one configuration with search spaces, each a training of its own.

A trial trains in its Tune actor's own process and reports once, at its end. The best trial's weights are registered.
"""

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from secauditai.cluster import ensure_ray
from secauditai.config.files import NamedConfigs, resolve_config, spaces_of
from secauditai.config.spaces import Space
from secauditai.errors import ConfigError, RunError, SecAuditError
from secauditai.export.publish import register
from secauditai.pipeline import train
from secauditai.progress import Progress, silent
from secauditai.runs import FAILED, FINISHED, open_run
from secauditai.tracking.runs import create_run, finish_run, log_summary
from secauditai.training.preparation import TrainingPlan, plan_training, selection_metric
from secauditai.training.request import TrainRequest
from secauditai.tuning.ledger import Ledger, Trial


@dataclass(frozen=True)
class SweepRequest:
    """A sweep to do."""

    name: str
    """Configuration, and the name its best model is registered by."""
    layer: Mapping[str, Any]
    """Settings, search spaces among them."""
    workspace: Path
    num_samples: int
    max_concurrent: int | None = None
    address: str | None = None


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to."""

    ledger: Ledger
    best_config: str
    """Name of the saved configuration."""
    version: int
    """Registered version of the best model."""
    mlflow_run_id: str

    def document(self) -> dict[str, Any]:
        """The JSON document of `tune`."""
        best = self.ledger.best
        assert best is not None
        trials = [asdict(trial) for trial in self.ledger.trials]
        found = {"settings": best.settings, "value": best.value, "metric": self.ledger.metric, "run_dir": best.run_dir}
        return {
            "sweep_id": self.ledger.sweep_id,
            "trials": trials,
            "best": {**found, "config": self.best_config, "version": self.version},
            "mlflow_run_id": self.mlflow_run_id,
        }


def run_sweep(
    request: SweepRequest, *, progress: Progress = silent, notify: Callable[[str], None] = print
) -> SweepResult:
    """Run all trials, register the best model and save its configuration as `NAME-best`.

    Raises:
        ConfigError: when there is nothing to search, or the trials do not fit the cluster.
        RunError: when every trial failed, with the first one's reason.
    """
    spaces = spaces_of(request.layer)
    if not spaces:
        example = f"secauditai train config set {request.name} learning_rate '{{loguniform: [1.0e-5, 1.0e-3]}}'"
        hint = f"For example `{example}`."
        raise ConfigError(f"{request.name} has no search space", hint=hint)
    config = resolve_config(request.layer, allow_spaces=True)
    plan = plan_training(
        TrainRequest("start", request.name, config, request.workspace, request.name, address=request.address), progress
    )
    metric = selection_metric(plan)
    sweep_id = time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + "-" + secrets.token_hex(3)
    root = request.workspace / "sweeps" / request.name / sweep_id
    parent = create_run(
        request.workspace,
        name=f"sweep {request.name} {sweep_id}",
        params={"num_samples": request.num_samples, **{name: str(space.plain()) for name, space in spaces.items()}},
        tags={"sweep_id": sweep_id, "kind": "sweep", "dataset_hash": plan.dataset.content_hash},
    )
    ledger = Ledger(root / "ledger.json", sweep_id, metric, higher_is_better=metric != "loss")
    ledger.save()
    notify(f"Sweep {sweep_id} over {', '.join(spaces)}: {request.num_samples} trials for the best validation {metric}")
    status = FAILED
    try:
        _run_trials(request, plan, spaces, ledger, parent, progress)
        result = _finish(request, ledger, parent)
        status = FINISHED
    finally:
        finish_run(request.workspace, parent, status)
    return result


def _run_trials(
    request: SweepRequest,
    plan: TrainingPlan,
    spaces: Mapping[str, Space],
    ledger: Ledger,
    parent: str,
    progress: Progress,
) -> None:
    cluster = ensure_ray(request.address)
    from ray import tune

    threads = plan.request.config.execution.threads
    cpus = 1 if threads == "auto" else threads
    fitting = int(cluster.cpus // cpus)
    if fitting < 1:
        raise ConfigError(
            f"no trial fits: each takes {cpus} CPUs, the cluster has {cluster.cpus:g}", hint="Lower --threads."
        )
    for noisy in ("ray.tune", "ray.air"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    fixed = {name: value for name, value in request.layer.items() if name not in spaces}
    fixed |= {"num_workers": 1, "threads": cpus, "data": str(plan.dataset.root)}
    trainable = tune.with_parameters(
        run_trial, fixed=fixed, name=request.name, workspace=str(request.workspace), metric=ledger.metric, parent=parent
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"CPU": cpus}),
        param_space={name: _domain(space) for name, space in spaces.items()},
        tune_config=tune.TuneConfig(
            num_samples=request.num_samples,
            max_concurrent_trials=min(request.max_concurrent or fitting, fitting),
            search_alg=tune.search.BasicVariantGenerator(random_state=plan.request.config.execution.seed),
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(ledger.path.parent / "ray"),
            verbose=0,
            callbacks=[_ledger_callback(ledger, request.num_samples, progress)],
        ),
    )
    tuner.fit()


def run_trial(
    settings: dict[str, Any], *, fixed: dict[str, Any], name: str, workspace: str, metric: str, parent: str
) -> None:
    """One trial, in a Tune actor: train with the chosen settings and report the goal metric.

    A user's error is reported, not raised, so that it reaches the ledger as one line.
    """
    from ray import tune

    started = time.monotonic()
    try:
        config = resolve_config({**fixed, **settings})
        request = TrainRequest("start", name, config, Path(workspace), name, parent_mlflow_run=parent, in_process=True)
        outcome = train(plan_training(request), register_model=False, notify=lambda _text: None)
    except SecAuditError as error:
        tune.report({"value": None, "error": str(error), "seconds": time.monotonic() - started})
        return
    value = outcome.metrics.get(metric)
    tune.report({"value": value, "run_dir": str(outcome.run.root), "seconds": time.monotonic() - started})


def _ledger_callback(ledger: Ledger, total: int, progress: Progress) -> Any:
    from ray.tune import Callback

    class Keeper(Callback):
        """Writes each finished trial into our ledger."""

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
            """Note the result."""
            last = trial.last_result or {}
            found = {key: last.get(key) for key in ("value", "run_dir", "error")}
            self._add(Trial(trial.trial_id, dict(trial.config), seconds=last.get("seconds", 0.0), **found))

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
            """Note the failure."""
            reason = (trial.get_error() and str(trial.get_error())) or "the trial died"
            self._add(Trial(trial.trial_id, dict(trial.config), None, error=reason.strip().splitlines()[-1][:300]))

        def _add(self, trial: Trial) -> None:
            ledger.add(trial)
            progress("Trials", len(ledger.trials), total, "trials")

    return Keeper()


def _domain(space: Space) -> Any:
    from ray import tune

    match space.kind:
        case "uniform":
            return tune.uniform(*space.values)
        case "loguniform":
            return tune.loguniform(*space.values)
        case "int":
            return tune.randint(space.values[0], space.values[1] + 1)
        case _:
            return tune.choice(list(space.values))


def _finish(request: SweepRequest, ledger: Ledger, parent: str) -> SweepResult:
    """Register the best trial's model with the sweep as its lineage, and save its configuration."""
    best = ledger.best
    if best is None or best.run_dir is None:
        reason = next((trial.error for trial in ledger.trials if trial.error), "no trial has the goal metric")
        raise RunError(f"none of the {len(ledger.trials)} trials succeeded: {reason}", where=str(ledger.path))
    run = open_run(Path(best.run_dir))
    version = register(run, request.workspace, tags={"sweep_id": ledger.sweep_id})
    run.update(model_version=version)
    log_summary(request.workspace, parent, {f"best/{ledger.metric}": best.value, "trials": len(ledger.trials)})
    best_config = f"{request.name}-best"
    NamedConfigs(request.workspace).create(best_config, {**request.layer, **best.settings}, overwrite=True)
    return SweepResult(ledger, best_config, version, parent)
