"""A directory and an object store behave alike; an object store that is away for a while is asked again."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import S3Server, s3_server

from secauditai.errors import ClusterError
from secauditai.storage import Storage, open_storage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as found:
        found.create_bucket("shelf")
        yield found


@pytest.fixture(params=["directory", "s3"])
def storage(
    request: pytest.FixtureRequest, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Storage:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    place = f"s3://shelf/{tmp_path.name}" if request.param == "s3" else str(tmp_path / "store")
    return open_storage(place)


def test_files_come_back_as_they_went(storage: Storage, tmp_path: Path) -> None:
    storage.write_bytes("a/b.json", b"{}")
    assert storage.exists("a/b.json")
    assert not storage.exists("a")
    assert storage.read_bytes("a/b.json") == b"{}"
    (tmp_path / "big").write_bytes(os.urandom(9_000_000))
    storage.upload(tmp_path / "big", "a/big")
    storage.download("a/big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "big").read_bytes()
    assert [(file.key, file.size) for file in storage.files("a")] == [("a/b.json", 2), ("a/big", 9_000_000)]
    storage.delete(["a/big", "never/there"])
    assert [file.key for file in storage.files()] == ["a/b.json"]


def test_trees_arrive_with_their_manifest_last_and_go_with_it_first(storage: Storage, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    for name in ("manifest.json", "deep/x", "z"):
        (tree / name).write_text(name)
    order: list[str] = []
    real = storage.upload
    storage.upload = lambda path, key: (order.append(key), real(path, key))[1]  # type: ignore[method-assign, func-returns-value]
    storage.upload_tree(tree, "t")
    assert order[-1] == "t/manifest.json"
    assert storage.download_tree("t", tmp_path / "copy") == 3
    assert (tmp_path / "copy" / "deep" / "x").read_text() == "deep/x"
    storage.delete_tree("t")
    assert storage.files("t") == []
    assert storage.download_tree("t", tmp_path / "nothing") == 0


def test_what_is_missing_is_told_apart_from_what_fails(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("no")
    with pytest.raises(FileNotFoundError):
        storage.download("no", tmp_path / "no")
    assert list(tmp_path.glob(".no*")) == []
    assert storage.files("no") == []


def test_a_store_that_is_away_for_a_while_is_asked_again(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    storage = open_storage("s3://shelf/patient")
    server.process.send_signal(signal.SIGSTOP)
    threading.Timer(3.0, lambda: server.process.send_signal(signal.SIGCONT)).start()
    storage.write_bytes("x", b"1")
    assert storage.read_bytes("x") == b"1"


def test_a_store_that_stays_away_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, server: S3Server) -> None:
    for name, value in {**server.environment, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}.items():
        monkeypatch.setenv(name, value)
    storage = open_storage("s3://shelf/x")
    storage.patience = 0.0
    with pytest.raises(ClusterError, match=r"s3://shelf/x/y: the storage fails: .*AWS_ENDPOINT_URL"):
        storage.write_bytes("y", b"")


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("s3://key:secret@bucket/x", "must not hold credentials"),
        ("gs://bucket", "is no storage"),
        ("s3://", "no bucket"),
    ],
)
def test_wrong_addresses_are_named(address: str, told: str) -> None:
    with pytest.raises(ClusterError, match=told):
        open_storage(address)


def test_a_bucket_that_is_not_there_is_not_waited_for(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((ClusterError, FileNotFoundError)):
        open_storage("s3://nobody/x").write_bytes("y", b"")
