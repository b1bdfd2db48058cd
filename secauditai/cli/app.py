"""The entry point `secauditai`: command groups, loaded when they are called, and the only error boundary."""

import atexit
import errno
import gc
import importlib
import os
import sys
from typing import Any

import click

from secauditai import __version__
from secauditai.errors import PreflightError, SecAuditError
from secauditai.garbage import collect_seldom

EXIT_ERROR = 1
EXIT_GATE = 3
"""Exit code of a failed gate: `verify`, `evaluate --min`, `validate --fail-on`, `doctor`, the checks before a start."""
SURROUNDINGS = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EIO,
    }
)
"""What a disk or its permissions may refuse at any moment: no bug, so one line as well."""


class LazyGroup(click.Group):
    """A group whose commands are named by module and attribute and imported only when needed."""

    def __init__(self, *args: Any, commands_at: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands_at = commands_at or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order they are declared, which is the order of the work."""
        return [*self.commands_at, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return the command."""
        if cmd_name in self.commands_at:
            module, attribute = self.commands_at[cmd_name].split(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        return super().get_command(ctx, cmd_name)


TRAIN_COMMANDS = {
    "prepare": "secauditai.cli.data:prepare",
    "validate": "secauditai.cli.validate:validate",
    "split": "secauditai.cli.data:split",
    "base": "secauditai.cli.training:base",
    "finetune": "secauditai.cli.training:finetune",
    "start": "secauditai.cli.training:start",
    "resume": "secauditai.cli.training:resume",
    "monitor": "secauditai.cli.monitor:monitor",
    "evaluate": "secauditai.cli.evaluate:evaluate",
    "report": "secauditai.cli.evaluate:report",
    "predict": "secauditai.cli.evaluate:predict",
    "export": "secauditai.cli.export:export",
    "verify": "secauditai.cli.export:verify",
    "tune": "secauditai.cli.tune:tune",
    "config": "secauditai.cli.config:config",
}

RUNS_COMMANDS = {
    "list": "secauditai.cli.runs:list_command",
    "prune": "secauditai.cli.runs:prune",
}

TOP_COMMANDS = {"doctor": "secauditai.cli.doctor:doctor", "jobs": "secauditai.cli.jobs:jobs"}


@click.group(
    cls=LazyGroup,
    commands_at=TOP_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="secauditai")
def cli() -> None:
    """Train, evaluate and ship models that find vulnerabilities in source code.

    \b
    Example:
      secauditai train prepare --dataset security_dataset --output training_data
    """


@cli.group(cls=LazyGroup, commands_at=TRAIN_COMMANDS)
def train() -> None:
    """From labelled samples to a verified ONNX model.

    \b
    Example:
      secauditai train finetune --model transformer --data security_dataset
    """


@cli.group(cls=LazyGroup, commands_at=RUNS_COMMANDS)
def runs() -> None:
    """The runs of a workspace: what they are, what they take, and removing those that nobody needs.

    \b
    Example:
      secauditai runs list
    """


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr, anything else keeps its traceback."""
    collect_seldom()
    atexit.register(gc.freeze)  # nor is there anything to be won by looking for cycles once more at the very end
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        code = 130
    except PreflightError as error:
        click.echo("\n".join(f"Error: {line}" for line in error.lines), err=True)
        code = EXIT_GATE
    except SecAuditError as error:
        click.echo(f"Error: {error}", err=True)
        code = EXIT_ERROR
    except BrokenPipeError:
        sys.stderr.close()
        code = EXIT_ERROR
    except OSError as error:
        if error.errno not in SURROUNDINGS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"Error: {where}{os.strerror(error.errno)}", err=True)
        code = EXIT_ERROR
    sys.exit(code)
