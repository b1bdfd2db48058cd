"""Refining one sample: comments stripped on request, a language found where metadata has none, odd sizes refused."""

import unicodedata

from secauditai.config.settings import CleaningSettings
from secauditai.data.schema import Sample, SampleError
from secauditai.data.syntax import detect_language, strip_comments

MINIFIED_LINE = 5_000
MINIFIED_SHARE = 0.5
"""Code is minified when one line is at least so long, and holds at least this share of all characters."""


CHANGES = ("line_ends", "unicode", "comments_stripped", "language_detected")
"""What cleaning may change in a sample; bit n of a key's `changes` stands for the n-th."""


def changes(raw_code: object, read: Sample, refined: Sample) -> int:
    """Which of `CHANGES` a sample went through, as bits.

    Args:
        raw_code: the code as it stood in the file.
        read: the sample as parsed.
        refined: the sample as it goes on.
    """
    text = raw_code if isinstance(raw_code, str) else ""
    if read is refined and text.isascii() and "\r" not in text:
        return 0
    unclean = not text.isascii() and (text.startswith("\ufeff") or not unicodedata.is_normalized("NFC", text))
    detected = not read.language and bool(refined.language)
    done = ("\r" in text, unclean, read.code != refined.code, detected)
    return sum(1 << bit for bit, happened in enumerate(done) if happened)


def refine(sample: Sample, settings: CleaningSettings) -> Sample:
    """The sample as it goes on.

    Raises:
        SampleError: when it is too short, too long, or minified.
    """
    if not sample.language:
        found = detect_language(sample.code)
        if found:
            sample = sample._replace(metadata={**sample.metadata, "language": found, "language_detected": True})
    if settings.strip_comments:
        code, flaws = strip_comments(sample.code, sample.language, _flaw_lines(sample))
        moved = {"flaw_lines": flaws} if "flaw_lines" in sample.metadata else {}
        sample = sample._replace(code=code, metadata={**sample.metadata, **moved})
    _check_size(sample.code, settings)
    return sample


def _flaw_lines(sample: Sample) -> list[int]:
    lines = sample.metadata.get("flaw_lines")
    return [line for line in lines if isinstance(line, int)] if isinstance(lines, list) else []


def _check_size(code: str, settings: CleaningSettings) -> None:
    if len(code.strip()) < settings.min_characters:
        raise SampleError("too_short", f"the code has fewer than {settings.min_characters} characters")
    if len(code) > settings.max_characters:
        raise SampleError("too_long", f"the code has more than {settings.max_characters:,} characters")
    if len(code) >= MINIFIED_LINE:
        longest = max(map(len, code.splitlines()))
        if longest >= max(MINIFIED_LINE, MINIFIED_SHARE * len(code)):
            raise SampleError("minified", f"the code is minified: one line has {longest:,} characters")
