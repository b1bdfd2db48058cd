"""A tiny bundle whose ONNX graph is written by hand, for the tests of tracking."""

from pathlib import Path
from typing import Any

import numpy as np

HEADS = {
    "vulnerability_detection": ["safe", "vulnerability"],
    "category_classification": ["injection", "none", "xss"],
    "severity_prediction": ["critical", "high", "low", "medium", "none"],
}
CODES = [
    "def add(a, b):\n    return a + b\n",
    "",
    "query = 'SELECT ' + name  # äöü",
    *(f"def f{n}(x):\n" + "    x = x + 1\n" * n for n in (1, 5, 20, 60, 3)),
]


def write_bundle(
    root: Path, *, kind: str = "classifier", long_code: str = "windows", name: str = "trained_model"
) -> Path:
    """A bundle with tokenizer, card, graph and manifest, and a few bytes for weights."""
    from secauditai.models.bundle import BundleCard, BundleLayout, refresh_manifest
    from secauditai.models.tokenizer import train_tokenizer

    layout = BundleLayout(root)
    tokenizer = train_tokenizer(CODES, 300)
    tokenizer.save(layout.encoder)
    card = BundleCard(
        kind="encoder" if kind == "encoder" else "classifier",
        task="" if kind == "encoder" else "multi_task",
        heads={} if kind == "encoder" else HEADS,
        max_length=32,
        stride=4,
        long_code=long_code,
        max_windows=8,
        pooling="mean_max",
        special_ids=tokenizer.special_ids,
        threshold=0.4,
        temperature={"vulnerability_detection": 1.7},
        provenance={"name": name, "run_id": "20260101-000000-abc123", "dataset_hash": "d" * 64},
    )
    layout.card.write_text(card.model_dump_json(indent=2), encoding="utf-8")
    layout.heads.write_bytes(b"weights")
    _write_graph(
        layout.onnx, {"sample_embedding": 6} if kind == "encoder" else {f"logits_{t}": len(v) for t, v in HEADS.items()}
    )
    refresh_manifest(layout)
    return root


def _write_graph(path: Path, outputs: dict[str, int]) -> None:
    """Each output is an affine function of the sum of all token ids, so padding does not matter and lengths do."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shape: list[Any] = ["batch", "windows", "sequence"]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, shape) for n in ("input_ids", "attention_mask")]
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["masked"]),
        helper.make_node("Cast", ["masked"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["real", "axes"], ["sum"], keepdims=0),
        helper.make_node("Unsqueeze", ["sum", "last"], ["column"]),
    ]
    constants = {"axes": np.array([1, 2]), "last": np.array([1])}
    random = np.random.default_rng(0)
    for name, width in outputs.items():
        constants[f"w_{name}"] = random.normal(size=(1, width)).astype(np.float32) / 4000
        constants[f"b_{name}"] = random.normal(size=(width,)).astype(np.float32)
        nodes += [
            helper.make_node("MatMul", ["column", f"w_{name}"], [f"m_{name}"]),
            helper.make_node("Add", [f"m_{name}", f"b_{name}"], [name]),
        ]
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", width]) for n, width in outputs.items()]
    values = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, results, initializer=values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
