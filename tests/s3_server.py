"""An S3-compatible server as a process on loopback; the real client talks to it over HTTP."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECRET = "not-a-real-secret-7f3a"


@dataclass
class S3Server:
    """The server; it can be stopped and started again with what it holds."""

    port: int
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to find it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start it and wait until it listens."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise AssertionError("the S3 server does not start")

    def create_bucket(self, name: str) -> None:
        """Make an empty bucket."""
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id="someone",
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=name)

    def stop(self) -> None:
        """End it; it forgets what it held."""
        self.process.terminate()
        self.process.wait(timeout=30)


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """A running server on a port of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = S3Server(int(probe.getsockname()[1]))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def all_bytes(directory: Path) -> bytes:
    """The content of every file below a directory, to look for secrets in it."""
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())
