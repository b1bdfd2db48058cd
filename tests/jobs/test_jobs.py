"""The entry points and configurations in `jobs/`."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import make_samples
from tiny_bundle import make_bundle

from secauditai.cluster import Node
from secauditai.config.files import read_layer, resolve_config, spaces_of

JOBS = Path(__file__).parents[2] / "jobs"
CONFIGS = sorted(JOBS.glob("*.yaml"))


@pytest.fixture
def complete() -> Any:
    return runpy.run_path(str(JOBS / "train.py"))["complete"]


def test_there_is_a_configuration_for_each_purpose() -> None:
    assert [path.stem for path in CONFIGS] == ["finetune-codebert", "smoke", "tune-codebert"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_setting_of_a_configuration_is_known_and_they_agree(path: Path) -> None:
    layer = read_layer(path)
    config = resolve_config(layer, allow_spaces=True)
    assert bool(spaces_of(layer)) == path.stem.startswith("tune")
    assert config.input.data == "security_dataset"
    assert config.architecture.model == ("transformer" if path.stem == "smoke" else "codebert")


def test_search_spaces_make_it_a_sweep(complete: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    for path in CONFIGS:
        line = complete(["--config", str(path), "--epochs", "1"])
        assert line[:2] == ["train", "tune" if path.stem.startswith("tune") else "start"]
        assert line[2:] == ["--config", str(path), "--epochs", "1"]
    broken = tmp_path / "broken.yaml"
    broken.write_text("learnig_rate: 1\n")
    assert complete(["--config", str(broken)])[1] == "start"
    assert complete([]) == ["train", "start"]


def test_a_wrong_setting_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("learnig_rate: 1\n")
    command = [sys.executable, JOBS / "train.py", "--config", "broken.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: broken.yaml:1: ")
    assert "learning_rate" in done.stderr


@pytest.mark.parametrize("script", ["scale.py", "score.py"])
def test_a_cluster_that_does_not_answer_is_one_line(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # as if no test of this process had connected to it
    words = ["--workspace", "/shared/team", "--output", "/shared/scores.jsonl"] if script == "score.py" else []
    monkeypatch.setattr(sys, "argv", [script, *words])
    assert runpy.run_path(str(JOBS / script))["main"]() == 1
    told = capsys.readouterr().err
    assert told.startswith("Error: no Ray cluster answers at 127.0.0.1:1")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "words"),
    [("scale.py", "--gpus=-1"), ("scale.py", "--minutes=nan"), ("score.py", "--cpus=-1"), ("score.py", "--gpus=nan")],
)
def test_amounts_that_cannot_be_are_refused(
    script: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script, words, "--output=/shared/scores.jsonl", "--workspace=/shared/team"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(JOBS / script))["main"]()
    assert ended.value.code == 2
    assert f"argument {words.partition('=')[0]}: invalid" in capsys.readouterr().err


def test_scoring_goes_where_work_goes_and_takes_a_remote_workspace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    asked: dict[str, Any] = {}

    class Task:
        def options(self, **options: Any) -> "Task":
            asked.update(options)
            return self

        def remote(self, arguments: list[str]) -> tuple[int, str, str]:
            asked["arguments"] = arguments
            return 0, "", ""

    main = runpy.run_path(str(JOBS / "score.py"))["main"]
    monkeypatch.setitem(
        main.__globals__, "ensure_ray", lambda: SimpleNamespace(nodes=(Node("id", "here", 2.0, 0.0, is_head=False),))
    )
    monkeypatch.setitem(main.__globals__, "work_labels", lambda: {"ray.io/node-id": "!head"})
    monkeypatch.setattr(ray, "remote", lambda _function: Task())
    monkeypatch.setattr(ray, "get", lambda done: done)
    words = [
        "--gpus",
        "1",
        "--data",
        "s3://bucket/new.jsonl",
        "--workspace",
        "s3://bucket/team",
        "--output",
        "/shared/scores.jsonl",
    ]
    monkeypatch.setattr(sys, "argv", ["score.py", *words])
    assert main() == 0
    assert capsys.readouterr().err.startswith("No node has 1 CPUs and 1 GPUs: waiting")
    assert asked["label_selector"] == {"ray.io/node-id": "!head"}
    assert asked["arguments"][asked["arguments"].index("--workspace") + 1] == "s3://bucket/team"


@pytest.mark.ray
def test_scores_are_written_by_a_task_and_errors_come_back(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "samples.jsonl"
    data.write_text("\n".join(json.dumps(sample) for sample in make_samples(20)))
    workspace = tmp_path / ".secauditai"
    model = str(make_bundle(tmp_path / "bundle").layout.root)
    script = runpy.run_path(str(JOBS / "score.py"))

    def score(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["score.py", *map(str, arguments)])
        return int(script["main"]())

    output = tmp_path / "scores.jsonl"
    common = ("--workspace", workspace, "--data", data, "--output", output)
    assert score("--model", model, *common) == 0
    assert len(output.read_text().splitlines()) == 40
    capfd.readouterr()
    assert score("--model", model, *common) == 1
    assert capfd.readouterr().err.startswith("Error: ")
    with pytest.raises(SystemExit) as ended:
        score("--model", model, "--workspace", workspace, "--data", data, "--output", "scores.jsonl")
    assert ended.value.code == 2


@pytest.mark.ray
def test_scaling_waits_for_what_is_there_and_gives_up(
    ray_cluster: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script = runpy.run_path(str(JOBS / "scale.py"))
    monkeypatch.setattr(sys, "argv", ["scale.py", "--cpus", "1"])
    assert script["main"]() == 0
    assert "CPU" in capfd.readouterr().out
    monkeypatch.setattr(sys, "argv", ["scale.py", "--cpus", "100000", "--minutes", "0"])
    assert script["main"]() == 1
    assert "still missing {'CPU': 100000}" in capfd.readouterr().err
    monkeypatch.setattr(sys, "argv", ["scale.py"])
    assert script["main"]() == 0


@pytest.mark.ray
def test_scaling_runs_a_command_and_ends_as_it_ended(ray_cluster: str) -> None:
    def scale(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, str(JOBS / "scale.py"), "--cpus", "1", *words]
        environment = {**os.environ, "RAY_ADDRESS": ray_cluster}
        return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)

    done = scale(sys.executable, "-c", "import sys; print('ran', sys.argv[1:]); sys.exit(7)", "--cpus", "9")
    assert done.returncode == 7, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["The", "ran", "The"]
    assert "ran ['--cpus', '9']" in done.stdout
    done = scale("/no/such/command")
    assert done.returncode == 127
    assert done.stderr == "Error: /no/such/command: No such file or directory\n"
