"""The documentation cannot drift from the commands."""

import re
import subprocess
import sys
from pathlib import Path

import click

from secauditai.cli.app import cli

DOCS = Path(__file__).parents[1] / "docs"


def commands(group: click.Group, path: str) -> list[tuple[str, click.Command]]:
    context = click.Context(group)
    found: list[tuple[str, click.Command]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = commands(command, f"{path} {name}") if isinstance(command, click.Group) else []
        found += [(f"{path} {name}", command), *inner]
    return found


def test_every_command_has_an_example_and_a_place_in_the_documentation() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    for path, command in commands(cli, "secauditai"):
        assert command.help, path
        assert re.search(r"^\s*Examples?:", command.help, re.M), path
        assert f"`{path}`" in pages, path
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or parameter.help, f"{path} {parameter.name}"  # type: ignore[attr-defined]


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, DOCS / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_links_between_pages_lead_somewhere() -> None:
    for page in (*DOCS.rglob("*.md"), DOCS.parent / "README.md", DOCS.parent / "cluster" / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"
