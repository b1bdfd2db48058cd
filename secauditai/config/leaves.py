"""The index of all settings by leaf name, and what a bare string means for each.

A `Leaf` is all that flags, files, search spaces and the reference page need to know about a setting.
"""

import difflib
import types
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from secauditai.config.settings import Section, TrainConfig
from secauditai.errors import ConfigError


@dataclass(frozen=True)
class Leaf:
    """One setting."""

    name: str
    section: str
    field: FieldInfo

    @property
    def help(self) -> str:
        """One sentence for people."""
        return self.field.description or ""

    @property
    def default(self) -> Any:
        """The value when nobody sets it."""
        return self.field.default

    @property
    def flag(self) -> str:
        """Its long option, `--learning-rate`."""
        return "--" + self.name.replace("_", "-")

    @property
    def types(self) -> tuple[Any, ...]:
        """The plain Python types it accepts, without None; choices appear as `str`."""
        members = (get_args(t)[0] if get_origin(t) is Annotated else t for t in _members(self.field.annotation))
        return tuple(str if get_origin(t) is Literal else t for t in members)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words it accepts; () when it takes free text or numbers."""
        return tuple(word for t in _members(self.field.annotation) if get_origin(t) is Literal for word in get_args(t))

    @property
    def patterns(self) -> tuple[str, ...]:
        """The regular expressions of text it accepts besides its choices."""
        return tuple(
            item.pattern
            for t in _members(self.field.annotation)
            if get_origin(t) is Annotated
            for field in get_args(t)[1:]
            for item in field.metadata
            if hasattr(item, "pattern")
        )

    @property
    def optional(self) -> bool:
        """Whether it may be unset."""
        return type(None) in get_args(self.field.annotation)

    def parse(self, value: Any, *, where: str | None = None) -> Any:
        """Convert a value from a flag, a file or an earlier process to the setting's type and check its range.

        PyYAML reads `1e-4` as text, so text is converted; a boolean is never taken for a number.

        Raises:
            ConfigError: naming the setting, the value and what is accepted.
        """
        if isinstance(value, str) and value.strip().lower() in ("null", "none", "") and self.optional:
            return None
        if isinstance(value, bool) and bool not in self.types:
            raise self._refused(value, where, "YAML reads on, off, yes and no as booleans; quote the word")
        if isinstance(value, int) and self.types == (str,):
            value = str(value)
        try:
            return _adapter(self.name).validate_python(value)
        except ValidationError as error:
            raise self._refused(value, where, _reason(error)) from None

    def _refused(self, value: Any, where: str | None, reason: str) -> ConfigError:
        return ConfigError(
            f"{self.name}: {value!r} is not accepted: {reason}", where=where, hint=f"It takes {self.accepted()}."
        )

    def accepted(self) -> str:
        """What the setting takes, in words, such as `a whole number >= 1, or auto`."""
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        numbers = [words[t] for t in dict.fromkeys(self.types) if not (t is str and self.choices)]
        text = " or ".join([*numbers, *([" | ".join(self.choices)] if self.choices else [])])
        limits = [
            f"{sign} {getattr(m, key)}" for m in self.field.metadata for key, sign in _LIMITS.items() if hasattr(m, key)
        ]
        text += "".join(f" or text matching {pattern}" for pattern in self.patterns)
        return text + (" " + ", ".join(limits) if limits else "") + (", or null" if self.optional else "")


_LIMITS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "pattern": "matching"}


def sections() -> dict[str, type[Section]]:
    """The sections by name, in the order they are shown."""
    return {
        name: field.annotation for name, field in TrainConfig.model_fields.items() if isinstance(field.annotation, type)
    }


@cache
def leaves() -> dict[str, Leaf]:
    """Every setting by its leaf name.

    Raises:
        RuntimeError: when two sections declare one name, a mistake in `settings.py`.
    """
    found: dict[str, Leaf] = {}
    for section, model in sections().items():
        for name, field in model.model_fields.items():
            if name in found or name in TrainConfig.model_fields:
                raise RuntimeError(f"the setting name {name!r} is used twice")
            found[name] = Leaf(name, section, field)
    return found


def find_leaf(key: str, *, where: str | None = None) -> Leaf:
    """Resolve `learning_rate`, `learning-rate` or `optimization.learning_rate`.

    Raises:
        ConfigError: for an unknown key, with the nearest names.
    """
    section, _, name = key.replace("-", "_").rpartition(".")
    leaf = leaves().get(name)
    if leaf is None or (section and section != leaf.section):
        known = [*leaves(), *(f"{leaf.section}.{leaf.name}" for leaf in leaves().values())]
        raise ConfigError(f"unknown setting {key!r}", where=where, hint=did_you_mean(key.replace("-", "_"), known))
    return leaf


def did_you_mean(
    word: str, known: Iterable[str], *, see: str = "`secauditai train config show --help` lists them all."
) -> str:
    """A hint that names the closest known words, or where to find them."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(close)}?" if close else see[:1].upper() + see[1:]


def _members(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for member in get_args(annotation) if member is not type(None))
    return (annotation,)


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    field = leaves()[name].field
    annotated: Any = field.annotation
    for constraint in field.metadata:
        annotated = Annotated[annotated, constraint]
    return TypeAdapter(annotated, config=ConfigDict(allow_inf_nan=False))


def _reason(error: ValidationError) -> str:
    texts = [item["msg"] for item in error.errors()]
    return "; ".join(dict.fromkeys(text[0].lower() + text[1:] for text in texts))
