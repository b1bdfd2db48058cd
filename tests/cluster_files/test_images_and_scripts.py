"""The Dockerfile, the compose file and the shell scripts."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cluster_sources import CLUSTER, PROJECT, SCHEMAS

BIN = Path(sys.executable).parent
SCRIPTS = (CLUSTER / "slurm" / "train.sh", CLUSTER / "mlflow-server")
COMPOSE = CLUSTER / "compose" / "compose.yaml"


def compose() -> Any:
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))


def names_in(example: str) -> set[str]:
    return set(re.findall(r"^(\w+)=$", (CLUSTER / example).read_text(encoding="utf-8"), re.M))


def instructions(name: str) -> list[str]:
    text = (CLUSTER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(rf"^{name}\s+(.+)$", text, re.M)


def test_the_dockerfile_passes_the_linter() -> None:
    done = subprocess.run([BIN / "hadolint", CLUSTER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_image_is_pinned_runs_as_an_ordinary_user_and_installs_the_pinned_versions() -> None:
    bases = instructions("FROM")
    assert all(re.match(r"python:3\.11\.\d+-slim-\w+", base) for base in bases)
    assert instructions("USER")[-1] == "1000:1000"
    (install,) = [run for run in instructions("RUN") if "pip install" in run]
    assert "--constraint constraints.txt" in install
    sources = [word for copy in instructions("COPY") if "--from" not in copy for word in copy.split()[:-1]]
    allowed = (CLUSTER / "Dockerfile.dockerignore").read_text().split()
    for source in [word.removeprefix("./") for word in sources if not word.startswith("--")]:
        assert (PROJECT / source).exists(), source
        assert f"!{source}" in allowed, source


def test_the_compose_file_meets_the_specification() -> None:
    schema = json.loads((SCHEMAS / "compose-spec.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft7Validator(schema)
    validator.validate(compose())
    assert not validator.is_valid({**compose(), "service": {}})


def test_compose_publishes_on_loopback_and_keeps_the_database_inside() -> None:
    document = compose()
    ports = [port for service in document["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(re.match(r"\$\{\w+_BIND:-127\.0\.0\.1\}:", port) for port in ports)
    assert "ports" not in document["services"]["postgres"]
    assert document["services"]["postgres"]["networks"] == ["storage"]
    assert document["networks"]["storage"] == {"internal": True}
    for service in document["services"].values():
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service["image"].endswith(":latest")
        assert ":" in service["image"]


def test_mlflow_answers_its_own_host_whatever_names_are_listed() -> None:
    """The list takes the place of MLflow's own, in which this host stands."""
    value = compose()["services"]["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"]
    for listed, hosts in (("", []), ("mlflow.example.internal:5000", ["mlflow.example.internal:5000"])):
        expand = ["bash", "-c", f'printf %s "{value}"']  # which reads these expressions as Compose does
        found = subprocess.check_output(expand, env={"MLFLOW_SERVER_ALLOWED_HOSTS": listed}, text=True)
        assert found.split(",") == ["localhost:*", "127.0.0.1:*", *hosts]


def test_every_secret_comes_from_the_environment_and_is_required() -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    example = names_in("services.env.example")
    for line in text.splitlines():
        if re.search(r"PASSWORD|SECRET|KEY_ID|secretKey", line) and ":" in line.lstrip(" #"):
            assert re.search(r"\$\{\w+:\?\}", line), line
    assert set(re.findall(r"\$\{(\w+):\?\}", text)) <= example
    for path in sorted(CLUSTER.rglob("*.env*")):
        assert not re.findall(r"^\w+=.+$", path.read_text(), re.M), f"{path} has a value"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_bash_and_shellcheck(path: Path) -> None:
    assert os.access(path, os.X_OK)
    for command in (["bash", "-n"], [BIN / "shellcheck"]):
        done = subprocess.run([*command, path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_slurm_starts_one_ray_per_node_with_a_token() -> None:
    text = SCRIPTS[0].read_text(encoding="utf-8")
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text, re.M))
    assert options["ntasks-per-node"] == "1"
    assert "exclusive" in options
    assert int(options["nodes"]) >= 2
    body = text[text.index("set -euo pipefail") :]
    assert "RAY_AUTH_MODE=token" in body
    assert "umask 077" in body
    assert "--dashboard-host 127.0.0.1" in body


def test_nodes_get_no_secret_of_the_services() -> None:
    assert names_in("nodes.env.example") == {
        "MLFLOW_TRACKING_URI",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
    }
    assert not names_in("nodes.env.example") & names_in("services.env.example")
    for path in [SCRIPTS[0], *(CLUSTER / "launcher").glob("*.yaml")]:
        named = set(re.findall(r"[\w.-]*\.env\b", path.read_text(encoding="utf-8")))
        assert named == {"nodes.env"}, path


