"""Findings: what is wrong with some data, or worth knowing, and the words for their kinds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

ERROR, WARNING = "error", "warning"
KINDS = (
    "error",
    "leak",
    "conflict",
    "duplicate",
    "rejected",
    "imbalance",
    "small_class",
    "noise",
    "missing_label",
    "not_split",
)
"""What a gate may name: a reason of findings, `error` for every error, `rejected` for every refused sample."""
NOT_ABOUT_SAMPLES = ("missing_label", "content_hash", "leak")
"""Reasons of errors that refuse no sample."""


@dataclass(frozen=True)
class Finding:
    """Something wrong, or worth knowing."""

    level: str
    """error | warning"""
    where: str
    """`file:line`, or the dataset."""
    id: str
    """The sample, "" when it is about all of them."""
    reason: str
    message: str


@dataclass(frozen=True)
class Validation:
    """What `validate` found."""

    read: int
    kept: int
    findings: list[Finding]
    labels: dict[str, int]

    @property
    def errors(self) -> int:
        """Number of findings that are errors."""
        return sum(finding.level == ERROR for finding in self.findings)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return self.errors == 0

    def document(self) -> dict[str, Any]:
        """The JSON document."""
        warnings = len(self.findings) - self.errors
        head = {"ok": self.ok, "read": self.read, "kept": self.kept, "errors": self.errors, "warnings": warnings}
        return {**head, "labels": self.labels, "findings": [asdict(finding) for finding in self.findings]}


def count_findings(findings: Sequence[Finding], kind: str) -> int:
    """How many findings are of one of `KINDS`."""
    if kind == "error":
        return sum(finding.level == ERROR for finding in findings)
    if kind == "rejected":
        return sum(finding.level == ERROR and finding.reason not in NOT_ABOUT_SAMPLES for finding in findings)
    return sum(finding.reason == kind for finding in findings)
