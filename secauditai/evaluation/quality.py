"""Data quality: what a person should know of a dataset before training on it, as one JSON document."""

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from secauditai.data.dataset import read_parts
from secauditai.data.findings import WARNING, Finding, Validation
from secauditai.data.material import Material
from secauditai.data.near import TOKEN
from secauditai.data.schema import SEVERITIES
from secauditai.data.windows import Windowing
from secauditai.evaluation.duplicates import describe_duplicates
from secauditai.evaluation.leakage import cross_split_leaks, random_split_leak, split_ratios
from secauditai.evaluation.masking import excerpt, mask_secrets
from secauditai.evaluation.noise import FOLDS, MAX_CHARACTERS, Noise, find_suspects
from secauditai.progress import Progress, silent

MAX_SAMPLES = 20_000
"""Samples whose tokens are counted and whose labels are doubted; of more, those with the smallest hashes of ids."""
SHOWN_SUSPECTS = 20
SHOWN_CHARACTERS = 1_500
SHOWN_VALUES = 25
"""Categories, languages and projects listed; the others are summed."""
SHOWN_REFUSED = 10
BINS = 30
USEFUL_AUC = 0.6
"""Below, the ranking of suspects is hardly better than chance."""


@dataclass(frozen=True)
class Quality:
    """What was measured."""

    document: dict[str, Any]
    """All that the report shows, as JSON."""
    noise: Noise


@dataclass(frozen=True)
class Drawn:
    """The samples that the costly measurements look at."""

    rows: dict[str, list[Any]]
    """id, label and cluster of each, and the beginning of its code."""
    tokens: list[int]
    total: int
    """Samples that there are."""


def measure_quality(
    material: Material, windowing: Windowing, *, seed: int = 13, progress: Progress = silent
) -> Quality:
    """Measure everything the report shows.

    Args:
        material: the data, raw or prepared.
        windowing: how long code would be cut; `max_length` is what lengths are held against.
        seed: of random splits and folds.
        progress: told how far it is.
    """
    drawn = draw_samples(material)
    noise = doubt_labels(drawn, seed=seed, progress=progress)
    found = material.columns("label", "severity", "category", "language", "cluster", "metadata").to_pydict()
    kept = len(found["label"])
    document = {
        "raw": material.raw,
        "read": material.validation.read,
        "kept": kept,
        "rejected": len(material.rejected),
        "vulnerable_share": round(found["label"].count("vulnerability") / kept, 4) if kept else None,
        **_balance(found),
        "splits": _splits(material),
        "lengths": _lengths(material, drawn, windowing),
        "duplicates": describe_duplicates(material),
        "refused": _refused(material),
        "leaks": cross_split_leaks(material),
        "random_split": random_split_leak(found["cluster"], found["label"], split_ratios(material), seed=seed),
        "noise": _describe_noise(noise, drawn, material),
    }
    content_hash = material.dataset.content_hash if material.dataset is not None else None
    return Quality({**document, "seed": seed, "content_hash": content_hash}, noise)


def draw_samples(material: Material, limit: int = MAX_SAMPLES) -> Drawn:
    """All samples, or, of more than `limit`, those whose ids have the smallest hashes; with their token counts."""
    columns = material.columns("id", "label", "cluster").to_pydict()
    ids = columns["id"]
    chosen = set(ids if len(ids) <= limit else heapq.nsmallest(limit, ids, key=_hash))
    rows: dict[str, list[Any]] = {"id": [], "label": [], "cluster": [], "code": []}
    about = {name: (label, cluster) for name, label, cluster in zip(*columns.values(), strict=True) if name in chosen}
    tokens = []
    for name, code in material.codes(chosen):
        for key, value in zip(rows, (name, *about[name], code[:MAX_CHARACTERS]), strict=True):
            rows[key].append(value)
        tokens.append(sum(1 for _ in TOKEN.finditer(code)))
    return Drawn(rows, tokens, len(ids))


def doubt_labels(drawn: Drawn, *, seed: int = 13, progress: Progress = silent) -> Noise:
    """The label-noise suspects among some samples."""
    rows = drawn.rows
    return find_suspects(rows["id"], rows["code"], rows["label"], rows["cluster"], seed=seed, progress=progress)


def add_findings(material: Material, noise: Noise | None = None) -> Validation:
    """The findings of `validate` with those it does not look for by itself: raw data is not split, doubtful labels."""
    more = []
    if material.raw:
        message = "the data is not split: nothing can leak between splits yet"
        more.append(Finding(WARNING, material.spec, "", "not_split", message))
    if noise is not None:
        places = material.places(suspect.id for suspect in noise.suspects)
        for suspect in noise.suspects:
            told = f"labelled {suspect.label}, which a baseline gives {suspect.probability:.0%}; worth a review"
            more.append(Finding(WARNING, places[suspect.id], suspect.id, "noise", told))
    return replace(material.validation, findings=[*material.validation.findings, *more])


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest()


