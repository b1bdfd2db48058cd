"""Every mistake of a user is one clear line, the documented exit code, no traceback, and nothing half-written."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Cli

Write = Callable[..., Path]


def refused(result: object, code: int, *words: str) -> None:
    out, err = result.out, result.err  # type: ignore[attr-defined]
    assert result.code == code, (out, err)  # type: ignore[attr-defined]
    assert "Traceback" not in out + err
    errors = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, err
    for word in words:
        assert word in errors[0], errors[0]


BAD_FILES = {
    "empty": (b"", "is empty"),
    "not_utf8": (b"samples:\n  - id: \xff\n", ":2: not UTF-8"),
    "utf16": ("samples: [{id: a, code: x, label: safe}]\n".encode("utf-16"), "not UTF-8 text but UTF-16"),
    "tabs": (b"samples:\n\t- id: a\n", "tabs"),
    "no_samples": (b"things: []\n", "`samples:` is missing"),
    "mapping": (b"samples:\n  a: 1\n", "not a mapping"),
    "no_code": (b"samples:\n  - {id: a, label: safe}\n", "'code' is missing"),
    "label": (b"samples:\n  - {id: a, code: x, label: dubious}\n", "safe, vulnerability"),
    "ids": (b"samples:\n  - {id: a, code: x, label: safe}\n  - {id: a, code: y, label: safe}\n", "the id is taken"),
    "tag": (b"samples:\n  - !!python/object/apply:os.system [id]\n", "not allowed"),
    "bomb": (
        b"a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
        b"d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e]\nsamples: []\n",
        "aliases stand for more",
    ),
    "no_list": (b"samples: []\n", "no samples"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize("command", ["prepare", "finetune"])
def test_bad_files(cli: Cli, tmp_path: Path, kind: str, command: str) -> None:
    data, words = BAD_FILES[kind]
    (tmp_path / "bad.yaml").write_bytes(data)
    if command == "prepare":
        result = cli("train", "prepare", "--dataset", "bad.yaml", "--output", "out")
    else:
        result = cli("train", "finetune", "--data", "bad.yaml")
    refused(result, 1, words)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".secauditai" / "runs").exists()


def test_missing_file(cli: Cli, tmp_path: Path) -> None:
    refused(cli("train", "prepare", "--dataset", "nowhere.yaml", "--output", "out"), 1, "does not exist")
    refused(cli("train", "validate", "--dataset", "nowhere"), 1, "does not exist")
    refused(cli("train", "split", "--dataset", "nowhere"), 1, "not a prepared dataset")


def test_validate_lists_every_finding_and_exits_with_1(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("samples:\n  - {id: a, label: safe}\n  - {id: b, code: x, label: safe}\n")
    result = cli("train", "validate", "--dataset", "bad.yaml")
    assert result.code == 1
    assert "bad.yaml:2: sample a error: 'code' is missing [no_code]" in result.out
    assert "no sample is labelled vulnerability" in result.out


def test_ratios(cli: Cli, samples_yaml: Write) -> None:
    samples_yaml()
    assert cli("train", "prepare", "--dataset", "samples.yaml", "--output", "d").code == 0
    refused(cli("train", "split", "--dataset", "d", "--train", "0.8", "--val", "0.3"), 1, "--train 0.8 --val 0.3")


def test_occupied_output(cli: Cli, samples_yaml: Write, tmp_path: Path) -> None:
    samples_yaml()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    refused(cli("train", "prepare", "--dataset", "samples.yaml", "--output", "out"), 1, "not a dataset of ours")
    assert (tmp_path / "out" / "mine.txt").read_text() == "x"


def test_unknown_names(cli: Cli, samples_yaml: Write) -> None:
    samples_yaml()
    refused(cli("train", "finetune", "--data", "samples.yaml", "--model", "codebrt"), 1, "codebert")
    refused(cli("train", "finetune", "--data", "samples.yaml", "--task", "detection"), 2, "vulnerability_detection")
    refused(cli("train", "evaluate", "--model", "nothing", "--test-data", "samples.yaml"), 1, "nothing")
    refused(cli("train", "evaluate", "--model", "x", "--metrics", "acuracy"), 1, "Did you mean accuracy")
    refused(cli("train", "evaluate", "--model", "x", "--min", "acuracy=1"), 1, "--min", "Did you mean accuracy")
    refused(cli("train", "finetune", "--data", "samples.yaml", "--learning-rat", "1"), 2, "--learning-rate")
    refused(cli("train", "monitor", "--model", "nothing"), 1, "no run of 'nothing'")
    refused(cli("train", "resume", "--model", "nothing"), 1, "no run of 'nothing'")
    refused(cli("train", "start"), 1, "--config", "--data")
    refused(cli("train", "start", "--config", "nothing", "--data", "samples.yaml"), 1, "no configuration 'nothing'")


def test_configurations(cli: Cli) -> None:
    refused(cli("train", "config", "create", "--name", "../evil", "--type", "transformer"), 1, "is not a name")
    refused(cli("train", "config", "create", "--name", "c", "--type", "transfomer"), 1, "transformer")
    assert cli("train", "config", "create", "--name", "c", "--type", "transformer").code == 0
    refused(cli("train", "config", "create", "--name", "c", "--type", "transformer"), 1, "exists already")
    refused(cli("train", "config", "set", "c", "learning_rat", "1"), 1, "learning_rate")
    refused(cli("train", "config", "set", "c", "epochs", "many"), 1, "epochs", "whole number")
    refused(cli("train", "config", "set", "c", "epochs"), 1, "has no value")
    refused(cli("train", "config", "set", "c", "gradient_clip", "-1"), 1, "gradient_clip: '-1' is not accepted")
    refused(cli("train", "config", "set", "c", "epochs", "2", "learning_rate", "-1e-4"), 1, "learning_rate: '-1e-4'")
    for words in (("--foo",), ("--foo", "1"), ("epochs", "1", "--epochs", "2"), ("epochs", "--foo")):
        refused(cli("train", "config", "set", "c", *words), 2, "No such option", "--")
    refused(cli("train", "config", "set", "c", "dropout", "{uniform: [0.5, 0.1]}"), 1, "dropout")
    refused(cli("train", "config", "set", "c", "learning_rate", "{choice: [2024-13-45]}"), 1, "2024-13-45")
    refused(cli("train", "config", "set", "c", "learning_rate", "{choice: [0b_]}"), 1, "'0b_' is read as int")
    refused(cli("train", "config", "set", "c", "learning_rate", "{choice: " + "[" * 2000), 1, "nested too deeply")
    refused(cli("train", "config", "show", "../c"), 1, "is not a name")
    for missing in ("configs/nope.yaml", "nope.yml"):
        refused(cli("train", "config", "show", missing), 1, f"{missing}: there is no such file")
        refused(cli("train", "start", "--config", missing, "--data", "x"), 1, f"{missing}: there is no such file")
    refused(cli("train", "config", "set", "c", "epochs", "3", "optimization.epochs", "4"), 1, "epochs is set twice")
    for model in ("nonsense/none", "{choice: [transformer, nonsense/none]}"):
        refused(cli("train", "config", "set", "c", "model", model), 1, "unknown model type 'nonsense/none'", "hub:ID")
    for model in ("mine", "mine/3", "mine@champion", "hub:org/name", "codebert"):
        assert cli("train", "config", "set", "c", "model", model).code == 0
    assert cli("train", "config", "create", "--name", "v1.yaml").code == 0
    assert cli("train", "config", "show", "v1.yaml").code == 0


def test_sizes_of_pretrained_encoders_are_fixed(cli: Cli, samples_yaml: Write, tiny_hub: Path) -> None:
    samples_yaml()
    arguments = ("train", "finetune", "--data", "samples.yaml", "--model", "codebert", "--model-size", "large")
    refused(cli(*arguments), 1, "model_size large does not apply")


def test_encoders_that_are_not_cached(cli: Cli, samples_yaml: Write, tiny_hub: Path) -> None:
    samples_yaml()
    result = cli("train", "finetune", "--data", "samples.yaml", "--model", "unixcoder")
    refused(result, 1, "HF_HUB_CACHE", "--model PATH", "--model transformer")


def test_files_that_are_no_onnx(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_text("hello")
    refused(cli("train", "verify", "--model", "a.onnx"), 1, "not an ONNX file")
    (tmp_path / "b.onnx").write_bytes(b"")
    refused(cli("train", "verify", "--model", "b.onnx"), 1, "not an ONNX file")
    for name in ("a.json", "a.textproto"):  # onnx would read these as text
        (tmp_path / name).write_text('{"code":')
        refused(cli("train", "verify", "--model", name), 1, "not an ONNX file")
    refused(cli("train", "verify", "--model", "c.onnx"), 1, "no such file")


def test_one_label_only_cannot_be_learnt(cli: Cli, tmp_path: Path) -> None:
    lines = "".join(f"  - {{id: s{i}, code: 'x = {i}', label: safe}}\n" for i in range(20))
    (tmp_path / "s.yaml").write_text("samples:\n" + lines)
    refused(cli("train", "finetune", "--data", "s.yaml"), 1, "all training samples have the same label")


@pytest.mark.parametrize(
    "ratios",
    [
        ("--train", "nan"),
        ("--train", "-1", "--val", "1", "--test", "1"),
        ("--train", "2", "--val", "-1", "--test", "0"),
    ],
)
def test_ratios_that_are_none(cli: Cli, samples_yaml: Write, ratios: tuple[str, ...]) -> None:
    samples_yaml()
    assert cli("train", "prepare", "--dataset", "samples.yaml", "--output", "d").code == 0
    refused(cli("train", "split", "--dataset", "d", *ratios), 1, "each must be between 0 and 1")


def test_occupied_outputs_of_every_command_that_writes(cli: Cli, samples_yaml: Write, tmp_path: Path) -> None:
    samples_yaml()
    prepare = ("train", "prepare", "--dataset", "samples.yaml", "--output")
    assert cli(*prepare, "d").code == 0
    before = (tmp_path / "d" / "manifest.json").read_bytes()
    refused(cli(*prepare, "d"), 1, "the output exists", "--overwrite")
    refused(cli(*prepare, "samples.yaml"), 1, "not a dataset of ours")
    refused(cli(*prepare, "samples.yaml/d"), 1, "cannot be written")
    assert (tmp_path / "d" / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "samples.yaml"]


def test_a_full_disk_is_one_line(
    cli: Cli, samples_yaml: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples_yaml()

    def write_table(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("secauditai.data.prepare.write_table", write_table)
    refused(cli("train", "prepare", "--dataset", "samples.yaml", "--output", "d"), 1, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["samples.yaml"]


@pytest.mark.parametrize("name", [".", "../here"])
def test_the_current_directory_is_not_replaced(
    cli: Cli, samples_yaml: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path, here = samples_yaml(), tmp_path / "here"
    prepare = ("train", "prepare", "--dataset", path, "--output")
    here.mkdir()
    monkeypatch.chdir(here)
    refused(cli(*prepare, name), 1, f"{name}: this would replace the current directory", "from elsewhere")
    refused(cli(*prepare, "..", "--overwrite"), 1, "not a dataset of ours")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["here", "samples.yaml"]
    monkeypatch.chdir(tmp_path)
    assert cli(*prepare, "here").code == 0
    monkeypatch.chdir(here)
    before = (here / "manifest.json").read_bytes()
    refused(cli(*prepare, name, "--overwrite"), 1, "this would replace the current directory")
    refused(cli("train", "split", "--dataset", name), 1, "this would replace the current directory")
    monkeypatch.chdir(here / "samples")
    refused(cli(*prepare, "..", "--overwrite"), 1, "..: this would replace the current directory")
    assert (here / "manifest.json").read_bytes() == before


def test_what_an_output_is_called_does_not_matter(cli: Cli, samples_yaml: Write, tmp_path: Path) -> None:
    prepare = ("train", "prepare", "--dataset", samples_yaml(), "--output")
    assert cli(*prepare, "out").code == 0
    again = cli(*prepare, "out/samples/..", "--overwrite")
    assert again.code == 0, again.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "samples.yaml"]
