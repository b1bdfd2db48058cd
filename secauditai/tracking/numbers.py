"""Metrics between our records and MLflow's."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from secauditai.tracking.redact import clean_key

if TYPE_CHECKING:
    from mlflow import MlflowClient


def finite_numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers of a record, under keys as MLflow accepts them."""
    return {
        clean_key(prefix + name): float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def newest_steps(client: "MlflowClient", run_id: str) -> dict[str, int]:
    """For each metric of a run the highest step that MLflow has."""
    run = client.get_run(run_id)
    return {metric.key: int(metric.step) for metric in run.data.to_proto().metrics}
