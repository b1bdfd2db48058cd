import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_bundle import make_bundle

from secauditai.errors import ExportError
from secauditai.export.onnx import INPUTS, describe, export_onnx, file_sha256, read_card
from secauditai.export.verify import Verification, verify_onnx
from secauditai.models.bundle import Bundle
from secauditai.models.predict import DETECTION, OnnxScorer, predict

pytestmark = pytest.mark.slow

CODES = ["x\n", "def f(x):\n    return x\n", "int main(void) { return 0; }\n" * 60]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("b") / "bundle")


@pytest.fixture(scope="module")
def exported(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(bundle, tmp_path_factory.mktemp("o") / "m.onnx").path


def test_the_file_says_what_it_is_and_agrees(bundle: Bundle, exported: Path) -> None:
    card, metadata = read_card(exported)
    assert card == bundle.card
    assert (metadata["run_id"], metadata["max_length"]) == ("r1", "64")
    for put in onnx.load(str(exported)).graph.input:
        assert [dimension.dim_param for dimension in put.type.tensor_type.shape.dim] == ["batch", "windows", "sequence"]
    result = verify_onnx(exported, bundle, CODES)
    assert result.ok, result.checks
    assert result.max_abs_diff is not None
    assert result.max_abs_diff < 1e-4


def test_an_encoder_exports_embeddings(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", kind="encoder")
    path = export_onnx(bundle, tmp_path / "e.onnx").path
    assert verify_onnx(path, bundle, CODES).ok


def test_an_existing_output_is_not_replaced_unasked(bundle: Bundle, exported: Path) -> None:
    with pytest.raises(ExportError, match="--overwrite"):
        export_onnx(bundle, exported)


def test_changed_weights_are_found(bundle: Bundle, exported: Path, tmp_path: Path) -> None:
    model = onnx.load(str(exported))
    largest = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims or [1]))
    original = onnx.numpy_helper.to_array(largest)
    values = original + np.random.default_rng(0).normal(0, 0.1, original.shape).astype(original.dtype)
    largest.CopyFrom(onnx.numpy_helper.from_array(values, largest.name))
    onnx.save(model, str(tmp_path / "t.onnx"))
    result = verify_onnx(tmp_path / "t.onnx", bundle, CODES)
    assert not result.ok
    failed = {check["name"] for check in result.checks if check["result"] == "failed"}
    assert "agreement with torch" in failed


def test_the_graph_that_a_bundle_has_is_copied_when_it_is_its_own(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secauditai.export.onnx._build_graph", lambda _bundle, opset: b"opset %d" % opset)
    mine, other = make_bundle(tmp_path / "mine"), make_bundle(tmp_path / "other", seed=9)
    for bundle in (mine, other):
        shutil.copyfile(exported, bundle.layout.onnx)
    assert export_onnx(mine, tmp_path / "a.onnx").sha256 == file_sha256(exported)
    assert export_onnx(mine, tmp_path / "b.onnx", opset=20).path.read_bytes() == b"opset 20"
    assert export_onnx(other, tmp_path / "c.onnx").path.read_bytes() == b"opset 18"


def test_what_is_no_number_does_not_agree(bundle: Bundle, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(OnnxScorer):
        """Gives no numbers for samples of several windows."""

        def __call__(self, input_ids: Any, attention_mask: Any) -> Any:
            outputs = super().__call__(input_ids, attention_mask)
            several = attention_mask[:, :, 0].sum(axis=1) > 1
            padded = (attention_mask == 0).any()
            return {name: np.where(several[:, None] & padded, np.nan, values) for name, values in outputs.items()}

    monkeypatch.setattr("secauditai.export.verify.OnnxScorer", Broken)
    result = verify_onnx(exported, bundle, CODES)
    assert "agreement with torch" in {check["name"] for check in result.checks if check["result"] == "failed"}
    assert result.max_abs_diff is None


def test_another_model_is_not_taken_for_the_original(exported: Path, tmp_path: Path) -> None:
    result = verify_onnx(exported, make_bundle(tmp_path / "other", seed=9), CODES)
    assert {"weights", "agreement with torch"} <= {c["name"] for c in result.checks if c["result"] == "failed"}


def test_foreign_onnx_files_are_told_apart(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Identity", ["a"], ["b"])
    value = onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [1])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [out])), str(tmp_path / "f.onnx"))
    with pytest.raises(ExportError, match="not exported by secauditai"):
        read_card(tmp_path / "f.onnx")


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        ("secauditai", '"threshold":0.5', '"threshold":0.99'),
        ("secauditai", '["safe","vulnerability"]', '["vulnerability","safe"]'),
        ("secauditai", '"max_length":64', '"max_length":16'),
        ("labels", "safe", "harmless"),
        ("run_id", "r1", "r2"),
    ],
)
def test_a_file_that_says_otherwise_than_its_original_fails(
    bundle: Bundle, exported: Path, tmp_path: Path, key: str, old: str, new: str
) -> None:
    model = onnx.load(str(exported))
    (entry,) = [entry for entry in model.metadata_props if entry.key == key]
    assert old in entry.value
    entry.value = entry.value.replace(old, new)
    onnx.save(model, str(tmp_path / "m.onnx"))
    result = verify_onnx(tmp_path / "m.onnx", bundle, CODES)
    assert "card" in {check["name"] for check in result.checks if check["result"] == "failed"}


def failed(result: Verification) -> set[str]:
    return {check["name"] for check in result.checks if check["result"] == "failed"}


