"""What a command reads is staged once, by content, and its command line says where."""

from collections.abc import Callable
from pathlib import Path

import click
import pytest

from secauditai.cli.app import cli
from secauditai.cli.output import Output
from secauditai.cli.submit import finish
from secauditai.data.dataset import open_dataset
from secauditai.data.prepare import prepare
from secauditai.data.split import SplitPlan, split_dataset
from secauditai.errors import ConfigError, SecAuditError
from secauditai.storage import open_storage
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


def test_a_split_works_on_a_copy_that_comes_back(
    translate: Rewrite, tmp_path: Path, samples_yaml: Callable[..., Path]
) -> None:
    prepare(str(samples_yaml(5)), tmp_path / "data")
    command = translate("split", "--dataset", "data", "--seed", "2")
    assert command.outputs == {"jobs/j1/output/data": tmp_path / "data"}
    assert open_dataset(tmp_path / "shared/jobs/j1/output/data").manifest["kept"] == 10
