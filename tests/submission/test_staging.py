"""What a command reads is staged once, by content, and its command line says where."""

from collections.abc import Callable
from pathlib import Path

import click
import pytest

from secauditai.cli.app import cli
from secauditai.cli.output import Output
from secauditai.cli.submit import finish
from secauditai.config.files import NamedConfigs, read_layer
from secauditai.config.spaces import Space
from secauditai.data.dataset import open_dataset
from secauditai.data.prepare import prepare
from secauditai.data.split import SplitPlan, split_dataset
from secauditai.errors import ClusterError, ConfigError, DataError, SecAuditError
from secauditai.storage import Storage, open_storage
from secauditai.submission.command import RemoteCommand, rewrite
from secauditai.submission.jobs import Job
from secauditai.submission.staging import Stager

Rewrite = Callable[..., RemoteCommand]


@pytest.fixture
def stager(tmp_path: Path) -> Stager:
    return Stager(open_storage(str(tmp_path / "shared")), tmp_path / "local")


@pytest.fixture
def translate(stager: Stager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rewrite:
    """Rewrite `train NAME …` as the command line would before it submits."""
    monkeypatch.chdir(tmp_path)

    def translate(name: str, *words: str) -> RemoteCommand:
        root = click.Context(cli, info_name="secauditai")
        group = cli.get_command(root, "train")
        assert isinstance(group, click.Group)
        train = click.Context(group, info_name="train", parent=root)
        command = group.get_command(train, name)
        assert command is not None
        ctx = click.Context(command, info_name=name, parent=train)
        return rewrite(ctx, words, stager, "jobs/j1")

    return translate


def test_the_same_content_is_staged_once_and_other_content_elsewhere(
    stager: Stager, samples_yaml: Callable[..., Path]
) -> None:
    path = samples_yaml(3)
    first = stager.stage_data(str(path))
    before = {file.key for file in stager.storage.files()}
    assert stager.stage_data(str(path)) == first
    assert {file.key for file in stager.storage.files()} == before
    assert Path(first).read_bytes() == path.read_bytes()
    path.write_text(path.read_text() + "\n")
    assert stager.stage_data(str(path)) != first


def test_a_split_of_a_dataset_travels_with_its_dataset(
    stager: Stager, samples_yaml: Callable[..., Path], tmp_path: Path
) -> None:
    split_dataset(prepare(str(samples_yaml(20)), tmp_path / "data").dataset, SplitPlan(seed=1))
    staged = stager.stage_data(str(tmp_path / "data" / "test"))
    assert Path(staged).name == "test"
    assert open_dataset(Path(staged).parent).splits() == ("train", "val", "test")


def test_what_is_no_file_travels_as_it_is(stager: Stager) -> None:
    assert stager.stage_data("security_dataset") == "security_dataset"
    assert stager.stage_data("s3://bucket/data") == "s3://bucket/data"
    with pytest.raises(SecAuditError, match="holds no data files"):
        stager.stage_data("nothing/*.yaml")


def test_an_interrupted_staging_is_done_again(stager: Stager, samples_yaml: Callable[..., Path]) -> None:
    path = samples_yaml(2)
    staged = Path(stager.stage_data(str(path)))
    (staged.parent / ".complete").unlink()
    staged.write_text("half")
    assert stager.stage_data(str(path)) == str(staged)
    assert staged.read_bytes() == path.read_bytes()


def test_a_command_line_keeps_its_options_and_loses_its_place(
    translate: Rewrite, samples_yaml: Callable[..., Path]
) -> None:
    path = samples_yaml(2)
    words = ["--data", str(path), "--epochs", "3", "--no-augment", "--gradient-checkpointing", "--model", "transformer"]
    command = translate("finetune", *words, "--address", "http://h:1", "--workspace", "w", "--json")
    assert command.arguments[:2] == ["train", "finetune"]
    assert command.arguments[3].endswith(f"/{path.name}")
    rest = command.arguments[4:]
    assert rest == ["--epochs", "3", "--no-augment", "--gradient-checkpointing", "--model", "transformer"]


def test_outputs_come_back(translate: Rewrite, tmp_path: Path, samples_yaml: Callable[..., Path]) -> None:
    command = translate("export", "--model", "m/1", "--output", "m.onnx")
    assert command.outputs == {"jobs/j1/output/m.onnx": tmp_path / "m.onnx"}
    assert command.arguments[-1] == str(tmp_path / "shared" / "jobs/j1/output/m.onnx")
    (tmp_path / "m.onnx").write_text("precious")
    with pytest.raises(ConfigError, match="exists already"):
        translate("export", "--model", "m/1", "--output", "m.onnx")
    with pytest.raises(DataError, match="this would replace the current directory"):
        translate("prepare", "--dataset", str(samples_yaml()), "--output", ".")
    gates = translate("evaluate", "--model", "m", "--min", "f1=0.1", "--min", "accuracy=0.2")
    assert gates.arguments.count("--min") == 2


def test_predictions_come_back_with_what_could_not_be_scored(translate: Rewrite, tmp_path: Path) -> None:
    (tmp_path / "code.jsonl").write_text('{"code": "x"}\n')
    command = translate("predict", "--model", "m/1", "--data", "code.jsonl", "--output", "scores.jsonl")
    there = tmp_path / "shared/jobs/j1/output"
    there.mkdir(parents=True)
    for name in ("scores.jsonl", "scores.rejected.jsonl"):
        (there / name).write_text(name)
    job = Job("j1", "", "SUCCEEDED", 0, None, None, None)
    assert finish(job, open_storage(str(tmp_path / "shared")), command, Output(as_json=False)) == 0
    assert (tmp_path / "scores.jsonl").read_text() == "scores.jsonl"
    assert (tmp_path / "scores.rejected.jsonl").read_text() == "scores.rejected.jsonl"


def left_there(tmp_path: Path, name: str, content: str) -> None:
    """What a job has written."""
    path = tmp_path / "shared/jobs/j1/output" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def ended(tmp_path: Path, command: RemoteCommand, code: int) -> int:
    job = Job("j1", "", "SUCCEEDED" if code == 0 else "FAILED", code, None, None, None)
    return finish(job, open_storage(str(tmp_path / "shared")), command, Output(as_json=False))


@pytest.mark.parametrize("code", [1, 3])
def test_a_command_that_fails_brings_what_it_has_written(
    translate: Rewrite, tmp_path: Path, samples_yaml: Callable[..., Path], code: int
) -> None:
    command = translate("validate", "--dataset", str(samples_yaml(2)), "--report", "quality.html")
    assert ended(tmp_path, command, code) == code
    assert not (tmp_path / "quality.html").exists()
    left_there(tmp_path, "quality.html", "findings")
    assert ended(tmp_path, command, code) == code
    assert (tmp_path / "quality.html").read_text() == "findings"
    command = translate("prepare", "--dataset", str(samples_yaml(2)), "--output", "data")
    left_there(tmp_path, "data.rejected.jsonl", "all of them")
    assert ended(tmp_path, command, code) == code
    assert (tmp_path / "data.rejected.jsonl").read_text() == "all of them"
    with pytest.raises(ClusterError, match="left no such output"):
        ended(tmp_path, command, 0)


def test_a_split_that_fails_leaves_the_dataset_alone(
    translate: Rewrite, tmp_path: Path, samples_yaml: Callable[..., Path]
) -> None:
    prepare(str(samples_yaml(5)), tmp_path / "data")
    command = translate("split", "--dataset", "data")
    left_there(tmp_path, "data/manifest.json", "half")
    assert ended(tmp_path, command, 1) == 1
    assert open_dataset(tmp_path / "data").manifest["kept"] == 10


def test_a_dataset_is_replaced_whole_or_not_at_all(
    translate: Rewrite, tmp_path: Path, samples_yaml: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(str(samples_yaml(5)), tmp_path / "real")
    (tmp_path / "data").symlink_to("real")
    (tmp_path / "real/samples/part-99999.parquet").write_text("stale")
    command = translate("prepare", "--dataset", str(samples_yaml(2)), "--output", "data", "--overwrite")
    left_there(tmp_path, "data/samples/part-00000.parquet", "new")
    left_there(tmp_path, "data/manifest.json", "{}")

    before = {path: path.read_bytes() for path in (tmp_path / "real").rglob("*") if path.is_file()}
    with monkeypatch.context() as broken:
        broken.setattr(Storage, "download", lambda *_: (_ for _ in ()).throw(ClusterError("the store is away")))
        with pytest.raises(ClusterError, match="is away"):
            ended(tmp_path, command, 0)
    assert {path: path.read_bytes() for path in (tmp_path / "real").rglob("*") if path.is_file()} == before

    ended(tmp_path, command, 0)
    assert [path.name for path in (tmp_path / "data/samples").iterdir()] == ["part-00000.parquet"]
    assert (tmp_path / "data").is_symlink()
    assert not list(tmp_path.glob(".*"))


def test_files_that_a_configuration_names_travel(
    translate: Rewrite, stager: Stager, tmp_path: Path, samples_yaml: Callable[..., Path]
) -> None:
    data = samples_yaml(2, "mine/samples.yaml")
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "config.json").write_text("{}")
    (tmp_path / "mine.yaml").write_text("data: mine/samples.yaml\narchitecture: {model: encoder, dropout: 0.2}\n")
    command = translate("start", "--config", "mine.yaml", "--epochs", "2")
    sent = Path(command.arguments[command.arguments.index("--config") + 1])
    assert (sent.name, sent.is_relative_to(tmp_path / "shared")) == ("mine.yaml", True)
    layer = read_layer(sent)
    assert Path(layer["data"]).read_bytes() == data.read_bytes()
    assert (Path(layer["model"]) / "config.json").read_text() == "{}"
    assert all(Path(layer[name]).is_relative_to(tmp_path / "shared") for name in ("data", "model"))
    assert layer["dropout"] == 0.2

    NamedConfigs(stager.workspace).create("named", {"model": Space("choice", ("encoder", "codebert"))})
    command = translate("tune", "--config", "named", "--data", "security_dataset")
    (choices,) = [read_layer(Path(word))["model"].values for word in command.arguments if word.endswith("named.yaml")]
    assert choices == (layer["model"], "codebert")


def test_a_configuration_that_names_no_file_is_staged_as_it_is(
    translate: Rewrite, tmp_path: Path, samples_yaml: Callable[..., Path]
) -> None:
    text = "# mine\ndata: 'away/*.yaml'\nmodel: codebert\n"
    (tmp_path / "mine.yaml").write_text(text)
    command = translate("start", "--config", "mine.yaml", "--data", str(samples_yaml(2)))
    assert Path(command.arguments[command.arguments.index("--config") + 1]).read_text() == text


def test_a_split_works_on_a_copy_that_comes_back(
    translate: Rewrite, tmp_path: Path, samples_yaml: Callable[..., Path]
) -> None:
    prepare(str(samples_yaml(5)), tmp_path / "data")
    command = translate("split", "--dataset", "data", "--seed", "2")
    assert command.outputs == {"jobs/j1/output/data": tmp_path / "data"}
    assert open_dataset(tmp_path / "shared/jobs/j1/output/data").manifest["kept"] == 10
