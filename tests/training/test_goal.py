import pytest

from secauditai.training.checkpoint import TrainState
from secauditai.training.goal import is_better


@pytest.mark.parametrize(
    ("metric", "found", "best", "better"),
    [
        ("f1", {"f1": 0.4, "loss": 9.0}, {"best_value": 0.3, "best_loss": 1.0}, True),
        ("f1", {"f1": 0.3, "loss": 0.5}, {"best_value": 0.3, "best_loss": 1.0}, False),
        ("brier", {"brier": 0.3}, {"best_value": 0.4}, True),
        ("f1", {"f1": 0.0, "loss": 9.0}, {"best_loss": 1.0}, True),
        ("f1", {"loss": 0.1}, {"best_value": 0.0, "best_loss": 1.0}, False),
        ("f1", {"loss": 0.9}, {"best_loss": 1.0}, True),
        ("f1", {"loss": 1.1}, {"best_loss": 1.0}, False),
        ("f1", {}, {"best_loss": 1.0}, False),
    ],
)
def test_a_defined_metric_beats_an_undefined_one_and_else_the_loss_decides(
    metric: str, found: dict[str, float], best: dict[str, float], better: bool
) -> None:
    assert is_better(metric, found, TrainState(best_step=3, **best)) is better  # type: ignore[arg-type]


def test_the_first_validation_is_the_best_so_far() -> None:
    assert is_better("f1", {}, TrainState())
