"""Ray Train's group of workers as it is wanted here: what each worker does first, and no more helpers than needed.

Ray Train's controller imports this module, in a process of its own, and waits for it: it imports as little as it can.
"""

import os
from dataclasses import dataclass
from typing import Any

from ray.train.constants import TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from secauditai.garbage import collect_seldom
from secauditai.training.stopping import listen_in_worker

GOODBYE = 5
"""Seconds in which workers may close their process group; Ray waits 30, for dead and hung ones too."""
UNUSED = ("DatasetsCallback", "PlacementGroupCleanerCallback")
"""Parts of Ray Train that start a process each: for Ray datasets, of which workers get none, and for giving resources
back when the controller has died, which `free_reservation` does, also where there is no dashboard."""


@dataclass
class GroupConfig(TorchConfig):
    """Torch's process group, and what each worker's main thread has to do before it."""

    threads: int = 1

    @property
    def backend_cls(self) -> type:
        """What sets workers up."""
        return GroupBackend


class GroupBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Prepares the workers' main threads, then the process group."""

    def on_start(self, worker_group: Any, backend_config: GroupConfig) -> None:
        """Called in the controller as soon as the workers are there."""
        os.environ.setdefault(TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S, str(GOODBYE))
        worker_group.execute(prepare_worker, backend_config.threads)
        super().on_start(worker_group, backend_config)


class AloneOnItsNode(FixedScalingPolicy):
    """So many workers, without asking for nodes: the process that would pass this on to an autoscaler is left out."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Nobody is asked."""

    def _maybe_send_resource_request(self) -> None:
        pass


class GroupTrainer(TorchTrainer):
    """Ray's trainer without the helpers that nothing here uses.

    SIGINT stays ours: Ray's own reaction kills the workers without a checkpoint.
    """

    def __init__(self, *arguments: Any, alone: bool, **options: Any) -> None:
        """Make the trainer.

        Args:
            arguments: of `TorchTrainer`.
            alone: whether Ray runs on this machine alone, for this process: no node is added or taken away.
            options: of `TorchTrainer`.
        """
        super().__init__(*arguments, **options)
        self._alone = alone

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]  # of its second version
        return [callback for callback in callbacks if type(callback).__name__ not in UNUSED]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        config: Any = self.scaling_config
        if self._alone:
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
            if not config.elasticity_enabled:
                arguments["scaling_policy"] = AloneOnItsNode(config)
        return super()._initialize_and_run_controller(**arguments)  # type: ignore[misc]

    def _register_sigint_handler(self, controller: Any) -> None:
        pass


def prepare_worker(threads: int) -> None:
    """Set up a worker from its main thread: threads of its libraries, of which Ray grants one, collector, signals."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    collect_seldom()
    listen_in_worker()
