"""The reports' plots, as SVG text to stand inside the page; the same data gives the same text."""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

ACCENT, MUTED, INK = "#2f6fb3", "#9aa4b2", "#6b7280"
SIZE = (4.2, 3.1)
Curve = Sequence[tuple[int, float]]


def roc_curve(positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> str:
    """True positives found over false alarms raised."""

    def draw(axes: Any) -> None:
        order = np.argsort(-scores, kind="stable")
        hits = positive[order]
        found = np.concatenate([[0], np.cumsum(hits)]) / max(hits.sum(), 1)
        alarms = np.concatenate([[0], np.cumsum(~hits)]) / max((~hits).sum(), 1)
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":", label="chance")
        axes.plot(alarms, found, color=ACCENT, label="model")
        axes.set(xlabel="share of safe samples flagged", ylabel="share of vulnerabilities found")
        axes.legend(frameon=False)

    return _svg(draw)


def precision_recall_curve(positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> str:
    """How often a flag is right, over how much is found."""

    def draw(axes: Any) -> None:
        hits = positive[np.argsort(-scores, kind="stable")]
        found = np.cumsum(hits)
        axes.axhline(positive.mean(), color=MUTED, linestyle=":", label="flag everything")
        axes.plot(found / max(found[-1], 1), found / np.arange(1, len(hits) + 1), color=ACCENT, label="model")
        axes.set(xlabel="recall", ylabel="precision", ylim=(0, 1.03))
        axes.legend(frameon=False)

    return _svg(draw)


def calibration_curve(positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64], bins: int = 10) -> str:
    """What share is vulnerable among samples of about one score."""

    def draw(axes: Any) -> None:
        number = np.minimum((scores * bins).astype(int), bins - 1)
        filled = [index for index in range(bins) if (number == index).any()]
        means = [scores[number == index].mean() for index in filled]
        shares = [positive[number == index].mean() for index in filled]
        sizes = [max(12.0, 160.0 * (number == index).mean()) for index in filled]
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":")
        axes.plot(means, shares, color=ACCENT, linewidth=1)
        axes.scatter(means, shares, s=sizes, color=ACCENT)
        axes.set(xlabel="score", ylabel="share that is vulnerable", xlim=(0, 1), ylim=(-0.03, 1.03))

    return _svg(draw)


def score_histogram(positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64], threshold: float) -> str:
    """Where the scores of either label lie."""

    def draw(axes: Any) -> None:
        edges = np.linspace(0, 1, 31)
        axes.hist(scores[~positive], edges, color=MUTED, alpha=0.8, label="safe")
        axes.hist(scores[positive], edges, color=ACCENT, alpha=0.7, label="vulnerability")
        axes.axvline(threshold, color=INK, linestyle="--", linewidth=1, label=f"threshold {threshold:.2f}")
        axes.set(xlabel="score", ylabel="samples")
        axes.legend(frameon=False)

    return _svg(draw)


def training_curves(records: Sequence[dict[str, Any]]) -> str:
    """Training and validation loss by global step."""

    def draw(axes: Any) -> None:
        for kind, color, label in (("train", MUTED, "training"), ("val", ACCENT, "validation")):
            points = [
                (record["step"], record["loss"]) for record in records if record["kind"] == kind and "loss" in record
            ]
            if points:
                axes.plot(
                    *zip(*points, strict=True), color=color, label=label, marker="o" if len(points) < 30 else None
                )
        axes.set(xlabel="global step", ylabel="loss")
        axes.legend(frameon=False)

    return _svg(draw)


def trial_curves(others: Sequence[Curve], best: Curve, metric: str) -> str:
    """The goal metric of a sweep's trials by global step.

    Args:
        others: (step, value) points of each trial.
        best: those of the best trial.
        metric: the goal's name.
    """

    def draw(axes: Any) -> None:
        for curve, color, width in [*((curve, MUTED, 1.0) for curve in others), (best, ACCENT, 2.2)]:
            if curve:
                axes.plot(*zip(*curve, strict=True), color=color, linewidth=width, marker="o", markersize=width + 1.5)
        axes.set(xlabel="global step", ylabel=metric.replace("_", " "))

    return _svg(draw)


def shares(values: Mapping[str, float]) -> str:
    """Shares of one whole, the largest on top."""

    def draw(axes: Any) -> None:
        names = sorted(values, key=lambda name: values[name])
        axes.barh(range(len(names)), [values[name] for name in names], color=ACCENT)
        axes.set_yticks(range(len(names)), [_name(name) for name in names])
        axes.set(xlabel="share", xlim=(0, 1))

    return _svg(draw)


def bars(rows: Sequence[dict[str, Any]]) -> str:
    """Samples of each value, the vulnerable ones set apart.

    Args:
        rows: with `value`, `samples` and `vulnerable`.
    """

    def draw(axes: Any) -> None:
        height = max(len(rows), 4)
        places = height - 1 - np.arange(len(rows))
        vulnerable = np.array([row["vulnerable"] for row in rows])
        safe = np.array([row["samples"] for row in rows]) - vulnerable
        axes.barh(places, vulnerable, color=ACCENT, label="vulnerability")
        axes.barh(places, safe, left=vulnerable, color=MUTED, label="safe")
        axes.set_yticks(places, [_name(row["value"]) for row in rows])
        for label in axes.get_yticklabels():
            label.set_parse_math(False)
        axes.set(xlabel="samples", ylim=(-0.6, height - 0.4))
        axes.locator_params(axis="x", nbins=5, integer=True)
        axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))

    return _svg(draw)


def length_histogram(spread: dict[str, Any], unit: str, limit: int | None = None) -> str:
    """How long samples are, on a logarithmic axis.

    Args:
        spread: `edges` and `counts` of bins.
        unit: of the lengths.
        limit: a length to mark.
    """

    def draw(axes: Any) -> None:
        axes.stairs(spread["counts"], spread["edges"], color=ACCENT, fill=True)
        axes.set_xscale("log")
        axes.set(xlabel=unit, ylabel="samples")
        if limit is not None:
            axes.axvline(limit, color=INK, linestyle="--", linewidth=1, label=f"max_length {limit}")
            axes.legend(frameon=False)

    return _svg(draw)


def _name(value: str) -> str:
    """A value as the label of a bar: one short line of printable characters."""
    text = "".join(character if character.isprintable() else "?" for character in value)
    return text if len(text) <= 24 else text[:23] + "…"


def _svg(draw: Callable[[Any], None]) -> str:
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "secauditai"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        return _draw_svg(draw)


def _draw_svg(draw: Callable[[Any], None]) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained", facecolor="none")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot(facecolor="none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)
    axes.tick_params(colors=INK, labelsize=8)
    draw(axes)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=INK, fontsize=9)
    legend = axes.get_legend()
    for label in legend.get_texts() if legend is not None else ():
        label.set(color=INK, fontsize=8)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
