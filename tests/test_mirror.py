"""What one machine leaves in a remote workspace another finds there, whole or not at all."""

import json
import os
from pathlib import Path

import pytest
from conftest import Cli
from filelock import FileLock
from machines import Machines
from s3_server import SECRET, s3_server

from secauditai.config.files import NamedConfigs
from secauditai.errors import ClusterError, RunError
from secauditai.files import write_json
from secauditai.mirror import (
    address_of,
    fetch,
    located,
    mirror_of,
    open_mirror,
    open_mirror_once,
    portable,
    send,
    withdraw,
)
from secauditai.runs import create_run, fetch_history, list_runs, newest_run, open_run
from secauditai.storage import open_storage

pytestmark = pytest.mark.slow


def write_tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_runs_and_configurations_are_seen_and_gone_everywhere(machines: Machines) -> None:
    here = machines.open("one")
    NamedConfigs(here).create("mine", {"epochs": 3})
    run = create_run(here, "m", kind="finetune", task="multi_task", dataset=str(here / "cache/datasets/d"))
    there = machines.open("two")
    assert there != here
    assert NamedConfigs(there).read("mine") == {"epochs": 3}
    (seen,) = list_runs(there)
    assert seen.info.run_id == run.info.run_id
    assert seen.info.dataset == str(there / "cache/datasets/d")
    assert open_run(run.root).info.dataset == str(here / "cache/datasets/d")
    NamedConfigs(there).change("mine", {"epochs": 4})
    withdraw(seen.root)
    os.utime(run.layout.info, (0, 0))  # not one that is just being sent
    assert machines.open("one") == here
    assert NamedConfigs(here).read("mine") == {"epochs": 4}
    assert list_runs(here) == []
    with pytest.raises(RunError, match=f"no run of 'm' in {machines.address}"):
        newest_run(here, "m")
    NamedConfigs(here).delete("mine")
    os.utime(NamedConfigs(there).path("mine"), (0, 0))
    assert NamedConfigs(machines.open("two")).names() == []


def test_a_tree_is_brought_once_and_never_by_half(machines: Machines) -> None:
    here = machines.open("one")
    tree = write_tree(here / "cache/t", **{"a": "1", "deep/b": "2", "manifest.json": "{}"})
    send(tree)
    storage = open_storage(machines.address)
    there = machines.open("two") / "cache/t"
    fetch(there)
    assert (there / "deep/b").read_text() == "2"
    storage.write_bytes("cache/t/a", b"later")
    fetch(there)
    assert (there / "a").read_text() == "1"
    (tree / "manifest.json").write_text('{"other": 1}')
    send(tree)
    assert storage.read_bytes("cache/t/a") == b"1"
    storage.delete(["cache/t/manifest.json"])
    third = machines.open("three") / "cache"
    mirror = mirror_of(third)
    assert mirror is not None
    assert mirror.trees(third) == set()
    assert mirror.trees(third, whole=False) == {"t"}


def test_files_without_manifest_are_added_to(machines: Machines) -> None:
    here = machines.open("one")
    notes = write_tree(here / "notes", **{"a": "1", ".half.partial": "x"})
    send(notes)
    there = machines.open("two") / "notes"
    fetch(there)
    write_tree(there, b="22")
    send(there)
    fetch(notes)
    assert {path.name for path in notes.iterdir()} == {"a", "b", ".half.partial"}
    assert [file.key for file in open_storage(machines.address).files("notes")] == ["notes/a", "notes/b"]


def test_paths_hold_on_every_machine(machines: Machines, tmp_path: Path) -> None:
    here = machines.open("one")
    assert portable(str(here / "cache/t"), here / "x.json") == "cache/t"
    assert portable("/elsewhere/t", here / "x.json") == "/elsewhere/t"
    assert located("cache/t", here / "x.json") == str(here / "cache/t")
    assert address_of(here / "runs/m") == f"{machines.address}/runs/m"
    assert address_of(here) == machines.address
    local = tmp_path / "local"
    assert portable(str(local / "t"), local / "x.json") == str(local / "t")
    assert address_of(local) == str(local)
    send(local / "nothing")
    fetch(local / "nothing")
    withdraw(local / "nothing")


