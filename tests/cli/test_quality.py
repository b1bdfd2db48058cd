"""`validate --report`, `--json` and `--fail-on`: what is written, what is printed, and the exit codes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import Cli

from secauditai.data.dataset import Dataset, open_dataset, part_file, write_manifest, write_table

pytestmark = pytest.mark.slow
Write = Callable[..., Path]
VALIDATE = ("train", "validate", "--dataset", "samples.yaml")
CONFLICT = "- {id: x, code: same(), label: safe}\n- {id: y, code: same(), label: vulnerability}\n"


def test_a_report_is_written(cli: Cli, samples_yaml: Write, tmp_path: Path) -> None:
    samples_yaml()
    result = cli(*VALIDATE, "--report", "new/quality.html", "--max-length", 32)
    assert result.code == 0, result.err
    assert f"Wrote {tmp_path / 'new' / 'quality.html'}" in result.out
    text = (tmp_path / "new" / "quality.html").read_text(encoding="utf-8")
    assert "Quality of samples.yaml" in text
    assert "max_length</code> 32" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "samples.yaml"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["quality.html"]


def test_json_keeps_its_keys_and_has_stdout_for_itself(cli: Cli, samples_yaml: Write) -> None:
    samples_yaml()
    result = cli(*VALIDATE, "--report", "quality.html", "--json", "--fail-on", "leak")
    document = json.loads(result.out)
    assert {"ok", "read", "kept", "errors", "warnings", "labels", "findings", "quality", "report"} <= set(document)
    assert document["gates"] == {"fail_on": ["leak"], "failed": {}}
    assert document["quality"]["kept"] == 40
    assert document["quality"]["random_split"]["leaked"] >= 0.5
    assert "Wrote" in result.err
    assert "the data is not split" in result.err


def test_without_a_wish_no_report_is_measured(cli: Cli, samples_yaml: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    samples_yaml()
    monkeypatch.setattr("secauditai.data.material.open_material", None)
    result = cli(*VALIDATE)
    assert result.code == 0
    assert "40 of 40 samples are good" in result.out


def test_gates(cli: Cli, samples_yaml: Write) -> None:
    path = samples_yaml()
    assert cli(*VALIDATE, "--fail-on", "error,conflict,duplicate").code == 0
    assert cli(*VALIDATE, "--fail-on", "not_split").code == 3
    path.write_text(path.read_text(encoding="utf-8") + CONFLICT, encoding="utf-8")
    assert cli(*VALIDATE).code == 1
    result = cli(*VALIDATE, "--fail-on", "leak,conflict,rejected")
    assert result.code == 3
    assert "Failed the gate: conflict (2), rejected (2)\n" in result.err
    assert "leak found nothing to check: the data is not split" in result.err
    assert cli(*VALIDATE, "--fail-on", "small_class").code == 1  # no gate fires, the errors stay
    kept = cli(*VALIDATE, "--conflicts", "keep", "--fail-on", "conflict")
    assert kept.code == 3
    assert "conflict (2)" in kept.err
    assert cli(*VALIDATE, "--conflicts", "keep").code == 0


def test_gates_of_a_split_dataset(cli: Cli, samples_yaml: Write) -> None:
    samples_yaml()
    assert cli("train", "prepare", "--dataset", "samples.yaml", "--output", "d", "--no-near-duplicates").code == 0
    arguments = ("train", "validate", "--dataset", "d", "--fail-on")
    assert cli(*arguments, "leak").code == 0
    assert cli(*arguments, "leak,not_split").code == 3
    assert cli("train", "split", "--dataset", "d").code == 0
    assert cli(*arguments, "leak,not_split").code == 0


def move_into_test(dataset: Dataset, name: str) -> None:
    """Take a sample from train to test, as somebody would who edits a dataset and its manifest by hand."""
    tables = {split: dataset.table(split) for split in ("train", "test")}
    here = pc.equal(tables["train"].column("id"), name)
    moved = {
        "train": tables["train"].filter(pc.invert(here)),
        "test": pa.concat_tables([tables["test"], tables["train"].filter(here)]),
    }
    for split, table in moved.items():
        directory = dataset.layout.split(split)
        shutil.rmtree(directory)
        write_table(table, part_file(directory, 0))
    write_manifest(dataset.layout, {key: value for key, value in dataset.manifest.items() if key != "files"})


def test_a_leak_fails_the_gate(cli: Cli, tmp_path: Path) -> None:
    rows = [
        f"- {{id: {label}{n}, code: f{n}(), label: {label}}}\n"
        for n in range(20)
        for label in ("safe", "vulnerability")
    ]
    (tmp_path / "samples.yaml").write_text("samples:\n" + "".join(rows))
    keeping = ("--conflicts", "keep", "--no-near-duplicates")
    assert cli("train", "prepare", "--dataset", "samples.yaml", "--output", "d", *keeping).code == 0
    assert cli("train", "split", "--dataset", "d").code == 0
    gates = ("train", "validate", "--dataset", "d", "--fail-on", "leak,conflict", "--report", "q.html", "--json")
    clean = json.loads(cli(*gates).out)
    assert clean["gates"]["failed"] == {"conflict": 40}
    dataset = open_dataset(tmp_path / "d")
    move_into_test(dataset, dataset.table("train").column("id")[0].as_py())
    result = cli(*gates)
    assert result.code == 3
    document = json.loads(result.out)
    assert document["gates"]["failed"] == {"leak": 1, "conflict": 40}
    assert document["quality"]["leaks"]["findings"] == 1
    assert "shares a cluster with" in (tmp_path / "q.html").read_text(encoding="utf-8")


def test_both_halves_of_a_refused_pair_are_shown_with_their_own_code(cli: Cli, tmp_path: Path) -> None:
    """They stand in the same place of the file."""
    pair = {"func_name": "f", "func_src_before": "bad(x)\n", "func_src_after": "good(x)\n", "vul_type": "cwe-078"}
    pair |= {"line_changes": {"deleted": []}, "file_name": "f.py"}
    turned = {**pair, "func_src_before": "good(x)\n", "func_src_after": "bad(x)\n"}
    others = [{**pair, "func_src_before": f"a{n}(x)\n", "func_src_after": f"b{n}(x)\n"} for n in range(10)]
    lines = "".join(json.dumps(record) + "\n" for record in [pair, turned, *others])
    (tmp_path / "sven.jsonl").write_text(lines)
    result = cli("train", "validate", "--dataset", "sven.jsonl", "--json")
    examples = json.loads(result.out)["quality"]["duplicates"]["conflict_examples"]
    assert len(examples) == 3
    bad = ("sven_0_before", "sven_1_after")
    assert all(item["code"].strip() == ("bad(x)" if item["id"] in bad else "good(x)") for item in examples)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--seed", "3"], "--seed needs --report, --json or --fail-on"),
        (["--no-near-duplicates", "--similarity", "0.9"], "--near-duplicates, --similarity needs --report"),
        (["--max-rejected", "0.5"], "No such option"),
    ],
)
def test_settings_that_would_change_nothing_are_refused(
    cli: Cli, samples_yaml: Write, given: list[str], said: str
) -> None:
    samples_yaml()
    result = cli(*VALIDATE, *given)
    assert result.code == 2
    assert said in result.err


def test_settings_for_raw_data_are_refused_for_a_prepared_dataset(cli: Cli, samples_yaml: Write) -> None:
    samples_yaml()
    assert cli("train", "prepare", "--dataset", "samples.yaml", "--output", "d").code == 0
    result = cli("train", "validate", "--dataset", "d", "--json", "--strip-comments")
    assert result.code == 2
    assert "--strip-comments is about raw data, and d is prepared" in result.err


def test_every_finding_is_named_on_request(cli: Cli, tmp_path: Path) -> None:
    rows = [f"- {{id: s{n}, code: f{n}(), label: perhaps}}\n" for n in range(30)]
    (tmp_path / "samples.yaml").write_text("samples:\n" + "".join(rows))
    few, all_of_them = cli(*VALIDATE), cli(*VALIDATE, "--all-findings")
    assert (few.code, all_of_them.code) == (1, 1)
    assert "samples.yaml:31: sample s29" not in few.out
    assert "--all-findings names them" in few.out
    named = [line for line in all_of_them.out.splitlines() if "[bad_label]" in line]
    assert [line.split(" error: ")[0] for line in named] == [f"samples.yaml:{n + 2}: sample s{n}" for n in range(30)]


@pytest.mark.parametrize("kinds", ["leek", "leak,noize", ",", "Leak"])
def test_unknown_gates_are_wrong_usage(cli: Cli, samples_yaml: Write, kinds: str) -> None:
    samples_yaml()
    result = cli(*VALIDATE, "--fail-on", kinds)
    assert result.code == 2
    assert "leak" in result.err or "noise" in result.err
    assert "Traceback" not in result.err


def test_places_that_cannot_be_written(cli: Cli, samples_yaml: Write, tmp_path: Path) -> None:
    samples_yaml()
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    for place, code in (("folder", 2), ("file/quality.html", 1)):
        result = cli(*VALIDATE, "--report", place)
        assert result.code == code
        assert len([line for line in result.err.splitlines() if line.startswith("Error: ")]) == 1
        assert place.split("/", maxsplit=1)[0] in result.err
    assert list((tmp_path / "folder").iterdir()) == []


def test_data_without_good_samples_has_a_report(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "samples.yaml").write_text("samples:\n  - {id: a, label: safe}\n")
    assert cli(*VALIDATE, "--report", "quality.html").code == 1
    assert "no_code" in (tmp_path / "quality.html").read_text(encoding="utf-8")


def test_a_report_over_a_file_of_the_user_is_refused_before_any_work(
    cli: Cli, samples_yaml: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples_yaml()
    (tmp_path / "mine.html").write_text("<p>mine")
    monkeypatch.setattr("secauditai.data.material.open_material", None)
    result = cli(*VALIDATE, "--report", "mine.html")
    assert result.code == 1
    assert "no page of ours" in result.err
    assert (tmp_path / "mine.html").read_text() == "<p>mine"


def test_a_report_without_a_name_is_refused(cli: Cli, samples_yaml: Write) -> None:
    samples_yaml()
    result = cli(*VALIDATE, "--report", "")
    assert (result.code, result.err) == (1, "Error: the page has no name. Name a file, such as report.html.\n")
