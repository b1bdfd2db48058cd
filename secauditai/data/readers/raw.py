"""What every reader yields."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RawSample:
    """One sample as it stands in a file; what a sample must be is `schema.parse_sample`'s business."""

    where: str
    """`file:line`"""
    value: object
