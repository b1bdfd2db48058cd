"""What the training commands make of names."""

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


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("base --class-weights balanced", "--class-weights does not apply to `train base`, which trains no head"),
        ("finetune --mlm-probability 0.3", "--mlm-probability is for `train base` alone"),
        ("finetune --focal-gamma 3", "--focal-gamma says nothing without --loss-function focal"),
        ("start --augment-variants 8", "--augment-variants says nothing without --augment."),
    ],
)
def test_a_flag_that_nothing_heeds_is_refused(cli: Cli, line: str, told: str) -> None:
    result = cli("train", *line.split(), "--data", "security_dataset", "--dry-run")
    assert result.code == 1
    assert told in result.err