def detail(result: Verification, name: str) -> str:
    return next(check["detail"] for check in result.checks if check["name"] == name)


@pytest.mark.parametrize(
    ("heads", "shown"),
    [
        ({"severity_prediction": ["none", "high"]}, "its original severity_prediction (2)"),
        ({DETECTION: ["safe", "doubtful", "vulnerability"]}, "its original vulnerability_detection (3)"),
    ],
)
def test_another_task_is_told_instead_of_compared(
    exported: Path, tmp_path: Path, heads: dict[str, list[str]], shown: str
) -> None:
    result = verify_onnx(exported, make_bundle(tmp_path / "other", heads=heads), CODES)
    assert {"weights", "card", "agreement with torch"} == failed(result)
    assert shown in detail(result, "agreement with torch")
    assert (result.max_abs_diff, result.decision_agreement) == (None, None)


def test_an_original_with_more_tokens_is_told_instead_of_compared(exported: Path, tmp_path: Path) -> None:
    words = [f"{first}{second}{third}" for first in "bdfgk" for second in "aeiou" for third in "lmnrs"]
    other = make_bundle(tmp_path / "other", lines=words * 2)
    assert other.tokenizer.vocab_size > make_bundle(tmp_path / "same").tokenizer.vocab_size
    result = verify_onnx(exported, other, words)
    assert {"weights", "agreement with torch"} <= failed(result)
    assert "ONNX Runtime cannot run the graph" in detail(result, "agreement with torch")


def test_a_graph_of_fixed_dimensions_fails(bundle: Bundle, tmp_path: Path) -> None:
    helper, floats, path = onnx.helper, onnx.TensorProto.FLOAT, tmp_path / "fixed.onnx"
    ids, mask = (helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [1, 1, 3]) for name in INPUTS)
    out = helper.make_tensor_value_info(f"logits_{DETECTION}", floats, [1, 2])
    axes = onnx.numpy_helper.from_array(np.array([1]), "axes")
    nodes = [
        helper.make_node("Mul", [ids.name, mask.name], ["real"]),
        helper.make_node("Cast", ["real"], ["numbers"], to=floats),
        helper.make_node("ReduceSum", ["numbers", "axes"], ["sums"], keepdims=0),
        helper.make_node("Slice", ["sums", "from", "to", "axes"], [out.name]),
    ]
    limits = [onnx.numpy_helper.from_array(np.array([number]), name) for name, number in (("from", 0), ("to", 2))]
    graph = helper.make_graph(nodes, "fixed", [ids, mask], [out], initializer=[axes, *limits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, describe(bundle))
    onnx.save(model, str(path))
    result = verify_onnx(path, bundle, CODES)
    shapes = [check for check in result.checks if check["name"] == "dynamic shape"]
    assert [check["result"] for check in shapes] == ["ok", "failed", "failed"], shapes
    assert "ONNX Runtime cannot run the graph" in shapes[1]["detail"]
    assert "dynamic shape" in failed(result)
    assert "does not run with every shape" in detail(result, "agreement with torch")


def test_without_real_samples_something_is_skipped(bundle: Bundle, exported: Path) -> None:
    result = verify_onnx(exported, bundle)
    assert result.ok
    assert [check["name"] for check in result.checks if check["result"] == "skipped"] == ["real samples"]


def test_samples_of_all_lengths_are_compared_alone(
    bundle: Bundle, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = [f"x = {'1 + ' * number}1\n" for number in range(0, 400, 10)]
    seen: list[tuple[int, ...]] = []

    class Watched(OnnxScorer):
        """Notes the shapes it is given."""

        def __call__(self, input_ids: Any, attention_mask: Any) -> Any:
            seen.append(input_ids.shape)
            return super().__call__(input_ids, attention_mask)

    monkeypatch.setattr("secauditai.export.verify.OnnxScorer", Watched)
    assert verify_onnx(exported, bundle, codes).ok
    alone = seen[3:11]
    assert {shape[0] for shape in alone} == {1}
    assert alone[0][1] == 1
    assert alone[-1][1] == max(shape[1] for shape in seen) > 4


@pytest.mark.parametrize(("distance", "flips"), [(3e-4, True), (5e-5, False)])
def test_decisions_may_flip_only_next_to_the_threshold(
    bundle: Bundle, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distance: float, flips: bool
) -> None:
    code = CODES[1]
    probability = float(predict(bundle, [code]).probabilities[DETECTION][0, 1])
    card = bundle.card.model_copy(update={"threshold": probability - distance})
    moved = Bundle(bundle.layout, card)
    model = onnx.load(str(exported))
    onnx.helper.set_model_props(model, describe(moved))
    onnx.save(model, str(tmp_path / "m.onnx"))

    class Lower(OnnxScorer):
        """Gives logits that differ by less than verification allows."""

        def __call__(self, input_ids: Any, attention_mask: Any) -> Any:
            shift = np.array([[9e-4, -9e-4]], dtype=np.float32)
            return {name: values + shift for name, values in super().__call__(input_ids, attention_mask).items()}

    monkeypatch.setattr("secauditai.export.verify.OnnxScorer", Lower)
    result = verify_onnx(tmp_path / "m.onnx", moved, [code])
    assert failed(result) == ({"decisions"} if flips else set())
    assert result.max_abs_diff == pytest.approx(9e-4, abs=5e-5)
    assert result.decision_agreement == (pytest.approx(2 / 3) if flips else 1.0)  # that of the joined code holds
