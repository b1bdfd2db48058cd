"""YAML of users: what is wrong is one line with its place."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secauditai.config.files import read_layer
from secauditai.config.reading import parse_yaml, read_yaml
from secauditai.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nepochs: 0b_\n", "c.yaml:2: not valid YAML: '0b_' is read as int and is none; quote it"),
        ("a: !!bool x\n", "c.yaml:1: not valid YAML: 'x' is read as bool"),
        ("a: !!int ''\n", "c.yaml:1: not valid YAML"),
        ("a: !!timestamp x\n", "c.yaml:1: not valid YAML"),
        ("a: !!map x\n", "c.yaml:1: not valid YAML"),
        ("a: " + "9" * 5000, "c.yaml:1: not valid YAML"),
        ("a:\n  - " + "[" * 5000, "c.yaml:2: not valid YAML: nested too deeply"),
        ("a: " + "{b: " * 5000, "c.yaml:1: not valid YAML: nested too deeply"),
        ("a: 1\nb: 2\na: 3\n", "c.yaml:3: not valid YAML: a is there twice"),
        ("s:\n  a: 1\n  'a': 2\n", "c.yaml:3: not valid YAML: a is there twice"),
        ("a: &x [1]\nb: *x\n", "c.yaml:2: not valid YAML: aliases are not allowed here"),
        ("a: 1\n---\nb: 2\n", "c.yaml:2: not valid YAML"),
        ("a: 1\nb: \x01\n", "c.yaml:2: not valid YAML: special characters are not allowed"),
        ("? [a]\n: 1\n", "c.yaml:1: not valid YAML: found unhashable key"),
    ],
)
def test_what_is_no_yaml_is_one_line_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed: 1\nepochs: many\n", "c.yaml:2: epochs: 'many' is not accepted"),
        ("optimization:\n  # how long\n  epochs: -3\n", "c.yaml:3: epochs: -3 is not accepted"),
        ("seed: 1\n\nlearning_rat: 1\n", "c.yaml:3: unknown setting 'learning_rat'. Did you mean learning_rate"),
        ("seed: 1\noptimization: 3\n", "c.yaml:2: optimization is a section"),
        ("epochs: 1\noptimization:\n  epochs: 2\n", "c.yaml:3: epochs is set twice"),
        ("learning_rate:\n  loguniform: [1, 0]\n", "c.yaml:1: learning_rate"),
    ],
)
def test_a_setting_that_is_refused_is_named_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_layer(path)
    assert told in str(caught.value)


def test_dates_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("data: 2024-13-45\n")
    assert read_layer(path) == {"data": "2024-13-45"}
    assert parse_yaml("[2024-01-01, 1, 1.5, null, on]") == ["2024-01-01", 1, 1.5, None, True]


@given(st.text(alphabet="ab01_.:- \n\t{}[]&*!?|>'\"%@x#,<", max_size=40))
def test_any_text_is_a_value_or_one_error(text: str) -> None:
    try:
        parse_yaml(text)
    except ConfigError as error:
        assert "\n" not in error.message
