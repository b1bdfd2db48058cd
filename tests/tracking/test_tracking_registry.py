import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tracking.samples import CODES, HEADS, write_bundle

from secauditai.errors import ModelError
from secauditai.models.baseline import fit_baseline
from secauditai.models.bundle import BundleLayout, open_bundle, refresh_manifest
from secauditai.tracking import registry
from secauditai.tracking.registry import ModelVersion, list_models, register_bundle, resolve_model
from secauditai.tracking.runs import create_run
from secauditai.tracking.store import open_store, tracking_uri

pytestmark = pytest.mark.slow


def register(workspace: Path, bundle: Path, name: str, run_id: str = "r1", **tags: str) -> ModelVersion:
    mlflow_run_id = create_run(workspace, name=name, params={}, tags={})
    lineage = {"run_id": run_id, "run_dir": str(bundle.parent), "dataset_hash": "h", "kind": "finetune"}
    return register_bundle(workspace, bundle, name=name, mlflow_run_id=mlflow_run_id, tags=lineage | tags)


@pytest.fixture
def elsewhere(tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another workspace that tracks to the same store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(tracked))
    return tmp_path / "elsewhere"


def test_a_registered_model_loads_as_a_pyfunc_and_knows_its_run(
    tracked: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = register(tracked, bundle, "loads")
    shutil.rmtree(bundle)
    import mlflow.pyfunc
    import pandas as pd

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(tracked))
    model = mlflow.pyfunc.load_model("models:/loads/1")
    frame = model.predict(pd.DataFrame({"code": CODES}))
    assert list(frame.columns) == ["label", "score", "category", "category_score", "severity", "severity_score"]
    assert set(frame["label"]) == set(HEADS["vulnerability_detection"])
    assert model.metadata.run_id == made.mlflow_run_id
    assert list(model.input_example["code"]) == ["def add(a, b):\n    return a + b\n"]
    client = open_store(tracked).client
    version = client.get_model_version("loads", "1")
    assert version.run_id == made.mlflow_run_id
    (output,) = client.get_run(made.mlflow_run_id).outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert logged.source_run_id == made.mlflow_run_id
    assert str(logged.status) == "READY"
    assert json.loads(logged.tags["mlflow.modelVersions"])[0]["name"] == "loads"
    stored = {path.name for path in Path(tracked / "artifacts" / "models" / logged.model_id).rglob("*")}
    assert {"MLmodel", "pyfunc.py", "model.onnx", "tokenizer.json", "secauditai.json", "requirements.txt"} <= stored


def test_versions_carry_their_lineage_and_every_run_makes_one(tracked: Path, bundle: Path) -> None:
    first = register(tracked, bundle, "lineage", extra="s3://k:s@b/x")
    assert register_bundle(
        tracked, bundle, name="lineage", mlflow_run_id=first.mlflow_run_id, tags={"run_id": "r1"}
    ) == replace(first, created=pytest.approx(first.created, abs=1))
    second = register(tracked, bundle, "lineage", run_id="r2")
    assert (first.version, second.version) == (1, 2)
    tags = open_store(tracked).client.get_model_version("lineage", "1").tags
    assert tags == {
        "workspace_id": open_store(tracked).workspace_id,
        "run_id": "r1",
        "run_dir": str(bundle.parent),
        "dataset_hash": "h",
        "kind": "classifier",
        "run_kind": "finetune",
        "bundle_sha256": open_bundle(bundle).sha256,
        "bundle_dir": str(bundle),
        "extra": "s3://b/x",
    }
    assert [item.version for item in list_models(tracked) if item.name == "lineage"] == [2, 1]
    assert not list((tracked / "cache").glob(".package-*"))


