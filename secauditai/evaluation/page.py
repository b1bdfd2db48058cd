"""HTML pages of ours: one file, nothing loaded from elsewhere, everything escaped; written whole or not at all."""

from pathlib import Path
from typing import Any

from secauditai.data.replacing import check_above
from secauditai.errors import DataError
from secauditai.evaluation.masking import excerpt
from secauditai.files import whole_file

MARK, HEAD = b'<meta name="generator" content="SecAuditAI">', 1024
"""What stands in the first bytes of every page of ours."""


def render_page(template: str, **values: Any) -> str:
    """A page as text.

    Args:
        template: a file of `templates/`.
        values: what it shows; escaped unless the template says otherwise.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(
        loader=PackageLoader("secauditai.evaluation"), autoescape=select_autoescape(default=True), trim_blocks=True
    )
    return environment.get_template(template).render(number=number, share=share, excerpt=excerpt, **values)


def write_page(text: str, output: Path) -> None:
    """Write a page; one of ours that is there is replaced.

    Raises:
        DataError: when the place cannot be written to, or holds another file.
    """
    check_page(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(output) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"the page cannot be written: {reason}", where=str(output)) from None


def check_page(output: Path) -> None:
    """Refuse to write a page over a file that is none of ours, or below a file.

    Raises:
        DataError: when there is one, or it names no file.
    """
    if not output.name:
        raise DataError("the page has no name", hint="Name a file, such as report.html.")
    check_above(output)
    try:
        with output.open("rb") as file:
            ours = MARK in file.read(HEAD)
    except OSError:  # nothing there, or nothing that writing would replace without a word
        return
    if not ours:
        hint = "Choose another file, or remove it."
        raise DataError("there is a file already, and it is no page of ours", where=str(output), hint=hint)


def number(value: float | None) -> str:
    """A metric; – when undefined."""
    return "–" if value is None else f"{value:.3f}"


def share(value: float | None) -> str:
    """A share as a percentage; – when undefined."""
    return "–" if value is None else f"{value:.1%}"
