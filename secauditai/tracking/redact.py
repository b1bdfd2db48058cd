"""What may be written into a tracking store: plain values without credentials."""

import json
import re
from collections.abc import Mapping
from typing import Any

HIDDEN_KEY = re.compile(r"(^|[_.])(password|passwd|secret|api_key|access_key|token)$", re.IGNORECASE)
USER_INFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/\"'?#]*@")
QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s\"'?#]*)[?#][^\s\"',]*")
NOT_IN_KEYS = re.compile(r"[^\w\-. :/]")
MAX_PARAM, MAX_TAG, MAX_KEY = 6000, 5000, 250
"""Characters. MLflow's own limits, except that tags have 8000 now and had 5000 before."""


def redact_text(text: str) -> str:
    """Drop user info, query and fragment of every URI in a text."""
    return QUERY.sub(r"\1", USER_INFO.sub(r"\1", text))


def clean_key(key: str) -> str:
    """A key as MLflow accepts it."""
    return NOT_IN_KEYS.sub("_", key)[:MAX_KEY]


def clean_params(params: Mapping[str, Any]) -> dict[str, str]:
    """Params as MLflow stores them; unset ones and secrets are left out."""
    return _clean(params, MAX_PARAM)


def clean_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags as MLflow stores them; unset ones and secrets are left out."""
    return _clean(tags, MAX_TAG)


def _clean(values: Mapping[str, Any], limit: int) -> dict[str, str]:
    return {
        clean_key(key): redact_text(_text(value))[:limit]
        for key, value in values.items()
        if value is not None and not HIDDEN_KEY.search(key)
    }


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict | tuple) else str(value)
