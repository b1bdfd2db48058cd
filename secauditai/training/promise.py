"""What bit-identity rests on besides the settings: recorded when a run is prepared, compared when it goes on."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from secauditai import __version__
from secauditai.data.dataset import Dataset, open_dataset
from secauditai.data.plan import MICRO_BATCH_OVERHEAD, PLAN_VERSION, SEQUENCE_MULTIPLE
from secauditai.data.tokens import TokenStore
from secauditai.errors import DataError, RunError
from secauditai.files import describe_file

DECISIVE_VERSIONS = ("torch", "transformers", "tokenizers", "numpy")
"""Libraries whose version decides the bits of a result."""
NOTED_VERSIONS = ("ray", "safetensors")


class Promise(BaseModel):
    """The surroundings of a run. All but `noted` must be the same when it goes on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_plan: str
    """Version and constants of how samples become micro-batches."""
    samples: str
    """Digest of the dataset's samples."""
    splits: str
    """Digest of what its splits hold."""
    initial: dict[str, str]
    """Digest of every file of the initial encoder and tokenizer but weights, which are in every checkpoint."""
    tokens: dict[str, str]
    """Digest of the tokens of the train and the val store."""
    noted: dict[str, str]
    """What is told when it changes, such as the host."""


def record_promise(dataset: Dataset, initial: Path, stores: Mapping[str, TokenStore]) -> Promise:
    """The surroundings as they are now.

    Args:
        dataset: what the run trains on.
        initial: directory of the encoder and tokenizer it starts from.
        stores: the token stores by split.
    """
    return Promise(
        batch_plan=_batch_plan(),
        samples=dataset.content_hash,
        splits=_splits(dataset),
        initial=_digests(initial),
        tokens={split: token_digest(store) for split, store in stores.items()},
        noted=_noted(),
    )


def token_digest(store: TokenStore) -> str:
    """Digest of a store's tokens."""
    return str(describe_file(store.root / "tokens.bin")["sha256"])


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide the bits of a result."""
    return {"python": platform.python_version()} | {name: version(name) for name in DECISIVE_VERSIONS}


def open_same_dataset(root: Path, recorded: Promise) -> Dataset:
    """Open the dataset of a run, which must be what it was.

    Raises:
        RunError: naming what is missing or changed.
    """
    try:
        dataset = open_dataset(root)
    except DataError as error:
        raise RunError(f"the run's data is not what it was: {error}", hint="Restore it, or start a new run.") from None
    now = (dataset.content_hash, _splits(dataset))
    for what, before, after in zip(
        ("its samples", "its splits"), (recorded.samples, recorded.splits), now, strict=True
    ):
        if before != after:
            raise RunError(
                f"the run's data is not what it was: {what} changed ({before[:12]} → {after[:12]})",
                where=str(root),
                hint="Restore it, or start a new run.",
            )
    return dataset


def check_promise(recorded: Promise, versions: Mapping[str, str], initial: Path) -> list[str]:
    """Compare the surroundings of a run with those it began in.

    Args:
        recorded: when it was prepared.
        versions: of libraries, when it was prepared.
        initial: directory of the encoder and tokenizer it started from.

    Returns:
        What changed without weight for the result.

    Raises:
        RunError: when something changed that decides it, with both values.
    """
    installed = installed_versions()
    decisive = {name: (versions.get(name, "none"), installed[name]) for name in DECISIVE_VERSIONS}
    decisive["batch plan"] = (recorded.batch_plan, _batch_plan())
    changed = [f"{name} {before} → {after}" for name, (before, after) in decisive.items() if before != after]
    if changed:
        raise RunError(
            f"this run began with other code: {', '.join(changed)}",
            hint="Install those versions again, or start a new run.",
        )
    files = {name for name, _ in recorded.initial.items() ^ _digests(initial).items()}
    if files:
        raise RunError(
            f"the initial encoder or tokenizer of this run was changed: {', '.join(sorted(files))}",
            hint="Restore these files of its `initial` directory, or start a new run.",
        )
    noted = {"python": (versions.get("python", "none"), installed["python"])}
    noted |= {name: (recorded.noted.get(name, "none"), value) for name, value in _noted().items()}
    return [f"{name} {before} → {after}" for name, (before, after) in noted.items() if before != after]


def _batch_plan() -> str:
    return f"{PLAN_VERSION} (overhead {MICRO_BATCH_OVERHEAD}, multiple {SEQUENCE_MULTIPLE})"


def _splits(dataset: Dataset) -> str:
    return str(dataset.manifest.get("splits", {}).get("hash", "none"))


def _digests(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.suffix != ".safetensors")
    return {str(path.relative_to(directory)): str(describe_file(path)["sha256"]) for path in files}


def _noted() -> dict[str, str]:
    return {
        "host": platform.node(),
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "secauditai": __version__,
        **{name: version(name) for name in NOTED_VERSIONS},
    }
