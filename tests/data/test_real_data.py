"""Real labelled files, where SECAUDITAI_REAL_DATA names a directory of them; none belongs to this project."""

import os
from pathlib import Path

import pytest
from brute_force import leaks

from secauditai.data.prepare import prepare
from secauditai.data.split import SplitPlan, split_dataset

if "SECAUDITAI_REAL_DATA" not in os.environ:
    pytest.skip("SECAUDITAI_REAL_DATA names no directory", allow_module_level=True)

pytestmark = pytest.mark.slow


def test_all_files_at_once_add_up_and_split_without_leaks(tmp_path: Path) -> None:
    done = prepare(os.environ["SECAUDITAI_REAL_DATA"], tmp_path / "data", ray_data_min_mb=10_000)
    assert done.read == done.kept + done.rejected + done.duplicates
    split = split_dataset(done.dataset, SplitPlan())
    assert sum(split.counts.values()) == done.kept
    assert leaks(split.dataset, 0.8) == []
