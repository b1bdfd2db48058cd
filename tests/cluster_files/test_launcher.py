"""Ray's cluster launcher accepts the files, and nothing in them is open to the network."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_sources import CLUSTER, PROJECT
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

FILES = sorted((CLUSTER / "launcher").glob("*.yaml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_launcher_accepts_it(path: Path) -> None:
    validate_config(prepare_config(read(path)))


def test_the_schema_refuses_what_is_not_in_it() -> None:
    config = prepare_config(read(FILES[0]))
    with pytest.raises(ValidationError):
        validate_config({**config, "max_worker": 2})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_node_has_the_token_and_the_dashboard_stays_on_loopback(path: Path) -> None:
    config = read(path)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    starts = [config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "0.0.0.0" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_copied_is_there_and_installs_the_pinned_versions(path: Path) -> None:
    config = read(path)
    local = [source for source in config["file_mounts"].values() if not source.startswith("~")]
    assert {"pyproject.toml", "constraints.txt", "secauditai"} <= set(local)
    assert all((PROJECT / source).exists() for source in local)
    installs = [command for command in config["setup_commands"] if "pip install" in command]
    assert all("--constraint ~/secauditai/constraints.txt" in command for command in installs)
    assert installs


def test_aws_has_a_cpu_head_and_workers_on_demand_and_spot() -> None:
    config = read(CLUSTER / "launcher" / "aws.yaml")
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert all(kind["resources"]["GPU"] == 1 and kind["min_workers"] == 0 for kind in types.values())
    markets = [kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType") for kind in types.values()]
    assert sorted(map(str, markets)) == ["None", "spot"]
    assert sum(kind["max_workers"] for kind in types.values()) <= config["max_workers"]


def test_aws_nodes_are_in_a_group_of_the_users_own_and_ray_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.autoscaler._private.aws import config as aws

    config = read(CLUSTER / "launcher" / "aws.yaml")
    groups = [kind["node_config"]["SecurityGroupIds"] for kind in config["available_node_types"].values()]
    assert groups == [["sg-00000000000000000"]] * 3
    assert "security_group" not in config["provider"]
    monkeypatch.setattr(aws, "_upsert_security_groups", lambda *_: pytest.fail("Ray would make a group open to SSH"))
    assert aws._configure_security_group(copy.deepcopy(config)) == config
