"""From a request to a sweep that can be run: what is searched, what all trials share, and how many fit at a time."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from secauditai.cluster import Capacity, read_capacity
from secauditai.config.files import NamedConfigs, check_name, parse_layer, resolve_config, spaces_of
from secauditai.config.leaves import leaves
from secauditai.config.spaces import Space
from secauditai.errors import ConfigError, RunError
from secauditai.metrics import METRICS
from secauditai.mirror import mirror_of
from secauditai.models.bundle import keep_bundle, open_bundle
from secauditai.progress import Progress, silent
from secauditai.runs import new_id
from secauditai.training.devices import measure_precision_at
from secauditai.training.goal import selection_metric
from secauditai.training.preparation import TrainingPlan, plan_training
from secauditai.training.request import START, TrainRequest
from secauditai.training.rungs import rung_samples
from secauditai.tuning.best_config import best_config_name, made_by_a_sweep
from secauditai.tuning.ledger import Ledger, SweepLayout
from secauditai.tuning.samplers import GRID, RANDOM, grid_size

NONE, ASHA = "none", "asha"
SCHEDULERS = (NONE, ASHA)
DEFAULT_SAMPLES = 8
MOST_TRIALS = 9999
"""Of a sweep: trials are numbered by four digits."""
NOT_SEARCHED = ("data", "task", "selection_metric", "num_workers", "threads", "gpu", "precision", "ray_data_min_mb")
"""Settings that decide what trials are compared by, or where they run; so do those of the section `cleaning`."""


@dataclass(frozen=True)
class SweepRequest:
    """A sweep to do."""

    name: str
    """Configuration, and the name its best model is registered by."""
    layer: Mapping[str, Any]
    """Settings, search spaces among them."""
    workspace: Path
    num_samples: int | None = None
    """None: 8, or the whole grid."""
    max_concurrent: int | None = None
    """None: as many as fit."""
    address: str | None = None
    sampler: str = RANDOM
    scheduler: str = NONE
    reduction_factor: int = 3
    metric: str | None = None
    """The goal; None: the metric that picks the best checkpoint."""
    seeds_per_trial: int = 1


@dataclass(frozen=True)
class TrialResources:
    """What one trial takes of the cluster: its workers, and a driver that needs none, or is the only worker itself."""

    workers: int
    cpus: int
    """Of each worker."""
    gpus: int
    """Of each worker."""

    def fitting(self, capacity: Capacity) -> int:
        """How many trials fit at a time: floor((cluster − in use) / trial), and no worker straddles nodes."""
        placed = sum(min(int(cpus // self.cpus), self._by_gpu(gpus)) for cpus, gpus in capacity.nodes)
        free = math.floor((capacity.cpus - capacity.used_cpus + 1e-6) / (self.workers * self.cpus))
        if self.gpus:
            free = min(free, math.floor((capacity.gpus - capacity.used_gpus + 1e-6) / (self.workers * self.gpus)))
        return max(0, min(placed // self.workers, free))

    def arithmetic(self, capacity: Capacity) -> str:
        """The same in words."""
        each = f"{self.cpus} CPU" + ("s" if self.cpus > 1 else "") + (f" and {self.gpus} GPU" if self.gpus else "")
        nodes = f" on {len(capacity.nodes)} nodes" if len(capacity.nodes) > 1 else ""
        has = f"{capacity.cpus:g} CPUs{nodes}, {capacity.used_cpus:g} of them in use"
        floors = [f"floor(({capacity.cpus:g} − {capacity.used_cpus:g}) / {self.workers * self.cpus}) CPUs"]
        if self.gpus:
            has += f", and {capacity.gpus:g} GPUs, {capacity.used_gpus:g} of them in use"
            floors.append(f"floor(({capacity.gpus:g} − {capacity.used_gpus:g}) / {self.workers * self.gpus}) GPUs")
        return (
            f"a trial takes {self.workers} worker{'s' if self.workers > 1 else ''} of {each} each; the cluster has "
            f"{has}: {', '.join(floors)} and whole workers per node leave {self.fitting(capacity)} at a time"
        )

    def _by_gpu(self, gpus: float) -> int:
        return int(gpus // self.gpus) if self.gpus else 10**9


@dataclass(frozen=True)
class SweepPlan:
    """What a request comes to, before a trial is run."""

    request: SweepRequest
    training: TrainingPlan
    """A trial with every searched setting at its default."""
    spaces: dict[str, Space]
    trials: int
    metric: str
    fixed: dict[str, Any]
    """Settings that all trials share, resolved once."""
    resources: TrialResources
    grace_samples: int

    @property
    def rungs(self) -> list[int]:
        """Samples seen at each rung where ASHA may stop a trial."""
        if self.request.scheduler == NONE:
            return []
        total = self.training.total_steps * self.training.request.config.optimization.batch_size
        return rung_samples(self.grace_samples, self.request.reduction_factor, total)

    @property
    def data(self) -> dict[str, str]:
        """Digests of the samples and the splits that trials train on."""
        dataset = self.training.dataset
        return {"samples": dataset.content_hash, "splits": str(dataset.manifest["splits"]["hash"])}

    def check_data(self, ledger: Ledger) -> None:
        """Compare the data with that which a sweep began with.

        Raises:
            RunError: when it has changed, so that trials would not compare.
        """
        changed = [what for what, digest in ledger.data.items() if digest != self.data[what]]
        if changed:
            raise RunError(
                f"the sweep's data is not what it was: its {' and '.join(changed)} changed",
                where=str(ledger.fixed["data"]),
                hint="Restore it, or start a new sweep.",
            )

    def max_concurrent(self, capacity: Capacity) -> int:
        """Trials at a time.

        Raises:
            ConfigError: with the arithmetic, when none fits, or fewer than were asked for.
        """
        fitting, wanted = self.resources.fitting(capacity), self.request.max_concurrent
        if fitting < 1 or (wanted or 0) > fitting:
            what = "no trial fits" if fitting < 1 else f"{wanted} trials at a time do not fit"
            hint = (
                "Lower --max-concurrent." if fitting else "Lower --threads or --num-workers, or use a larger cluster."
            )
            raise ConfigError(f"{what}: {self.resources.arithmetic(capacity)}", hint=hint)
        return min(wanted or fitting, self.trials)

    def new_ledger(self) -> Ledger:
        """The ledger of a sweep that has not begun."""
        request, sweep_id = self.request, new_id()
        layout = SweepLayout((request.workspace / "sweeps" / request.name / sweep_id).absolute())
        return Ledger(
            layout.ledger,
            sweep_id,
            request.name,
            self.metric,
            METRICS[self.metric].higher_is_better,
            layer={key: value.plain() if isinstance(value, Space) else value for key, value in request.layer.items()},
            fixed=self.fixed,
            data=self.data,
            num_samples=self.trials,
            sampler=request.sampler,
            scheduler=request.scheduler,
            reduction_factor=request.reduction_factor,
            grace_samples=self.grace_samples,
            seeds_per_trial=request.seeds_per_trial,
            seed=self.training.request.config.execution.seed,
        )


def plan_sweep(request: SweepRequest, progress: Progress = silent) -> SweepPlan:
    """Check what is searched, and resolve what all trials share; nothing but caches is written.

    Raises:
        ConfigError: when there is nothing to search, or it cannot be searched like this.
    """
    _check_names(request)
    spaces = _checked_spaces(request)
    layer = dict(request.layer)
    if request.metric is not None:
        layer["selection_metric"] = check_metric(request.metric)
    config = resolve_config(layer, _small(layer), allow_spaces=True)
    training = plan_training(
        TrainRequest(START, request.name, config, request.workspace, request.name, address=request.address), progress
    )
    resources = _resources(training)
    return SweepPlan(
        request=request,
        training=training,
        spaces=spaces,
        trials=_trials(request, spaces),
        metric=selection_metric(training),
        fixed=_fixed(layer, training, resources),
        resources=resources,
        grace_samples=_grace_samples(training),
    )


def resume_request(ledger: Ledger, workspace: Path, changes: SweepRequest) -> SweepRequest:
    """The request that a ledger came from, with what may change between sessions."""
    num_samples = changes.num_samples or ledger.num_samples
    if num_samples < ledger.num_samples:
        raise ConfigError(
            f"the sweep has {ledger.num_samples} trials already asked for",
            where="--num-samples",
            hint="Give a larger number, or leave it out.",
        )
    return replace(
        changes,
        name=ledger.name,
        layer=parse_layer(ledger.layer, where=str(ledger.path)),
        workspace=workspace,
        num_samples=num_samples,
        sampler=ledger.sampler,
        scheduler=ledger.scheduler,
        reduction_factor=ledger.reduction_factor,
        metric=ledger.metric,
        seeds_per_trial=ledger.seeds_per_trial,
    )


def check_metric(name: str) -> str:
    """A metric's name as the settings spell it.

    Raises:
        ConfigError: for one that does not exist.
    """
    from secauditai.metrics import resolve_metrics

    try:
        (metric,) = resolve_metrics(name, "--metric")
    except ValueError:
        raise ConfigError(f"a sweep has one goal, not {name!r}", where="--metric") from None
    return metric


def local_capacity(request: SweepRequest) -> Capacity:
    """What there is to run on, without starting Ray on this machine; an address is connected to."""
    if request.address is not None or "RAY_ADDRESS" in os.environ:
        from secauditai.cluster import ensure_ray

        ensure_ray(request.address)
        return read_capacity()
    import torch

    return Capacity(nodes=((float(len(os.sched_getaffinity(0))), float(torch.cuda.device_count())),))


def _check_names(request: SweepRequest) -> None:
    """Whether the best trial can be registered and its configuration saved, which comes after hours of training."""
    best = best_config_name(check_name(request.name, "configuration"))
    check_name(best, "the configuration of the best trial")
    path = NamedConfigs(request.workspace).path(best)
    if path.exists() and not made_by_a_sweep(request.workspace, request.name, best):
        raise ConfigError(
            f"the configuration {best} would be replaced by that of the best trial, and no sweep here has made it",
            where=str(path),
            hint="Rename or remove it, or give the configuration with the search spaces another name.",
        )


def _checked_spaces(request: SweepRequest) -> dict[str, Space]:
    spaces = spaces_of(request.layer)
    if not spaces:
        example = f"secauditai train config set {request.name} learning_rate '{{loguniform: [1.0e-5, 1.0e-3]}}'"
        raise ConfigError(f"{request.name} has no search space", hint=f"For example `{example}`.")
    wrong = [name for name in spaces if name in NOT_SEARCHED or leaves()[name].section == "cleaning"]
    if wrong:
        reason = "trials would not compare, or it says where they run"
        raise ConfigError(f"{', '.join(wrong)} cannot be searched: {reason}", hint="Set one value.")
    workers = request.layer.get("num_workers")
    if isinstance(workers, str) and workers != "auto":
        hint = "Set one number: all trials take as many."
        raise ConfigError(f"trials cannot have a range of workers, {workers}", where="num_workers", hint=hint)
    return spaces


def _trials(request: SweepRequest, spaces: dict[str, Space]) -> int:
    if request.sampler != GRID:
        return request.num_samples or DEFAULT_SAMPLES
    size = grid_size(spaces)
    if size > MOST_TRIALS:
        hint = "Search fewer values, or use --sampler random."
        raise ConfigError(f"the grid has {size} trials, a sweep has at most {MOST_TRIALS}", hint=hint)
    if request.num_samples not in (None, size):
        raise ConfigError(
            f"the grid has {size} trials", where="--num-samples", hint="Leave it out with --sampler grid."
        )
    return size


def _small(layer: Mapping[str, Any]) -> dict[str, int]:
    """Workers and threads of a trial; `auto` is one of each: a sweep fills the cluster with trials."""
    given = {name: layer.get(name) for name in ("num_workers", "threads")}
    return {name: value if isinstance(value, int) else 1 for name, value in given.items()}


def _resources(training: TrainingPlan) -> TrialResources:
    devices = training.devices
    return TrialResources(devices.world_size, devices.threads, int(devices.device == "cuda"))


def _fixed(layer: Mapping[str, Any], training: TrainingPlan, resources: TrialResources) -> dict[str, Any]:
    config = training.request.config
    fixed = {name: value for name, value in layer.items() if not isinstance(value, Space) and name != "gpu"}
    fixed |= {
        "num_workers": resources.workers,
        "threads": resources.cpus,
        "data": str(training.dataset.root),
        "selection_metric": selection_metric(training),
    }
    if "keep_checkpoints" not in layer:
        fixed["keep_checkpoints"] = 1
    if training.model.bundle is not None and not isinstance(layer.get("model"), Space):
        fixed["model"] = str(_kept_model(training.model.bundle, training.request.workspace))
    if config.execution.precision == "auto" and training.devices.device == "cpu":
        fixed["precision"] = measure_precision_at(training.request.address, config.execution, "cpu")
    return fixed


def _kept_model(bundle: Path, workspace: Path) -> Path:
    """A bundle where trials on other machines find it, when the workspace is remote."""
    if mirror_of(workspace) is None:
        return bundle
    return keep_bundle(open_bundle(bundle), workspace / "cache").layout.root


def _grace_samples(training: TrainingPlan) -> int:
    """Samples seen by the first validation, where the first rung is; the last batch of an epoch may be smaller."""
    config = training.request.config
    interval = config.selection.eval_interval
    return interval * config.optimization.batch_size if interval else training.train.num_rows
