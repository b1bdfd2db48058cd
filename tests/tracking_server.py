"""A real MLflow server of a test's own, with sqlite behind it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from fault_runs import wait_until


class Server:
    """`mlflow server` on loopback, with its store in a directory."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        store = [
            "--backend-store-uri",
            f"sqlite:///{self.directory}/server.db",
            "--artifacts-destination",
            self.directory,
        ]
        place = ["--host", "127.0.0.1", "--port", self.port, "--workers", 1]
        words = [sys.executable, "-m", "mlflow", "server", *store, *place]
        quiet = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight more processes, for nothing here
        self.process = subprocess.Popen(
            list(map(str, words)),
            env=quiet,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self.answers, "the server's start")

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """Kill it with its children, which are its process group."""
        if self.process is not None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process = None
