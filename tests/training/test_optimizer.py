import pytest

from secauditai.config.settings import OptimizationSettings
from secauditai.training.optimizer import learning_rate_at


def test_schedules() -> None:
    settings = OptimizationSettings(warmup_ratio=0.1, scheduler="linear")
    rates = [learning_rate_at(step, settings, 1.0, 100) for step in range(1, 101)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert max(rates) == 1.0
    assert rates[-1] == pytest.approx(1 / 90)
    cosine = OptimizationSettings(warmup_ratio=0.0, scheduler="cosine")
    assert learning_rate_at(51, cosine, 1.0, 100) == pytest.approx(0.5)
    constant = OptimizationSettings(warmup_ratio=0.0, scheduler="constant")
    assert learning_rate_at(77, constant, 1.0, 100) == 1.0
