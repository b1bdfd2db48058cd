"""Whole datasets go in, everything is accounted for, and no pair of samples leaks, by brute force.

The built-in one always; where SECAUDITAI_REAL_DATA names a directory of real labelled files, these at once as well.
"""

import os
from pathlib import Path

import pytest
from brute_force import leaks

from secauditai.data.prepare import prepare
from secauditai.data.split import SplitPlan, split_dataset

SOURCES = ["security_dataset", *filter(None, [os.environ.get("SECAUDITAI_REAL_DATA")])]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("source", SOURCES)
def test_whole_datasets_add_up_and_split_without_leaks(tmp_path: Path, source: str) -> None:
    done = prepare(source, tmp_path / "data", ray_data_min_mb=10_000)
    assert done.read == done.kept + done.rejected + done.duplicates
    split = split_dataset(done.dataset, SplitPlan())
    assert sum(split.counts.values()) == done.kept
    assert leaks(split.dataset, 0.8) == []
