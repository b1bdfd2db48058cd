"""HTML pages of ours: one file, nothing loaded from elsewhere, everything escaped; written whole or not at all."""

import contextlib
import os
from pathlib import Path
from typing import Any

from secauditai.errors import DataError


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
    return environment.get_template(template).render(number=number, share=share, **values)


def write_page(text: str, output: Path) -> None:
    """Write a page; a file that is there is replaced.

    Raises:
        DataError: when the place cannot be written to.
    """
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(output)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        reason = error.strerror or str(error)
        raise DataError(f"the page cannot be written: {reason}", where=str(output)) from None


def number(value: float | None) -> str:
    """A metric; – when undefined."""
    return "–" if value is None else f"{value:.3f}"


def share(value: float | None) -> str:
    """A share as a percentage; – when undefined."""
    return "–" if value is None else f"{value:.1%}"
