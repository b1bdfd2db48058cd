"""What ranks elsewhere and their driver tell each other while a run trains, when they see no directory in common.

A rank writes its files into the run directory of its own node, as every rank does. From there a `Courier` passes on
what is new to the `Relay` on the driver's node, which writes it into the driver's run directory and answers with the
request to stop, if there is one.
"""

import logging
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Protocol

from secauditai.background import repeating
from secauditai.errors import ClusterError, RunError
from secauditai.files import whole_file
from secauditai.runs import RunLayout
from secauditai.training.attempt import AttemptLayout

logger = logging.getLogger("secauditai.training")

INTERVAL = 0.5
"""Seconds between two looks at what is new."""
LARGEST = 1 << 22
"""Bytes of a file that travel at once."""
MARK_BYTES = 64
"""What is remembered of the end of a file that grows: one cut short and grown again has something else there."""
STOP, READY = "attempt/stop.json", "attempt/ready"
_GROWS = re.compile(r"logs/rank_[0-9]+\.log|metrics\.jsonl")
_WHOLE = re.compile(
    r"attempt/(rank_[0-9]+\.(json|step)|hang_[0-9]+\.json|failure\.json|stop\.json|ready|placement_group)|memory\.json"
)
_PROBE = re.compile(r"attempt/probe_[0-9a-f]{32}")


class Piece(NamedTuple):
    """A part of a file of the run directory."""

    name: str
    """Its path in there."""
    offset: int
    """Where it begins in a file that grows; what stood behind it is replaced. 0 for other files, which come whole."""
    content: bytes


class Relay:
    """Writes into the driver's run directory what ranks elsewhere pass on; an actor on the driver's node.

    It remembers nothing, and the same piece may come twice: it can be started again at any time.
    """

    def __init__(self, run_root: str) -> None:
        self._root = Path(run_root)

    def exchange(self, pieces: Sequence[Piece]) -> bytes | None:
        """Write pieces of files; return what the request to stop says, None as long as there is none.

        Raises:
            RunError: when one has a name that no file of a rank has; nothing is written then.
        """
        for piece in pieces:
            check_name(piece.name)
        for piece in pieces:
            self._write(piece)
        return _read(AttemptLayout(self._root / "attempt").stop)

    def size(self, name: str) -> int:
        """Bytes of a file that grows; 0 when there is none yet.

        Raises:
            RunError: as `exchange`.
        """
        check_name(name)
        path = self._root / name
        return path.stat().st_size if path.exists() else 0

    def sees(self, name: str) -> bool:
        """Whether a file that a rank has just made is here too, because both nodes share the directory."""
        return _PROBE.fullmatch(name) is not None and (self._root / name).exists()

    def _write(self, piece: Piece) -> None:
        path = self._root / piece.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if _GROWS.fullmatch(piece.name):
            with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(min(piece.offset, end))
                file.write(piece.content)
                file.truncate()
        elif piece.name not in (STOP, READY) or not path.exists():  # the first request counts, and the first start
            with whole_file(path) as partial:
                partial.write_bytes(piece.content)


def check_name(name: str) -> None:
    """Make sure that a name is one of a rank's files.

    Raises:
        RunError: when it is not.
    """
    if not (_GROWS.fullmatch(name) or _WHOLE.fullmatch(name)):
        raise RunError(f"{name!r} is no file that ranks pass on")


class Link(Protocol):
    """A relay as ranks reach it."""

    def exchange(self, pieces: Sequence[Piece]) -> bytes | None:
        """As `Relay.exchange`; ClusterError when it cannot be reached."""

    def size(self, name: str) -> int:
        """As `Relay.size`; ClusterError when it cannot be reached."""

    def sees(self, name: str) -> bool:
        """As `Relay.sees`; ClusterError when it cannot be reached."""


@dataclass
class Growing:
    """How far a file that grows is passed on."""

    start: int = 0
    """Where in the file here that begins."""
    base: int = 0
    """Where in the driver's file it is put."""
    position: int = 0
    """What comes next in the file here."""
    mark: bytes = b""
    """What stands before it."""

    def next(self, file: IO[bytes], name: str) -> Piece | None:
        """The next piece, from the beginning again when the file was cut short; None when nothing is new."""
        file.seek(self.position - len(self.mark))
        cut = file.read(len(self.mark)) != self.mark
        if cut:
            self.position, self.mark = self.start, b""
        file.seek(self.position)
        content = file.read(LARGEST)
        return Piece(name, self.base + self.position - self.start, content) if cut or content else None

    def passed(self, content: bytes) -> None:
        """The piece has arrived."""
        self.position += len(content)
        self.mark = (self.mark + content)[-MARK_BYTES:]


class Courier:
    """Passes on, from a background thread, what a rank elsewhere writes. Use as a context manager around its training.

    While the driver's node does not answer, it waits here and is passed on later.
    """

    def __init__(self, layout: RunLayout, index: int, link: Link) -> None:
        """Prepare.

        Args:
            layout: the run directory here.
            index: the rank; the leading one also passes on the history and what memory allows.
            link: the relay.

        Raises:
            ClusterError: when the relay cannot be reached.
        """
        self._root, self._link = layout.root, link
        log = f"logs/rank_{index}.log"  # the driver may have one of the rank's time on another node
        start = (layout.root / log).stat().st_size if (layout.root / log).exists() else 0
        self._growing = {log: Growing(start, link.size(log), start)}
        own = [f"rank_{index}.json", f"rank_{index}.step", f"hang_{index}.json"]
        self._whole = [f"attempt/{name}" for name in (*own, "failure.json", "stop.json", "ready")]
        if index == 0:
            self._whole.append("memory.json")
            self._growing["metrics.jsonl"] = Growing()
        self._passed: dict[str, bytes] = {}
        self._busy, self._away = threading.Lock(), False
        self._background = repeating(self.pass_on, INTERVAL, "courier")

    def __enter__(self) -> "Courier":
        self._background.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._background.__exit__(kind, error, trace)
        self.pass_on()

    def pass_on(self) -> None:
        """Pass on all that is new, and take the request to stop; a driver that does not answer is told in the log."""
        with self._busy:
            try:
                while self._exchange():
                    pass
            except ClusterError as error:
                if not self._away:
                    logger.warning("%s; training goes on", error)
                self._away = True
            else:
                self._away = False

    def _exchange(self) -> bool:
        """One exchange; whether more is waiting."""
        grown = [piece for name, state in self._growing.items() if (piece := self._next(name, state)) is not None]
        whole = [
            Piece(name, 0, content)
            for name in self._whole
            if (content := _read(self._root / name)) is not None and content != self._passed.get(name)
        ]
        asked = self._link.exchange([*grown, *whole])
        for piece in grown:
            self._growing[piece.name].passed(piece.content)
        self._passed |= {piece.name: piece.content for piece in whole}
        if asked is not None and not (self._root / STOP).exists():
            with whole_file(self._root / STOP) as partial:
                partial.write_bytes(asked)
        return any(len(piece.content) == LARGEST for piece in grown)

    def _next(self, name: str, state: Growing) -> Piece | None:
        try:
            with (self._root / name).open("rb") as file:
                return state.next(file, name)
        except FileNotFoundError:
            return None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
