"""Each judgement on planted facts: what is wrong is named, what is right is not."""

from dataclasses import replace

import pytest

from secauditai.cluster import Node, cpu_share, work_nodes
from secauditai.doctor import findings as judge
from secauditai.doctor.findings import GIB, Finding, NodeFacts, Worker
from secauditai.errors import PreflightError

VERSIONS = {"python": "3.11.2", "torch": "2.13.0"}
GOOD = NodeFacts("a", VERSIONS, {"/w": 50 * GIB, "/tmp": 20 * GIB}, 8 * GIB, 4 * GIB, reads_workspace=True)
OTHER = replace(GOOD, node="b")
BOTH = [GOOD, OTHER]


def test_equal_versions_pass_and_another_is_named() -> None:
    assert judge.check_versions(VERSIONS, BOTH).result == "ok"
    old = replace(OTHER, versions={**VERSIONS, "torch": "2.12.0"})
    found = judge.check_versions(VERSIONS, [GOOD, old])
    assert found.result == "failed"
    assert "b has torch 2.12.0, here it is 2.13.0" in found.message


def test_storage_must_be_read_and_written_by_all() -> None:
    assert judge.check_storage("/w", BOTH, ["a", "b"]).result == "ok"
    blind = replace(OTHER, reads_workspace=False)
    found = judge.check_storage("/w", [GOOD, blind], ["a"])
    assert found.result == "failed"
    assert "b does not see what this machine wrote" in found.message
    assert "what b wrote is not here" in judge.check_storage("/w", BOTH, ["a"]).message
    refused = replace(OTHER, workspace_error="cannot write to the workspace: Read-only file system")
    assert "Read-only" in judge.check_storage("/w", [GOOD, refused], ["a"]).message
    assert "a directory that all nodes share" in str(found.hint)
    remote = judge.check_storage("s3://bucket/w", [GOOD, blind], ["a"])
    assert remote.message.startswith("not every node can use s3://bucket/w: b does not see what this machine wrote")
    assert "AWS_ENDPOINT_URL" in str(remote.hint)


def test_a_full_disk_and_little_memory_are_named() -> None:
    full = replace(OTHER, free_disk={"/w": GIB // 10})
    assert judge.check_disk(BOTH, 5 * GIB).result == "ok"
    assert "b has 0.1 GiB in /w" in judge.check_disk([GOOD, full], 5 * GIB).message
    tight = replace(OTHER, free_memory=GIB // 2)
    assert judge.check_memory(BOTH, GIB).result == "ok"
    assert "b has 0.5 GiB" in judge.check_memory([GOOD, tight], GIB).message


def test_small_shared_memory_is_a_warning() -> None:
    assert judge.check_shm(BOTH).result == "ok"
    assert judge.check_shm([replace(GOOD, shm=64 * 2**20)]).result == "warning"
    assert judge.check_shm([replace(GOOD, shm=None)]).result == "ok"


@pytest.mark.parametrize(
    ("worker", "nodes", "result"),
    [
        (Worker(4, 2.0, 0.0), [(4, 0), (4, 0)], "ok"),
        (Worker(5, 2.0, 0.0), [(4, 0), (4, 0)], "failed"),
        (Worker(2, 3.0, 0.0), [(4, 0), (2, 0)], "failed"),  # six CPUs, but a worker is on one node
        (Worker(3, cpu_share(4, 3, 2), 0.0), [(2, 0)], "ok"),  # an even share, rounded up, is still one
        (Worker(2, 1.0, 1.0), [(8, 1), (8, 0)], "failed"),
        (Worker(2, 1.0, 1.0), [(8, 2), (0, 0)], "ok"),
    ],
)
def test_workers_must_fit_whole_on_nodes(worker: Worker, nodes: list[tuple[int, int]], result: str) -> None:
    there = [Node(str(number), str(number), *has, is_head=False) for number, has in enumerate(nodes)]
    assert judge.check_resources(worker, there).result == result


HEAD, WORKER = Node("h", "head", 2, 0, is_head=True), Node("w", "worker", 4, 1, is_head=False)


def test_a_head_that_computes_beside_others_is_a_warning() -> None:
    assert judge.check_head([HEAD]).result == "ok"
    assert judge.check_head([replace(HEAD, cpus=0), WORKER]).result == "ok"
    found = judge.check_head([HEAD, WORKER])
    assert found.result == "warning"
    assert "head offers 2 CPUs" in found.message


def test_a_job_keeps_work_off_the_head_where_others_have_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert work_nodes([HEAD, WORKER]) == [HEAD, WORKER]
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert work_nodes([HEAD, WORKER]) == [WORKER]
    assert work_nodes([HEAD]) == [HEAD]
    assert work_nodes([replace(HEAD, cpus=0, gpus=1), WORKER]) == [WORKER]
    strong = replace(HEAD, gpus=4)
    assert work_nodes([strong, replace(WORKER, gpus=0)]) == [strong, replace(WORKER, gpus=0)]


def test_a_sqlite_file_is_for_one_node() -> None:
    assert judge.check_tracking("sqlite:////w/mlflow.db", None, [GOOD]).result == "ok"
    found = judge.check_tracking("sqlite:////w/mlflow.db", None, BOTH)
    assert found.result == "failed"
    assert "one machine's file, and there are 2 nodes" in found.message


def test_tracking_must_answer_on_every_node() -> None:
    assert judge.check_tracking("http://m:5000", None, BOTH).result == "ok"
    deaf = replace(OTHER, tracking_error="MLflow cannot be reached: timed out")
    assert "b: MLflow cannot be reached" in judge.check_tracking("http://m:5000", None, [GOOD, deaf]).message
    assert "here: refused" in judge.check_tracking("http://m:5000", "refused", []).message


def test_a_dashboard_without_token_must_stay_on_loopback() -> None:
    assert judge.check_dashboard("10.0.0.5:8265", loopback=False, asks=False).result == "failed"
    assert judge.check_dashboard("10.0.0.5:8265", loopback=False, asks=None).result == "warning"
    assert judge.check_dashboard("10.0.0.5:8265", loopback=False, asks=True).result == "ok"
    assert judge.check_dashboard("127.0.0.1:8265", loopback=True, asks=False).result == "ok"
    assert judge.check_dashboard(None, loopback=True, asks=None).result == "ok"


def test_a_preflight_stops_at_failures_only() -> None:
    judge.require([Finding("a", "ok", "fine"), Finding("b", "warning", "hm"), Finding("c", "skipped", "no")])
    with pytest.raises(PreflightError) as stopped:
        judge.require([Finding("disk", "failed", "full", "Make room."), Finding("mlflow", "failed", "down")])
    assert stopped.value.lines == ("disk: full. Make room.", "mlflow: down.")
