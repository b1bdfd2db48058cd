"""Model inputs: the token arrays of a micro-batch, gathered from the token store without per-sample Python work."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from secauditai.data.plan import MicroBatch
from secauditai.data.tokens import TokenStore
from secauditai.data.windows import Windowing

Int64 = npt.NDArray[np.int64]


def build_inputs(
    store: TokenStore, batch: MicroBatch, windowing: Windowing, special_ids: Mapping[str, int]
) -> tuple[Int64, Int64]:
    """Gather a micro-batch's windows from the store.

    Args:
        store: the token store.
        batch: which samples, variants and windows.
        windowing: how code becomes windows.
        special_ids: token ids of `cls`, `sep` and `pad`.

    Returns:
        input_ids and attention_mask, both (batch, windows, sequence) int64.
    """
    rows = batch.samples * (1 + store.variants) + batch.variants
    begin, length = store.offsets[rows][:, None], (store.offsets[rows + 1] - store.offsets[rows])[:, None]
    real = batch.windows >= 0
    starts = np.where(real, batch.windows, 0) * windowing.step
    sizes = np.where(real, np.clip(length - starts, 0, windowing.capacity), -2)

    column = np.arange(batch.sequence)
    position = starts[..., None] + column - 1
    if windowing.long_code == "head-tail":
        head = windowing.capacity // 2
        skipped = np.maximum(length - windowing.capacity, 0)[..., None]
        position = np.where(column - 1 >= head, position + skipped, position)
    inside = (column >= 1) & (column <= sizes[..., None])
    flat = np.where(inside, begin[..., None] + position, 0)
    input_ids = np.where(inside, store.tokens[flat] if len(store.tokens) else 0, special_ids["pad"]).astype(np.int64)
    input_ids[..., 0] = np.where(real, special_ids["cls"], special_ids["pad"])
    input_ids[column == sizes[..., None] + 1] = special_ids["sep"]
    return input_ids, (column < sizes[..., None] + 2).astype(np.int64)
