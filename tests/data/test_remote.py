"""`s3://` against a server process on loopback, with the real client."""

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import yaml
from conftest import Cli, make_samples
from s3_server import SECRET, S3Server, s3_server

from secauditai.data.dataset import open_dataset
from secauditai.data.prepare import prepare
from secauditai.data.remote import list_remote
from secauditai.errors import DataError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as found:
        yield found


@pytest.fixture
def bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="code")
    samples = make_samples(20)
    half = len(samples) // 2
    client.put_object(Bucket="code", Key="in/a.yaml", Body=yaml.safe_dump({"samples": samples[:half]}).encode())
    client.put_object(Bucket="code", Key="in/deep/b.json", Body=json.dumps(samples[half:]).encode())
    client.put_object(Bucket="code", Key="in/notes.txt", Body=b"no data")
    client.put_object(Bucket="code", Key="in/bad.csv.gz", Body=b"not gzip")
    return "code"


def test_prefixes_objects_and_globs(bucket: str) -> None:
    def names(spec: str) -> list[str]:
        return [item.path for item in list_remote(spec).files]

    assert names("s3://code/in") == ["code/in/a.yaml", "code/in/bad.csv.gz", "code/in/deep/b.json"]
    assert names("s3://code/in/a.yaml") == ["code/in/a.yaml"]
    assert names("s3://code/in/*.yaml") == ["code/in/a.yaml"]
    with pytest.raises(DataError, match="holds no data files"):
        names("s3://code/elsewhere")
    with pytest.raises(DataError, match="must not hold credentials"):
        names("s3://key:word@code/in")


def test_remote_data_is_prepared_as_local_data(bucket: str, tmp_path: Path) -> None:
    samples = make_samples(20)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"samples": samples}))
    local = prepare(str(tmp_path / "a.yaml"), tmp_path / "local")
    prepare("s3://code/in/[ad]*", tmp_path / "remote")
    remote = open_dataset(tmp_path / "remote")
    assert remote.content_hash == local.dataset.content_hash
    files = remote.manifest["source"]["files"]
    assert [item["path"] for item in files] == ["s3://code/in/a.yaml", "s3://code/in/deep/b.json"]
    assert not [path for path in tmp_path.rglob("*") if "staging" in path.name]
    written = b"".join(path.read_bytes() for path in (tmp_path / "remote").rglob("*") if path.is_file())
    assert SECRET.encode() not in written


def test_errors_name_the_address(bucket: str, cli: Cli, tmp_path: Path) -> None:
    result = cli("train", "validate", "--dataset", "s3://code/in/bad.csv.gz")
    assert result.code == 1
    assert "s3://code/in/bad.csv.gz" in result.err
    missing = cli("train", "prepare", "--dataset", "s3://nobody/in", "--output", "out")
    assert missing.code == 1
    assert "s3://nobody/in" in missing.err
    assert not (tmp_path / "out").exists()


def test_training_commands_open_remote_data(bucket: str, cli: Cli) -> None:
    result = cli("train", "finetune", "--data", "s3://code/in/[ad]*", "--model", "transformer", "--dry-run", "--json")
    assert result.code == 0, result.err
