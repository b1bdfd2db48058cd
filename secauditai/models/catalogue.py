"""Encoders by short name: the built-in catalogue, a workspace's own, and the sizes of the from-scratch one."""

import re
from dataclasses import dataclass
from pathlib import Path

from secauditai.config.leaves import did_you_mean
from secauditai.config.reading import place_of, read_yaml
from secauditai.errors import ModelError

SCRATCH = "transformer"


@dataclass(frozen=True)
class CatalogueEntry:
    """One encoder that training can start from."""

    name: str
    hub_id: str | None
    """None: built and trained from scratch."""
    revision: str | None = None


@dataclass(frozen=True)
class EncoderSize:
    """Shape of a from-scratch encoder."""

    layers: int
    hidden: int
    heads: int


ENTRY_KEYS = ("hub", "revision")
BUILT_IN = {
    "codebert": "microsoft/codebert-base",
    "graphcodebert": "microsoft/graphcodebert-base",
    "unixcoder": "microsoft/unixcoder-base",
    "securitybert": "ehsanaghaei/SecureBERT",
    "modernbert": "answerdotai/ModernBERT-base",
}
SIZES = {
    "tiny": EncoderSize(layers=2, hidden=128, heads=4),
    "small": EncoderSize(layers=4, hidden=256, heads=8),
    "base": EncoderSize(layers=12, hidden=768, heads=12),
    "large": EncoderSize(layers=24, hidden=1024, heads=16),
}
REGISTERED = re.compile(r"[^/@:]+(/\d+|@[^/@]+)?")
"""What `resolve_model` looks for in the registry: `name`, `name/3`, `name@alias`."""
POSITION_OFFSET = 2
"""RoBERTa counts positions from the padding id + 1."""


def catalogue_file(workspace: Path) -> Path:
    """Where users add encoders of their own."""
    return workspace / "models.yaml"


def open_catalogue(workspace: Path | None = None) -> dict[str, CatalogueEntry]:
    """The built-in entries, and those of the workspace's `models.yaml`: `name: hub/id` or `name: {hub:, revision:}`.

    Raises:
        ConfigError: when the file is not valid YAML.
        ModelError: when it is not such a mapping.
    """
    entries = {name: CatalogueEntry(name, hub_id) for name, hub_id in BUILT_IN.items()}
    entries[SCRATCH] = CatalogueEntry(SCRATCH, None)
    if workspace is not None and catalogue_file(workspace).exists():
        entries |= _read_catalogue(catalogue_file(workspace))
    return entries


def _read_catalogue(path: Path) -> dict[str, CatalogueEntry]:
    raw = read_yaml(path) or {}
    entries = {}
    for name, value in raw.items() if isinstance(raw, dict) else [(None, raw)]:
        item = {"hub": value} if isinstance(value, str) else value
        if not (isinstance(name, str) and isinstance(item, dict) and isinstance(item.get("hub"), str)):
            place = place_of(raw, name, str(path)) if isinstance(raw, dict) else str(path)
            hint = "For example `mine: my-org/my-encoder`."
            raise ModelError("a catalogue maps names to hub ids", where=place, hint=hint)
        _check_entry(name, item, path)
        entries[name] = CatalogueEntry(name, item["hub"], item.get("revision"))
    return entries


def _check_entry(name: str, item: dict[object, object], path: Path) -> None:
    for key in item:
        if key not in ENTRY_KEYS:
            hint = did_you_mean(str(key), ENTRY_KEYS, see=f"An entry has {' and '.join(ENTRY_KEYS)}.")
            raise ModelError(f"{name}: unknown key {str(key)!r}", where=place_of(item, key, str(path)), hint=hint)
    if not isinstance(item.get("revision"), str | None):
        raise ModelError(
            f"{name}: the revision must be text", where=place_of(item, "revision", str(path)), hint="Quote it."
        )


def check_model_type(model: str, workspace: Path, *, registered: bool = False) -> None:
    """Accept a catalogue name, `hub:ID` or an existing path for a configuration.

    Args:
        model: what the user wrote.
        workspace: the workspace directory.
        registered: accept what may be a registered model as well; the registry is not asked.

    Raises:
        ModelError: for anything else, with the nearest names.
    """
    if model.startswith("hub:") or Path(model).exists() or (registered and REGISTERED.fullmatch(model)):
        return
    names = open_catalogue(workspace)
    if model not in names:
        other = f"`config set NAME model {model}` takes a registered model"
        if registered:
            other = "a registered model is a name, name/3 or name@alias"
        see = f"The catalogue has {', '.join(names)}; a path and hub:ID work too, and {other}."
        raise ModelError(f"unknown model type {model!r}", hint=did_you_mean(model, names, see=see))


def estimate_parameters(size: str, vocab_size: int, max_length: int) -> int:
    """Parameters of a from-scratch encoder, from its shape alone."""
    shape = SIZES[size]
    hidden, inner = shape.hidden, 4 * shape.hidden
    attention = 4 * (hidden * hidden + hidden)
    feed_forward = 2 * hidden * inner + inner + hidden
    embeddings = (vocab_size + max_length + POSITION_OFFSET + 1) * hidden
    return embeddings + 2 * hidden + shape.layers * (attention + feed_forward + 4 * hidden)
