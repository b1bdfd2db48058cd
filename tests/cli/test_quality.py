"""`validate --report`, `--json` and `--fail-on`: what is written, what is printed, and the exit codes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Cli

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
    result = cli("train", "validate", "--dataset", "d", "--fail-on", "leak,conflict", "--report", "q.html", "--json")
    assert result.code == 3
    document = json.loads(result.out)
    assert document["gates"]["failed"]["leak"] == document["quality"]["leaks"]["findings"] > 0
    assert document["gates"]["failed"]["conflict"] == 40
    assert "shares code with" in (tmp_path / "q.html").read_text(encoding="utf-8")


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
