"""What ended an attempt that can be made again: which rank died or hung, why, and whether it counts."""

from dataclasses import dataclass
from enum import StrEnum

from secauditai.training.attempt import AttemptLayout, Hang, RankRecord, read_hangs, read_ranks


class Kind(StrEnum):
    """Why ranks were lost."""

    WORKER = "worker lost"
    CONTROLLER = "controller lost"
    NODE = "node lost"
    HUNG = "rank hung"
    PREEMPTED = "node preempted"
    OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class Loss:
    """One loss of ranks."""

    kind: Kind
    detail: str
    """Who and why, as far as it is known."""
    rank: int | None = None

    @property
    def counts(self) -> bool:
        """Whether it uses up `max_failures`: going away by announcement does not, and neither does a halved budget."""
        return self.kind not in (Kind.PREEMPTED, Kind.OUT_OF_MEMORY)

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


class WorkersLost(Exception):
    """Ranks or their controller died; the run can go on from its newest checkpoint."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        super().__init__(str(loss))


def find_hang(layout: AttemptLayout) -> Loss | None:
    """The hung rank, from what the ranks' watchdogs wrote; None when there is none.

    A rank that only waited for others is not to blame: if all that reported waited, it is one that could not report.
    """
    hangs = read_hangs(layout)
    if not hangs:
        return None
    ranks = {rank.index: rank for rank in read_ranks(layout)}
    blamed = next((hang for hang in hangs if not hang.waiting), None)
    if blamed is not None:
        return Loss(Kind.HUNG, f"{_name(ranks, blamed)} {_standstill(blamed)}", blamed.index)
    silent = sorted(ranks.keys() - {hang.index for hang in hangs})
    witness = hangs[0]
    who = ", ".join(ranks[index].describe() for index in silent) or "some rank"
    return Loss(Kind.HUNG, f"{who} gave no sign of life; {_name(ranks, witness)} {_standstill(witness)}", *silent[:1])


def _name(ranks: dict[int, RankRecord], hang: Hang) -> str:
    return ranks[hang.index].describe() if hang.index in ranks else f"rank {hang.index}"


def _standstill(hang: Hang) -> str:
    doing = "waited for other ranks" if hang.waiting else "made no progress"
    return f"{doing} for {hang.seconds:.0f} s in step {hang.step}, at {' < '.join(hang.frames[:4])}"


def first_line(error: BaseException) -> str:
    """The first line of an error that says anything."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
