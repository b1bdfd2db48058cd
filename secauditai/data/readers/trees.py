"""Directories of source files whose labels stand in their names or in a manifest: Juliet, SARD, OWASP Benchmark."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from secauditai.data.readers import juliet, owasp, sard
from secauditai.data.readers.cases import Case
from secauditai.data.readers.raw import RawSample
from secauditai.errors import DataError


@dataclass(frozen=True)
class Tree:
    """One kind of directory."""

    name: str
    list_cases: Callable[[Path], list[Case]]
    """The test cases below a root, by name; none when the root is of another kind."""
    read_case: Callable[[Path, Case], Iterator[RawSample]]
    manifests: Callable[[Path], list[Path]]
    """Files beside the sources that labels come from."""

    def files(self, root: Path, cases: list[Case]) -> list[Path]:
        """Every file that some sample depends on."""
        return sorted({*self.manifests(root), *(root / name for case in cases for name in case.files)})


TREES = {
    tree.name: tree
    for tree in (
        Tree("owasp-benchmark", owasp.list_cases, owasp.read_case, owasp.manifests),
        Tree("juliet", juliet.list_cases, juliet.read_case, lambda _root: []),
        Tree("sard", sard.list_cases, sard.read_case, sard.manifests),
    )
}
"""By name, as in `--format`; the first one that finds test cases counts."""


def find_tree(root: Path, wanted: str) -> tuple[Tree, list[Case]] | None:
    """The kind of a directory of sources and its test cases; None when it is not one.

    Args:
        root: a directory.
        wanted: a name of `TREES`, or "auto".

    Raises:
        DataError: when it has no test case of the wanted kind, or a manifest cannot be read.
    """
    if wanted not in TREES and wanted != "auto":
        return None
    for name in [wanted] if wanted in TREES else TREES:
        cases = TREES[name].list_cases(root)
        if cases:
            return TREES[name], cases
    if wanted in TREES:
        raise DataError(f"holds no test cases of {wanted}", where=str(root))
    return None
