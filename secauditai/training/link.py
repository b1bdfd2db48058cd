"""One attempt by several machines that share no directory: what they tell each other in files goes through the store.

Each has its mirror of the remote workspace. Before an attempt the store decides what all of them go on from; while it
lasts, a thread on each machine sends the files of `attempt/` that were made there and brings those of the others.
"""

import logging
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from secauditai.data.tokens import fetch_token_store
from secauditai.errors import ClusterError
from secauditai.mirror import Mirror, fetch, mirror_directory, mirror_of, open_mirror
from secauditai.runs import Run, RunLayout, fetch_history, open_run
from secauditai.storage import PATIENCE
from secauditai.training.attempt import AttemptLayout
from secauditai.training.mirrored import BRIEF, fetch_run
from secauditai.training.recipe import read_recipe

logger = logging.getLogger("secauditai.training")

INTERVAL = 2.0
"""Seconds between two looks."""
WORKSPACE, MACHINE, ATTEMPT = "workspace", "machine", "attempt"
"""What a worker is told besides the run: the workspace's address, where the driver is, which attempt this is."""
MARK = ".attempt"
"""In a machine's `attempt/`: which attempt it is of."""


class AttemptLink:
    """Keeps `attempt/` of this machine and of the others alike. Use as a context manager."""

    def __init__(self, mirror: Mirror, run: Run, attempt: str, *, follows: bool = False) -> None:
        """Prepare.

        Args:
            mirror: the workspace.
            run: the run, in the mirror.
            attempt: its unique name.
            follows: whether to bring the history too, for a driver that shows it.
        """
        self._mirror, self._run, self._follows = mirror, run, follows
        self._directory, self._place = run.layout.attempt, link_place(mirror, run.layout, attempt)
        self._own: set[str] = set()
        self._here: dict[str, tuple[int, int]] = {}
        self._there: dict[str, tuple[int, float]] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="attempt-link", daemon=True)

    def __enter__(self) -> "AttemptLink":
        self._mirror.storage.patience = 0.0  # the next look is the next try
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        self._thread.join()
        self._mirror.storage.patience = BRIEF
        with suppress(ClusterError):  # the attempt is over, and its own end is what counts
            self.look()

    def look(self) -> None:
        """Send what is new here and bring what is new there."""
        for path in sorted(self._directory.iterdir()):
            with suppress(FileNotFoundError):
                state = (path.stat().st_size, path.stat().st_mtime_ns)
                if not path.name.startswith(".") and self._here.get(path.name) != state:
                    self._mirror.storage.upload(path, f"{self._place}/{path.name}")
                    self._own.add(path.name)
                    self._here[path.name] = state
        for file in self._mirror.storage.files(self._place):
            name, state_there = file.key.rpartition("/")[2], (file.size, file.changed)
            if name not in self._own and self._there.get(name) != state_there:
                path = self._directory / name
                self._mirror.storage.download(file.key, path)
                self._there[name] = state_there
                self._here[name] = (path.stat().st_size, path.stat().st_mtime_ns)
        if self._follows:
            fetch_history(self._run)

    def _go_on(self) -> None:
        while not self._done.wait(INTERVAL):
            try:
                self.look()
            except (ClusterError, FileNotFoundError) as error:
                logger.info("the machines of this run cannot exchange files now: %s", error)


def link_place(mirror: Mirror, layout: RunLayout, attempt: str) -> str:
    """Where in the store the machines of an attempt meet."""
    return f"{mirror.key(layout.attempt)}/{attempt}"


def machine_of(address: str) -> str:
    """What tells machines, and caches, apart."""
    return f"{socket.gethostname()} {mirror_directory(address)}"


@contextmanager
def linked(run: Run, attempt: str) -> Iterator[dict[str, str]]:
    """The driver's side of an attempt in which other machines take part.

    Yields:
        What workers are to be told; nothing in a local workspace.
    """
    mirror = mirror_of(run.root)
    if mirror is None:
        yield {}
        return
    mirror.send_file(run.layout.memory)
    fetch_run(run, exactly=True)
    try:
        with AttemptLink(mirror, run, attempt, follows=True):
            yield {WORKSPACE: mirror.address, MACHINE: machine_of(mirror.address), ATTEMPT: attempt}
    except BaseException:
        with suppress(ClusterError):  # what went wrong first is what is told
            fetch_run(run)
        raise
    fetch_run(run)
    mirror.storage.patience = PATIENCE
    mirror.storage.delete_tree(link_place(mirror, run.layout, attempt))


@contextmanager
def run_here(config: Mapping[str, str]) -> Iterator[Path]:
    """The run directory on this worker's machine, brought there unless it is the driver's too."""
    root, address = Path(config["run_root"]), config.get(WORKSPACE)
    if address is None or config[MACHINE] == machine_of(address):
        yield root
        return
    workspace = open_mirror(address)
    run = open_run(workspace.joinpath(*root.parts[-3:]))
    mirror = mirror_of(run.root)
    assert mirror is not None
    with FileLock(run.root / ".fetch.lock"):
        _bring(run, config[ATTEMPT])
    try:
        with AttemptLink(mirror, run, config[ATTEMPT]):
            yield run.root
    finally:
        with suppress(ClusterError):
            mirror.storage.patience = BRIEF
            mirror.send_tree(run.layout.logs)


def _bring(run: Run, attempt: str) -> None:
    """Bring all that a rank reads, once per machine and attempt."""
    layout = AttemptLayout(run.layout.attempt)
    mark = layout.root / MARK
    if mark.exists() and mark.read_text(encoding="utf-8") == attempt:
        return
    fetch_run(run, exactly=True)
    recipe = read_recipe(run.layout.recipe)
    for store in (recipe.train_store, recipe.val_store):
        fetch_token_store(Path(store))
    if recipe.initial_bundle:
        fetch(Path(recipe.initial_bundle))
    shutil.rmtree(layout.root, ignore_errors=True)
    layout.root.mkdir(parents=True)
    mark.write_text(attempt, encoding="utf-8")
