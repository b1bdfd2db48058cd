"""A job whose workspace is on an object store: its entry point, as the cluster runs it."""

from pathlib import Path

import pytest
import yaml
from conftest import make_samples
from s3_server import s3_server

from secauditai.cli.entry import run
from secauditai.data.dataset import open_dataset
from secauditai.data.split import SplitPlan, split_dataset
from secauditai.storage import Storage, open_storage
from secauditai.submission.request import JobRequest, own_versions, read_result, write_request
from secauditai.submission.staging import Stager

pytestmark = pytest.mark.slow


def run_job(storage: Storage, job_id: str, *arguments: str) -> int:
    """What the job does with a request that was written for it."""
    request = JobRequest(arguments=[*arguments], takes_workspace=False, tracking_uri=None, versions=own_versions())
    write_request(storage, job_id, request)
    return run(storage.address, job_id)


def test_files_come_from_the_object_store_and_go_back_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as server:
        server.create_bucket("team")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        storage = open_storage("s3://team/work")
        broken = [*make_samples(20), {"id": "none"}]
        (tmp_path / "raw.yaml").write_text(yaml.safe_dump({"samples": broken}))
        staged = Stager(storage, tmp_path / "w").stage_data(str(tmp_path / "raw.yaml"))

        output = storage.at("jobs/a/output/data")
        assert run_job(storage, "a", "train", "prepare", "--dataset", staged, "--output", output) == 0
        result = read_result(storage, "a")
        assert result is not None
        assert (result["kept"], result["rejected"], result["output"]) == (40, 1, output)
        storage.download_tree("jobs/a/output/data", tmp_path / "data")
        assert open_dataset(tmp_path / "data").table().num_rows == 40

        split_dataset(open_dataset(tmp_path / "data"), SplitPlan(seed=1))
        storage.upload_tree(tmp_path / "data", "jobs/b/output/data")
        line = ("--train", "0.5", "--val", "0.5", "--test", "0")
        assert run_job(storage, "b", "train", "split", "--dataset", storage.at("jobs/b/output/data"), *line) == 0
        storage.download_tree("jobs/b/output/data", tmp_path / "again")
        assert open_dataset(tmp_path / "again").splits() == ("train", "val")
        assert open_dataset(tmp_path / "again").table("train").num_rows == 20

        page = storage.at("jobs/c/output/quality.html")
        one = Stager(storage, tmp_path / "w").stage_data(str(tmp_path / "data" / "train"))
        gate = ("--report", page, "--fail-on", "conflict")
        assert run_job(storage, "c", "train", "validate", "--dataset", staged, *gate) == 1  # one sample has no code
        assert storage.exists("jobs/c/output/quality.html")
        assert run_job(storage, "d", "train", "validate", "--dataset", one) == 0
        seen = read_result(storage, "d")
        assert seen is not None
        assert sum(seen["labels"].values()) == 32  # of one split
