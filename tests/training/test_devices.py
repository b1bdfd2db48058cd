"""Where a run computes, and with which arithmetic."""

import os

import pytest

from secauditai import cluster
from secauditai.cluster import call_on_worker
from secauditai.training import devices
from secauditai.training.devices import measure_precision, measure_precision_at


def test_precision_is_measured_here_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_speedup", lambda *_: 3.0)
    assert measure_precision_at(None, "cpu") == "bf16"


def test_precision_for_gpus_of_a_cluster_is_measured_on_one_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def call(*arguments: object, **resources: float) -> str:
        asked.append((arguments, resources))
        return "bf16"

    monkeypatch.setattr(cluster, "ensure_ray", asked.append)
    monkeypatch.setattr(cluster, "call_on_worker", call)
    assert measure_precision_at("10.0.0.1:6379", "cuda") == "bf16"
    assert asked == ["10.0.0.1:6379", ((measure_precision, "cuda"), {"cpus": 1, "gpus": 1})]


@pytest.mark.ray
def test_precision_on_a_cluster_comes_from_a_worker(ray_cluster: str) -> None:
    def process() -> int:
        return os.getpid()

    assert call_on_worker(process, cpus=1) != os.getpid()
    assert measure_precision_at(ray_cluster, "cpu") in ("fp32", "bf16")
