"""Ray's token and its job API over HTTP: is there a token, does the address answer, does it ask?"""

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from importlib.metadata import version as installed
from ipaddress import ip_address
from pathlib import Path

from secauditai.doctor.findings import Finding

SECONDS = 5.0


def read_token() -> str | None:
    """The token that Ray would present, found in the order in which Ray looks."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"]
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def check_token(address: str | None) -> Finding:
    """A cluster that asks for a token gets one."""
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if address is None:
        return Finding("token", "skipped", "Ray on this machine makes its own")
    if read_token() is not None and mode != "disabled":
        return Finding("token", "ok", "there is a token")
    hint = "`ray get-auth-token --generate` makes one; every node and this machine need the same."
    if mode == "token":
        return Finding("token", "failed", "RAY_AUTH_MODE=token, but there is no token", hint)
    return Finding("token", "warning", "there is no token: fine only where nobody else reaches the cluster", hint)


def check_job_api(address: str) -> Finding:
    """`http://…:8265` is Ray's job API, lets us in, and has our version."""
    url = address.rstrip("/") + "/api/version"
    token = read_token()
    try:
        status, body = _get(url, token)
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        hint = "The job API listens on the head's port 8265; `ray dashboard` or an SSH tunnel forwards it."
        return Finding("cluster", "failed", f"nothing answers at {address}: {reason}", hint)
    if status in (401, 403):
        hint = "The token must be that of the cluster: copy the head's ~/.ray/auth_token."
        what = "no token was sent" if token is None else "the token is not the cluster's"
        return Finding("cluster", "failed", f"{address} refuses: {what}", hint)
    mine = installed("ray")
    try:
        version = str(json.loads(body)["ray_version"])
    except (ValueError, KeyError, TypeError):
        hint = "Give the address of Ray's dashboard, usually port 8265."
        return Finding("cluster", "failed", f"{address} answers, but is not Ray's job API", hint)
    if version != mine:
        hint = "Install the versions of constraints.txt on both sides."
        return Finding("cluster", "failed", f"{address} runs Ray {version}, here it is {mine}", hint)
    return Finding("cluster", "ok", f"{address} answers, Ray {version}")


def is_loopback(host_and_port: str) -> bool:
    """Whether only the machine itself reaches this address."""
    host = urllib.parse.urlsplit(f"//{host_and_port}").hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def asks_for_token(host_and_port: str) -> bool | None:
    """Whether a dashboard refuses a request without token; None when it does not answer."""
    try:
        status, _ = _get(f"http://{host_and_port}/api/version", None)
    except (OSError, ValueError, HTTPException):
        return None
    return status in (401, 403)


def _get(url: str, token: str | None) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.status, answer.read(65536)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b""