@pytest.fixture
def allocation(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """`sbatch train.sh` on one node, with commands that stand in for Slurm's, Ray's and ours: `allocation(RAY)`."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "config.yaml").write_text("epochs: 1\n")
    (tmp_path / "nodes.env").write_text("MLFLOW_TRACKING_URI=http://mlflow:5000\n")

    def command(name: str, body: str) -> None:
        path = tmp_path / ".venv" / "bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)

    def run(ray: str, training: str = "exit 0", resume: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        command("srun", 'shift; exec "$@"')
        command("scontrol", "echo node1")
        command("python", f'exec {sys.executable} "$@"')
        command("ray", f"while [[ $1 != -- ]]; do shift; done; shift; {ray}")
        command("secauditai", f'echo "ran: $*; tracking $MLFLOW_TRACKING_URI"; {training}')
        slurm = {
            "SLURM_SUBMIT_DIR": tmp_path,
            "SLURM_JOB_ID": 7,
            "SLURM_JOB_NODELIST": "node1",
            "SLURM_JOB_NUM_NODES": 1,
        }
        environment = {name: str(value) for name, value in slurm.items()}
        environment |= {"PATH": os.environ["PATH"], "SECAUDITAI_ENV": str(tmp_path / "nodes.env")}
        arguments = resume or (str(tmp_path / "config.yaml"), "--name", "my model")
        words = ["bash", str(SCRIPTS[0]), *arguments]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)

    return run


def test_slurm_ends_as_the_training_ended(allocation: Callable[..., Any], tmp_path: Path) -> None:
    done = allocation('"$@"')
    assert done.returncode == 0, done.stderr
    assert f"ran: train start --config {tmp_path}/config.yaml --address auto --name my model;" in done.stdout
    assert "tracking http://mlflow:5000" in done.stdout
    assert allocation('"$@"', "exit 3").returncode == 3
    assert not list(tmp_path.glob(".ray-token*"))


def test_slurm_resumes_a_model_on_all_nodes(allocation: Callable[..., Any]) -> None:
    done = allocation('"$@"', resume=("resume", "my model", "--json"))
    assert done.returncode == 0, done.stderr
    assert "ran: train resume --model my model --address auto --json; tracking http://mlflow:5000" in done.stdout
    assert allocation('"$@"', resume=("resume",)).returncode == 2


def test_slurm_sees_a_ray_that_did_not_start(allocation: Callable[..., Any]) -> None:
    done = allocation("echo 'Failed to start Ray'; exit 0")
    assert done.returncode == 1
    assert "Ray did not start" in done.stderr
    assert allocation('"$@"; exit 0', "kill -9 $$").returncode == 1


def test_slurm_starts_ray_where_symmetric_run_looks_for_it(allocation: Callable[..., Any]) -> None:
    """It joins without an address, so it finds a Ray whose directory comes from the environment, but none of `--temp-dir`."""
    done = allocation('echo "waits $RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT in $RAY_TMPDIR"; "$@"')
    assert "waits 300 in /tmp/ray-7\n" in done.stdout
    started = SCRIPTS[0].read_text(encoding="utf-8").partition("\nsrun ")[2]
    assert "symmetric-run" in started
    assert "--temp-dir" not in started
    assert "#SBATCH --mem=0\n" in SCRIPTS[0].read_text(encoding="utf-8")


def test_mlflow_says_that_a_password_is_too_short(tmp_path: Path) -> None:
    environment = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "key",
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "elevenchars",
    }
    done = subprocess.run([SCRIPTS[1]], env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: MLFLOW_AUTH_ADMIN_PASSWORD is too short")
    assert done.stderr.count("\n") == 1


def test_slurm_names_its_usage_when_there_is_no_configuration(tmp_path: Path) -> None:
    done = subprocess.run(["bash", SCRIPTS[0], tmp_path / "none.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Usage: sbatch" in done.stderr


def test_every_recipe_has_a_page_and_what_pages_name_is_there() -> None:
    pages = sorted((PROJECT / "docs" / "clusters").glob("*.md"))
    assert len(pages) >= 6
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
        for path in re.findall(r"\bcluster/[\w./-]*\w", text):
            assert (PROJECT / path).exists(), f"{page.name}: {path}"
        for config in re.findall(r"--config ([\w.-]+\.yaml)", text):
            assert (PROJECT / "jobs" / config).exists(), f"{page.name}: {config}"
    linked = (CLUSTER / "README.md").read_text(encoding="utf-8")
    for page in pages:
        assert page.name in ("index.md", "doctor.md") or f"../docs/clusters/{page.name}" in linked
