"""Where a run computes, and with which arithmetic."""

import os

import pytest

from secauditai import cluster
from secauditai.cluster import call_on_worker
from secauditai.config.settings import ExecutionSettings
from secauditai.training import devices
from secauditai.training.devices import computing_address, measure_precision, measure_precision_at

ONE, TWO, SOME = (ExecutionSettings(num_workers=number) for number in (1, 2, "1-4"))


def test_several_workers_compute_where_ray_sends_them_and_one_does_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert [computing_address(None, settings) for settings in (ONE, TWO, SOME)] == [None, *["10.0.0.1:6379"] * 2]
    assert computing_address("10.0.0.2:6379", TWO) == "10.0.0.2:6379"
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert computing_address(None, TWO) is None


def test_precision_is_measured_here_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_speedup", lambda *_: 3.0)
    assert measure_precision_at(None, ONE, "cpu") == "bf16"


def test_precision_for_gpus_of_a_cluster_is_measured_on_one_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def call(*arguments: object, **resources: float) -> str:
        asked.append((arguments, resources))
        return "bf16"

    monkeypatch.setattr(cluster, "ensure_ray", asked.append)
    monkeypatch.setattr(cluster, "call_on_worker", call)
    assert measure_precision_at("10.0.0.1:6379", ONE, "cuda") == "bf16"
    assert asked == ["10.0.0.1:6379", ((measure_precision, "cuda"), {"cpus": 1, "gpus": 1})]


@pytest.mark.ray
def test_precision_on_a_cluster_comes_from_a_worker(ray_cluster: str) -> None:
    def process() -> int:
        return os.getpid()

    assert call_on_worker(process, cpus=1) != os.getpid()
    assert measure_precision_at(ray_cluster, ONE, "cpu") in ("fp32", "bf16")
