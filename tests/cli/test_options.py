"""Flags that are derived from the settings."""

import json

from conftest import Cli


def test_a_flag_unsets_what_a_configuration_says(cli: Cli) -> None:
    assert cli("train", "config", "create", "--name", "c", "--type", "transformer").code == 0
    assert cli("train", "config", "set", "c", "max_steps", 5, "gpu", 0, "augment", "yes").code == 0

    def shown(*flags: object) -> list[object]:
        settings = json.loads(cli("train", "config", "show", "c", *flags, "--json").out)["settings"]
        return [settings[name] for name in ("max_steps", "gpu", "augment", "model")]

    assert shown() == [5, "0", True, "transformer"]
    assert shown("--max-steps", "null", "--gpu", "none", "--no-augment") == [None, None, False, "transformer"]
    assert "max_steps: null  (flag)" in cli("train", "config", "show", "c", "--max-steps", "null").out
