"""Whether MLflow and its artifact store can be used from this process: by asking, and by keeping a small file there."""

import tempfile
import uuid
from pathlib import Path

from secauditai.errors import RunError
from secauditai.tracking.connection import call, connect, probe
from secauditai.tracking.redact import redact_text
from secauditai.tracking.store import EXPERIMENT, own_uri

PATIENCE = 0.0
"""Seconds to try again: someone waits for the answer."""


def check_reach(shared: str) -> None:
    """Look up the experiment, then write an artifact, read it back and delete it.

    Args:
        shared: the tracking URI without credentials; the environment has those.

    Raises:
        RunError: when one of them fails, with the reason in one line.
    """
    uri = own_uri(shared)

    def location() -> str:
        probe(uri)
        experiment = connect(uri).get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            raise RunError(f"MLflow has no experiment {EXPERIMENT!r}", where=redact_text(uri))
        return str(experiment.artifact_location)

    place = call(location, uri=uri, patience=PATIENCE, what="be reached")
    call(lambda: _round_trip(place, uri), uri=uri, patience=PATIENCE, what="keep artifacts")


def _round_trip(location: str, uri: str) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(f"{location}/doctor_{uuid.uuid4().hex[:12]}", tracking_uri=uri)
    with tempfile.TemporaryDirectory() as directory:
        sent = Path(directory) / "mark.txt"
        sent.write_text(uuid.uuid4().hex, encoding="utf-8")
        repository.log_artifact(str(sent))
        (Path(directory) / "back").mkdir()
        received = Path(repository.download_artifacts("mark.txt", str(Path(directory) / "back")))
        if received.read_text(encoding="utf-8") != sent.read_text(encoding="utf-8"):
            raise OSError("an artifact came back changed")
    repository.delete_artifacts()
