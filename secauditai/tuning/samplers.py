"""How a sweep chooses the settings of its next trial: at random, by grid, or by Optuna's TPE.

Each sampler is a function of the seed, the trial's number and the trials so far, and keeps nothing: a resumed sweep
chooses as the undisturbed one would have, given the same results.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from secauditai.config.spaces import Space
from secauditai.errors import ConfigError
from secauditai.tuning.ledger import FAILED, FINISHED, STOPPED, Ledger, Trial

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

RANDOM, GRID, TPE = "random", "grid", "tpe"
SAMPLERS = (RANDOM, GRID, TPE)
STARTUP_TRIALS = 10
"""Trials that TPE draws at random before it models anything: Optuna's default."""
Spaces = Mapping[str, Space]


def choose_settings(sampler: str, spaces: Spaces, seed: int, number: int, ledger: Ledger) -> dict[str, Any]:
    """The settings of trial `number` (from 0)."""
    if sampler == GRID:
        return grid(spaces)[number]
    if sampler == TPE:
        return _ask_tpe(spaces, seed, number, ledger)
    return _draw(spaces, seed, number)


def grid(spaces: Spaces) -> list[dict[str, Any]]:
    """All combinations, the last setting changing fastest.

    Raises:
        ConfigError: for a space that is continuous.
    """
    values = [_all_values(name, space) for name, space in spaces.items()]
    return [dict(zip(spaces, combination, strict=True)) for combination in itertools.product(*values)]


def grid_size(spaces: Spaces) -> int:
    """How many combinations there are.

    Raises:
        ConfigError: for a space that is continuous.
    """
    return math.prod(len(_all_values(name, space)) for name, space in spaces.items())


def _all_values(name: str, space: Space) -> Sequence[Any]:
    if space.kind == "int":
        return range(space.values[0], space.values[1] + 1)
    if space.kind != "choice":
        raise ConfigError(
            f"{name}: a grid cannot try all values of {space.plain()}",
            hint="Give `choice` or `int`, or use --sampler random.",
        )
    return space.values


def _draw(spaces: Spaces, seed: int, number: int) -> dict[str, Any]:
    import numpy as np

    source = np.random.default_rng([seed, number])
    draws: dict[str, Callable[[Any], Any]] = {
        "uniform": lambda values: float(source.uniform(*values)),
        "loguniform": lambda values: _between(
            math.exp(source.uniform(math.log(values[0]), math.log(values[1]))), values
        ),
        "int": lambda values: int(source.integers(values[0], values[1] + 1)),
        "choice": lambda values: values[int(source.integers(len(values)))],
    }
    return {name: draws[space.kind](space.values) for name, space in spaces.items()}


def _between(value: float, bounds: tuple[Any, ...]) -> float:
    """Undo what rounding in the logarithm may have put outside."""
    return min(max(value, float(bounds[0])), float(bounds[1]))


def _ask_tpe(spaces: Spaces, seed: int, number: int, ledger: Ledger) -> dict[str, Any]:
    from optuna.samplers import TPESampler

    study = build_study(spaces, ledger, [trial for trial in ledger.trials if trial.number < number])
    digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
    study.sampler = TPESampler(seed=int.from_bytes(digest[:4], "big"), n_startup_trials=STARTUP_TRIALS)
    chosen = study.ask(_distributions(spaces)).params
    return {name: _plain(chosen[name], space) for name, space in spaces.items()}


def build_study(
    spaces: Spaces, ledger: Ledger, trials: Sequence[Trial], values: Mapping[str, float] | None = None
) -> "Study":
    """An Optuna study in memory that knows the given trials.

    Args:
        spaces: the search spaces.
        ledger: says whether higher is better.
        trials: those the study shall know.
        values: by trial id, instead of the trials' own values; those without one are left out.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if ledger.higher_is_better else "minimize")
    for trial in trials:
        if values is None or trial.trial_id in values:
            study.add_trial(_frozen(trial, _distributions(spaces), values))
    return study


def _frozen(
    trial: Trial, distributions: "dict[str, BaseDistribution]", values: Mapping[str, float] | None
) -> "FrozenTrial":
    from optuna.trial import TrialState, create_trial

    value = trial.value if values is None else values[trial.trial_id]
    state: TrialState = TrialState.RUNNING
    more: dict[str, Any] = {}
    if values is not None or (trial.status == FINISHED and value is not None):
        state, more = TrialState.COMPLETE, {"value": value}
    elif trial.status == STOPPED and value is not None:
        state, more = TrialState.PRUNED, {"intermediate_values": {trial.step: value}}
    elif trial.status in (FAILED, FINISHED, STOPPED):
        state = TrialState.FAIL
    return create_trial(state=state, params=dict(trial.settings), distributions=distributions, **more)


def _distributions(spaces: Spaces) -> "dict[str, BaseDistribution]":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for name, space in spaces.items():
        match space.kind:
            case "choice":
                found[name] = CategoricalDistribution(space.values)
            case "int":
                found[name] = IntDistribution(*space.values)
            case _:
                low, high = space.values
                found[name] = FloatDistribution(low, high, log=space.kind == "loguniform")
    return found


def _plain(value: Any, space: Space) -> Any:
    return value if space.kind == "choice" else int(value) if space.kind == "int" else float(value)
