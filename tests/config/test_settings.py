from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secauditai.config.files import (
    NamedConfigs,
    merge_layers,
    parse_layer,
    read_layer,
    resolve_config,
    spaces_of,
    write_layer,
)
from secauditai.config.leaves import find_leaf, leaves, sections
from secauditai.errors import ConfigError


def test_leaf_names_are_unique_and_differ_from_sections() -> None:
    names = [name for model in sections().values() for name in model.model_fields]
    assert len(names) == len(set(names)) == len(leaves())
    assert not set(names) & set(sections())


def test_every_leaf_has_help_and_accepts_its_default() -> None:
    for leaf in leaves().values():
        assert leaf.help.endswith(".")
        if leaf.default is not None:
            assert leaf.parse(leaf.default) == leaf.default


@pytest.mark.parametrize("key", ["learning_rate", "learning-rate", "optimization.learning_rate"])
def test_one_setting_has_three_spellings(key: str) -> None:
    assert find_leaf(key).name == "learning_rate"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("gpu", 0, "0"),
        ("num_workers", "auto", "auto"),
        ("num_workers", "2", 2),
        ("num_workers", "2-4", "2-4"),
        ("max_steps", "null", None),
        ("augment", "yes", True),
        ("class_weights", "none", "none"),
    ],
)
def test_text_becomes_the_declared_type(key: str, value: object, expected: object) -> None:
    assert find_leaf(key).parse(value) == expected


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("epochs", True, "booleans"),
        ("epochs", "3.5", "epochs"),
        ("dropout", 2, "dropout"),
        ("optimizer", "adamx", "adamw"),
        ("learning_rate", "nan", "learning_rate"),
        ("gradient_clip", "inf", "gradient_clip"),
        ("gpu", "zero", "gpu"),
    ],
)
def test_bad_values_are_refused_with_the_key_named(key: str, value: object, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        find_leaf(key).parse(value, where="file.yaml")


def test_unknown_keys_get_a_suggestion_or_the_command_that_lists_them() -> None:
    with pytest.raises(ConfigError, match="Did you mean learning_rate"):
        find_leaf("learning_rat")
    with pytest.raises(ConfigError, match="config show --help` lists them all"):
        find_leaf("zzz")


def test_layers_combine_with_later_ones_winning() -> None:
    config = resolve_config({"epochs": 4, "batch_size": 8}, {"epochs": 5})
    assert (config.optimization.epochs, config.optimization.batch_size) == (5, 8)


@given(st.lists(st.dictionaries(st.sampled_from(["epochs", "batch_size", "seed"]), st.integers(1, 100)), max_size=5))
def test_merging_is_associative_and_the_last_layer_wins(layers: list[dict[str, int]]) -> None:
    merged = merge_layers(*layers)
    assert merged == (merge_layers(merge_layers(*layers[:2]), *layers[2:]))
    for name, value in merged.items():
        assert value == next(layer[name] for layer in reversed(layers) if name in layer)


def test_contradictions_name_the_flag() -> None:
    with pytest.raises(ConfigError, match="--stride"):
        resolve_config({"max_length": 64, "stride": 60})


def test_search_spaces_are_kept_apart_and_only_tune_runs_them() -> None:
    layer = parse_layer({"optimization": {"learning_rate": {"loguniform": ["1e-6", 1e-3]}}, "epochs": 2})
    assert spaces_of(layer)["learning_rate"].values == (1e-6, 1e-3)
    with pytest.raises(ConfigError, match="train tune"):
        resolve_config(layer)
    assert resolve_config(layer, allow_spaces=True).optimization.epochs == 2


@pytest.mark.parametrize(
    "space",
    [
        {"uniform": [1]},
        {"uniform": [3, 1]},
        {"lognormal": [0, 1]},
        {"choice": []},
        {"uniform": [0, 1], "choice": [1]},
        {},
        {"int": [0.1, 0.5]},
    ],
)
def test_bad_search_spaces_are_refused(space: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="dropout"):
        parse_layer({"dropout": space})


def test_whole_bounds_stay_whole_numbers() -> None:
    values = spaces_of(parse_layer({"gradient_clip": {"int": [1, "5"]}}))["gradient_clip"].values
    assert [type(value) for value in values] == [int, int]
    with pytest.raises(ConfigError, match="int needs whole bounds; use uniform"):
        parse_layer({"gradient_clip": {"int": [1, 5.5]}})


def test_a_layer_survives_the_file(tmp_path: Path) -> None:
    layer = parse_layer({"learning_rate": {"choice": [1e-4, 1e-3]}, "epochs": 7, "data": "no"})
    write_layer(tmp_path / "c.yaml", layer)
    assert read_layer(tmp_path / "c.yaml") == layer
    write_layer(tmp_path / "c.yaml", {})
    assert read_layer(tmp_path / "c.yaml") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: [", "c.yaml:1"),
        ("a: &x 1\nb: *x\n", "aliases"),
        ("- 1\n", "mapping"),
        ("", "holds no settings"),
        ("# nothing\n", "holds no settings"),
        ("epochs: 1\noptimization: {epochs: 2}\n", "twice"),
        ("epochs: !!python/object:os.system x\n", "not valid YAML"),
        ("optimization: 3\n", "section"),
    ],
)
def test_bad_files_are_refused_with_their_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_layer(tmp_path / "c.yaml")


def test_named_configurations(tmp_path: Path) -> None:
    configs = NamedConfigs(tmp_path)
    configs.create("mine", {"model": "transformer"})
    assert configs.change("mine", {"epochs": 3}) == {"model": "transformer", "epochs": 3}
    assert configs.names() == ["mine"]
    with pytest.raises(ConfigError, match="exists already"):
        configs.create("mine", {})
    with pytest.raises(ConfigError, match="Did you mean mine"):
        configs.read("mone")
    configs.delete("mine")
    assert configs.names() == []


def test_a_file_named_by_its_path_is_changed_in_place_and_not_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("epochs: 2\n")
    configs = NamedConfigs(tmp_path / "workspace")
    assert configs.change("mine.yaml", {"batch_size": 8}) == {"epochs": 2, "batch_size": 8}
    assert configs.read("mine.yaml") == {"epochs": 2, "batch_size": 8}
    assert configs.names() == []
    with pytest.raises(ConfigError, match="a file of yours"):
        configs.delete("mine.yaml")
    assert Path("mine.yaml").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 65, "a b"])
def test_names_with_a_path_in_them_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is not a name"):
        NamedConfigs(tmp_path).create(name, {})
