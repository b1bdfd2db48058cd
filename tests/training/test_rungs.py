from dataclasses import replace
from pathlib import Path

import pytest

from secauditai.training.rungs import RungRule, rung_samples


def rule(root: Path, trial: str = "0000", **changes: object) -> RungRule:
    made = RungRule(str(root), trial, "f1", True, batch_size=10, grace_samples=100, factor=2)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_the_best_part_of_a_rung_goes_on(tmp_path: Path) -> None:
    values = {"0000": 0.5, "0001": 0.4, "0002": 0.6, "0003": 0.7, "0004": 0.55}
    stopped = [rule(tmp_path, trial)(10, {"f1": value}) for trial, value in values.items()]
    # one of one, one of two, one of three, two of four, two of five
    assert stopped == [False, True, False, False, True]
    assert rule(tmp_path, "0001").stopped_at() == 0
    assert rule(tmp_path, "0003").stopped_at() is None


def test_a_lower_loss_is_better_and_an_undefined_value_the_worst(tmp_path: Path) -> None:
    lower = {"higher_is_better": False}
    assert [rule(tmp_path, f"{n}", **lower)(10, {"f1": value}) for n, value in enumerate((0.5, 0.6, 0.4))] == [
        False,
        True,
        False,
    ]
    assert rule(tmp_path, "9", **lower)(10, {})


def test_rungs_count_samples_so_that_batch_sizes_compare(tmp_path: Path) -> None:
    assert not rule(tmp_path, "a")(9, {"f1": 0.1})
    assert not (tmp_path / "rungs").exists()
    rule(tmp_path, "a", batch_size=25)(4, {"f1": 0.1})
    rule(tmp_path, "a", batch_size=25)(8, {"f1": 0.1})
    rule(tmp_path, "a", batch_size=25)(20, {"f1": 0.1})
    assert sorted(path.name for path in (tmp_path / "rungs").iterdir()) == ["0", "1", "2"]
    assert rung_samples(100, 2, 900) == [100, 200, 400, 800]
    assert rung_samples(100, 3, 300) == [100]


def test_a_decision_stands_when_the_question_is_asked_again(tmp_path: Path) -> None:
    assert not rule(tmp_path, "a")(10, {"f1": 0.5})
    assert not rule(tmp_path, "b")(10, {"f1": 0.9})
    assert not rule(tmp_path, "a")(10, {"f1": 0.5})


@pytest.mark.parametrize("factor", [None, 2])
def test_a_stop_file_stops_every_trial(tmp_path: Path, factor: int | None) -> None:
    asked = rule(tmp_path, "a", factor=factor)
    assert not asked(10, {"f1": 0.5})
    (tmp_path / "stop").touch()
    assert asked(20, {"f1": 0.5})
    assert asked.stopped_at() is None