def test_a_model_without_a_run_is_registered_too(
    tracked: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    made = register_bundle(tracked, bundle, name="runless", mlflow_run_id=None, tags={})
    assert (made.version, made.mlflow_run_id) == (1, None)
    assert register_bundle(tracked, bundle, name="runless", mlflow_run_id=None, tags={}).version == 1
    assert resolve_model("runless", tracked).run_id == "20260101-000000-abc123"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_without_a_graph_is_not_registered(tracked: Path, bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    refresh_manifest(BundleLayout(bundle))
    with pytest.raises(ModelError, match="exported"):
        register_bundle(tracked, bundle, name="graphless", mlflow_run_id="x", tags={})


def test_names_versions_and_aliases_resolve(tracked: Path, bundle: Path) -> None:
    register(tracked, bundle, "resolves")
    register(tracked, bundle, "resolves", run_id="r2")
    open_store(tracked).client.set_registered_model_alias("resolves", "champion", "1")
    newest = resolve_model("resolves", tracked)
    assert (newest.origin, newest.kind, newest.version, newest.run_id) == ("registry", "classifier", 2, "r2")
    assert newest.bundle == bundle
    assert "version 2" in newest.description
    assert resolve_model("resolves/1", tracked).version == 1
    assert resolve_model("resolves@champion", tracked).version == 1
    for missing in ("resolves/9", "resolves@nobody"):
        with pytest.raises(ModelError, match=r"The newest version is resolves/2"):
            resolve_model(missing, tracked)


def test_models_of_others_need_a_version(tracked: Path, bundle: Path, elsewhere: Path) -> None:
    register(tracked, bundle, "codebert")
    assert resolve_model("codebert", elsewhere).origin == "catalogue"
    assert resolve_model("codebert/1", elsewhere).origin == "registry"
    register(tracked, bundle, "theirs")
    with pytest.raises(ModelError, match=r"not from this workspace.*theirs/1"):
        resolve_model("theirs", elsewhere)
    assert "theirs" not in [item.name for item in list_models(elsewhere)]
    assert not next(item for item in list_models(elsewhere, everyone=True) if item.name == "theirs").here
    assert resolve_model("codebert", tracked).origin == "registry"
    assert resolve_model("codebert", tracked, catalogue_first=True).origin == "catalogue"


def test_a_changed_or_missing_bundle_is_downloaded_once(tracked: Path, bundle: Path) -> None:
    register(tracked, bundle, "downloaded")
    digest = open_bundle(bundle).sha256
    (bundle / "manifest.json").write_text("{}")
    found = resolve_model("downloaded", tracked)
    assert found.bundle == tracked / "cache" / "models" / digest
    assert open_bundle(found.bundle).sha256 == digest
    shutil.rmtree(bundle)
    before = (found.bundle / "manifest.json").stat().st_mtime_ns
    assert resolve_model("downloaded", tracked) == found
    assert (found.bundle / "manifest.json").stat().st_mtime_ns == before
    assert [path.name for path in found.bundle.parent.iterdir()] == [digest]


def test_a_model_registered_elsewhere_comes_with_its_baseline(tracked: Path, bundle: Path, elsewhere: Path) -> None:
    baseline = fit_baseline(["a b", "c d", "a e", "c f"], ["safe", "vulnerability"] * 2, ["safe", "vulnerability"])
    assert baseline is not None
    baseline.save(BundleLayout(bundle).baseline)
    refresh_manifest(BundleLayout(bundle))
    register(tracked, bundle, "beside")
    shutil.rmtree(bundle)
    found = resolve_model("beside/1", elsewhere).bundle
    assert found is not None
    theirs = open_bundle(found).baseline
    assert theirs is not None
    assert theirs.vocabulary == baseline.vocabulary


def test_a_damaged_copy_is_refused(tracked: Path, bundle: Path) -> None:
    register(tracked, bundle, "damaged")
    shutil.rmtree(bundle)
    source = open_store(tracked).client.get_model_version("damaged", "1").source
    stored = tracked / "artifacts" / "models" / source.rstrip("/").split("/")[-2] / "artifacts" / "artifacts" / "bundle"
    (stored / "manifest.json").write_text("{}")
    with pytest.raises(ModelError, match="damaged/1 is damaged"):
        resolve_model("damaged", tracked)
    assert not list((tracked / "cache" / "models").iterdir())


def test_what_others_registered_without_us_is_no_model(tracked: Path) -> None:
    client = open_store(tracked).client
    client.create_registered_model("foreign")
    client.create_model_version("foreign", "s3://bucket/model")
    with pytest.raises(ModelError, match="not registered by SecAuditAI"):
        resolve_model("foreign/1", tracked)


def test_the_catalogue_works_without_any_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    scratch = resolve_model("transformer", tmp_path)
    assert (scratch.origin, scratch.kind, scratch.hub_id, scratch.bundle) == ("catalogue", "scratch", None, None)
    (tmp_path / "models.yaml").write_text("mine: {hub: me/mine, revision: abc}")
    mine = resolve_model("mine", tmp_path)
    assert (mine.kind, mine.hub_id, mine.revision) == ("pretrained", "me/mine", "abc")
    with pytest.raises(ModelError, match=r"unknown model 'codbert'.*Did you mean codebert.*hub:ID"):
        resolve_model("codbert", tmp_path)
    assert not (tmp_path / "mlflow.db").exists()


def test_paths_and_hub_ids_do_not_touch_mlflow(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("MLflow was asked")

    monkeypatch.setattr(registry, "open_existing_store", refuse)
    monkeypatch.chdir(tmp_path)
    found = resolve_model("bundle", tmp_path)
    assert (found.origin, found.kind, found.bundle) == ("path", "classifier", bundle)
    assert (found.name, found.run_id) == ("trained_model", "20260101-000000-abc123")
    assert resolve_model("hub:a/b", tmp_path).hub_id == "a/b"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(ModelError, match="saved no model yet"):
        resolve_model("run", tmp_path)
    shutil.copytree(bundle, tmp_path / "run" / "bundle")
    assert resolve_model(str(tmp_path / "run"), tmp_path).bundle == tmp_path / "run" / "bundle"
    pretrained = resolve_model("bundle/encoder", tmp_path) if (bundle / "encoder" / "config.json").exists() else None
    assert pretrained is None
    (bundle / "encoder" / "config.json").write_text("{}")
    assert resolve_model("bundle/encoder", tmp_path).kind == "pretrained"
    for spec, problem in [("./nothing", "no such directory"), (str(tmp_path), "no model here")]:
        with pytest.raises(ModelError, match=problem):
            resolve_model(spec, tmp_path)
    (bundle / "secauditai.json").write_text("{")
    with pytest.raises(ModelError, match="card is damaged"):
        resolve_model("bundle", tmp_path)


@pytest.mark.parametrize("spec", ["", "it's", "a/b/3", "x@y@z", "name/", "@"])
def test_odd_names_are_unknown(tracked: Path, spec: str) -> None:
    with pytest.raises(ModelError, match="unknown model"):
        resolve_model(spec, tracked)


def test_an_encoder_is_registered_as_one(tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(tracked, write_bundle(tmp_path / "encoder", kind="encoder"), "adapted")
    assert resolve_model("adapted", tracked).kind == "encoder"
    import mlflow.pyfunc
    import pandas as pd

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(tracked))
    frame = mlflow.pyfunc.load_model("models:/adapted/1").predict(pd.DataFrame({"code": ["a", "b"]}))
    assert [len(row) for row in frame["embedding"]] == [6, 6]
    assert all(isinstance(value, float) for value in frame["embedding"][0])
