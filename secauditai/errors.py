"""Every error a user can cause or mend.

    SecAuditError
    ├── ConfigError    a setting, a configuration file or a flag
    ├── DataError      a sample, a data file, a dataset directory
    ├── ModelError     a model name, a bundle, an encoder or its weights
    ├── RunError       a training run, its directory or its checkpoints
    ├── ClusterError   Ray, its address, its resources
    │   └── PreflightError  what a start needs and does not find there
    └── ExportError    an ONNX file or what is made from it

The library raises them with what was wrong, where, and what to do; the command line prints them as one
`Error: …` line and exits with 1; PreflightError has a line for each thing that is missing, and exits with 3.
Anything else that escapes is a bug and keeps its traceback.
"""

from collections.abc import Sequence


class SecAuditError(Exception):
    """What went wrong, where it is, and what to do about it."""

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        """Build the error.

        Args:
            message: what was wrong, in one sentence without a final full stop.
            where: `file:line`, a sample id or a setting's name; put in front.
            hint: what the user can do; put behind.
        """
        self.message = message
        self.where = where
        self.hint = hint
        super().__init__(message)

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}. {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the trip between processes, keyword arguments included."""
        return _rebuild, (type(self), self.message, self.where, self.hint)


def _rebuild(kind: type[SecAuditError], message: str, where: str | None, hint: str | None) -> SecAuditError:
    return kind(message, where=where, hint=hint)


class ConfigError(SecAuditError):
    """A setting, a configuration file or a flag is wrong."""


class DataError(SecAuditError):
    """A sample, a data file or a dataset directory is wrong."""


class ModelError(SecAuditError):
    """A model name, a bundle or an encoder is wrong or missing."""


class RunError(SecAuditError):
    """A training run, its directory or one of its checkpoints is wrong."""


class ClusterError(SecAuditError):
    """Ray cannot be reached or cannot run what was asked."""


class PreflightError(ClusterError):
    """Checks before a start have failed."""

    def __init__(self, lines: Sequence[str]) -> None:
        """Build the error from one sentence for each failed check."""
        self.lines = tuple(lines)
        super().__init__("; ".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the trip between processes."""
        return type(self), (self.lines,)


class ExportError(SecAuditError):
    """An ONNX file cannot be made or read."""
