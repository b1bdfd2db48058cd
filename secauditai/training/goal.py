"""What a run predicts, and which validation metric picks its best checkpoint."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from secauditai.config.settings import TrainConfig
from secauditai.data.schema import LABELS, SEVERITIES, TASK_COLUMNS
from secauditai.errors import DataError
from secauditai.metrics import METRICS, Scores
from secauditai.training.health import Finding

if TYPE_CHECKING:
    from secauditai.training.checkpoint import TrainState
    from secauditai.training.preparation import TrainingPlan

RANKING = ("roc_auc", "average_precision")
"""Metrics that samples of one label leave undefined."""


def choose_labels(task: str, train: pa.Table) -> list[str]:
    """The labels a head tells apart: fixed for detection, else those of the training data.

    Raises:
        DataError: when there is only one.
    """
    column = TASK_COLUMNS[task]
    present = set(train.column(column).to_pylist())
    if len(present) < 2:
        raise DataError(
            f"all training samples have the same {column} ({', '.join(present)}), so {task} cannot be learnt"
        )
    if task == "vulnerability_detection":
        return list(LABELS)
    return [s for s in SEVERITIES if s in present] if task == "severity_prediction" else sorted(present)


def check_selection(config: TrainConfig, heads: dict[str, list[str]], val: pa.Table, where: str) -> None:
    """Make sure that the metric that was asked for can be measured.

    Raises:
        DataError: when the number of labels or the validation split, of the dataset `where`, leaves it undefined.
    """
    wanted, label = config.selection.selection_metric, _only_label(heads, val)
    if wanted == "auto" or not heads:
        return
    task, labels = next(iter(heads.items()))
    if METRICS[wanted].two_labels_only and len(labels) > 2:
        raise DataError(
            f"{wanted} is for two labels only, and {task} has {len(labels)} here",
            where=where,
            hint="Choose another metric, such as f1 or balanced_accuracy.",
        )
    if label is not None and _is_undefined(wanted, labels, label):
        raise DataError(
            f"{wanted} is undefined: all validation samples are labelled {label!r}",
            where=where,
            hint="Take more data, or choose another metric.",
        )


def selection_metric(plan: "TrainingPlan") -> str:
    """The validation metric that picks the best checkpoint."""
    wanted = plan.request.config.selection.selection_metric
    if plan.request.is_base:
        return "loss"
    if wanted != "auto":
        return wanted
    if "vulnerability_detection" not in plan.heads:
        return "f1"
    return "roc_auc" if _only_label(plan.heads, plan.val) is None else "loss"


def notices_of_selection(plan: "TrainingPlan") -> list[str]:
    """What a user should know about that metric."""
    if not plan.heads or selection_metric(plan) != "loss" or plan.request.config.selection.selection_metric == "loss":
        return []
    label = _only_label(plan.heads, plan.val)
    return [f"All validation samples are labelled {label!r}: the best checkpoint is that of the smallest loss"]


def is_better(metric: str, found: Mapping[str, float], state: "TrainState") -> bool:
    """Whether a validation beats the best so far: by the metric, or by the loss while the metric is undefined."""
    value, loss = found.get(metric), found.get("loss")
    if state.best_step is None:
        return True
    if value is not None:
        sign = 1.0 if METRICS[metric].higher_is_better else -1.0
        return state.best_value is None or sign * value > sign * state.best_value
    if state.best_value is not None or loss is None:
        return False
    return state.best_loss is None or loss < state.best_loss


def undefined_goal(metric: str) -> Finding:
    """What is told when the first validation leaves the metric undefined."""
    told = (
        f"{metric} is undefined on the validation split; until it is not, the smallest loss picks the best checkpoint"
    )
    return Finding("undefined_metric", told, {"metric": metric})


def _is_undefined(metric: str, labels: Sequence[str], label: str) -> bool:
    """Whether samples of one label leave it undefined, even for a model that is always right."""
    if metric in RANKING or label not in labels:
        return True
    number = np.array([labels.index(label)])
    return METRICS[metric].compute(Scores(number, number, np.eye(len(labels))[number])) is None


def _only_label(heads: dict[str, list[str]], val: pa.Table) -> str | None:
    """The label that all validation samples have for the first head; None when there are several, or no head."""
    if not heads:
        return None
    present = set(val.column(TASK_COLUMNS[next(iter(heads))]).to_pylist())
    return present.pop() if len(present) == 1 else None
