import json
from pathlib import Path

import pytest

from secauditai.tuning.ledger import FAILED, FINISHED, STOPPED, Ledger, Trial, TrialRun
from secauditai.tuning.samplers import choose_settings
from secauditai.tuning.summary import parameter_importance, read_curve, render_summary, write_summary

EVIL = "<script>alert(1)</script>"


def a_sweep(root: Path, trials: int) -> Ledger:
    layer = {"learning_rate": {"loguniform": [1e-4, 1e-2]}, "dropout": {"uniform": [0.0, 0.5]}}
    ledger = Ledger(root / "ledger.json", "s1", "c", "f1", higher_is_better=True, layer=layer, num_samples=trials)
    ledger.fixed = {"data": EVIL}
    for number in range(trials):
        settings = choose_settings("random", ledger.spaces, 1, number, ledger)
        value, run_dir = settings["learning_rate"] * 50, root / f"run{number}"
        run_dir.mkdir()
        steps = [5] if number % 3 == 1 else [5, 10, 15]
        records = [{"kind": "val", "step": step, "f1": value * step / 15} for step in steps]
        (run_dir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        seeds = (TrialRun(1, str(run_dir), value, steps[-1]),)
        status = STOPPED if len(steps) == 1 else FINISHED
        ledger.put(
            Trial(f"{number:04d}", settings, value * steps[-1] / 15, str(run_dir), None, 2.0, status, seeds=seeds)
        )
    ledger.put(Trial(f"{trials:04d}", settings, None, None, EVIL, status=FAILED, error_kind="DataError"))
    return ledger


def test_importance_compares_trials_at_the_validation_all_reached(tmp_path: Path) -> None:
    ledger = a_sweep(tmp_path, 12)
    curves = {trial.trial_id: read_curve(trial, "f1") for trial in ledger.trials}
    importance = parameter_importance(ledger, curves)
    assert importance["learning_rate"] > 0.8
    assert abs(sum(importance.values()) - 1) < 1e-6
    assert parameter_importance(ledger, dict(list(curves.items())[:3])) == {}


@pytest.mark.slow
def test_the_page_shows_all_trials_and_escapes_what_others_wrote(tmp_path: Path) -> None:
    ledger = a_sweep(tmp_path, 6)
    page = render_summary(ledger)
    assert page == render_summary(ledger)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<figure>") == 2
    assert all(trial.trial_id in page for trial in ledger.trials)
    assert "With so few trials it is a hint" in page
    assert write_summary(ledger).read_text(encoding="utf-8") == page


def test_a_sweep_without_results_has_a_page_too(tmp_path: Path) -> None:
    layer = {"dropout": {"uniform": [0.0, 0.5]}}
    ledger = Ledger(tmp_path / "ledger.json", "s1", "c", "f1", higher_is_better=True, layer=layer)
    assert "0 of 0 trials" in render_summary(ledger)
