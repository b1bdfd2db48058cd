"""What a user may say after `--data`, `--dataset` and `--test-data`, and what it means.

Raw input is prepared into the cache, addressed by its content, so that it is read once.
"""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from secauditai.config.settings import CleaningSettings
from secauditai.data.dataset import Dataset, is_dataset, one_split, open_dataset
from secauditai.data.parse import BUILT_IN
from secauditai.data.prepare import Remedy, copy_dataset, prepare, uses_built_in
from secauditai.data.readers import existing_path, find_source
from secauditai.data.remote import list_remote
from secauditai.data.replacing import replacing
from secauditai.data.split import SplitPlan, split_dataset
from secauditai.data.tasks import Runner
from secauditai.errors import DataError
from secauditai.files import describe_file
from secauditai.mirror import fetch, mirror_of, send
from secauditai.progress import Progress, silent
from secauditai.storage import is_remote

CACHE_VERSION = 4


def open_data(
    spec: str,
    *,
    cache: Path,
    seed: int = 13,
    split: bool = False,
    ray_data_min_mb: float = 64.0,
    settings: CleaningSettings | None = None,
    address: str | None = None,
    remedy: Remedy | None = None,
    progress: Progress = silent,
) -> Dataset:
    """Open a raw file, directory or glob, a prepared dataset, one split of one, or the built-in `security_dataset`.

    Args:
        spec: what the user said.
        cache: directory that prepared raw input goes to.
        seed: of the split made when `split` and the data has none.
        split: whether train, val and test are needed.
        ray_data_min_mb: from this input size on, Ray Data does the reading.
        settings: how raw input is cleaned.
        address: the Ray cluster to use.
        remedy: what the user can do when too much of raw input is refused, see `prepare`.
        progress: told how many samples are read.

    Raises:
        DataError: when it is none of these, or cannot be read.
    """
    settings = settings or CleaningSettings()
    path = existing_path(spec)
    if path is not None and path.parent != path and path.name != "samples" and is_dataset(path.parent):
        if split:
            raise DataError(f"{spec} is one split of a dataset", hint=f"Training needs all of it: {path.parent}.")
        return one_split(open_dataset(path.parent, name=spec), path.name)
    if path is not None and is_dataset(path):
        dataset = open_dataset(path, name=spec, origin=f"prepared dataset {path}")
        _check_made_with(dataset, settings)
        return _split_in_cache(dataset, cache, seed) if split and not dataset.splits() else dataset
    meant = spec if path is None else str(path)
    root = cache / "datasets" / _address(meant, settings, seed if split else None)
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{root}.lock"):
        fetch(root)
        if not is_dataset(root):
            prepared = prepare(
                meant,
                root,
                settings,
                ray_data_min_mb=ray_data_min_mb,
                address=address,
                remedy=remedy,
                progress=progress,
            )
            if split:
                split_dataset(prepared.dataset, SplitPlan(seed=seed), Runner(prepared.through_ray, address))
        send(root)
    origin = f"built-in {BUILT_IN}" if uses_built_in(meant) else f"raw data {meant}"
    return open_dataset(root, name=spec, origin=f"{origin}, prepared in {root}")


def _check_made_with(dataset: Dataset, settings: CleaningSettings) -> None:
    """Refuse settings that come too late: a prepared dataset is cleaned already."""
    made_with = dataset.manifest["cleaning"]
    late = [
        f"{name} {value} (it was {made_with.get(name)})"
        for name, value in settings.model_dump().items()
        if value not in (CleaningSettings.model_fields[name].default, made_with.get(name), "prepared")
    ]
    if late:
        raise DataError(
            f"a prepared dataset is clean already, so this cannot change: {', '.join(late)}",
            where=dataset.name,
            hint="Leave it out, or prepare the raw data so.",
        )


def _split_in_cache(dataset: Dataset, cache: Path, seed: int) -> Dataset:
    """A split copy of a prepared dataset that has no splits."""
    clusters = "groups" if dataset.similarity is None else f"similar{dataset.similarity:g}"  # no part of the content
    root = cache / "datasets" / f"{dataset.content_hash[:24]}-{clusters}-seed{seed}"
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{root}.lock"):
        fetch(root)
        if not is_dataset(root) or not open_dataset(root).splits():
            split_dataset(copy_dataset(dataset, root), SplitPlan(seed=seed))
        send(root)
    opened = open_dataset(root, name=dataset.name)
    return replace(opened, origin=f"{dataset.origin}, split 0.8/0.1/0.1 by seed {seed} in {root}")


def keep_in_workspace(dataset: Dataset, cache: Path) -> Dataset:
    """A dataset where every machine finds it: in the store of a remote workspace, copied there if it lies elsewhere.

    In a local workspace it stays where it is.
    """
    mirror = mirror_of(cache)
    if mirror is None or dataset.root.is_relative_to(mirror.root):
        return dataset
    digest = str(describe_file(dataset.layout.manifest)["sha256"])
    root = cache / "datasets" / digest[:24]
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{root}.lock"):
        mirror.fetch_tree(root)
        if not is_dataset(root):
            with replacing(root) as partial:
                shutil.copytree(dataset.root, partial, dirs_exist_ok=True)
        mirror.send_tree(root)
    return replace(open_dataset(root, name=dataset.name), origin=f"{dataset.origin}, kept in {mirror.address}")


def _address(spec: str, settings: CleaningSettings, seed: int | None) -> str:
    """The cache address of raw input: a digest of its files and of the settings."""
    digest = hashlib.sha256(f"{CACHE_VERSION} {settings.model_dump_json()}".encode())
    if uses_built_in(spec):
        from secauditai.data.corpus import CORPUS_VERSION

        digest.update(f"{BUILT_IN} {CORPUS_VERSION}".encode())
    elif is_remote(spec):
        digest.update(f"{spec} {list_remote(spec).fingerprint}".encode())
    else:
        for path in find_source(spec, settings.data_format).files:
            digest.update(f"{path} {describe_file(path)['sha256']}\n".encode())
    return digest.hexdigest()[:24] + ("" if seed is None else f"-seed{seed}")
