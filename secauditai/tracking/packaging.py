"""A bundle as MLflow stores it: a directory with `MLmodel`, the code file, and the bundle as its artifact."""

import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from secauditai.models.bundle import BundleCard, BundleLayout
from secauditai.tracking.versions import ARTIFACT

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

CODE_FILE = Path(__file__).with_name("pyfunc.py")
REQUIREMENTS = ("mlflow", "numpy", "onnxruntime", "pandas", "tokenizers")
EXAMPLE = {"code": "def add(a, b):\n    return a + b\n", "language": "python"}
"""Made up: samples of the training data never leave with a model."""
EXTRA_COLUMNS = {"category_classification": "category", "severity_prediction": "severity"}


def save_package(directory: Path, bundle: BundleLayout, card: BundleCard, *, model_id: str, run_id: str | None) -> None:
    """Write the MLflow model.

    Args:
        directory: made here; must not exist.
        bundle: the saved model, with its ONNX graph.
        card: the bundle's card.
        model_id: MLflow's logged model that this becomes.
        run_id: the MLflow run that made it.
    """
    import pandas as pd
    from mlflow.models import Model
    from mlflow.pyfunc import save_model

    # MLflow would copy the artifact twice, once through the temporary directory, which may be small. So it is shown
    # the card alone, and the other files are put beside it.
    stand_in = directory.with_name(f"{directory.name}.stand-in") / ARTIFACT
    stand_in.mkdir(parents=True)
    shutil.copyfile(bundle.card, stand_in / bundle.card.name)
    model = Model(run_id=run_id, model_uuid=model_id, model_id=model_id)
    save_model(
        str(directory),
        python_model=str(CODE_FILE),
        artifacts={ARTIFACT: str(stand_in)},
        mlflow_model=model,
        signature=build_signature(card),
        # Column names as plain objects: MLflow compares them in a way that pandas 3 deprecates for its string type.
        input_example=pd.DataFrame([list(EXAMPLE.values())], columns=pd.Index(list(EXAMPLE), dtype=object)),
        pip_requirements=[requirement(name) for name in REQUIREMENTS],
    )
    shutil.rmtree(stand_in.parent)
    target = directory / "artifacts" / ARTIFACT
    for path in sorted(bundle.root.rglob("*")):
        if path.is_file():
            _link(path, target / path.relative_to(bundle.root))
    model.model_size_bytes = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    model.save(str(directory / "MLmodel"))


def build_signature(card: BundleCard) -> "ModelSignature":
    """What the model reads and returns.

    Columns in: `code`, and `language` if one likes. Columns out: `label`, `score` and those of further heads, or the
    `embedding` of an encoder.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    inputs = Schema([ColSpec("string", "code"), ColSpec("string", "language", required=False)])
    if card.kind == "encoder":
        return ModelSignature(inputs, Schema([ColSpec(Array(DataType.double), "embedding")]))
    outputs = {"label": "string", "score": "double"}
    for name in (EXTRA_COLUMNS[task] for task in card.heads if task in EXTRA_COLUMNS):
        outputs |= {name: "string", f"{name}_score": "double"}
    return ModelSignature(inputs, Schema([ColSpec(kind, name) for name, kind in outputs.items()]))


def requirement(name: str) -> str:
    """A pip requirement: from the installed version up to, and without, the next major one."""
    installed = version(name)
    major, minor = [*installed.split("."), "0"][:2]
    return f"{name}>={major}.{minor},<{int(major) + 1}"


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
