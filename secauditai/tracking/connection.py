"""How MLflow is imported, reached and kept quiet.

MLflow's own global state (tracking URI, active run) is never touched: every call goes through a client for one URI.
"""

import logging
import os
import random
import sqlite3
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from secauditai.errors import RunError
from secauditai.tracking.redact import redact_text

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger("secauditai.tracking")

Result = TypeVar("Result")

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Otherwise a uv.lock in the user's directory would be copied into every model.
    "MLFLOW_UV_AUTO_DETECT": "false",
    # MLflow's own seven retries keep a caller for minutes; `call` below retries, and says when it gives up.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
"""MLflow's documented switches; what the user has set wins."""
IMPORT_WARNINGS = (
    r"The ``noload`` loader strategy is deprecated",  # MLflow 3.17's tables under SQLAlchemy 2.1
    r".*Any type hint is inferred as AnyType",  # mlflow.types.responses, about itself
)
"""What MLflow's modules warn of when they are imported, which nobody here can mend."""
OLD_SCHEMA = "out-of-date database schema"
"""In what MLflow says of a database that another version of it has made."""
PROBE_SECONDS = 5.0
BRIEF, PATIENT = 5.0, 120.0
"""Seconds to go on trying before anything has started, and after a training whose result must not be lost."""


PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
"""What sqlite says of a database that may be usable later."""


class OutOfReachError(RunError):
    """MLflow cannot be reached, or is overloaded: waiting may help. Other errors of MLflow are refusals."""


class UnusableDatabaseError(OSError):
    """A database file that no waiting will make usable."""


def load_mlflow() -> None:
    """Import MLflow: no telemetry, and no log lines on a terminal unless the root logger is set up to show them."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for message in IMPORT_WARNINGS:
        # For good: warnings.catch_warnings is not thread-safe, and the shipper imports in a thread.
        warnings.filterwarnings("ignore", message=message)
    if "mlflow" not in sys.modules:
        for name in ("mlflow", "alembic", "sqlalchemy"):
            logging.getLogger(name).addHandler(logging.NullHandler())
    import mlflow  # noqa: F401


def connect(uri: str) -> "MlflowClient":
    """A client for a tracking URI whose store exists already.

    Raises:
        OSError: when a local database is not there: the caller may be on another host than its file.
    """
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        raise FileNotFoundError(f"no MLflow database at {path}")
    load_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(uri)


def sqlite_path(uri: str) -> Path | None:
    """The database file of a `sqlite:///` URI; None for other stores."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


@cache
def failures() -> tuple[type[Exception], ...]:
    """What MLflow raises when it refuses or cannot be reached."""
    load_mlflow()
    from alembic.util import CommandError  # what building or checking a schema raises
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, CommandError, OSError


def is_refusal(error: Exception) -> bool:
    """Whether trying again cannot help: MLflow understood the request and said no."""
    if isinstance(error, OSError):
        return isinstance(error, FileNotFoundError | UnusableDatabaseError)
    load_mlflow()
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException

    if isinstance(error, CommandError) or OLD_SCHEMA in str(error):
        return True
    if not isinstance(error, MlflowException):
        return False
    status = error.get_http_status_code()
    return 400 <= status < 500 and status not in (408, 429)


def error_code(error: Exception) -> str:
    """MLflow's own name of an error, such as RESOURCE_ALREADY_EXISTS; "" when it has none."""
    return str(getattr(error, "error_code", ""))


def call(action: Callable[[], Result], *, uri: str, patience: float, what: str, hint: str | None = None) -> Result:
    """Do something with MLflow, again and again while it is locked, overloaded or down.

    Args:
        action: what to do; must be harmless when done twice.
        uri: the tracking URI, for the message.
        patience: seconds after which to give up.
        what: what is being done, for the message: "cannot <what>".
        hint: what a user can do when MLflow refuses.

    Raises:
        RunError: when MLflow refuses, or is out of reach for longer than `patience`.
    """
    give_up, pause, told = time.monotonic() + patience, 0.25, False
    while True:
        try:
            return action()
        except failures() as error:
            if is_refusal(error) or time.monotonic() + pause > give_up:
                raise tracking_error(error, uri, what, hint) from error
            level = logging.WARNING if patience > BRIEF and not told else logging.INFO
            logger.log(level, "MLflow cannot %s, trying for %.0f seconds: %s", what, patience, first_line(error))
            told = True
        time.sleep(pause)
        pause = min(2 * pause, 10.0) * random.uniform(0.8, 1.2)


def tracking_error(error: Exception, uri: str, what: str, hint: str | None = None) -> RunError:
    """Say in one line what MLflow did not do."""
    reason = first_line(error)
    message, where = f"MLflow cannot {what}: {reason}", redact_text(uri)
    if not is_refusal(error):
        hint = "Check that the server or database is up; MLFLOW_TRACKING_URI names another one."
        return OutOfReachError(message, where=where, hint=hint)
    if OLD_SCHEMA in reason:
        hint = "Save a copy of the database, then run `mlflow db upgrade` with this URI."
    elif type(error).__name__ == "CommandError":
        hint = "The database is of another version of MLflow; MLFLOW_TRACKING_URI names another database."
    elif isinstance(error, UnusableDatabaseError):
        hint = "Move the file away for a new one; MLFLOW_TRACKING_URI names another one."
    return RunError(message, where=where, hint=hint)


def first_line(error: Exception) -> str:
    """The first line of an error's text, without credentials or a final full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return redact_text(lines[0]).rstrip(".")


def probe(uri: str) -> None:
    """Ask an http(s) server for a sign of life, and a database file whether it is one, without importing MLflow.

    MLflow's own requests would wait much longer, and its attempts to open a file that is none take minutes.

    Raises:
        OSError: when nothing answers within seconds.
        UnusableDatabaseError: when the file is no database, or may not be opened.
    """
    path = sqlite_path(uri)
    if path is not None and path.exists():
        _probe_database(path)
    if not uri.startswith(("http://", "https://")):
        return
    try:
        with urllib.request.urlopen(_without_credentials(uri) + "/health", timeout=PROBE_SECONDS):
            return
    except urllib.error.HTTPError:
        return  # it answered, if only to say no: MLflow's own request will tell why
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if "CERTIFICATE" not in str(reason).upper():  # MLflow has settings of its own for certificates
            raise ConnectionError(f"no server answers: {reason}") from None


def _probe_database(path: Path) -> None:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True)) as database:
            database.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        # An extended code has the general one in its low byte.
        if error.sqlite_errorcode & 0xFF not in PASSING:
            raise UnusableDatabaseError(str(error)) from None


def _without_credentials(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".rstrip("/")
