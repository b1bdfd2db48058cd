"""What `split` takes and says."""

from collections.abc import Callable
from pathlib import Path

from conftest import Cli

from secauditai.cli.data import split
from secauditai.data.dataset import open_dataset
from secauditai.data.readers.layouts import KEPT_KEYS


def test_ways_without_ratios_refuse_them(cli: Cli, samples_yaml: Callable[..., Path]) -> None:
    assert cli("train", "prepare", "--dataset", str(samples_yaml(30)), "--output", "data").code == 0
    ended = cli("train", "split", "--dataset", "data", "--folds", 3, "--train", 0.8, "--test", 0.1)
    assert ended.code == 1
    assert "Error: --train, --test cannot be combined with --folds" in ended.err
    ended = cli("train", "split", "--dataset", "data", "--predefined", "--val", 0.1)
    assert ended.code == 1
    assert "Error: --val cannot be combined with --predefined" in ended.err
    ended = cli("train", "split", "--dataset", "data", "--folds", 3, "--train", 0.5)
    assert "Error: --train cannot be combined with --folds" in ended.err
    for way in (("--by-time", "time"), ("--predefined",)):
        ended = cli("train", "split", "--dataset", "data", *way, "--seed", 3)
        assert f"Error: --seed cannot be combined with {way[0]}" in ended.err
    assert "--by-time names no metadata field" in cli("train", "split", "--dataset", "data", "--by-time", "").err
    assert not open_dataset(Path("data")).splits()


def test_folds_lead_to_a_training_with_as_many(cli: Cli, samples_yaml: Callable[..., Path]) -> None:
    assert cli("train", "prepare", "--dataset", str(samples_yaml(30)), "--output", "data").code == 0
    ended = cli("train", "split", "--dataset", "data", "--folds", 50)
    assert "30 clusters cannot be split into fold_0, …, fold_49" in ended.err
    ended = cli("train", "split", "--dataset", "data", "--folds", 3)
    assert ended.code == 0
    training = "Next: secauditai train finetune --model transformer --data data --folds 3\n"
    assert training in ended.out
    assert training in cli("train", "validate", "--dataset", "data").out
    assert "fold_0: 20 samples (33.3%; 10 safe, 10 vulnerability)" in ended.out
    ended = cli("train", "split", "--dataset", "data", "--train", 0.8, "--val", 0, "--test", 0.2)
    assert ended.code == 0
    assert "Next" not in ended.out  # training needs a val split


def test_the_seed_is_the_setting(cli: Cli, samples_yaml: Callable[..., Path]) -> None:
    assert cli("train", "prepare", "--dataset", str(samples_yaml(30)), "--output", "data").code == 0
    for seed in ("-1", 2**31):
        ended = cli("train", "split", "--dataset", "data", "--seed", seed)
        assert ended.code == 2
        assert f"seed: '{seed}' is not accepted" in ended.err
    assert cli("train", "split", "--dataset", "data", "--seed", 2**31 - 1).code == 0
    assert open_dataset(Path("data")).manifest["splits"]["seed"] == 2**31 - 1


def test_the_help_of_by_time_names_the_field_that_readers_write() -> None:
    option = next(param for param in split.params if param.name == "by_time")
    assert "such as time." in str(option.to_info_dict()["help"])
    assert "commit_date" in KEPT_KEYS["time"]


def test_an_older_dataset_that_is_none_is_told(cli: Cli, samples_yaml: Callable[..., Path]) -> None:
    path = samples_yaml(30)
    assert cli("train", "prepare", "--dataset", str(path), "--output", "data").code == 0
    assert "not a prepared dataset" in cli("train", "split", "--dataset", "data", "--extend", str(path)).err
