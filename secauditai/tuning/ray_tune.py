"""The door to Ray Tune: it places and feeds the actors in which trials run, and tells which of them died.

Tune chooses nothing, stops nothing and stores nothing that counts: settings come from our samplers, trials return by
themselves, and the ledger is the record. Import this after `ensure_ray`.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from secauditai.cluster import IN_RAY_JOB, in_ray_job, work_labels
from secauditai.garbage import collect_seldom
from secauditai.mirror import try_send
from secauditai.tuning.ledger import Trial
from secauditai.tuning.planning import TrialResources
from secauditai.tuning.queue import TrialQueue
from secauditai.tuning.trial import TrialOutcome, TrialTask, run_trial

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the history is metrics.jsonl and MLflow
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the sweep stops its trials itself
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
HEADING, FRAME = "Failure # ", '  File "'
"""How Tune begins an entry of its error file, and Python a frame of a traceback."""
WAITING = {"CPU": 0.0, "memory": float(2**20)}
"""What the driver of a distributed trial takes; Tune refuses to place an actor that takes nothing at all."""


class TrialActor(tune.Trainable):
    """Runs one trial after the other in one process: what it keeps between them is imported modules."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take a trial."""
        collect_seldom()
        if config["in_ray_job"]:
            os.environ[IN_RAY_JOB] = "1"
        self._task = TrialTask(**json.loads(config["task"]))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The whole trial."""
        return {"done": True, "outcome": json.dumps(asdict(run_trial(self._task)))}


class _Feed(Searcher):
    """Asks our queue for the next trial."""

    def __init__(self, queue: TrialQueue, build_task: Callable[[Trial], TrialTask]) -> None:
        super().__init__(metric="outcome", mode="max")
        self._queue, self._build_task = queue, build_task

    def suggest(self, trial_id: str) -> Any:  # noqa: ARG002
        """The next trial as a configuration; FINISHED when there will be none."""
        trial = self._queue.next()
        if trial is not None:
            task = json.dumps(asdict(self._build_task(trial)))
            return {"trial_id": trial.trial_id, "task": task, "in_ray_job": in_ray_job()}
        return Searcher.FINISHED if self._queue.exhausted else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: `_Reports` has the details."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing is restored from Tune's files."""


class _Reports(tune.Callback):
    """Tells our queue what became of trials."""

    def __init__(self, queue: TrialQueue, spare: list[Callable[[], object]]) -> None:
        self._queue, self._spare = queue, list(spare)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:  # noqa: ARG002
        """Let the queue look at the clock, and do a piece of what the last trials leave room for."""
        self._queue.look()
        if self._spare and self._queue.has_spare_slot:
            self._spare.pop(0)()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Pass on the outcome."""
        outcome = TrialOutcome(**json.loads(trial.last_result["outcome"]))
        self._queue.note_outcome(trial.config["trial_id"], outcome)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Tell a dead process from an error in our code."""
        trial_id, text = trial.config["trial_id"], Path(trial.error_file).read_text(encoding="utf-8")
        kind, reason = read_error(text)
        if kind is None:
            self._queue.note_death(trial_id, reason)
            return
        path = self._queue.ledger.layout.trials / f"{trial_id}.error.txt"
        path.write_text(text, encoding="utf-8")
        try_send(path)
        self._queue.note_failure(trial_id, kind, f"{kind}: {reason}")


def read_error(text: str) -> tuple[str | None, str]:
    """What ended a trial, from Tune's error file: the exception and its message, or None and why the process is gone.

    Tune keeps the exception itself as well, but pickled. A traceback has frames, and the exception stands behind the
    innermost; a death has none.
    """
    lines = [line.rstrip() for line in text.rpartition(HEADING)[2].splitlines()[1:] if line.strip()]
    frames = [place for place, line in enumerate(lines) if line.startswith(FRAME)]
    if not frames:
        return None, lines[0].strip()[:300] if lines else "for an unknown reason"
    behind = next((line for line in lines[frames[-1] :] if not line.startswith(" ")), lines[-1])
    name, _, message = behind.partition(":")
    return name.rpartition(".")[2].strip(), message.strip()[:300]


def run_trials(
    queue: TrialQueue,
    build_task: Callable[[Trial], TrialTask],
    resources: TrialResources,
    spare: list[Callable[[], object]],
    *,
    distributed: bool,
) -> None:
    """Run trials until the queue has no more.

    Args:
        queue: hands out the trials and hears of them.
        build_task: from a trial to what its actor gets.
        resources: what one trial takes.
        spare: work for this process while the last trials leave a slot empty, in short pieces.
        distributed: whether trials have workers of their own.
    """
    os.environ.update(ENVIRONMENT)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(queue.max_concurrent)  # else actors would start one after another
    for noisy in ("ray.tune", "ray.air", "ray.train"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    storage = queue.ledger.layout.ray
    here = {"CPU": float(resources.cpus), "GPU": float(resources.gpus)}
    selector: Any = {"bundle_label_selector": [labels]} if (labels := work_labels()) else {}
    place = tune.PlacementGroupFactory([WAITING if distributed else here], **selector)
    try:
        tune.Tuner(
            tune.with_resources(TrialActor, place),
            tune_config=tune.TuneConfig(num_samples=-1, search_alg=_Feed(queue, build_task), reuse_actors=True),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(storage),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[_Reports(queue, spare)],
            ),
        ).fit()
    finally:
        shutil.rmtree(storage, ignore_errors=True)
