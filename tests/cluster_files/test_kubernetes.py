"""What kustomize builds meets Kubernetes' and KubeRay's schemas, runs as nobody special, and is closed to the network."""

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cluster_sources import CLUSTER, pinned, read_crd, validate_crd
from jsonschema import ValidationError

KUBECTL = Path(sys.executable).parent / "kubectl"
BUILT = ("base", "overlays/gpu", "job")
VERSION = "1.34"


@cache
def build(directory: str) -> list[Any]:
    """What `kubectl apply -k` would send."""
    command = [str(KUBECTL), "kustomize", str(CLUSTER / "kubernetes" / directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def one(directory: str, kind: str, name: str | None = None) -> Any:
    (found,) = [d for d in build(directory) if d["kind"] == kind and name in (None, d["metadata"]["name"])]
    return found


def pods(document: Any) -> list[Any]:
    """The pod specifications in a resource."""
    match document["kind"]:
        case "Deployment":
            return [document["spec"]["template"]["spec"]]
        case "RayCluster":
            groups = [document["spec"]["headGroupSpec"], *document["spec"]["workerGroupSpecs"]]
            return [group["template"]["spec"] for group in groups]
        case "RayJob":
            return [document["spec"]["submitterPodTemplate"]["spec"]]
        case _:
            return []


@pytest.mark.parametrize("directory", BUILT)
def test_every_resource_meets_its_schema(directory: str) -> None:
    custom = {"RayCluster": "rayclusters", "RayJob": "rayjobs"}
    for document in build(directory):
        if document["kind"] in custom:
            assert document["apiVersion"] == "ray.io/v1"
            validate_crd(document, read_crd(custom[document["kind"]]))
        else:
            kubernetes_validate.validate(document, VERSION, strict=True)
        assert document["metadata"].get("namespace", "secauditai") == "secauditai"


def test_a_field_that_kuberay_does_not_know_is_refused() -> None:
    cluster = one("base", "RayCluster")
    wrong = {**cluster, "spec": {**cluster["spec"], "authOption": {"mode": "token"}}}
    with pytest.raises(ValidationError):
        validate_crd(wrong, read_crd("rayclusters"))


@pytest.mark.parametrize("directory", BUILT)
def test_pods_run_as_an_ordinary_user_with_the_pinned_image(directory: str) -> None:
    found = [pod for document in build(directory) for pod in pods(document)]
    assert found
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["image"].endswith(":0.1.0")


def test_ray_asks_for_the_token_and_is_the_pinned_version() -> None:
    for directory in ("base", "overlays/gpu"):
        spec = one(directory, "RayCluster")["spec"]
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["rayVersion"] == pinned("ray")
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_secrets_are_references() -> None:
    for directory in BUILT:
        assert not [document for document in build(directory) if document["kind"] == "Secret"]
        for document in build(directory):
            for container in [c for pod in pods(document) for c in pod["containers"]]:
                named = [variable["name"] for variable in container.get("env", [])]
                assert not [name for name in named if "PASSWORD" in name or "TOKEN" in name or "SECRET" in name]


def test_everything_is_closed_but_what_a_policy_opens() -> None:
    policies = {d["metadata"]["name"]: d["spec"] for d in build("base") if d["kind"] == "NetworkPolicy"}
    assert policies["nothing-else"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for spec in policies.values():
        for rule in spec.get("ingress", []):
            assert rule.get("from"), "an ingress rule without `from` is open to everybody"
            assert not any("ipBlock" in peer for peer in rule["from"])
    labels = {
        group["template"]["metadata"]["labels"]["app.kubernetes.io/name"]
        for group in [one("base", "RayCluster")["spec"]["headGroupSpec"]]
        + one("base", "RayCluster")["spec"]["workerGroupSpecs"]
    }
    assert labels == {policies["ray"]["podSelector"]["matchLabels"]["app.kubernetes.io/name"]}
    submitter = one("job", "RayJob")["spec"]["submitterPodTemplate"]["metadata"]["labels"]
    assert submitter == policies["submitter"]["podSelector"]["matchLabels"]


def test_mlflow_needs_nothing_that_its_policies_deny() -> None:
    policies = [d["spec"] for d in build("base") if d["kind"] == "NetworkPolicy"]
    (pod,) = pods(one("base", "Deployment", "mlflow"))
    labels = one("base", "Deployment", "mlflow")["spec"]["template"]["metadata"]["labels"]
    opened = [spec for spec in policies if spec["podSelector"].get("matchLabels") == labels]
    assert not any(spec.get("egress") for spec in opened)
    variables = {item["name"]: item["value"] for item in pod["containers"][0]["env"]}
    assert variables["MLFLOW_BACKEND_STORE_URI"].startswith("sqlite:////")
    assert variables["MLFLOW_ARTIFACTS_DESTINATION"].startswith("/")
    assert "PostgreSQL" not in (CLUSTER / "kubernetes" / "base" / "mlflow.yaml").read_text(encoding="utf-8")


def test_objects_fit_into_shared_memory() -> None:
    """Ray takes 30 % of a pod's memory for them, and the disk in place of a /dev/shm that is smaller."""
    for directory in ("base", "overlays/gpu"):
        spec = one(directory, "RayCluster")["spec"]
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            (shm,) = [v["emptyDir"] for v in group["template"]["spec"]["volumes"] if v["name"] == "shm"]
            assert shm["medium"] == "Memory"
            room = int(shm["sizeLimit"].removesuffix("Gi")) * 2**30
            assert 2**30 <= int(group["rayStartParams"]["object-store-memory"]) < room


def test_services_give_no_variables_to_mlflow() -> None:
    """Kubernetes would set MLFLOW_PORT=tcp://… for a Service of this name, and the server would take it for its port."""
    service, (pod,) = one("base", "Service", "mlflow"), pods(one("base", "Deployment", "mlflow"))
    assert f"{service['metadata']['name']}_port".upper() in (CLUSTER / "mlflow-server").read_text(encoding="utf-8")
    assert pod["enableServiceLinks"] is False


def test_the_overlay_makes_gpu_workers_on_demand_and_on_spot_nodes() -> None:
    groups = one("overlays/gpu", "RayCluster")["spec"]["workerGroupSpecs"]
    assert [group["groupName"] for group in groups] == ["gpu", "gpu-spot"]
    for group in groups:
        assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nodeSelector" not in groups[0]["template"]["spec"]
    assert groups[1]["template"]["spec"]["nodeSelector"] == {"node-lifecycle": "spot"}


def test_the_job_runs_on_the_cluster_of_the_base() -> None:
    job, cluster = one("job", "RayJob"), one("base", "RayCluster")
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    # KubeRay refuses these beside a cluster selector.
    assert not {"backoffLimit", "suspend", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"} & set(job["spec"])
    used = job["spec"]["entrypoint"].split()
    # The base begins without workers, and a training plans with those that are there.
    assert [group["minReplicas"] for group in cluster["spec"]["workerGroupSpecs"]] == [0]
    assert used[1:4] == ["/opt/secauditai/jobs/scale.py", "--cpus", "1"]
    assert not set(job["spec"]["entrypoint"]) & set("&;|\"'$\n")
    for path in [word for word in used if word.startswith("/opt/secauditai/")]:
        assert (CLUSTER.parent / path.removeprefix("/opt/secauditai/")).is_file(), path
