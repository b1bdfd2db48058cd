"""Masking of likely secrets in code that is shown: well-known formats and literals assigned to telling names.

A table of patterns, not a scanner: what has no such form, such as a random text without a telling name, is not found.
Every pattern is bounded, so that masking takes time in proportion to the text.
"""

import re
from collections.abc import Callable

MASK = "…***"
SHOWN = 3
"""Leading characters of a secret that are left, when it has at least four times as many."""
MARGIN = 4096
"""Characters beyond an excerpt that are masked with it, so that a secret cut by its end is still recognised."""

_NAME = r"(?:passw(?:or)?d|passwd|pwd|passphrase|secret|token|api_?-?key|access_?-?key|private_?-?key|credentials?)"
_PREFIXED = (
    r"(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA|ABIA|ACCA)[A-Z0-9]{16}",  # AWS
    r"gh[pousr]_[A-Za-z0-9]{20,255}|github_pat_\w{20,255}",  # GitHub
    r"gl(?:pat|dt|rt|ptt|cbt)-[\w-]{20,255}",  # GitLab
    r"xox[abeoprs]-[A-Za-z0-9-]{10,255}|xapp-[A-Za-z0-9-]{10,255}",  # Slack
    r"(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{10,255}",  # Stripe
    r"AIza[\w-]{35}|ya29\.[\w-]{20,255}",  # Google
    r"sk-[\w-]{20,255}|hf_[A-Za-z0-9]{20,255}|npm_[A-Za-z0-9]{30,255}|pypi-[\w-]{50,255}",
    r"SG\.[\w-]{16,64}\.[\w-]{16,64}",  # SendGrid
    r"eyJ[\w-]{8,2048}\.[\w-]{8,2048}(?:\.[\w-]{0,2048})?",  # JSON web token
)
_PRIVATE_KEY = re.compile(
    r"(-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----)(.{1,20000}?)(?=-----END|\Z)", re.DOTALL
)
_TOKEN = re.compile(r"(?<![A-Za-z0-9])()(" + "|".join(_PREFIXED) + r")(?![A-Za-z0-9])")
_WEBHOOK = re.compile(r"(hooks\.slack\.com/(?:services|workflows)/)([\w/]{8,255})")
_HEADER = re.compile(r"(\b(?:bearer|basic)\s{1,4})([A-Za-z0-9+/._~-]{16,2048}={0,2})", re.IGNORECASE)
_USER_INFO = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]{1,30}://[^\s/:@\"'<>]{0,100}:)([^\s/@\"'<>]{1,200})(?=@)")
_IN_TEXT = re.compile(r"([;&?\"']\s?(?:password|passwd|pwd)=)([^\s;&\"'<>)]{1,200})", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"(?<!\w)(?P<open>[\"'`]?)[\w$.-]{0,60}?" + _NAME + r"\w{0,30}(?P=open)\]?(?:\[\w{0,10}\])?\s{0,4}"
    r"(?::\s{0,2}[A-Za-z][\w.\[\]]{0,30}\s{0,2}(?==))?(?:={1,3}|!={1,2}|:=|=>|:|,|\()\s{0,4}[A-Za-z@]{0,2}"
    r"(?P<quote>\"{3}|'{3}|[\"'`])(?P<value>(?:\\.|(?!(?P=quote))[^\\\n]){1,4000})(?=(?P=quote))",
    re.IGNORECASE,
)
_CARD = re.compile(r"(?<![\w.])()([3-6](?:[ -]?\d){12,18})(?!\w|\.\d)")
_PLACEHOLDER = re.compile(r"%\(?\w*\)?[sd]?|\?|\{[^{}]*\}|\$\{?\w*\}?|:\w+|<[\w -]*>|\*+|x+", re.IGNORECASE)


def mask_secrets(text: str) -> str:
    """The text with likely secrets replaced by their first characters and `…***`."""
    for pattern in (_PRIVATE_KEY, _TOKEN, _WEBHOOK, _HEADER, _USER_INFO, _IN_TEXT):
        text = pattern.sub(_masking_unless(_is_placeholder), text)
    text = _ASSIGNED.sub(_mask_assigned, text)
    return _CARD.sub(_masking_unless(lambda value: not _is_card(value)), text)


def excerpt(code: str, characters: int) -> str:
    """The beginning of some code, secrets masked; ends in `…` when there is more."""
    masked = mask_secrets(code[: characters + MARGIN])
    return masked if len(masked) <= characters else masked[:characters].rstrip() + "\n…"


def mask(secret: str) -> str:
    """One secret, so that its owner may recognise it."""
    kept = secret[:SHOWN] if len(secret) >= 4 * SHOWN else ""
    return kept + MASK


def _masking_unless(harmless: Callable[[str], bool]) -> Callable[[re.Match[str]], str]:
    def replace(match: re.Match[str]) -> str:
        before, secret = match.group(1), match.group(2)
        return match.group(0) if harmless(secret) else before + mask(secret.lstrip())

    return replace


def _mask_assigned(match: re.Match[str]) -> str:
    value = match.group("value")
    if _is_placeholder(value) or value.endswith(MASK):
        return match.group(0)
    return match.group(0)[: match.start("value") - match.start()] + mask(value)


def _is_placeholder(text: str) -> bool:
    return _PLACEHOLDER.fullmatch(text) is not None


def _is_card(text: str) -> bool:
    """Whether the digits pass the Luhn check (ISO/IEC 7812-1)."""
    digits = [int(character) for character in text if character.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [digit * 2 - 9 * (digit > 4) if place % 2 else digit for place, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0
