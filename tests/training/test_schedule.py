import pytest

from secauditai.training import schedule
from secauditai.training.schedule import FIVE_MINUTES, CheckpointClock


def test_without_an_interval_an_epoch_or_five_minutes_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(schedule.time, "monotonic", lambda: now[0])
    clock = CheckpointClock(None, steps_per_epoch=10)
    assert [step for step in range(1, 21) if clock.due(step)] == [10, 20]
    clock.saved(20)
    assert not clock.due(20)
    now[0] = FIVE_MINUTES
    assert clock.due(23)
    clock.saved(23)
    assert not clock.due(24)


def test_an_interval_counts_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = CheckpointClock(4, steps_per_epoch=10)
    monkeypatch.setattr(schedule.time, "monotonic", lambda: 10 * FIVE_MINUTES)
    assert [step for step in range(1, 13) if clock.due(step)] == [4, 8, 12]
