"""What a data quality report looks at: the samples that are kept, their clusters, and what became of all others.

Raw data is prepared into a temporary directory, so that raw and prepared data are looked at in the same way.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from secauditai.config.settings import CleaningSettings
from secauditai.data.clean import Cleaned, Merge, Rejection
from secauditai.data.dataset import PARTS, STORED_SCHEMA, Dataset, DatasetLayout, is_dataset, open_dataset, read_parts
from secauditai.data.findings import Validation
from secauditai.data.parts import open_part
from secauditai.data.prepare import cluster, open_source, parse_and_clean, write_dataset
from secauditai.data.tasks import Runner
from secauditai.data.validate import validate_cleaned, validate_dataset
from secauditai.progress import Progress, silent


@dataclass(frozen=True)
class Material:
    """Some data, as it would be trained on, and what `validate` found in it."""

    spec: str
    validation: Validation
    dataset: Dataset | None
    """The kept samples; None when there are none."""
    rejected: list[Rejection]
    merged: list[Merge]
    cleaned: Cleaned | None = None
    """Of raw data: where its samples are, and the code of those refused."""

    @property
    def raw(self) -> bool:
        """Whether it was not prepared before."""
        return self.cleaned is not None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits it has; () when it was not split."""
        return self.dataset.splits() if self.dataset is not None else ()

    def columns(self, *names: str) -> pa.Table:
        """Columns of all kept samples, by id."""
        if self.dataset is None:
            return STORED_SCHEMA.empty_table().select(list(names))
        return read_parts(self.dataset.layout.samples, list(names))

    def codes(self, wanted: Iterable[str] | None = None) -> Iterator[tuple[str, str]]:
        """Id and code of some kept samples, or of all of them, one part in memory at a time."""
        names = None if wanted is None else pa.array(sorted(set(wanted)), pa.string())
        for part in self._parts("id", "code"):
            chosen = part if names is None else part.filter(pc.is_in(part.column("id"), value_set=names))
            for batch in chosen.to_batches(max_chunksize=1024):
                yield from zip(batch.column("id").to_pylist(), batch.column("code").to_pylist(), strict=True)

    def characters(self) -> list[int]:
        """The length of each kept sample's code, by id."""
        return [length for part in self._parts("code") for length in pc.utf8_length(part.column("code")).to_pylist()]

    def _parts(self, *names: str) -> Iterator[pa.Table]:
        """Columns of the kept samples, one part in memory at a time."""
        if self.dataset is not None:
            for path in sorted(self.dataset.layout.samples.glob(PARTS)):
                yield pq.read_table(path, columns=list(names))

    def places(self, wanted: Iterable[str]) -> dict[str, str]:
        """Where some kept samples are: `file:line` in raw data, else the dataset."""
        names = set(wanted)
        if self.cleaned is None:
            return dict.fromkeys(names, self.spec)
        pairs = zip(self.cleaned.column("id").to_pylist(), self.cleaned.column("where").to_pylist(), strict=True)
        return {name: where for name, where in pairs if name in names}

    def refused_code(self, wheres: Iterable[str]) -> dict[tuple[str, str], str]:
        """The code of samples that were refused after they were parsed, by place and id; of raw data only."""
        if self.cleaned is None:
            return {}
        keys = self.cleaned.keys.select(["where", "id", "part", "row"])
        chosen = keys.filter(pc.is_in(keys.column("where"), value_set=pa.array(sorted(set(wheres)), pa.string())))
        found = {}
        for row in chosen.to_pylist():
            if row["part"] is not None:
                found[row["where"], row["id"]] = str(open_part(row["part"]).column("code")[row["row"]].as_py())
        return found


@contextmanager
def open_material(
    spec: str,
    settings: CleaningSettings | None = None,
    *,
    ray_data_min_mb: float = 64.0,
    address: str | None = None,
    progress: Progress = silent,
) -> Iterator[Material]:
    """Check data as `validate` does, and keep it at hand for more.

    Args:
        spec: a file, directory or glob, a prepared dataset, or `security_dataset`.
        settings: how raw data would be cleaned.
        ray_data_min_mb: from this input size on, Ray Data does the reading.
        address: the Ray cluster to use.
        progress: told how many samples are read.

    Raises:
        DataError: when the structure cannot be read at all.
    """
    if is_dataset(Path(spec)):
        dataset = open_dataset(Path(spec))
        merged = [Merge(**row) for row in dataset.manifest["merged"]]
        yield Material(spec, validate_dataset(dataset), dataset, _rejected(dataset.layout), merged)
        return
    settings = settings or CleaningSettings()
    with tempfile.TemporaryDirectory(prefix="secauditai-quality.") as temporary:
        root, staging = Path(temporary) / "dataset", Path(temporary) / "staging"
        staging.mkdir()
        source = open_source(spec, settings.data_format, staging, progress)
        runner = Runner(source.megabytes >= ray_data_min_mb, address)
        cleaned = parse_and_clean(source, settings, staging, runner, progress)
        found = None
        if len(cleaned.kept):
            about: dict[str, Any] = {"source": {"spec": spec, "files": []}, "cleaning": settings.model_dump()}
            write_dataset(cleaned, cluster(cleaned, settings), staging, DatasetLayout(root), about, runner)
            found = open_dataset(root, name=spec)
        yield Material(spec, validate_cleaned(cleaned, spec), found, cleaned.rejected, cleaned.merged, cleaned)


def _rejected(layout: DatasetLayout) -> list[Rejection]:
    with layout.rejected.open(encoding="utf-8") as lines:
        return [Rejection(**json.loads(line)) for line in lines if line.strip()]
