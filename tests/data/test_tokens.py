from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import make_samples

from secauditai.data.augment import build_rewrite
from secauditai.data.inputs import build_inputs
from secauditai.data.plan import BatchPlan, plan_evaluation
from secauditai.data.schema import SAMPLE_SCHEMA, parse_sample
from secauditai.data.tokens import build_token_store, open_token_store
from secauditai.data.windows import Windowing, stack_windows
from secauditai.errors import DataError
from secauditai.models.tokenizer import CodeTokenizer, train_tokenizer


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return pa.Table.from_pylist([parse_sample(sample).row() for sample in make_samples(20)], SAMPLE_SCHEMA)


@pytest.fixture(scope="module")
def tokenizer(table: pa.Table) -> CodeTokenizer:
    return train_tokenizer(table["code"].to_pylist(), 300)


def test_a_store_is_built_once_and_read_by_row(tmp_path: Path, table: pa.Table, tokenizer: CodeTokenizer) -> None:
    store = build_token_store(table, tokenizer, tmp_path)
    expected = tokenizer.encode(table["code"].to_pylist())
    assert [store.row(index).tolist() for index in range(40)] == expected
    before = (store.root / "manifest.json").stat().st_mtime_ns
    assert build_token_store(table, tokenizer, tmp_path).root == store.root
    assert (store.root / "manifest.json").stat().st_mtime_ns == before
    assert build_token_store(table.slice(1), tokenizer, tmp_path).root != store.root


def test_damage_is_noticed(tmp_path: Path, table: pa.Table, tokenizer: CodeTokenizer) -> None:
    store = build_token_store(table, tokenizer, tmp_path)
    with (store.root / "tokens.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="damaged token store"):
        open_token_store(store.root)


def test_variants_are_rows_of_their_own(tmp_path: Path, table: pa.Table, tokenizer: CodeTokenizer) -> None:
    store = build_token_store(table, tokenizer, tmp_path, augmentation=build_rewrite(variants=3, seed=1))
    assert store.lengths.shape == (40, 4)
    assert store.row(5, 0).tolist() == tokenizer.encode([table["code"][5].as_py()])[0]
    assert any(store.row(5, variant).tolist() != store.row(5, 0).tolist() for variant in (1, 2, 3))


@pytest.mark.ray
def test_ray_data_tokenises_the_same(
    tmp_path: Path, table: pa.Table, tokenizer: CodeTokenizer, ray_cluster: str
) -> None:
    here = build_token_store(table, tokenizer, tmp_path / "a")
    there = build_token_store(table, tokenizer, tmp_path / "b", use_ray_data=True)
    assert (here.root / "tokens.bin").read_bytes() == (there.root / "tokens.bin").read_bytes()
    assert (here.root / "offsets.npy").read_bytes() == (there.root / "offsets.npy").read_bytes()


@pytest.mark.parametrize("long_code", ["windows", "truncate", "head-tail"])
def test_gathered_inputs_equal_those_cut_one_by_one(
    tmp_path: Path, table: pa.Table, tokenizer: CodeTokenizer, long_code: str
) -> None:
    store, windowing = build_token_store(table, tokenizer, tmp_path), Windowing(16, 4, long_code, 2)
    for batch in plan_evaluation(store.lengths[:, 0], windowing, 200):
        ids, mask = build_inputs(store, batch, windowing, tokenizer.special_ids)
        cut = [windowing.cut(store.row(int(sample)).astype(np.int64)) for sample in batch.samples]
        expected_ids, expected_mask = stack_windows(cut, tokenizer.special_ids)
        width = expected_ids.shape[2]
        assert (ids[:, :, :width] == expected_ids).all()
        assert (mask[:, :, :width] == expected_mask).all()
        assert not mask[:, :, width:].any()


def test_training_inputs_use_the_drawn_windows(tmp_path: Path, table: pa.Table, tokenizer: CodeTokenizer) -> None:
    store, windowing = build_token_store(table, tokenizer, tmp_path), Windowing(16, 4, "windows", 2)
    plan = BatchPlan(store.lengths, windowing, 3, 8, 64)
    for batch in plan.micro_batches(2):
        ids, _ = build_inputs(store, batch, windowing, tokenizer.special_ids)
        for row, (sample, drawn) in enumerate(zip(batch.samples, batch.windows, strict=True)):
            cut = windowing.cut(store.row(int(sample)).astype(np.int64))
            for column, window in enumerate(drawn):
                if window >= 0:
                    assert ids[row, column, 1 : len(cut[window]) + 1].tolist() == cut[window].tolist()
