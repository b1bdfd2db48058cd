"""Label-preserving rewrites of code by its syntax tree, for Python, Java, C, C++, JavaScript, PHP and Go.

A rewrite gives local variables other names, changes comments and white space, adds dead code, and puts expressions and
branches in other words that mean the same. It never changes what the code does; where that is not certain, code stays.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from secauditai.data.augment import branches, rewrites
from secauditai.data.augment.edits import Edit, apply_edits
from secauditai.data.augment.layout import (
    Comment,
    Slot,
    add_dead_code,
    edit_comments,
    edit_lines,
    edit_spaces,
    find_commas,
    find_comments,
    find_slots,
)
from secauditai.data.augment.names import Local, find_locals, rename
from secauditai.data.augment.outline import Outline, open_outline
from secauditai.data.tokens import Augmentation

__all__ = ["VERSION", "Rewriter", "build_rewrite", "rewrite_code"]

VERSION = 3
LONGEST = 200_000
"""Characters of code up to which it is rewritten."""
KEPT_STUDIES = 4
"""Samples whose study is kept: the variants of a sample follow each other."""
NEUTRAL: dict[str, tuple[Callable[[Outline], Iterator[tuple[Edit, ...]]], float]] = {
    "swapped": (branches.swapped, 0.4),
    "braced": (branches.braced, 0.3),
    "increments": (rewrites.increments, 0.5),
    "parentheses": (rewrites.parentheses, 0.2),
    "comparisons": (rewrites.comparisons, 0.3),
    "members": (rewrites.members, 0.05),
    "integers": (rewrites.integers, 0.2),
}
"""Finder of each neutral rewrite, and how often it is done where it can be."""


@dataclass(frozen=True)
class Rewriter:
    """Makes numbered rewrites of code, the same for the same (seed, sample, variant); works in other processes."""

    seed: int

    def __call__(self, code: str, language: str, sample: str, variant: int) -> str:
        """A rewrite of the code; the code itself where the language is not supported or it does not parse."""
        digest = hashlib.sha256(f"{self.seed} {sample} {variant}".encode()).digest()
        return rewrite_code(code, language, random.Random(digest))


@dataclass(frozen=True)
class _Study:
    """All that could be changed in a sample, of which each rewrite does a part."""

    outline: Outline
    functions: list[list[Local]]
    comments: list[Comment]
    slots: list[Slot]
    commas: list[tuple[int, int]]
    neutral: list[tuple[float, tuple[Edit, ...]]]
    """How often each is done, and its spellings."""


def build_rewrite(*, variants: int, seed: int) -> Augmentation:
    """The augmentation for a token store."""
    return Augmentation(variants, Rewriter(seed), f"rewrites {VERSION} seed {seed}")


def rewrite_code(code: str, language: str, random_source: random.Random) -> str:
    """One rewrite of some code; the code itself where nothing can safely be changed."""
    study = _study(code, language)
    if study is None:
        return code
    outline = study.outline
    edits = [
        *edit_lines(study.slots, outline, random_source),
        *add_dead_code(study.slots, outline, random_source),
        *(random_source.choice(choices) for share, choices in study.neutral if random_source.random() < share),
        *edit_comments(study.comments, random_source),
        *edit_spaces(study.commas, random_source),
        *rename(study.functions, outline, random_source),
    ]
    rewritten = outline.restore(apply_edits(outline.source, edits))
    return code if rewritten is None else rewritten


@lru_cache(maxsize=KEPT_STUDIES)
def _study(code: str, language: str) -> _Study | None:
    outline = open_outline(code, language) if len(code) <= LONGEST else None
    if outline is None:
        return None
    return _Study(
        outline,
        find_locals(outline),
        find_comments(outline),
        find_slots(outline),
        find_commas(outline),
        [(share, choices) for find, share in NEUTRAL.values() for choices in find(outline) if choices],
    )
