"""What every reader yields."""

from typing import NamedTuple


class RawSample(NamedTuple):
    """One sample as it stands in a file; what a sample must be is `schema.parse_sample`'s business."""

    where: str
    """`file:line`"""
    value: object
