"""A run of a remote workspace: brought here before it goes on, sent while it trains.

The leading rank sends in the background, so that no step waits for the store: history first, then the checkpoints
that count on it, each with its manifest last. While the store is away, they wait on this machine's disk.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from secauditai.background import repeating
from secauditai.errors import ClusterError, RunError
from secauditai.mirror import Mirror, fetch_once, mirror_of
from secauditai.runs import Run, RunLayout, goes_on_from_store
from secauditai.storage import PATIENCE
from secauditai.training.attempt import AttemptLayout
from secauditai.training.checkpoint import (
    CheckpointLayout,
    delete_checkpoint,
    list_checkpoints,
    newest_checkpoint,
    read_state,
)
from secauditai.training.lease import lease
from secauditai.training.memory import read_budgets, write_budgets
from secauditai.training.recipe import read_recipe

logger = logging.getLogger("secauditai.training")

INTERVAL = 3.0
"""Seconds between two looks at what is new."""
BRIEF = 5.0
"""Seconds that a run that went wrong waits for a store that is away."""


class RunSender:
    """Sends what the leading rank writes: `metrics.jsonl`, `memory.json`, logs and checkpoints."""

    def __init__(self, mirror: Mirror, layout: RunLayout, step: int, keep: int | None) -> None:
        """Prepare.

        Args:
            mirror: the workspace.
            layout: the run directory, in the mirror.
            step: where the run goes on; what the store has of later steps is cut off, as it is here.
            keep: checkpoints that the run keeps, besides the best; others go from the store too.
        """
        self._mirror, self._layout, self._keep = mirror, layout, keep
        self._cut_off: int | None = step
        self._sent: dict[Path, tuple[int, int]] = {}
        self._away = False
        mirror.storage.patience = 0.0  # the next look is the next try

    def send_rest(self, patience: float) -> None:
        """Send what is left at the end.

        Raises:
            ClusterError: when the store stays away for longer than `patience` seconds, or refuses.
        """
        self._mirror.storage.patience = patience
        self.send()

    def send(self) -> None:
        """Send what is new since the last time."""
        if self._cut_off is not None:
            self._drop({name for name in self._stored() if CheckpointLayout(Path(name)).step > self._cut_off})
            self._cut_off = None
        checkpoints = list_checkpoints(self._layout.checkpoints)  # before the history that they count on
        for path in (self._layout.metrics, self._layout.memory, *sorted(self._layout.logs.glob("*.log"))):
            self._send_changed(path)
        new = [checkpoint for checkpoint in checkpoints if self._send_checkpoint(checkpoint)]
        if new and self._keep and len(checkpoints) >= self._keep:
            self._drop(self._stored() - {c.root.name for c in list_checkpoints(self._layout.checkpoints)})

    def try_send(self) -> None:
        """The same, or leave it for the next time while the store is away, which is told once."""
        try:
            self.send()
        except ClusterError as error:
            if not self._away:
                logger.warning("%s; training goes on, and sending when it is back", error)
            self._away = True
        else:
            if self._away:
                logger.warning("the storage is back: %s", self._mirror.address)
            self._away = False

    def _send_changed(self, path: Path) -> None:
        state = _state(path)
        if state is not None and self._sent.get(path) != state:
            self._mirror.send_file(path)
            self._sent[path] = state

    def _send_checkpoint(self, checkpoint: CheckpointLayout) -> bool:
        """Send a checkpoint that is not there yet; False for one that was, or that retention has deleted meanwhile."""
        state = _state(checkpoint.manifest)
        if state is None or self._sent.get(checkpoint.root) == state:
            return False
        try:
            self._mirror.send_tree(checkpoint.root)
        except FileNotFoundError:
            return False
        self._sent[checkpoint.root] = state
        return True

    def _stored(self) -> set[str]:
        """Names of the checkpoints that the store has, or parts of."""
        return self._mirror.trees(self._layout.checkpoints, whole=False)

    def _drop(self, names: set[str]) -> None:
        """Delete checkpoints from the store."""
        for name in sorted(names):
            self._mirror.storage.delete_tree(f"{self._mirror.key(self._layout.checkpoints)}/{name}")


@contextmanager
def sending(layout: RunLayout, step: int, keep: int | None) -> Iterator[None]:
    """Send a run while it trains on from a step, and the rest at the end, when its workspace is remote.

    Raises:
        RunError: when another machine trains this run.
        ClusterError: when the store takes the end of the run neither at once nor after minutes.
    """
    mirror = mirror_of(layout.root)
    if mirror is None:
        yield
        return
    mark = AttemptLayout(layout.attempt).driver
    driver = mark.read_text(encoding="ascii") if mark.exists() else None
    with lease(Mirror(mirror.root, mirror.address), layout.root / "lease.json", driver=driver):
        sender = RunSender(mirror, layout, step, keep)
        try:
            with repeating(sender.try_send, INTERVAL, "run-sender"):
                yield
        except BaseException:
            with suppress(ClusterError):  # what went wrong first is what is told
                sender.send_rest(BRIEF)
            raise
        sender.send_rest(PATIENCE)


def send_begun(run: Run, patience: float = PATIENCE) -> None:
    """Leave in the store what any machine needs to train this run or to go on with it, and its checkpoints so far."""
    mirror = mirror_of(run.root)
    if mirror is not None:
        layout, mirror.storage.patience = run.layout, patience
        mirror.send_tree(layout.initial)
        for path in (layout.config, layout.memory, layout.metrics, layout.recipe, layout.info):
            mirror.send_file(path)
        for checkpoint in list_checkpoints(layout.checkpoints):  # a branch begins with some
            mirror.send_tree(checkpoint.root)


def send_ended(run: Run, patience: float = PATIENCE) -> None:
    """Leave in the store how a run went: its model if there is one, its evaluations, `run.json`."""
    mirror = mirror_of(run.root)
    if mirror is not None:
        mirror.storage.patience = patience
        for tree in (run.layout.bundle, run.layout.evaluations):
            if tree.is_dir():
                mirror.send_tree(tree)
        mirror.send_file(run.layout.info)


def fetch_run(run: Run, wanted: str = "latest") -> None:
    """Bring a run as the store has it, with the newest whole checkpoint, its best one and the one that is wanted.

    What this machine has of the run and could not send is kept when it goes on from what the store has; else the
    store is right.

    Args:
        run: a run of the overview.
        wanted: as `resolve_checkpoint` takes it; a step is brought, `latest` and `best` are here anyway.
    """
    mirror, layout = mirror_of(run.root), run.layout
    if mirror is None:
        return
    try:
        with FileLock(layout.lock, timeout=0), FileLock(layout.driver_lock, timeout=0):
            if not (layout.recipe.exists() and goes_on_from_store(layout)):
                _drop_strangers(mirror, layout)
                _fetch_files(mirror, layout.config, layout.recipe, layout.memory, layout.metrics, layout.info)
            mirror.fetch_tree(layout.initial)
            _fetch_newest(mirror, layout)
            name = f"checkpoint_{wanted.removesuffix('.pt').removeprefix('checkpoint_')}"
            if name in mirror.trees(layout.checkpoints):
                _fetch_with_best(mirror, CheckpointLayout(layout.checkpoints / name))
    except Timeout:
        return  # it trains here right now, which whoever would train it is told


def fetch_inputs(run: Run) -> None:
    """Bring what a run of the overview trains on: its data, its token stores, the bundle whose heads it takes over."""
    if mirror_of(run.root) is not None:
        recipe = read_recipe(run.layout.recipe)
        for path in (run.info.dataset, recipe.train_store, recipe.val_store, recipe.initial_bundle):
            if path:
                fetch_once(Path(path))


def fetch_made(layout: RunLayout) -> None:
    """Bring what ranks have made of a run elsewhere; what only this node has of it is kept when it goes on from that.

    Raises:
        ClusterError: when the store refuses or stays out of reach.
    """
    mirror = mirror_of(layout.root)
    if mirror is not None:
        if not goes_on_from_store(layout):
            _drop_strangers(mirror, layout)
            _fetch_files(mirror, layout.memory, layout.metrics)
        _fetch_newest(mirror, layout)


def fetch_plan(layout: RunLayout) -> None:
    """Bring what the driver says of a run, and the encoder it begins with, to a node that does not see its directory.

    Raises:
        ClusterError: when the store refuses or stays out of reach.
    """
    mirror = mirror_of(layout.root)
    if mirror is not None:
        _fetch_files(mirror, layout.config, layout.recipe, layout.memory, layout.info)
        mirror.fetch_tree(layout.initial)


def send_start(layout: RunLayout, checkpoint: CheckpointLayout | None) -> None:
    """Leave in the store where the leading rank goes on, so that ranks on other nodes do so too.

    Raises:
        ClusterError: when the store refuses or stays out of reach.
    """
    mirror = mirror_of(layout.root)
    if mirror is None:
        return
    write_budgets(layout.memory, read_budgets(layout.memory))  # none is said too: older ones may be there
    mirror.send_file(layout.metrics)
    mirror.send_file(layout.memory)
    if checkpoint is not None:
        best = read_state(checkpoint).best_step
        if best is not None:
            mirror.send_tree(checkpoint.root.with_name(f"checkpoint_{best}"))
        mirror.send_tree(checkpoint.root)


def fetch_start(layout: RunLayout, step: int) -> None:
    """Bring the checkpoint that the leading rank goes on from, and nothing beyond it; the store is right.

    Args:
        layout: the run directory of a node where no rank leads.
        step: of the checkpoint; -1 when there is none yet.

    Raises:
        ClusterError: when the store refuses or stays out of reach.
    """
    mirror = mirror_of(layout.root)
    if mirror is None:
        return
    _fetch_files(mirror, layout.memory)
    _drop_strangers(mirror, layout)
    for checkpoint in list_checkpoints(layout.checkpoints):
        if checkpoint.step > step:
            delete_checkpoint(checkpoint)
    if step >= 0:
        _fetch_with_best(mirror, CheckpointLayout(layout.checkpoints / f"checkpoint_{step}"))


def _fetch_files(mirror: Mirror, *paths: Path) -> None:
    """Bring files as the store has them; those that it does not have go here too."""
    for path in paths:
        if not mirror.fetch_file(path):
            path.unlink(missing_ok=True)


def _drop_strangers(mirror: Mirror, layout: RunLayout) -> None:
    """Delete checkpoints here that are not those of the store."""
    for checkpoint in list_checkpoints(layout.checkpoints):
        if mirror.read(checkpoint.manifest) != checkpoint.manifest.read_bytes():
            delete_checkpoint(checkpoint)


def _fetch_newest(mirror: Mirror, layout: RunLayout) -> None:
    """Bring checkpoints, newest first, until there is one to go on from."""
    names = mirror.trees(layout.checkpoints)
    layout.checkpoints.mkdir(parents=True, exist_ok=True)
    here = max((checkpoint.step for checkpoint in list_checkpoints(layout.checkpoints)), default=-1)
    for checkpoint in sorted((CheckpointLayout(layout.checkpoints / name) for name in names), key=lambda c: -c.step):
        if checkpoint.step < here:
            return
        _fetch_with_best(mirror, checkpoint)
        with suppress(RunError):  # all that are here are damaged: an older one may not be
            found = newest_checkpoint(layout.checkpoints, logger.warning)
            if found is not None:
                return


def _fetch_with_best(mirror: Mirror, checkpoint: CheckpointLayout) -> None:
    mirror.fetch_tree(checkpoint.root)
    with suppress(OSError, ValueError, TypeError):  # damaged: whoever reads it says so
        best = read_state(checkpoint).best_step
        if best is not None:
            mirror.fetch_tree(checkpoint.root.with_name(f"checkpoint_{best}"))


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns
