"""The sample: what one labelled piece of code is, and how raw input becomes one.

Everything that reads data ends here, so that a sample is valid wherever it is met later.
"""

import difflib
import functools
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa

LABELS = ("safe", "vulnerability")
SEVERITIES = ("none", "low", "medium", "high", "critical")
NO_CATEGORY = "none"
FIELDS = ("id", "code", "label", "severity", "category", "metadata")
_KNOWN = frozenset(FIELDS)

TASK_COLUMNS = {
    "vulnerability_detection": "label",
    "category_classification": "category",
    "severity_prediction": "severity",
}
"""The column that each task predicts."""

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("severity", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("metadata", pa.string(), nullable=False),
    ]
)
"""Columns of a parsed sample. `language` and `group` are "" when not known; `metadata` is JSON."""
UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
"""Control characters, line breaks, what turns or hides text, and halves of surrogate pairs: no name holds one."""
NOT_IN_TEXT = bytes([*range(0x01, 0x07), *range(0x0E, 0x1B), *range(0x1C, 0x20), 0x7F])
"""Control characters that no text holds, as `file` has it (`text_chars` in its encoding.c): all but BEL, BS, TAB, LF,
VT, FF, CR and ESC, so that raw terminal sequences in a literal are text. NUL is looked for by itself."""
MAX_CONTROLS = 0.1
"""Code with a larger share of them is binary. Git allows 1 in 128 of a whole file (`convert_is_binary` in its
convert.c), but a single function may be a line. Programs without their NULs have about 1 in 6."""
MAX_UNDECODED = 0.5
"""So is code with a larger share of them and of U+FFFD, which decoding puts for bytes that it cannot read: compressed
data has half of its characters so, while code whose comments were wrongly decoded stays below."""
DIGESTED = ("id", "code", "label", "severity", "category", "language", "metadata")


_to_json = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode


class SampleError(ValueError):
    """Why one raw sample is refused; `reason` is a short stable word, the message is for people."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class Broken(NamedTuple):
    """What a reader yields in place of a record that it can tell from its neighbours, but not make sense of."""

    reason: str
    message: str
    id: str = ""


class Sample(NamedTuple):
    """One labelled piece of code."""

    id: str
    code: str
    label: str
    severity: str
    category: str
    metadata: Mapping[str, Any]

    @property
    def language(self) -> str:
        """The language in lower case, "" when not known."""
        return str(self.metadata.get("language") or "").lower()

    @property
    def group(self) -> str:
        """Samples of one group must share a split; "" when the sample stands alone."""
        group = self.metadata.get("group")
        return "" if group is None else str(group)

    def row(self) -> dict[str, str]:
        """The sample as a row of `SAMPLE_SCHEMA`."""
        return {
            "id": self.id,
            "code": self.code,
            "label": self.label,
            "severity": self.severity,
            "category": self.category,
            "language": self.language,
            "group": self.group,
            "metadata": _to_json(self.metadata),
        }


def parse_sample(raw: object) -> Sample:
    """Validate one raw sample, as in the guide's data format.

    Raises:
        SampleError: with the reason it is refused for.
    """
    sample = _mapping(raw, FIELDS)
    label = _choice(sample, "label", LABELS, default=None)
    severity = _choice(sample, "severity", SEVERITIES, default="none")
    return Sample(
        _identifier(sample),
        normalise_code(_code(sample)),
        label,
        severity,
        _category(sample),
        _metadata(sample) if sample.keys() <= _KNOWN else {**_others(sample), **_metadata(sample)},
    )


def parse_code(raw: object) -> tuple[str, str]:
    """The id ("" without one) and the code of a raw sample that is only to be scored.

    Raises:
        SampleError: with the reason it is refused for.
    """
    sample = _mapping(raw, ("code",))
    return "" if sample.get("id") is None else _identifier(sample), normalise_code(_code(sample))


def _mapping(raw: object, keys: tuple[str, ...]) -> Mapping[str, Any]:
    if type(raw) is dict:
        return raw
    if isinstance(raw, Broken):
        raise SampleError(raw.reason, raw.message)
    if not isinstance(raw, Mapping):
        raise SampleError("not_a_mapping", f"a sample must be a mapping with {_listed(keys)}, not {_kind(raw)}")
    return raw


def _listed(keys: tuple[str, ...]) -> str:
    return f"the key{'s' if len(keys) > 1 else ''} {', '.join(keys)}"


def shown_id(raw: object) -> str:
    """The id of a raw sample that is refused, as far as it can be shown; "" without one."""
    known = raw.get("id") if isinstance(raw, Mapping) else getattr(raw, "id", None)
    return "" if known is None else UNREADABLE.sub("?", str(known)[:200])


def valid_unicode(text: str) -> str:
    """The text with whatever UTF-8 cannot say replaced by question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def normalise_code(code: str) -> str:
    """Unify line ends and unicode (NFC), drop a byte order mark and trailing blank lines."""
    if "\r" in code:
        code = code.replace("\r\n", "\n").replace("\r", "\n")
    if not code.isascii():
        code = unicodedata.normalize("NFC", code.removeprefix("\ufeff"))
    return code if code.endswith("\n") and not code.endswith("\n\n") else code.rstrip("\n") + "\n"


