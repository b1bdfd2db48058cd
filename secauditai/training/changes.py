"""Which settings a `resume` may change: those that say where and how a run executes, never what it learns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secauditai.config.files import resolve_config
from secauditai.config.leaves import leaves
from secauditai.config.settings import TrainConfig
from secauditai.errors import RunError
from secauditai.training.devices import choose_devices_at, restrict_gpus
from secauditai.training.recipe import Recipe

DECISIVE = ("seed", "precision")
"""Execution settings that decide what is learnt."""
LIMITS = ("max_skipped", "max_spikes")
"""Health settings that only decide when a run gives up."""
DEVICES = ("num_workers", "gpu", "threads")
PROMISED = ("device", "world_size", "threads", "micro_batch_tokens", "gradient_checkpointing", "log_interval")
"""Fields of a recipe on which bit-identity of weights and history rests."""


@dataclass(frozen=True)
class Changes:
    """A run's settings and recipe with what a command line changes, and what a user should know about it."""

    config: TrainConfig
    recipe: Recipe
    notes: list[str]
    forgets_memory: bool
    """Whether a new micro-batch budget replaces what out of memory has made of the old one."""


def change_settings(
    config: TrainConfig, recipe: Recipe, flags: Mapping[str, Any], budget: int, address: str | None = None
) -> Changes:
    """Apply the flags of a `resume`.

    Args:
        config: the run's settings.
        recipe: what they came to.
        flags: settings that the command line names.
        budget: of micro-batches, in force now; out of memory may have halved the recipe's.
        address: the Ray cluster that flags about devices mean, if there is one.

    Raises:
        RunError: when one would change the training, with both values.
    """
    before = config.flat()
    now = recipe.model_copy(update={"micro_batch_tokens": budget})
    in_force = {name: _in_force(before[name], now, name) for name in flags}
    given = {name: value for name, value in flags.items() if value != in_force[name]}
    refused = [
        f"{leaves()[name].flag} {in_force[name] or 'default'} → {value}"
        for name, value in given.items()
        if name not in LIMITS and (leaves()[name].section != "execution" or name in DECISIVE)
    ]
    if refused:
        raise RunError(
            f"a run goes on with the training it began, so this cannot change: {', '.join(refused)}",
            hint="Leave it out, or start a new run.",
        )
    changed = resolve_config(before, given)
    execution = changed.execution
    update: dict[str, Any] = {
        name: getattr(execution, name) for name in given if name in Recipe.model_fields and name not in DEVICES
    }
    if "log_interval" in given:
        update["log_interval"] = execution.log_interval or max(1, recipe.total_steps // 1000)
    if any(name in given for name in LIMITS):
        update["health"] = changed.health.model_dump()
    notes: list[str] = []
    restrict_gpus(execution.gpu)
    if any(name in flags for name in DEVICES):  # the same words may mean other devices here
        devices = choose_devices_at(address, execution)
        update |= {name: value for name, value in vars(devices).items() if name in Recipe.model_fields}
        notes += [devices.warning] if devices.warning else []
    after = Recipe.model_validate(recipe.model_dump() | update)
    broken = [
        f"{name} {getattr(now, name)} → {update[name]}"
        for name in PROMISED
        if name in update and update[name] != getattr(now, name)
    ]
    if broken:
        notes.append(f"bit-identical to an undisturbed run is no longer promised: {', '.join(broken)}")
    notes += [
        f"{name}: {before[name] or 'default'} → {value or 'default'}"
        for name, value in given.items()
        if name not in (*PROMISED, *DEVICES)
    ]
    return Changes(changed, after, notes, forgets_memory="micro_batch_tokens" in given)


def _in_force(value: Any, recipe: Recipe, name: str) -> Any:
    """A setting's value, or what its default or `auto` was resolved to."""
    resolved = value in (None, "auto") or name == "micro_batch_tokens"
    return getattr(recipe, name, value) if resolved and name not in DEVICES else value