def test_a_mirror_belongs_to_its_endpoint(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    here = machines.open("one")
    assert open_mirror(f"{machines.address}/") == here
    with s3_server() as other:
        other.create_bucket("models")
        monkeypatch.setenv("AWS_ENDPOINT_URL", other.environment["AWS_ENDPOINT_URL"])
        assert machines.open("one") != here


def test_what_a_process_of_this_machine_works_on_is_not_replaced(machines: Machines) -> None:
    run = create_run(machines.open("one"), "m", kind="finetune", task="multi_task")
    (seen,) = list_runs(machines.open("two"))
    seen.update(message="from elsewhere")
    send(seen.layout.info)
    with FileLock(run.layout.driver_lock):
        run.update(message="not sent yet")
        machines.open("one")
        fetch_history(run)
        assert run.info.message == "not sent yet"
    machines.open("one")
    assert run.info.message == "from elsewhere"


def test_processes_that_begin_together_bring_the_overview_once(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    NamedConfigs(machines.open("one")).create("first", {"epochs": 3})
    machines.become("two")
    there = open_mirror_once(machines.address)
    assert NamedConfigs(there).names() == ["first"]
    NamedConfigs(machines.open("one")).create("second", {"epochs": 3})
    machines.become("two")
    assert open_mirror_once(machines.address) == there
    assert NamedConfigs(there).names() == ["first"]
    monkeypatch.setattr("secauditai.mirror.FRESH", 0.0)
    open_mirror_once(machines.address)
    assert NamedConfigs(there).names() == ["first", "second"]


def test_a_damaged_mark_is_named(machines: Machines) -> None:
    here = machines.open("one")
    write_json(here / ".mirror.json", [])
    with pytest.raises(ClusterError, match="a damaged mirror"):
        mirror_of(here / "runs")


def test_no_bucket_no_endpoint_and_a_refusal_are_one_line(
    cli: Cli, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.become("one")
    missing = cli("runs", "list", "--workspace", "s3://nobody/x")
    assert missing.code == 1
    assert missing.err.startswith("Error: s3://nobody/x: there is no bucket 'nobody'")
    assert "s3:// names no bucket" in cli("runs", "list", "--workspace", "s3://").err
    named = cli("runs", "list", "--workspace", f"s3://someone:{SECRET}@work/x")
    assert (named.code, SECRET in named.err) == (1, False)
    monkeypatch.setattr("secauditai.mirror.OPENING_PATIENCE", 0.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    away = cli("runs", "list", "--workspace", machines.address)
    monkeypatch.setenv("INITIAL_NO_AUTH_ACTION_COUNT", "0")
    with s3_server() as strict:
        monkeypatch.setenv("AWS_ENDPOINT_URL", strict.environment["AWS_ENDPOINT_URL"])
        refused = cli("runs", "list", "--workspace", machines.address)
    for told in (missing, away, refused):
        assert told.code == 1
        assert told.err.count("\n") == 1
        assert "AWS_ENDPOINT_URL" in told.err
        assert SECRET not in told.err


def test_other_schemes_are_refused(cli: Cli) -> None:
    told = cli("runs", "list", "--workspace", "gs://bucket/x")
    assert told.code == 1
    assert "gs://bucket/x is no workspace" in told.err


def test_without_an_mlflow_server_nothing_starts(cli: Cli, machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    machines.become("one")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    told = cli("train", "finetune", "--data", "security_dataset", "--workspace", machines.address)
    assert told.code == 1
    assert told.err.splitlines()[-1].startswith("Error: MLFLOW_TRACKING_URI: a workspace on an object store needs")


def test_doctor_reads_and_writes_the_store(cli: Cli, machines: Machines) -> None:
    machines.become("one")
    told = cli("doctor", "--workspace", machines.address, "--json")
    found = {check["check"]: check for check in json.loads(told.out)["checks"]}
    assert found["storage"]["result"] == "ok"
    assert machines.address in found["storage"]["message"]
    assert found["mlflow"]["result"] == "failed"
    assert [file.key for file in open_storage(machines.address).files() if ".doctor" in file.key] == []