def _balance(found: dict[str, list[str]]) -> dict[str, list[dict[str, Any]]]:
    labels = found["label"]
    projects = (json.loads(text).get("project") if '"project"' in text else None for text in found["metadata"])
    named = ["" if project is None else str(project) for project in projects]
    order = {severity: -place for place, severity in enumerate(SEVERITIES)}
    severities = sorted(_count(found["severity"], labels), key=lambda row: order[row["value"]])
    return {
        "labels": _count(labels, labels),
        "categories": _count(found["category"], labels),
        "severities": severities,
        "languages": _count(found["language"], labels),
        "projects": _count(named, labels) if any(named) else [],
    }


def _count(values: Sequence[str], labels: Sequence[str]) -> list[dict[str, Any]]:
    """How often each value occurs, and how many of them are vulnerable; the most frequent first."""
    counts, vulnerable = Counter(values), Counter[str]()
    vulnerable.update(value for value, label in zip(values, labels, strict=True) if label == "vulnerability")
    ranked = sorted(counts, key=lambda value: (-counts[value], value))
    rows = [
        {"value": mask_secrets(value) or "unknown", "samples": counts[value], "vulnerable": vulnerable[value]}
        for value in ranked[:SHOWN_VALUES]
    ]
    rest = ranked[SHOWN_VALUES:]
    if rest:
        samples, flawed = (sum(found[value] for value in rest) for found in (counts, vulnerable))
        rows.append({"value": f"{len(rest)} others", "samples": samples, "vulnerable": flawed})
    return rows


def _splits(material: Material) -> list[dict[str, Any]]:
    if material.dataset is None:
        return []
    layout = material.dataset.layout
    labels = {name: read_parts(layout.split(name), ["label"]).column("label").to_pylist() for name in material.splits}
    return [
        {"value": name, "samples": len(found), "vulnerable": found.count("vulnerability")}
        for name, found in labels.items()
    ]


def _lengths(material: Material, drawn: Drawn, windowing: Windowing) -> dict[str, Any]:
    """Characters of all samples; tokens of the drawn ones, and how many exceed `max_length`."""
    tokens = np.array(drawn.tokens, np.int64)
    over = int((tokens > windowing.capacity).sum())
    windows = replace(windowing, long_code="windows").counts(tokens)
    return {
        "characters": _spread(material.characters()),
        "tokens": _spread(drawn.tokens),
        "token_estimate": "identifiers, numbers, quoted texts and other characters, one token each",
        "counted": len(tokens),
        "max_length": windowing.max_length,
        "long_code": windowing.long_code,
        "over_max_length": over,
        "share_over": round(over / len(tokens), 4) if len(tokens) else None,
        "mean_windows": round(float(windows.mean()), 2) if len(tokens) else None,
        "most_windows": int(windows.max(initial=0)),
    }


def _spread(values: Iterable[int]) -> dict[str, Any]:
    """Quantiles, and a histogram whose bins grow by a constant factor."""
    numbers = np.maximum(np.array(list(values), np.int64), 1)
    if not len(numbers):
        return {"median": None, "p95": None, "largest": None, "edges": [], "counts": []}
    edges = np.geomspace(max(1, numbers.min()), numbers.max() + 1, BINS + 1)
    edges[0], edges[-1] = edges[0] - 0.5, edges[-1] + 0.5
    counts, _ = np.histogram(numbers, edges)
    median, high = np.percentile(numbers, [50, 95])
    quantiles = {"median": round(float(median)), "p95": round(float(high)), "largest": int(numbers.max())}
    return {**quantiles, "edges": [round(float(edge), 2) for edge in edges], "counts": counts.tolist()}


def _refused(material: Material) -> dict[str, Any]:
    reasons = Counter(item.reason for item in material.rejected)
    examples = [
        {"id": item.id, "where": item.where, "reason": item.reason, "message": mask_secrets(item.message)}
        for item in material.rejected[:SHOWN_REFUSED]
    ]
    return {"reasons": dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))), "examples": examples}


def _describe_noise(noise: Noise, drawn: Drawn, material: Material) -> dict[str, Any]:
    shown = noise.suspects[:SHOWN_SUSPECTS]
    names = [suspect.id for suspect in shown]
    codes = {name: excerpt(code, SHOWN_CHARACTERS) for name, code in material.codes(names)} if names else {}
    places = material.places(names)
    useful = noise.roc_auc is not None and noise.roc_auc >= USEFUL_AUC
    return {
        "method": "confident learning over out-of-fold probabilities of TF-IDF + logistic regression",
        "reason": noise.reason,
        "folds": FOLDS,
        "scored": noise.scored,
        "of": drawn.total,
        "characters_read": MAX_CHARACTERS,
        "roc_auc": noise.roc_auc,
        "useful": useful,
        "thresholds": noise.thresholds,
        "suspects": len(noise.suspects),
        "top": [
            {
                "id": suspect.id,
                "where": places[suspect.id],
                "label": suspect.label,
                "suggested": suspect.suggested,
                "probability": suspect.probability,
                "score": suspect.score,
                "code": codes[suspect.id],
            }
            for suspect in shown
        ],
    }
