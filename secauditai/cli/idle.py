"""Flags that nothing would heed: said at once, so that nobody believes they had an effect."""

from collections.abc import Iterable

from secauditai.config.leaves import leaves
from secauditai.config.settings import TrainConfig
from secauditai.errors import ConfigError

OF_HEADS = (
    "task",
    "class_weights",
    "sampling",
    "loss_function",
    "focal_gamma",
    "selection_metric",
    "on_collapse",
    "collapse_validations",
)
"""Settings of what `train base` does not train."""
NEEDED: dict[str, tuple[str, tuple[object, ...]]] = {
    "focal_gamma": ("loss_function", ("focal",)),
    "augment_variants": ("augment", (True,)),
    "stride": ("long_code", ("windows",)),
    "max_windows": ("long_code", ("windows",)),
    "max_spikes": ("on_spike", ("warn", "skip")),
    "similarity": ("near_duplicates", (True,)),
}
"""Setting, and the values of another without which it says nothing."""


def refuse_idle(kind: str, flags: Iterable[str], config: TrainConfig) -> None:
    """Make sure that every flag of a training's command line has an effect.

    Args:
        kind: base, finetune or start.
        flags: the settings that the command line names.
        config: all settings.

    Raises:
        ConfigError: naming the first flag without one.
    """
    flags = list(flags)
    for name in flags:
        flag = leaves()[name].flag
        if kind == "base" and name in OF_HEADS:
            raise ConfigError(f"{flag} does not apply to `train base`, which trains no head", hint="Leave it out.")
        if kind != "base" and name == "mlm_probability":
            raise ConfigError(f"{flag} is for `train base` alone", hint="Leave it out.")
    refuse_without(flags, config)


def refuse_without(flags: Iterable[str], config: TrainConfig) -> None:
    """Make sure that no flag lacks the other setting without which it says nothing.

    Raises:
        ConfigError: naming both.
    """
    values = config.flat()
    for name in flags:
        flag = leaves()[name].flag
        needed, wanted_values = NEEDED.get(name, ("", ()))
        if needed and values[needed] not in wanted_values:
            shown = " or ".join(map(str, wanted_values))
            wanted = leaves()[needed].flag + ("" if wanted_values == (True,) else f" {shown}")
            raise ConfigError(f"{flag} says nothing without {wanted}", hint="Add that, or leave it out.")
