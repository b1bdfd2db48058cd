"""Search spaces: what a sweep may try for a setting.

In a configuration file a space stands where a value would: `learning_rate: {loguniform: [1.0e-6, 1.0e-3]}`.
Only `tune` runs a configuration that has one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secauditai.config.leaves import Leaf, did_you_mean
from secauditai.errors import ConfigError

SPACE_KINDS = {
    "uniform": "[low, high]: any number between, evenly",
    "loguniform": "[low, high]: any number between, evenly over its magnitude",
    "int": "[low, high]: any whole number between, both included",
    "choice": "[a, b, …]: one of these",
}


@dataclass(frozen=True)
class Space:
    """The values a sweep may choose for one setting."""

    kind: str
    values: tuple[Any, ...]

    def plain(self) -> dict[str, list[Any]]:
        """The space as it stands in a file."""
        return {self.kind: list(self.values)}


def looks_like_space(value: object) -> bool:
    """Whether a raw value is meant as a search space."""
    return isinstance(value, Mapping)


def parse_space(leaf: Leaf, raw: Mapping[Any, Any], *, where: str | None = None) -> Space:
    """Read and check a search space; every bound and choice must be a value the setting accepts.

    Raises:
        ConfigError: naming the setting and what is wrong with the space.
    """
    if len(raw) != 1:
        raise _refused(leaf, raw, "a search space has one key", where)
    kind, values = next(iter(raw.items()))
    if kind not in SPACE_KINDS:
        hint = did_you_mean(str(kind), SPACE_KINDS, see=f"The kinds are {', '.join(SPACE_KINDS)}.")
        raise ConfigError(f"{leaf.name}: unknown search space {kind!r}", where=where, hint=hint)
    if not isinstance(values, list | tuple) or not values:
        raise _refused(leaf, raw, f"{kind} takes {SPACE_KINDS[kind]}", where)
    if kind == "choice":
        return Space(kind, tuple(leaf.parse(value, where=where) for value in values))
    if not {int, float} & set(leaf.types):
        raise _refused(leaf, raw, f"{kind} is for numbers; use choice", where)
    if len(values) != 2:
        raise _refused(leaf, raw, f"{kind} takes {SPACE_KINDS[kind]}", where)
    low, high = (leaf.parse(value, where=where) for value in values)
    if not (isinstance(low, int | float) and isinstance(high, int | float) and low < high):
        raise _refused(leaf, raw, "the first bound must be a number below the second", where)
    if kind == "loguniform" and low <= 0:
        raise _refused(leaf, raw, "loguniform needs bounds above 0", where)
    if kind in ("uniform", "loguniform") and float not in leaf.types:
        raise _refused(leaf, raw, f"{leaf.name} is a whole number; use int or choice", where)
    if kind == "int":
        if low != int(low) or high != int(high):
            raise _refused(leaf, raw, "int needs whole bounds; use uniform", where)
        return Space(kind, (int(low), int(high)))
    return Space(kind, (low, high))


def _refused(leaf: Leaf, raw: object, reason: str, where: str | None) -> ConfigError:
    return ConfigError(f"{leaf.name}: {raw!r} is no search space: {reason}", where=where)
