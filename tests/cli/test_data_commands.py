"""What the data commands say to people."""

from collections.abc import Callable
from pathlib import Path

from conftest import Cli


def test_replacing_a_split_dataset_says_that_its_splits_are_gone(cli: Cli, samples_yaml: Callable[..., Path]) -> None:
    words = ("train", "prepare", "--dataset", str(samples_yaml(30)), "--output", "data")
    assert "had splits" not in cli(*words).err
    assert cli("train", "split", "--dataset", "data").code == 0
    again = cli(*words, "--overwrite")
    assert again.code == 0
    assert "the dataset that was replaced had splits; this one has none yet" in again.err
    assert "Next: secauditai train split" in again.out


def test_validate_says_what_a_prepared_dataset_left_out(cli: Cli, samples_yaml: Callable[..., Path]) -> None:
    path = samples_yaml(30)
    path.write_text(path.read_text() + "- {id: odd, code: x, label: dubious}\n")
    assert cli("train", "prepare", "--dataset", str(path), "--output", "data").code == 0
    told = cli("train", "validate", "--dataset", "data").out
    assert "60 of 61 samples are good" in told
    assert "Left out before: 1 refused (bad_label); " in told
    assert "rejected.jsonl lists the refused" in told
