"""What `--address` may name."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from conftest import Cli

from secauditai.cli.options import address_option
from secauditai.cli.submit import ComputeCommand
from secauditai.errors import ConfigError
from secauditai.submission.addresses import resolve_target
from secauditai.submission.request import JobRequest, own_versions, read_request, version_differences, write_request


def clusters(workspace: Path, text: str) -> Path:
    workspace.mkdir(parents=True, exist_ok=True)
    (workspace / "clusters.yaml").write_text(text)
    return workspace


def test_urls_and_ray_addresses_need_no_file(workspace: Path) -> None:
    target = resolve_target("http://head:8265", workspace)
    assert (target.through_jobs, target.workspace) == (True, str(workspace))
    assert not resolve_target("auto", workspace).through_jobs
    assert not resolve_target("head:6379", workspace).through_jobs


def test_a_named_cluster_brings_its_workspace_and_tracking(workspace: Path) -> None:
    clusters(workspace, "lab:\n  address: http://head:8265\n  workspace: /mnt/w\n  tracking_uri: http://mlflow:5000\n")
    target = resolve_target("lab", workspace)
    assert (target.address, target.workspace, target.tracking_uri) == (
        "http://head:8265",
        "/mnt/w",
        "http://mlflow:5000",
    )
    with pytest.raises(ConfigError, match=r"no cluster 'lap'.*Did you mean lab"):
        resolve_target("lap", workspace)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- lab", "a mapping of cluster names"),
        ("lab: {}", "address: Field required"),
        ("lab: {address: x, token: t}", "token: Extra inputs"),
        ("lab: {address: 0b_}", "clusters.yaml:1: not valid YAML"),
        ("lab: {address: a:1}\nlab: {address: b:1}", "clusters.yaml:2: not valid YAML: lab is there twice"),
        ("a: &x {address: http://h:1}\nb: *x", "aliases are not allowed"),
        ("lab: {address: 'http://me:secret@head:8265'}", "must not hold credentials"),
        ("lab: {address: 'me:secret@head:6379', workspace: /w}", "must not hold credentials"),
        ("lab: {address: http://h:1}\nauto: {address: http://h:1}", "clusters.yaml:2: auto is an address"),
        ("lab: {address: 'head:6379', workspace: s3://b, tracking_uri: http://m}", "workspace and tracking_uri, which"),
        ("lab: {address: http://h:1, workspace: shared}", "shared, means another directory on each machine"),
    ],
)
def test_a_broken_file_is_one_clear_error(workspace: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        resolve_target("lab", clusters(workspace, text))


def test_credentials_of_the_environment_do_not_travel(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow:5000")
    assert resolve_target("http://head:8265", workspace).tracking_uri == "http://mlflow:5000"


def test_an_unreachable_cluster_is_one_line(cli: Cli) -> None:
    training = ["train", "finetune", "--data", "security_dataset"]
    for words, code, told in ((["jobs", "list"], 1, "no Ray Jobs API answers"), (training, 3, "nothing answers at")):
        result = cli(*words, "--address", "http://127.0.0.1:1")
        assert result.code == code
        assert told in result.err
        assert "Traceback" not in result.err


def test_a_command_of_one_process_cannot_attach(cli: Cli) -> None:
    result = cli("train", "evaluate", "--model", "m", "--address", "auto")
    assert result.code == 1
    assert "computes in one process" in result.err


def test_a_request_survives_and_other_versions_are_named(tmp_path: Path) -> None:
    from secauditai.storage import open_storage

    storage = open_storage(str(tmp_path))
    request = JobRequest(arguments=["train", "base"], takes_workspace=True, tracking_uri=None, versions=own_versions())
    write_request(storage, "j", request)
    assert read_request(storage, "j") == request
    assert version_differences(own_versions()) == []
    assert version_differences({"torch": "1.0"})[0].startswith("torch 1.0, here ")
    with pytest.raises(Exception, match="does not see what was written"):
        read_request(storage, "other")


def test_inside_a_ray_job_work_goes_to_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command(cls=ComputeCommand)
    @address_option
    def compute(address: str | None) -> None:
        click.echo(f"on {address}")

    assert CliRunner().invoke(compute, []).output == "on None\n"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert CliRunner().invoke(compute, []).output == "on auto\n"
    assert CliRunner().invoke(compute, ["--address", "head:6379"]).output == "on head:6379\n"