def code_key(code: str) -> bytes:
    """Digest (16 bytes) of code that is equal for exact duplicates: all white space is folded."""
    return hashlib.sha256(" ".join(code.split()).encode("utf-8")).digest()[:16]


def code_number(code: str) -> int:
    """The first 64 bits of `code_key`."""
    return int.from_bytes(code_key(code)[:8], "big")


def row_digest(row: Mapping[str, str]) -> bytes:
    """Digest (16 bytes) of what a sample's row says, its group and cluster left out: these depend on other samples."""
    texts = [row[name] for name in DIGESTED]
    whole = "\n".join(texts).encode("utf-8")
    sizes = map(len, texts if whole.isascii() else [text.encode("utf-8") for text in texts])
    return hashlib.sha256(" ".join(map(str, sizes)).encode("ascii") + b"\n" + whole).digest()[:16]


def _identifier(raw: Mapping[Any, Any]) -> str:
    value = raw.get("id")
    text = str(value).strip() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not text:
        problem = "is missing" if value is None else f"must be a non-empty string, not {_kind(value)}"
        raise SampleError("bad_id", f"'id' {problem}")
    return _readable("id", text)


def _code(raw: Mapping[Any, Any]) -> str:
    value = raw.get("code")
    if value is None:
        raise SampleError("no_code", "'code' is missing")
    if not isinstance(value, str):
        raise SampleError("bad_code", f"'code' must be a string, not {_kind(value)}")
    if not value or value.isspace():
        raise SampleError("no_code", "'code' is empty")
    try:
        _check_text(value, value.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise SampleError("bad_code", f"'code' is not valid unicode ({error.reason})") from error
    return value


def _check_text(code: str, encoded: bytes) -> None:
    """Refuse what is no text, whichever way it was made a string."""
    if b"\x00" in encoded:
        raise SampleError("binary_code", "'code' contains NUL characters, so it is not source code")
    controls = len(encoded) - len(encoded.translate(None, NOT_IN_TEXT))
    if not controls and code.isascii():
        return
    undecoded = code.count("\ufffd")
    for count, limit, kind in (
        (controls, MAX_CONTROLS, "control characters"),
        (controls + undecoded, MAX_UNDECODED, "control characters or U+FFFD"),
    ):
        if count > limit * len(code):
            message = f"{count:,} of the {len(code):,} characters of 'code' are {kind}, so it is not source code"
            raise SampleError("binary_code", message)


def _choice(raw: Mapping[Any, Any], key: str, allowed: tuple[str, ...], default: str | None) -> str:
    value = raw.get(key)
    if value in allowed:
        return str(value)
    if value is None and default is not None:
        return default
    text = value.strip().lower() if isinstance(value, str) else value
    if text not in allowed:
        shown = "missing" if value is None else f"{str(value)[:40]!r}"
        raise SampleError(f"bad_{key}", f"'{key}' is {shown}; it must be one of {', '.join(allowed)}")
    return str(text)


def _category(raw: Mapping[Any, Any]) -> str:
    value = raw.get("category")
    if value is None:
        return NO_CATEGORY
    if not isinstance(value, str) or not value.strip():
        raise SampleError("bad_category", f"'category' must be a non-empty string, not {_kind(value)}")
    return _readable("category", value.strip().lower())


def _readable(key: str, text: str) -> str:
    """A name that a line of text can show."""
    if not text.isprintable() and UNREADABLE.search(text):
        raise SampleError(f"bad_{key}", f"'{key}' holds control characters: {text[:40]!a}")
    return text


def _metadata(raw: Mapping[Any, Any]) -> dict[str, Any]:
    value = raw.get("metadata")
    if value is None:
        return {}
    if type(value) is not dict and not isinstance(value, Mapping):
        raise SampleError("bad_metadata", f"'metadata' must be a mapping, not {_kind(value)}")
    return {
        key if type(key) is str else str(key): item if type(item) is str else _plain(item)
        for key, item in value.items()
    }


def _others(raw: Mapping[Any, Any]) -> dict[str, Any]:
    """What stands beside the fields: it counts as metadata, unless it looks like a misspelt field.

    A field that is there as well leaves no doubt about a key such as `idx`, but none about `Label` or `meta_data`.
    """
    others = {str(key): _plain(value) for key, value in raw.items() if key not in _KNOWN}
    for key in others:
        if (meant := _resembled(key)) and (meant not in raw or meant == key.lower().replace("_", "")):
            raise SampleError("unknown_key", f"the key {key[:40]!a} is not known; did you mean '{meant}'?")
    return others


@functools.lru_cache(maxsize=4096)
def _resembled(key: str) -> str:
    """The field that a key is nearly called; "" for none."""
    return next(iter(difflib.get_close_matches(key.lower(), FIELDS, n=1, cutoff=0.8)), "")


def _plain(value: object) -> object:
    """Turn a metadata value into what JSON can hold; dates and the like become their text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
