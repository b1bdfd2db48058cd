"""What the data commands say to people."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Cli
from tiny_bundle import make_bundle


def test_replacing_a_split_dataset_says_that_its_splits_are_gone(cli: Cli, samples_yaml: Callable[..., Path]) -> None:
    words = ("train", "prepare", "--dataset", str(samples_yaml(30)), "--output", "data")
    assert "had splits" not in cli(*words).err
    assert cli("train", "split", "--dataset", "data").code == 0
    again = cli(*words, "--overwrite")
    assert again.code == 0
    assert "the dataset that was replaced had splits; this one has none yet" in again.err
    assert "Next: secauditai train split" in again.out


def test_prepare_tells_of_conflicts_it_keeps_and_refuses_flags_without_effect(
    cli: Cli, samples_yaml: Callable[..., Path]
) -> None:
    path = samples_yaml(5)
    torn = "".join(f"- {{id: {label}, code: 'p(1)', label: {label}}}\n" for label in ("safe", "vulnerability"))
    path.write_text(path.read_text() + torn)
    words = ("train", "prepare", "--dataset", str(path), "--output", "data")
    kept = cli(*words, "--conflicts", "keep")
    assert kept.code == 0
    assert "2 samples are kept although their code has both labels" in kept.err
    idle = cli(*words, "--overwrite", "--no-near-duplicates", "--similarity", 0.9)
    assert (idle.code, "--similarity says nothing without --near-duplicates" in idle.err) == (1, True)


def test_validate_says_what_a_prepared_dataset_left_out(cli: Cli, samples_yaml: Callable[..., Path]) -> None:
    path = samples_yaml(30)
    path.write_text(path.read_text() + "- {id: odd, code: x, label: dubious}\n")
    assert cli("train", "prepare", "--dataset", str(path), "--output", "data").code == 0
    told = cli("train", "validate", "--dataset", "data").out
    assert "60 of 61 samples are good" in told
    assert "Left out before: 1 refused (bad_label); " in told
    assert "rejected.jsonl lists the refused" in told
    path.write_text(path.read_text().rpartition("- ")[0] + "- {id: copy, code: same(), label: safe}\n" * 2)
    assert cli("train", "prepare", "--dataset", str(path), "--output", "data", "--overwrite").code == 0
    assert "Left out before: 1 merged as duplicates\n" in cli("train", "validate", "--dataset", "data").out


def test_data_without_a_name_is_not_the_current_directory(cli: Cli, samples_yaml: Callable[..., Path]) -> None:
    samples_yaml(5)
    for words in (("prepare", "--output", "data"), ("validate",)):
        ended = cli("train", *words, "--dataset", "")
        assert (ended.code, "no data is named" in ended.err) == (1, True)


def test_more_rejections_are_not_offered_where_nothing_is_kept(cli: Cli, samples_yaml: Callable[..., Path]) -> None:
    words = ("train", "prepare", "--dataset", str(samples_yaml(5)), "--output", "data", "--max-rejected", 1)
    ended = cli(*words, "--min-characters", 10_000)
    assert ended.code == 1
    assert ended.err.endswith("Mend them.\n")


def next_step(out: str) -> list[str]:
    return shlex.split(next(line for line in out.splitlines() if line.startswith("Next: ")))


@pytest.mark.slow
def test_what_to_do_next_can_be_pasted_into_a_shell(
    cli: Cli, samples_yaml: Callable[..., Path], tmp_path: Path
) -> None:
    samples_yaml(10, "my samples.yaml")
    make_bundle(tmp_path / "my model")
    missing = cli("train", "split", "--dataset", "my samples.yaml")
    assert "`secauditai train prepare --dataset 'my samples.yaml' --output training_data` makes one." in missing.err
    done = cli("train", "prepare", "--dataset", "my samples.yaml", "--output", "my data")
    assert next_step(done.out)[1:] == ["secauditai", "train", "split", "--dataset", "my data"]
    assert next_step(cli(*next_step(done.out)[2:]).out)[-2:] == ["--data", "my data"]
    told = cli("train", "evaluate", "--model", "my model", "--test-data", "my data", "--metrics", "f1")
    assert "--model 'my model' --output report.html" in told.out
    told = cli("train", "export", "--model", "my model", "--output", "my model.onnx")
    assert next_step(told.out)[-2:] == ["--model", "my model.onnx"]
