"""A PostgreSQL server of a test's own, on loopback, and the MLflow server of `cluster/mlflow-server` before it."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PATIENCE = 240.0
"""Seconds for a server to come up, on a machine that is busy with other tests."""


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def postgres() -> Iterator[tuple[str, str]]:
    """A new database: its URI without password, and the password."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    root = Path(tempfile.mkdtemp(prefix="pg_"))  # short: a socket is put into it
    password, port = secrets.token_hex(16), free_port()
    (root / "password").write_text(password)
    user = ["runuser", "--user", "postgres", "--"] if os.getuid() == 0 else []
    if user:  # PostgreSQL refuses to run as root
        for path in (root, root / "password"):
            shutil.chown(path, "postgres")
    make = [programs[-1] / "initdb", "--pgdata", root / "data", "--username", "mlflow", "--auth", "scram-sha-256"]
    subprocess.run([*user, *make, "--pwfile", root / "password"], check=True, stdout=subprocess.DEVNULL)
    options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(root), "fsync": "off"}
    settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    server = subprocess.Popen(
        [*user, programs[-1] / "postgres", "-D", root / "data", "-p", str(port), *settings],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=root,
    )
    try:
        _create_database(port, password)
        yield f"postgresql+psycopg://mlflow@127.0.0.1:{port}/mlflow", password
    finally:
        pid = int((root / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, 2)  # fast shutdown
        server.wait(timeout=60)
        shutil.rmtree(root)


def _create_database(port: int, password: str) -> None:
    import psycopg

    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            address = {"host": "127.0.0.1", "port": port, "user": "mlflow", "password": password, "dbname": "postgres"}
            with psycopg.connect(**address, autocommit=True) as connection:
                connection.execute("CREATE DATABASE mlflow")
            return
        except psycopg.OperationalError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.2)


@contextlib.contextmanager
def mlflow_server(artifacts: Path, database: str, password: str) -> Iterator[dict[str, str]]:
    """The server, asking for a password; the environment of its clients."""
    port = free_port()
    client = {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
        "MLFLOW_TRACKING_USERNAME": "trainer",
        "MLFLOW_TRACKING_PASSWORD": secrets.token_hex(16),
    }
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PGPASSWORD": password,
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_ARTIFACTS_DESTINATION": str(artifacts),
        "MLFLOW_AUTH_ADMIN_USERNAME": client["MLFLOW_TRACKING_USERNAME"],
        "MLFLOW_AUTH_ADMIN_PASSWORD": client["MLFLOW_TRACKING_PASSWORD"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
        "MLFLOW_PORT": str(port),
        "MLFLOW_WORKERS": "2",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    log = artifacts.with_name("mlflow-server.log")
    with log.open("wb") as output:
        server = subprocess.Popen(
            [PROJECT / "cluster" / "mlflow-server"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=artifacts.parent,
            start_new_session=True,
        )
    try:
        _wait_for(client["MLFLOW_TRACKING_URI"], server, log)
        yield client
    finally:
        import psutil

        family = psutil.Process(server.pid).children(recursive=True)
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=30)
        for process in [*family, server]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        server.wait(timeout=30)


def _wait_for(uri: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up = time.monotonic() + PATIENCE
    while True:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=5):
                return
        except OSError:
            assert time.monotonic() < give_up, log.read_text()[-3000:]
            time.sleep(0.5)
