"""What the training commands make of names."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Cli

from secauditai.cli.training import _own_name


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("transformer", "transformer"),
        ("codebert/1", "codebert"),
        ("codebert@champion", "codebert"),
        ("hub:microsoft/codebert-base", "codebert-base"),
        ("hub:gpt2", "gpt2"),
        ("./enc/", "enc"),
        ("/models/enc", "enc"),
        ("runs/7", "7"),
        (".", "here"),
    ],
)
def test_an_adapted_encoder_is_named_as_the_model_it_began_as(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, name: str
) -> None:
    (tmp_path / "here" / "runs" / "7").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert _own_name(model) == name


def test_a_name_that_is_none_tells_how_to_give_another(cli: Cli) -> None:
    for arguments in (("base", "--model", "./my enc"), ("finetune", "--name", "a b")):
        result = cli("train", *arguments, "--data", "security_dataset", "--dry-run")
        assert result.code == 1
        assert "is not a name" in result.err
        assert "Give one with --name." in result.err


def test_a_dry_run_of_base_shows_the_plan_and_makes_no_run(
    cli: Cli, samples_yaml: Callable[..., Path], workspace: Path
) -> None:
    samples_yaml(20)
    line = "train base --data samples.yaml --epochs 2 --batch-size 8 --max-length 64 --vocab-size 320 --threads 1"
    result = cli(*line.split(), "--dry-run", "--json")
    assert result.code == 0, result.err
    plan = json.loads(result.out)
    assert (plan["train_samples"], plan["steps_per_epoch"], plan["total_steps"]) == (32, 4, 8)
    assert 32 * 10 < plan["estimated_tokens_per_epoch"] == plan["estimated_tokens"] // 2 < 32 * 64
    assert plan["parameters"] > 100_000
    assert plan["estimated_memory_mib_per_worker"] > 0
    assert plan["devices"] == "cpu, in this process, 1 thread each"
    assert plan["writes_to"] == str(workspace / "runs" / "transformer")
    assert not (workspace / "runs").exists()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("base --class-weights balanced", "--class-weights does not apply to `train base`, which trains no head"),
        ("base --on-collapse stop", "--on-collapse does not apply to `train base`, which trains no head"),
        ("start --long-code truncate --stride 8", "--stride says nothing without --long-code windows"),
        ("start --on-spike stop --max-spikes 3", "--max-spikes says nothing without --on-spike warn or skip"),
        ("start --no-near-duplicates --similarity 0.9", "--similarity says nothing without --near-duplicates"),
        ("finetune --mlm-probability 0.3", "--mlm-probability is for `train base` alone"),
        ("finetune --focal-gamma 3", "--focal-gamma says nothing without --loss-function focal"),
        ("start --augment-variants 8", "--augment-variants says nothing without --augment."),
    ],
)
def test_a_flag_that_nothing_heeds_is_refused(cli: Cli, line: str, told: str) -> None:
    result = cli("train", *line.split(), "--data", "security_dataset", "--dry-run")
    assert result.code == 1
    assert told in result.err


def test_a_model_is_named_after_the_whole_name_of_its_configuration(
    cli: Cli, samples_yaml: Callable[..., Path], tmp_path: Path
) -> None:
    samples_yaml(20)
    assert cli("train", "config", "create", "--name", "v1.6").code == 0
    (tmp_path / "mine.1.yaml").write_text("model: transformer\n")
    for given, name in (("v1.6", "v1.6"), ("./mine.1.yaml", "mine.1")):
        line = f"train start --config {given} --data samples.yaml --batch-size 8 --max-length 64 --vocab-size 320"
        result = cli(*line.split(), "--dry-run", "--json")
        assert result.code == 0, result.err
        assert Path(json.loads(result.out)["writes_to"]).name == name
    result = cli("train", "tune", "--config", "v1.6", "--data", "samples.yaml")
    assert "v1.6 has no search space. For example `secauditai train config set v1.6 learning_rate" in result.err


@pytest.mark.parametrize("checkpoint", ["latest", "5", "best"])
def test_a_model_name_with_a_path_in_it_is_refused(cli: Cli, checkpoint: str) -> None:
    result = cli("train", "resume", "--model", "../other/m", "--checkpoint", checkpoint)
    assert result.code == 1
    assert "../other/m" in result.err
    assert "is not a name" in result.err
