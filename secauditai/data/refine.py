"""Refining one sample: comments stripped on request, a language found where metadata has none, odd sizes refused."""

from dataclasses import replace

from secauditai.config.settings import CleaningSettings
from secauditai.data.schema import Sample, SampleError

MINIFIED_LINE = 5_000
MINIFIED_SHARE = 0.5
"""Code is minified when one line is at least so long, and holds at least this share of all characters."""


def refine(sample: Sample, settings: CleaningSettings) -> Sample:
    """The sample as it goes on.

    Raises:
        SampleError: when it is too short, too long, or minified.
    """
    from secauditai.data.syntax import detect_language, strip_comments

    if not sample.language:
        found = detect_language(sample.code)
        if found:
            sample = replace(sample, metadata={**sample.metadata, "language": found, "language_detected": True})
    if settings.strip_comments:
        sample = replace(sample, code=strip_comments(sample.code, sample.language))
    _check_size(sample.code, settings)
    return sample


def _check_size(code: str, settings: CleaningSettings) -> None:
    if len(code.strip()) < settings.min_characters:
        raise SampleError("too_short", f"the code has fewer than {settings.min_characters} characters")
    if len(code) > settings.max_characters:
        raise SampleError("too_long", f"the code has more than {settings.max_characters:,} characters")
    if len(code) >= MINIFIED_LINE:
        longest = max(map(len, code.splitlines()))
        if longest >= max(MINIFIED_LINE, MINIFIED_SHARE * len(code)):
            raise SampleError("minified", f"the code is minified: one line has {longest:,} characters")
