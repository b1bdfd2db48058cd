"""The configuration of a sweep's best trial, `NAME-best`: whose it is, and what becomes of one that was edited."""

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from secauditai.config.files import LONGEST_NAME, NamedConfigs
from secauditai.errors import RunError
from secauditai.files import describe_file
from secauditai.tuning.ledger import Ledger, SweepLayout, list_sweeps, read_ledger


def best_config_name(name: str) -> str:
    """What a sweep calls the configuration of its best trial."""
    return f"{name}-best"


def made_by_a_sweep(workspace: Path, name: str, config: str) -> bool:
    """Whether a sweep of this name has written the configuration, or is about to."""
    return any(ledger.best_config == config for ledger in _ledgers(workspace, name))


def save_best_config(workspace: Path, ledger: Ledger, settings: Mapping[str, Any]) -> str | None:
    """Write the settings of a sweep's best trial.

    Returns:
        The name that the configuration of an earlier sweep now goes by, when it is not as that sweep left it.
    """
    configs, name = NamedConfigs(workspace), best_config_name(ledger.name)
    kept = None
    if configs.path(name).exists() and not _is_as_written(configs.path(name), workspace, ledger.name):
        stamp = time.strftime("-%Y%m%d-%H%M%S", time.gmtime())
        kept = name[: LONGEST_NAME - len(stamp)] + stamp
        configs.rename(name, kept)
    ledger.update(best_config=name)
    path = configs.create(name, settings, overwrite=True)
    ledger.update(best_digest=_digest(path))
    return kept


def _is_as_written(path: Path, workspace: Path, name: str) -> bool:
    digest = _digest(path)
    return any(ledger.best_digest == digest for ledger in _ledgers(workspace, name))


def _ledgers(workspace: Path, name: str) -> Iterator[Ledger]:
    for root in list_sweeps(workspace, name):
        with suppress(RunError):
            yield read_ledger(SweepLayout(root).ledger)


def _digest(path: Path) -> str:
    return str(describe_file(path)["sha256"])
