"""Reading the files of `cluster/` and the schemas they must meet."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import yaml

PROJECT = Path(__file__).parents[1]
CLUSTER = PROJECT / "cluster"
SCHEMAS = PROJECT / "tests" / "cluster_files" / "schemas"


def read_documents(path: Path) -> list[Any]:
    """Every YAML document of a file."""
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def pinned(package: str) -> str:
    """The version that constraints.txt pins a package to."""
    found = re.search(rf"^{package}==(\S+)$", (PROJECT / "constraints.txt").read_text(), re.M)
    assert found is not None, package
    return found[1]


def read_crd(name: str) -> Any:
    """A custom resource's schema, strict: Kubernetes drops unknown fields silently, here they are errors."""
    return _strict(json.loads(gzip.decompress((SCHEMAS / f"{name}.v1.json.gz").read_bytes())))


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        made.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields")))
    return made


def validate_crd(document: Any, schema: Any) -> None:
    """Validate a custom resource; `metadata` is Kubernetes' own and open in the schema."""
    body = {key: value for key, value in document.items() if key != "metadata"}
    jsonschema.Draft202012Validator(schema).validate(body)
