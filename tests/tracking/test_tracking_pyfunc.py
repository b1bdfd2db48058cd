import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Cli
from hypothesis import given
from hypothesis import strategies as st
from tracking.samples import CODES, write_bundle

from secauditai.data.schema import normalise_code
from secauditai.data.windows import Windowing, stack_windows
from secauditai.models.bundle import open_bundle
from secauditai.models.predict import build_scorer, score
from secauditai.tracking.connection import load_mlflow
from secauditai.tracking.packaging import CODE_FILE

ODD = ["a = 1\r\nb = 2\r\n", "a\rb", "no_final_newline = 1", "s = 'e\u0301'\n", "\ufeffx = 1\n", "x = 1\n\n\n"]
"""Code as files and clients of all kinds bring it."""


@pytest.fixture(scope="module")
def code() -> ModuleType:
    """The code file, executed by itself, as MLflow does it."""
    load_mlflow()
    spec = spec_from_file_location("stored_code", CODE_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def open_model(code: ModuleType, bundle: Path) -> Any:
    model = code.SecurityModel()
    model.load_context(SimpleNamespace(artifacts={"bundle": str(bundle)}))
    return model


@pytest.mark.parametrize("long_code", ["windows", "truncate", "head-tail"])
@pytest.mark.parametrize(("max_length", "stride"), [(16, 0), (16, 3), (17, 13)])
def test_windows_are_those_of_training(code: ModuleType, long_code: str, max_length: int, stride: int) -> None:
    windowing = Windowing(max_length, stride, long_code)
    card = {"max_length": max_length, "stride": stride, "long_code": long_code}
    ids = {"cls": 1, "sep": 2, "pad": 0}
    samples = [np.arange(10, 10 + length) for length in range(90)]
    ours, theirs = [code.cut(tokens, card) for tokens in samples], [windowing.cut(tokens) for tokens in samples]
    for mine, expected in zip(code.stack(ours, ids), stack_windows(theirs, ids), strict=True):
        np.testing.assert_array_equal(mine, expected)


@given(st.text(st.one_of(st.sampled_from("a \n\r\ufeff\u0301\u1100\u1161e"), st.characters(codec="utf-8"))))
def test_code_is_normalised_as_everywhere(code: ModuleType, text: str) -> None:
    assert code.read_codes(pd.DataFrame({"code": pd.Series([text], dtype=object)})) == [normalise_code(text)]


@pytest.mark.parametrize("long_code", ["windows", "truncate", "head-tail"])
def test_predictions_are_those_of_predict(code: ModuleType, cli: Cli, tmp_path: Path, long_code: str) -> None:
    root, codes = write_bundle(tmp_path / "bundle", long_code=long_code), [*filter(None, CODES), *ODD]
    (tmp_path / "codes.jsonl").write_text("".join(json.dumps({"code": code}) + "\n" for code in codes))
    arguments = ("--model", root, "--data", "codes.jsonl", "--output", "scores.jsonl", "--backend", "onnx")
    assert (done := cli("train", "predict", *arguments)).code == 0, done.err
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    expected = pd.DataFrame(rows, index=range(5, 5 + len(codes))).drop(columns="id")
    frame = open_model(code, root).predict(pd.DataFrame({"code": codes}, index=expected.index))
    pd.testing.assert_frame_equal(frame, expected, check_dtype=False, rtol=1e-5)


def test_an_encoder_returns_embeddings(code: ModuleType, tmp_path: Path) -> None:
    root = write_bundle(tmp_path / "encoder", kind="encoder")
    opened = open_bundle(root)
    codes = [normalise_code(code) for code in CODES]
    expected = score(build_scorer(opened, "onnx"), opened.tokenizer, opened.card.windowing, codes)["sample_embedding"]
    model = open_model(code, root)
    np.testing.assert_allclose(np.array(model.predict(pd.DataFrame({"code": CODES}))["embedding"].tolist()), expected)
    assert model.predict(pd.DataFrame({"code": []}))["embedding"].tolist() == []


def test_batches_cover_everything_within_the_budget(code: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "TOKENS_PER_BATCH", 200)
    random = np.random.default_rng(0)
    windows = [[np.zeros(random.integers(0, 60)) for _ in range(random.integers(1, 6))] for _ in range(80)]
    groups = code.batches(windows)
    assert sorted(index for group in groups for index in group) == list(range(80))
    for group in groups:
        size = len(group) * max(len(windows[i]) for i in group) * (max(len(w) for i in group for w in windows[i]) + 2)
        assert size <= 200 or len(group) == 1


def test_an_empty_frame_gives_an_empty_frame(code: ModuleType, bundle: Path) -> None:
    frame = open_model(code, bundle).predict(pd.DataFrame({"code": []}))
    assert len(frame) == 0
    assert list(frame.columns)[:2] == ["label", "score"]


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        (pd.DataFrame({"source": ["x"]}), "column `code`"),
        (pd.DataFrame({"code": ["x", None]}), "Row 1: `code` is missing"),
        (pd.DataFrame({"code": pd.Series(["x", 3], dtype=object)}), "Row 1: `code` is int, not text"),
        (pd.DataFrame({"code": pd.Series(["\ud800"], dtype=object)}), "not valid Unicode"),
        (["x"], "column `code`"),
    ],
)
def test_bad_input_is_named(code: ModuleType, bundle: Path, frame: Any, problem: str) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=problem):
        open_model(code, bundle).predict(frame)


def test_the_code_file_needs_nothing_of_this_package() -> None:
    assert "import secauditai" not in CODE_FILE.read_text()
    assert "from secauditai" not in CODE_FILE.read_text()
