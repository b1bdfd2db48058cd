from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secauditai.config.files import parse_layer, spaces_of
from secauditai.config.spaces import Space
from secauditai.errors import ConfigError
from secauditai.tuning.ledger import FAILED, FINISHED, STOPPED, Ledger, Trial
from secauditai.tuning.samplers import choose_settings, grid, grid_size

RAW = {
    "learning_rate": {"loguniform": [1e-5, 1e-2]},
    "dropout": {"uniform": [0.0, 0.5]},
    "epochs": {"int": [1, 4]},
    "model_size": {"choice": ["tiny", None]},
}


def spaces(**raw: Any) -> dict[str, Space]:
    return spaces_of(parse_layer(raw))


def a_ledger(tmp_path: Path, sampler: str = "random") -> Ledger:
    return Ledger(tmp_path / "ledger.json", "s", "c", "f1", higher_is_better=True, layer=dict(RAW), sampler=sampler)


def test_random_choices_lie_in_their_spaces_and_depend_on_seed_and_number_only(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    drawn = [choose_settings("random", ledger.spaces, 3, number, ledger) for number in range(200)]
    assert drawn == [choose_settings("random", ledger.spaces, 3, number, ledger) for number in range(200)]
    assert drawn[0] != choose_settings("random", ledger.spaces, 4, 0, ledger)
    assert all(1e-5 <= settings["learning_rate"] <= 1e-2 for settings in drawn)
    assert {settings["epochs"] for settings in drawn} == {1, 2, 3, 4}
    assert {settings["model_size"] for settings in drawn} == {"tiny", None}
    below = sum(settings["learning_rate"] < 10**-3.5 for settings in drawn)
    assert 70 < below < 130  # even over the magnitude
    assert all(type(value) in (int, float, str, type(None)) for settings in drawn for value in settings.values())


def test_a_grid_has_all_combinations() -> None:
    some = spaces(epochs={"int": [1, 2]}, batch_size={"choice": [8, 16, 32]})
    assert grid_size(some) == 6
    assert len({tuple(settings.items()) for settings in grid(some)}) == 6
    with pytest.raises(ConfigError, match="a grid cannot try all values"):
        grid_size(spaces(dropout={"uniform": [0.1, 0.2]}))


def test_whole_numbers_of_a_fractional_setting_are_chosen_too(tmp_path: Path) -> None:
    clip = spaces(gradient_clip={"int": [1, 3]})
    assert grid(clip) == [{"gradient_clip": 1}, {"gradient_clip": 2}, {"gradient_clip": 3}]
    ledger = replace(a_ledger(tmp_path), layer={"gradient_clip": {"int": [1, 3]}})
    for sampler in ("random", "tpe"):
        assert choose_settings(sampler, clip, 3, 0, ledger)["gradient_clip"] in (1, 2, 3)


def told(ledger: Ledger, upto: int) -> None:
    """Run `upto` pretended trials whose value is best near learning_rate 1e-3."""
    import math

    for number in range(len(ledger.trials), upto):
        settings = choose_settings("tpe", ledger.spaces, 5, number, ledger)
        value = -abs(math.log10(settings["learning_rate"]) + 3)
        trial = Trial(f"{number:04d}", settings, value, status=FINISHED, step=30)
        if number % 5 == 3:
            trial = replace(trial, status=STOPPED, step=10)
        if number % 7 == 6:
            trial = replace(trial, status=FAILED, value=None)
        ledger.put(trial)


def test_tpe_learns_and_a_resumed_sweep_chooses_the_same(tmp_path: Path) -> None:
    from secauditai.tuning.ledger import read_ledger

    ledger = a_ledger(tmp_path, "tpe")
    told(ledger, 24)
    again = read_ledger(ledger.path)
    assert choose_settings("tpe", again.spaces, 5, 24, again) == choose_settings("tpe", ledger.spaces, 5, 24, ledger)
    told(ledger, 40)
    early = [trial.value for trial in ledger.trials[:10] if trial.value is not None]
    late = [trial.value for trial in ledger.trials[25:] if trial.value is not None]
    assert sum(late) / len(late) > sum(early) / len(early)


def test_tpe_spreads_trials_that_run_at_the_same_time(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path, "tpe")
    told(ledger, 15)
    first = choose_settings("tpe", ledger.spaces, 5, 15, ledger)
    ledger.put(Trial("0015", first))
    assert choose_settings("tpe", ledger.spaces, 5, 16, ledger) != first
