"""The data quality report: `measure_quality` as one HTML page."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from secauditai.data.findings import Validation
from secauditai.evaluation import plots
from secauditai.evaluation.masking import mask_secrets
from secauditai.evaluation.page import render_page, write_page
from secauditai.tracking.redact import redact_text

BALANCES = ("labels", "severities", "categories", "languages", "projects", "splits")
SHOWN_BARS = 12
SHOWN_FINDINGS = 10


def write_quality_report(document: dict[str, Any], validation: Validation, data: str, output: Path) -> None:
    """Write the page, whole or not at all.

    Args:
        document: of `measure_quality`.
        validation: what was found.
        data: what the user called the data.
        output: the HTML file; replaced when it is there.

    Raises:
        DataError: when the place cannot be written to.
    """
    write_page(render_quality_report(document, validation, data), output)


def render_quality_report(document: dict[str, Any], validation: Validation, data: str) -> str:
    """The page as text."""
    others = [finding for finding in validation.findings if finding.reason not in ("noise", "duplicate")]
    return render_page(
        "quality.html.j2",
        q=document,
        data=redact_text(data),
        validation=validation,
        findings=[replace(finding, message=mask_secrets(finding.message)) for finding in others[:SHOWN_FINDINGS]],
        more_findings=len(others) - len(others[:SHOWN_FINDINGS]),
        balances=[(name, document[name]) for name in BALANCES if document[name]],
        bars={name: plots.bars(document[name][:SHOWN_BARS]) for name in BALANCES if document[name]},
        shown_bars=SHOWN_BARS,
        histograms=_histograms(document["lengths"]),
    )


def _histograms(lengths: dict[str, Any]) -> list[tuple[str, str]]:
    if not lengths["characters"]["counts"]:
        return []
    characters, tokens = lengths["characters"], lengths["tokens"]
    return [
        (
            f"Tokens, estimated: {lengths['token_estimate']}",
            plots.length_histogram(tokens, "tokens", lengths["max_length"]),
        ),
        ("Characters", plots.length_histogram(characters, "characters")),
    ]
