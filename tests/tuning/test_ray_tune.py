import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest

from secauditai.tuning.ledger import Ledger
from secauditai.tuning.queue import TrialQueue


@pytest.mark.parametrize(
    ("died", "status", "kind"), [(True, "interrupted", "TrialDied"), (False, "failed", "ValueError")]
)
def test_a_dead_process_is_told_from_an_error_in_our_code(tmp_path: Path, died: bool, status: str, kind: str) -> None:
    from secauditai.tuning.ray_tune import _Reports

    layer = {"dropout": {"uniform": [0.0, 0.5]}}
    ledger = Ledger(tmp_path / "ledger.json", "s", "c", "f1", higher_is_better=True, layer=layer, num_samples=1)
    ledger.layout.trials.mkdir()
    queue = TrialQueue(ledger, max_concurrent=1, max_failures=1, deadline=None, watch=lambda _ledger, _trial: None)
    assert queue.next() is not None
    (tmp_path / "error.txt").write_text(f"Failure # 1 (occurred at 2026-01-01)\n{_error(died=died)}\n")
    trial_of_tune = SimpleNamespace(config={"trial_id": "0000"}, error_file=str(tmp_path / "error.txt"))
    _Reports(queue, []).on_trial_error(1, [], trial_of_tune)
    (trial,) = ledger.trials
    assert (trial.status, trial.error_kind) == (status, kind)
    assert queue.exhausted is not died
    assert trial.error == (str(_error(died=True)) if died else "ValueError: no: why")


def _error(*, died: bool) -> Exception:
    """What Ray raises for the one and the other."""
    import ray.exceptions

    if died:
        return ray.exceptions.ActorDiedError()
    try:
        raise ValueError("no: why\nand more")
    except ValueError as error:
        return ray.exceptions.RayTaskError("TrialActor.train", traceback.format_exc(), error)
