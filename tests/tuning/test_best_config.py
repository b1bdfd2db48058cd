"""The configuration of the best trial takes the place of an earlier sweep's, and of no one else's."""

from pathlib import Path
from typing import Any

from secauditai.config.files import NamedConfigs
from secauditai.tuning.best_config import made_by_a_sweep, save_best_config
from secauditai.tuning.ledger import Ledger, read_ledger


def a_ledger(workspace: Path, sweep_id: str, name: str = "c", **more: Any) -> Ledger:
    path = workspace / "sweeps" / name / sweep_id / "ledger.json"
    return Ledger(path, sweep_id, name, "loss", higher_is_better=False, **more)


def test_an_earlier_sweeps_best_is_replaced(tmp_path: Path) -> None:
    first = a_ledger(tmp_path, "s1")
    assert save_best_config(tmp_path, first, {"epochs": 3}) is None
    assert made_by_a_sweep(tmp_path, "c", "c-best")
    assert read_ledger(first.path) == first
    assert save_best_config(tmp_path, first, {"epochs": 4}) is None  # it went on, and found a better one
    assert save_best_config(tmp_path, a_ledger(tmp_path, "s2"), {"epochs": 5}) is None
    assert NamedConfigs(tmp_path).names() == ["c-best"]
    assert NamedConfigs(tmp_path).read("c-best") == {"epochs": 5}


def test_what_a_user_made_of_it_is_kept_under_another_name(tmp_path: Path) -> None:
    name, configs = "c" * 59, NamedConfigs(tmp_path)
    save_best_config(tmp_path, a_ledger(tmp_path, "s1", name), {"epochs": 3})
    configs.change(f"{name}-best", {"epochs": 7})
    edited = configs.path(f"{name}-best").read_bytes()
    kept = save_best_config(tmp_path, a_ledger(tmp_path, "s2", name), {"epochs": 5})
    assert kept is not None
    assert configs.path(kept).read_bytes() == edited
    assert configs.read(f"{name}-best") == {"epochs": 5}
    assert save_best_config(tmp_path, a_ledger(tmp_path, "s3", name), {"epochs": 6}) is None
