from pathlib import Path

import pytest

from secauditai.errors import RunError
from secauditai.tuning.ledger import FINISHED, STOPPED, Ledger, Trial, TrialRun, find_sweep, list_sweeps, read_ledger


def a_ledger(workspace: Path, sweep_id: str = "s1", name: str = "c") -> Ledger:
    path = workspace / "sweeps" / name / sweep_id / "ledger.json"
    return Ledger(path, sweep_id, name, "loss", higher_is_better=False, layer={"dropout": {"uniform": [0.0, 0.5]}})


def test_the_ledger_survives_and_knows_the_best(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    ledger.put(Trial("0000", {"epochs": 1}, 0.5, "a", status=FINISHED, seeds=(TrialRun(13, "a", 0.5, 10),)))
    ledger.put(Trial("0001", {"epochs": 2}, 0.3, "b", status=FINISHED))
    ledger.put(Trial("0002", {"epochs": 3}, None, error="died", status="failed"))
    ledger.put(Trial("0003", {"epochs": 3}, 0.1, "c", status=STOPPED))
    again = read_ledger(ledger.path)
    assert again.best is not None
    assert again.best.trial_id == "0001"  # one that was stopped early does not win
    assert again == ledger
    assert again.spaces["dropout"].values == (0.0, 0.5)


def test_sweeps_are_found_by_id_or_as_the_newest(tmp_path: Path) -> None:
    for name, sweep_id in (("c", "20260101"), ("d", "20260102"), ("c", "20260103")):
        a_ledger(tmp_path, sweep_id, name).save()
    assert [root.name for root in list_sweeps(tmp_path, "c")] == ["20260101", "20260103"]
    assert find_sweep(tmp_path, None, None).sweep_id == "20260103"
    assert find_sweep(tmp_path, "d", None).sweep_id == "20260102"
    assert find_sweep(tmp_path, None, "20260101").name == "c"
    with pytest.raises(RunError, match="there is no sweep '7'"):
        find_sweep(tmp_path, None, "7")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version_of_format": 1}', '{"version_of_format": 2, "trials": [3]}']
)
def test_a_damaged_ledger_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "ledger.json").write_text(text)
    with pytest.raises(RunError, match="damaged ledger"):
        read_ledger(tmp_path / "ledger.json")
